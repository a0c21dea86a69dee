"""Queries: filters, order and pages of rollouts, attempts and spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ..._records import AttemptedRollout, EnqueueRolloutRequest, Rollout, RolloutMode
from ..._spans import Span
from ...store import Condition, LightningStore, Query
from ._steps import Check, claim_one, expect, expect_equal, finish, refused, requests, span_of


async def _five(store: LightningStore) -> list[str]:
    """Make rollouts 0 to 4: two train, two val, one without mode; 0 has succeeded, 1 has been claimed."""
    modes: list[RolloutMode | None] = ["train", "train", "val", "val", None]
    ids = await store.enqueue([EnqueueRolloutRequest(number, mode) for number, mode in enumerate(modes)])
    claimed = await store.claim(2)
    await finish(store, claimed[0])
    return ids


def _inputs(rollouts: Sequence[Rollout]) -> list[Any]:
    return [rollout.input for rollout in rollouts]


async def queries_on_unknown_ids_come_back_empty(store: LightningStore) -> None:
    await store.enqueue(requests("a"))
    results = [
        await store.query_rollouts(rollout_id_in=["ro-unknown"]),
        await store.query_attempts("ro-unknown"),
        await store.query_spans("ro-unknown"),
        await store.query_spans("ro-unknown", "latest"),
        await store.query_resources(resources_id="rs-unknown"),
    ]
    ones = [
        await store.get_rollout_by_id("ro-unknown"),
        await store.get_latest_attempt("ro-unknown"),
        await store.get_resources_by_id("rs-unknown"),
        await store.get_worker_by_id("unknown"),
    ]

    expect_equal([(list(found), found.total) for found in results], [([], 0)] * 5, "unknown ids have no records")
    expect_equal(ones, [None] * 4, "an unknown id is None")


async def rollouts_come_in_order_of_creation(store: LightningStore) -> None:
    await _five(store)

    expect_equal(_inputs(await store.query_rollouts()), [0, 1, 2, 3, 4], "rollouts come in order of creation")
    found = await store.query_rollouts(sort_order="desc")
    expect_equal(_inputs(found), [4, 3, 2, 1, 0], "desc without sort_by is the other way round")


async def rollouts_come_with_their_latest_attempt(store: LightningStore) -> None:
    await _five(store)

    found = await store.query_rollouts()
    attempted = [isinstance(rollout, AttemptedRollout) for rollout in found]
    expect_equal(attempted, [True, True, False, False, False], "rollouts that have attempts come with their latest")


async def rollouts_asked_for_by_id_come_once_and_in_order_of_creation(store: LightningStore) -> None:
    ids = await store.enqueue(requests(*range(8)))
    found = await store.query_rollouts(rollout_id_in=[*reversed(ids), *ids, "ro-unknown"])

    expect_equal(len(found), 8, "an id given twice is one rollout")
    expect_equal(_inputs(found), list(range(8)), "without sort_by, rollouts come in order of creation")


async def rollouts_are_filtered(store: LightningStore) -> None:
    ids = await _five(store)
    [in_run] = await store.enqueue(requests(5), run_id="run-1")

    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({"status_in": ["succeeded", "preparing"]}, [0, 1]),
        ({"status_in": []}, []),
        ({"rollout_id_in": {ids[3], ids[1]}, "sort_by": "mode"}, [1, 3]),
        ({"rollout_id_contains": in_run[3:]}, [5]),
        ({"rollout_id_contains": ""}, [0, 1, 2, 3, 4, 5]),
        ({"mode_in": ["val", None]}, [2, 3, 4, 5]),
        ({"status_in": ["queuing"], "mode_in": ["val"]}, [2, 3]),
        ({"status_in": ["succeeded"], "mode_in": ["val"], "filter_logic": "or"}, [0, 2, 3]),
        ({"filter_logic": "or"}, [0, 1, 2, 3, 4, 5]),
        ({"rollout_id_in": [ids[0], ids[2]], "mode_in": ["train"], "filter_logic": "or"}, [0, 1, 2]),
    ]
    for filters, wanted in cases:
        found = await store.query_rollouts(**filters)
        expect_equal(sorted(_inputs(found)), wanted, f"query_rollouts(**{filters})")
        expect_equal(found.total, len(wanted), f"total of query_rollouts(**{filters})")


async def rollouts_are_found_by_run(store: LightningStore) -> None:
    await store.enqueue(requests(0), run_id="run-1")
    await store.enqueue(requests(1), run_id="run-2")
    await store.enqueue(requests(2))

    expect_equal(_inputs(await store.query_rollouts(run_id_in=["run-1"])), [0], "rollouts are found by run")
    expect_equal(_inputs(await store.query_rollouts(run_id_in=[None])), [2], "None stands for rollouts without a run")


async def rollouts_are_sorted(store: LightningStore) -> None:
    await _five(store)

    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({"sort_by": "mode"}, [4, 0, 1, 2, 3]),
        ({"sort_by": "mode", "sort_order": "desc"}, [3, 2, 1, 0, 4]),
        ({"sort_by": "end_time"}, [0, 1, 2, 3, 4]),
        ({"sort_by": "end_time", "sort_order": "desc"}, [4, 3, 2, 1, 0]),
        ({"sort_by": "start_time"}, [0, 1, 2, 3, 4]),
    ]
    for order, wanted in cases:
        rule = "a missing time sorts last, other missing values first, and equal ones in order of creation"
        expect_equal(_inputs(await store.query_rollouts(**order)), wanted, f"{rule}, for {order}")


async def pages_say_how_many_there_are(store: LightningStore) -> None:
    await _five(store)

    cases: list[tuple[int, int, list[int]]] = [
        (2, 0, [0, 1]),
        (2, 3, [3, 4]),
        (2, 4, [4]),
        (2, 9, []),
        (0, 0, []),
        (-1, 3, [3, 4]),
    ]
    for limit, offset, wanted in cases:
        page = await store.query_rollouts(limit=limit, offset=offset)
        expect_equal(_inputs(page), wanted, f"limit={limit}, offset={offset}")
        seen = (page.limit, page.offset, page.total)
        expect_equal(seen, (limit, offset, 5), "a page has its limit and offset, and the number of all matches")


async def bad_queries_are_refused(store: LightningStore) -> None:
    await store.enqueue(requests("a"))
    for options in (
        {"limit": -2},
        {"offset": -1},
        {"sort_by": "colour"},
        {"sort_by": "config"},
        {"sort_order": "down"},
        {"filter_logic": "xor"},
    ):
        with refused(ValueError, f"query_rollouts(**{options}) is refused"):
            await store.query_rollouts(**cast("dict[str, Any]", options))


async def attempts_are_sorted_and_paged(store: LightningStore) -> None:
    claimed = await claim_one(store)
    for _ in range(2):
        await store.start_attempt(claimed.rollout_id)

    numbers = [attempt.sequence_id for attempt in await store.query_attempts(claimed.rollout_id)]
    expect_equal(numbers, [1, 2, 3], "attempts come in order of their numbers")
    page = await store.query_attempts(claimed.rollout_id, sort_order="desc", limit=1, offset=1)
    expect_equal(([page[0].sequence_id], page.total), ([2], 3), "attempts are sorted and paged")
    latest = await store.get_latest_attempt(claimed.rollout_id)
    expect(latest is not None and latest.sequence_id == 3, "the latest attempt is the one with the highest number")


async def attempts_of_a_rollout_that_was_never_claimed_are_none(store: LightningStore) -> None:
    [rollout_id] = await store.enqueue(requests("a"))

    expect_equal(list(await store.query_attempts(rollout_id)), [], "a rollout that waits has no attempts")
    expect_equal(await store.get_latest_attempt(rollout_id), None, "a rollout that waits has no latest attempt")
    expect_equal(list(await store.query_spans(rollout_id, "latest")), [], "a rollout that waits has no spans")


async def spans_are_found_by_attempt(store: LightningStore) -> None:
    first = await claim_one(store)
    await store.add_spans([span_of(first, "first")])
    second = await store.start_attempt(first.rollout_id)
    await store.add_spans([span_of(second, "second")])
    other = await claim_one(store)
    await store.add_spans([span_of(other, "other")])

    for attempt_id, wanted in (
        (None, ["first", "second"]),
        ("latest", ["second"]),
        (first.attempt.attempt_id, ["first"]),
        ("at-unknown", []),
    ):
        names = [span.name for span in await store.query_spans(first.rollout_id, attempt_id)]
        expect_equal(sorted(names), wanted, f"the spans of attempt {attempt_id}")


async def spans_are_filtered(store: LightningStore) -> None:
    claimed = await claim_one(store)
    trace, root, child = "a" * 32, "1" * 16, "2" * 16
    await store.add_spans(
        [
            span_of(claimed, "invoke_agent", trace_id=trace, span_id=root),
            span_of(claimed, "chat gpt", trace_id=trace, span_id=child, parent_id=root),
            span_of(claimed, "chat qwen", trace_id="b" * 32, span_id="3" * 16, parent_id=child),
        ]
    )

    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({"name": "chat gpt"}, [2]),
        ({"name_contains": "chat"}, [2, 3]),
        ({"trace_id": trace}, [1, 2]),
        ({"trace_id_contains": "bbb"}, [3]),
        ({"span_id": root}, [1]),
        ({"span_id_contains": "22"}, [2]),
        ({"parent_id": root}, [2]),
        ({"parent_id_contains": "22"}, [3]),
        ({"name_contains": "chat", "trace_id": trace}, [2]),
        ({"name": "chat qwen", "span_id": root, "filter_logic": "or"}, [1, 3]),
        ({"filter_logic": "or"}, [1, 2, 3]),
    ]
    for filters, wanted in cases:
        found: Sequence[Span] = await store.query_spans(claimed.rollout_id, **filters)
        expect_equal([span.sequence_id for span in found], wanted, f"query_spans(**{filters})")


async def spans_are_sorted_and_paged(store: LightningStore) -> None:
    claimed = await claim_one(store)
    times = [(3, 1.0, None), (1, 3.0, 9.0), (2, 2.0, 8.0)]
    spans = [span_of(claimed, sequence_id=n, start_time=start, end_time=end) for n, start, end in times]
    await store.add_spans(spans)

    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [1, 2, 3]),
        ({"sort_order": "desc"}, [3, 2, 1]),
        ({"sort_by": "start_time"}, [3, 2, 1]),
        ({"sort_by": "end_time"}, [2, 1, 3]),
        ({"limit": 1, "offset": 1}, [2]),
    ]
    for order, wanted in cases:
        found = await store.query_spans(claimed.rollout_id, **order)
        expect_equal([span.sequence_id for span in found], wanted, f"query_spans(**{order})")
        expect_equal(found.total, 3, "total counts all that match")


async def spans_of_many_rollouts_are_found_at_once(store: LightningStore) -> None:
    await store.enqueue(requests(*range(3)))
    claimed = await store.claim(3)
    for each in claimed:
        await finish(store, each, spans=[span_of(each, f"step {each.input}", sequence_id=1)])
    wanted = [claimed[0].rollout_id, claimed[2].rollout_id]

    found = await store.find(Query("spans", (Condition("rollout_id", wanted),)))
    expect_equal(sorted(span.name for span in found), ["step 0", "step 2"], "a query may name many rollouts")


CHECKS: tuple[Check, ...] = (
    queries_on_unknown_ids_come_back_empty,
    rollouts_come_in_order_of_creation,
    rollouts_come_with_their_latest_attempt,
    rollouts_asked_for_by_id_come_once_and_in_order_of_creation,
    rollouts_are_filtered,
    rollouts_are_found_by_run,
    rollouts_are_sorted,
    pages_say_how_many_there_are,
    bad_queries_are_refused,
    attempts_are_sorted_and_paged,
    attempts_of_a_rollout_that_was_never_claimed_are_none,
    spans_are_found_by_attempt,
    spans_are_filtered,
    spans_are_sorted_and_paged,
    spans_of_many_rollouts_are_found_at_once,
)
