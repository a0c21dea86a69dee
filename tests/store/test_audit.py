"""The audit reports each problem of a store, and none in a sound store."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from lightning_trio import (
    Audit,
    InMemoryLightningStore,
    LightningStore,
    PaginatedResult,
    PromptTemplate,
    RolloutConfig,
    Runner,
    RunSummary,
    SqliteLightningStore,
    audit,
    emit_message,
)
from lightning_trio.store import Query

RETRIES = RolloutConfig(max_attempts=2, retry_condition=["failed"], backoff_seconds=0.0)


async def agent(task: int) -> float:
    if task == 1:
        raise ValueError(task)
    await trio.lowlevel.checkpoint()
    return 1.0


async def test_a_run_with_failures_and_retries_is_clean(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore() as store:
        await Runner(agent, store=store, config=RETRIES).fit(range(5))

        found = await audit(store)

    assert (found.rollouts, list(found.problems), found.clean) == (5, [], True)


async def test_what_has_not_ended_is_a_problem_only_if_all_should_have() -> None:
    store = InMemoryLightningStore()
    rollout = await store.enqueue_rollout("task")

    assert list((await audit(store)).problems) == [f"rollout {rollout.rollout_id} is queuing and has not ended"]
    assert (await audit(store, finished=False)).clean


async def test_one_run_is_audited_by_itself() -> None:
    store = InMemoryLightningStore()
    await store.enqueue_rollout("of no run")
    await Runner(agent, store=store).fit([0])
    [run] = await store.query_runs()

    found = await audit(store, run_id=run.run_id)

    assert (found.rollouts, found.clean) == (1, True)


async def test_evicted_rollouts_are_no_problem(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore(retain=2) as store:
        await Runner(agent, store=store).fit(range(2, 12))

        assert await audit(store) == await audit(store, finished=True)
        assert (await audit(store)).clean


class Cooked(InMemoryLightningStore):
    """A store that falsifies the records it returns."""

    def __init__(self, table: str, summary: RunSummary | None = None, /, **changes: Any) -> None:
        super().__init__()
        self._table = table
        self._changes = changes
        self._summary = summary

    async def find(self, query: Query) -> PaginatedResult[Any]:
        found = await super().find(query)
        if query.table != self._table:
            return found
        return attrs.evolve(found, items=[attrs.evolve(record, **self._changes) for record in found])

    async def summarize(self, run_id: str | None = None) -> RunSummary:
        return await super().summarize(run_id) if self._summary is None else self._summary


@pytest.mark.parametrize(
    ("store", "problem"),
    [
        (Cooked("rollouts", status="failed"), "is failed, but its last attempt is succeeded"),
        (Cooked("rollouts", end_time=None), "is succeeded without an end time"),
        (Cooked("attempts", sequence_id=2), "has attempts numbered [2]"),
        (Cooked("attempts", attempt_id="at-other"), "spans are stored, but no such attempt"),
        (Cooked("spans", span_id="1" * 16), "a span is stored twice"),
        (Cooked("-", RunSummary({"succeeded": 0}, {})), "1 rollouts are succeeded, but the store counts 0"),
        (
            Cooked("-", RunSummary({"succeeded": 1, "running": 2}, {})),
            "the store counts 2 rollouts as running, but 0 are",
        ),
    ],
    ids=["status", "end", "numbers", "attempts", "spans", "too_few", "too_many"],
)
async def test_what_does_not_agree_is_named(store: Cooked, problem: str) -> None:
    async with Runner(agent, store=store) as runner:
        await runner.step(0)

    found = await audit(store)

    assert any(problem in each for each in found.problems), found.problems


# A file changed by another program. Rollout 5 succeeded with a reward of 5.0; rollout 3 is the one that failed.

_AT_5 = "number / 1048576 = 5"
TAMPERED = {
    "rollout": ("DELETE FROM rollouts WHERE number = 5", "counts 10 finished rollouts, of which 0 were removed, but 9"),
    "rollout with all": (
        f"DELETE FROM rollouts WHERE number = 5; DELETE FROM attempts WHERE {_AT_5}; DELETE FROM traces WHERE {_AT_5}",
        "counts 10 finished rollouts, of which 0 were removed, but 9 are stored",
    ),
    "orphans": ("DELETE FROM rollouts WHERE number = 5", "which does not exist"),
    "attempt": ("DELETE FROM attempts WHERE rollout_number = 5", "is succeeded but was never attempted"),
    "spans": (f"DELETE FROM traces WHERE {_AT_5}", "spans, but the store counts"),
    "orphan trace": ("INSERT INTO traces SELECT 777 * 1048576 + 1, spans FROM traces LIMIT 1", "spans (number"),
    "moved attempt": (
        "UPDATE attempts SET rollout_number = 999, number = 999 * 1048576 + 1 WHERE rollout_number = 5",
        "belongs to the rollout",
    ),
    "reward": ("UPDATE attempts SET final_reward = 1000 WHERE rollout_number = 5", "the rewards add up to 1047"),
    "no reward": ("UPDATE attempts SET final_reward = NULL WHERE rollout_number = 5", "there are 8 rewards"),
    "counted rewards": (
        "UPDATE tallies SET amount = amount + 1 WHERE name LIKE 'reward%'",
        "the rewards add up to 52, but the store counts 53",
    ),
    "tokens": ("UPDATE attempts SET input_tokens = 7 WHERE rollout_number = 5", "there are 7 input tokens"),
    "duration": ("UPDATE attempts SET duration = 1e6 WHERE rollout_number = 5", "agent seconds, but the store counts"),
    "counted seconds": ("UPDATE tallies SET amount = amount + 9 WHERE name = 'seconds'", "agent seconds"),
    "one too many": (
        "UPDATE tallies SET number = number + 1 WHERE name = 'status:succeeded'",
        "counts 11 finished rollouts",
    ),
    "one too few": (
        "UPDATE tallies SET number = number - 1 WHERE name = 'status:succeeded'",
        "9 rollouts are succeeded, but the store counts 8",
    ),
    "no counts": ("DELETE FROM tallies", "but the store counts 0"),
    "removed": ("INSERT INTO tallies VALUES ('', 'removed', 0, 1, 0.0)", "of which 1 were removed"),
    "status": (
        "UPDATE rollouts SET status = 'succeeded' WHERE status = 'failed'",
        "is succeeded, but its last attempt is failed",
    ),
    "both statuses": (
        "UPDATE rollouts SET status = 'succeeded' WHERE number = 3; UPDATE attempts SET status = 'succeeded' "
        "WHERE rollout_number = 3",
        "has succeeded and has an error: ValueError",
    ),
    "no status": ("UPDATE rollouts SET status = 'done' WHERE number = 5", "is 'done', which is not a status"),
    "end": ("UPDATE attempts SET end_time = NULL WHERE rollout_number = 5", "is succeeded without an end time"),
    "queue": ("UPDATE rollouts SET available_at = 0 WHERE number = 5", "is succeeded and still in the queue"),
    "not in the queue": (
        "UPDATE rollouts SET status = 'queuing', end_time = NULL WHERE number = 5",
        "is queuing and not in the queue",
    ),
    "latest attempt": ("UPDATE rollouts SET attempts = 7 WHERE number = 5", "does not name the latest"),
    "run": ("UPDATE rollouts SET run_id = 'run-0' WHERE number = 5", "belongs to the run run-0, which does not exist"),
    "resources": ("UPDATE rollouts SET resources_id = 'rs-0' WHERE number = 5", "the resources rs-0, which do not"),
    "spans that are none": (f"UPDATE traces SET spans = '[[' WHERE {_AT_5}", "its spans cannot be read"),
    "task that is none": ("UPDATE rollouts SET input = '{oops' WHERE number = 5", "rollout ro-"),
    "run that is none": ("UPDATE runs SET body = '{'", "run-"),
    "resources that are none": ("UPDATE resources SET body = '{'", "cannot be read"),
    "unfinished run": (
        "UPDATE runs SET body = replace(body, '\"finished\"', '\"running\"')",
        "is running and has not finished",
    ),
    "finished run": (
        "UPDATE rollouts SET status = 'queuing', end_time = NULL, available_at = 0 WHERE number = 5",
        "is finished, but 1 of its rollouts are not",
    ),
}


async def fails_at_3(task: int, prompt: PromptTemplate) -> float:
    if task == 3:
        raise ValueError(task)
    await trio.lowlevel.checkpoint()
    return float(task)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a run of ten rollouts."""
    path = tmp_path_factory.mktemp("audit") / "sound.db"
    resources = {"prompt": PromptTemplate("x", engine="f-string")}
    runner = Runner(fails_at_3, store=SqliteLightningStore(path), resources=resources, max_concurrency=1)
    trio.run(runner.fit, range(1, 11))
    return path


