"""Queries: their validation, and `select`, which runs them on records."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_trio import Attempt, InMemoryLightningStore, Rollout, Worker
from lightning_trio.store import Condition, Query, Table, select

WORKERS = [
    Worker("a", "idle", last_idle_time=3.0),
    Worker("b", "busy"),
    Worker("c", "idle", last_idle_time=1.0),
]


def names(query: Query) -> list[str]:
    return [worker.worker_id for worker in select(WORKERS, query)]


def test_a_query_without_conditions_finds_all() -> None:
    assert names(Query("workers")) == names(Query("workers", logic="or")) == ["a", "b", "c"]


def test_within_keeps_records_with_one_of_the_values() -> None:
    assert names(Query("workers", [Condition("worker_id", ["c", "b", "x"])])) == ["b", "c"]


def test_within_nothing_keeps_nothing() -> None:
    assert names(Query("workers", [Condition("worker_id", [])])) == []


def test_none_is_a_value_to_look_for() -> None:
    assert names(Query("workers", [Condition("last_idle_time", {None, 1.0})])) == ["b", "c"]


def test_contains_skips_records_without_a_value() -> None:
    workers = [Worker("a", current_rollout_id="ro-12"), Worker("b")]

    found = select(workers, Query("workers", [Condition("current_rollout_id", contains="1")]))

    assert [worker.worker_id for worker in found] == ["a"]


def test_must_holds_whatever_the_logic() -> None:
    either = [Condition("worker_id", {"a"}), Condition("worker_id", {"b"})]

    assert names(Query("workers", [Condition("status", {"idle"})], either, "or")) == ["a"]


def test_a_missing_time_sorts_last_and_first_when_descending() -> None:
    assert names(Query("workers", sort_by="last_idle_time")) == ["c", "a", "b"]
    assert names(Query("workers", sort_by="last_idle_time", sort_order="desc")) == ["b", "a", "c"]


def test_other_missing_values_sort_first() -> None:
    workers = [Worker("a", current_rollout_id="x"), Worker("b"), Worker("c", current_rollout_id="")]

    found = select(workers, Query("workers", sort_by="current_rollout_id"))

    assert [worker.worker_id for worker in found] == ["b", "c", "a"]


def test_numbers_sort_as_numbers_with_none_before_them() -> None:
    rewards = [2.0, None, -1.0, 10.0]
    attempts = [Attempt("ro", f"at-{reward}", 1, 0.0, final_reward=reward) for reward in rewards]

    found = select(attempts, Query("attempts", sort_by="final_reward"))

    assert [attempt.final_reward for attempt in found] == [None, -1.0, 2.0, 10.0]


def test_a_page_knows_the_total() -> None:
    page = select(WORKERS, Query("workers", limit=1, offset=1))

    assert (len(page), page[0].worker_id, page.limit, page.offset, page.total) == (1, "b", 1, 1, 3)


def test_a_page_of_nothing_counts() -> None:
    page = select(WORKERS, Query("workers", limit=0))

    assert (list(page), page.total) == ([], 3)


def test_results_are_a_sequence() -> None:
    page = select(WORKERS, Query("workers"))

    assert page[-1] is WORKERS[2]
    assert list(page[:2]) == WORKERS[:2]
    assert WORKERS[1] in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": -2}, "limit=-2; pass a number of records, or -1 for all"),
        ({"offset": -1}, "offset=-1; pass 0 or more"),
        ({"sort_order": "down"}, "sort_order='down'; pass 'asc' or 'desc'"),
        ({"logic": "xor"}, "filter_logic='xor'; pass 'and' or 'or'"),
        ({"sort_by": "colour"}, "sort_by='colour' is not a field of workers; pass one of current_attempt_id, "),
        ({"must": [Condition("colour", {"red"})]}, "workers have no field 'colour' to filter by"),
        ({"conditions": [Condition("colour", {"red"})]}, "workers have no field 'colour' to filter by"),
    ],
)
def test_a_bad_query_is_refused_before_any_record_is_looked_at(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Query("workers", **options)


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"table='datasets'; pass one of rollouts, attempts, spans, resources, workers, runs"
    ):
        Query("datasets")  # type: ignore[arg-type]


def test_what_has_no_order_is_not_sorted_by() -> None:
    workers = [Worker("a", heartbeat_stats={"cpu": 1})]

    with pytest.raises(ValueError, match="sort_by='heartbeat_stats': workers cannot be sorted by a dict"):
        select(workers, Query("workers", sort_by="heartbeat_stats"))


async def test_a_string_in_place_of_a_collection_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("not the string 'queuing'; write ['queuing']")):
        await InMemoryLightningStore().query_rollouts(status_in="queuing")  # type: ignore[arg-type]


def test_a_query_returns_the_ids_it_is_limited_to() -> None:
    ids = Condition("rollout_id", ["a", "b"])
    mode = Condition("mode", {"val"})

    assert Query("rollouts", [ids], [mode, mode], "or").required("rollout_id") == {"a", "b"}
    assert Query("rollouts", (), [ids, mode]).required("rollout_id") == {"a", "b"}
    assert Query("rollouts", (), [ids], "or").required("rollout_id") == {"a", "b"}


def test_ids_among_alternatives_do_not_limit_a_query() -> None:
    either = [Condition("rollout_id", ["a"]), Condition("mode", {"val"})]

    assert Query("rollouts", (), either, "or").required("rollout_id") is None
    assert Query("rollouts", [Condition("rollout_id", contains="a")]).required("rollout_id") is None


@pytest.mark.parametrize("table", get_args(Table))
def test_every_table_can_be_sorted_by_an_id(table: Table) -> None:
    field = {"spans": "span_id", "resources": "resources_id", "workers": "worker_id", "runs": "run_id"}.get(
        table, "rollout_id"
    )

    assert Query(table, sort_by=field).sort_by == field


rollouts = st.builds(
    Rollout,
    rollout_id=st.text("abc", max_size=3),
    input=st.none(),
    start_time=st.floats(0, 3),
    end_time=st.none() | st.floats(0, 3),
    mode=st.sampled_from([None, "train", "val"]),
)


@given(
    st.lists(rollouts, max_size=12),
    st.sampled_from([None, "rollout_id", "start_time", "end_time", "mode"]),
    st.sampled_from(["asc", "desc"]),
    st.integers(1, 5),
)
def test_pages_put_together_are_the_whole(records: list[Rollout], field: str | None, order: Any, size: int) -> None:
    whole = select(records, Query("rollouts", sort_by=field, sort_order=order))

    pages = [
        select(records, Query("rollouts", sort_by=field, sort_order=order, limit=size, offset=offset))
        for offset in range(0, len(records), size)
    ]

    assert [record for page in pages for record in page] == list(whole)
    assert {page.total for page in pages} <= {len(records)}


@given(st.lists(rollouts, max_size=12), st.sampled_from(["rollout_id", "start_time", "end_time", "mode"]))
def test_descending_is_ascending_backwards(records: list[Rollout], field: str) -> None:
    up = select(records, Query("rollouts", sort_by=field))
    down = select(records, Query("rollouts", sort_by=field, sort_order="desc"))

    assert list(down) == list(reversed(up))


# The names that parameters had in Agent-lightning 0.3.


async def test_the_older_names_of_filters_work_and_warn() -> None:
    async with InMemoryLightningStore() as store:
        first = await store.enqueue_rollout("tea")
        await store.enqueue_rollout("milk")

        with pytest.warns(DeprecationWarning, match=r"write rollout_id_in=\['ro-"):
            by_id = await store.query_rollouts(rollout_ids=[first.rollout_id])
        with pytest.warns(DeprecationWarning, match=r"write status_in=\['failed'\]") as warned:
            by_status = await store.query_rollouts(status=["failed"])

    assert [rollout.input for rollout in by_id] == ["tea"]
    assert len(by_status) == 0
    assert warned[0].filename == __file__


async def test_the_newer_name_of_a_filter_takes_precedence() -> None:
    async with InMemoryLightningStore() as store:
        await store.enqueue_rollout("tea")

        with pytest.warns(DeprecationWarning, match="renamed"):
            found = await store.query_rollouts(status_in=["queuing"], status=["failed"])

    assert len(found) == 1