@pytest.mark.parametrize("what", TAMPERED)
async def test_what_was_changed_by_hand_is_found(what: str, sound: Path, tmp_path: Path) -> None:
    sql, problem = TAMPERED[what]
    path = tmp_path / "tampered.db"
    shutil.copy(sound, path)
    async with SqliteLightningStore(path) as store:
        assert list((await audit(store)).problems) == []
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(sql)

    async with SqliteLightningStore(path) as store:
        found = await audit(store)

    assert any(problem in each for each in found.problems), found.problems


@pytest.mark.parametrize(
    "text",
    [
        '{"$fraction":"1e9999999999"}',
        '{"$object":["pathlib:WindowsPath",{"path":"c:"}]}',
        "[" * 100_000 + "]" * 100_000,
        "9" * 100_000,
        '{"$decimal":"1e99999999999999999999"}',
    ],
    ids=["fraction", "path", "depth", "number", "decimal"],
)
async def test_a_crafted_task_is_a_problem_and_not_a_hang(text: str, sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "crafted.db"
    shutil.copy(sound, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE rollouts SET input = ? WHERE number = 5", (text,))
        connection.commit()

    async with SqliteLightningStore(path) as store:
        [problem] = (await audit(store)).problems

    assert " cannot be read (" in problem


async def test_pruned_rollouts_are_no_problem(sound: Path, tmp_path: Path) -> None:
    shutil.copy(sound, tmp_path / "pruned.db")
    async with SqliteLightningStore(tmp_path / "pruned.db") as store:
        await store.prune()

        assert await audit(store) == Audit(0, [])
        assert (await store.summarize()).removed == 10


@pytest.mark.parametrize("store", [InMemoryLightningStore(), InMemoryLightningStore(retain=50)], ids=["all", "some"])
async def test_a_run_that_continues_is_clean_in_memory(store: LightningStore) -> None:
    await audited_while_it_runs(store)


async def test_a_run_that_continues_is_clean_in_a_file(tmp_path: Path) -> None:
    await audited_while_it_runs(SqliteLightningStore(tmp_path / "live.db"))


async def audited_while_it_runs(store: LightningStore) -> None:
    audits = 0

    async def now_and_then(task: int) -> float:
        await trio.sleep(0.001 * (task % 3))
        if task % 7 == 0:
            raise ValueError(task)
        emit_message("half way")
        return float(task - 150)

    async with store:
        async with trio.open_nursery() as nursery:

            async def fit() -> None:
                await Runner(now_and_then, store=store, config=RETRIES, max_concurrency=20).fit(range(1000))
                nursery.cancel_scope.cancel()

            nursery.start_soon(fit)
            while True:
                found = await audit(store, finished=False)
                assert list(found.problems) == []
                audits += 1
        assert (await audit(store)).clean
    assert audits
