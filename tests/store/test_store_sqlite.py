"""The store in a SQLite file: the contract, crashes, and unusable files."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
import trio
import trio.lowlevel
import trio.testing
from open_stores import OpenToSee

from lightning_trio import (
    LLM,
    AttemptedRollout,
    EnqueueRolloutRequest,
    Evicted,
    LightningStore,
    NotStorable,
    PayloadTooLarge,
    PromptTemplate,
    Resource,
    Runner,
    SqliteLightningStore,
    StoreClosed,
    StoreError,
    StoreFormatError,
    StoreFull,
    StoreLocked,
    StoreUnavailable,
    UnknownId,
    audit,
)
from lightning_trio._records import ErrorRecord, RolloutRemoval, Run
from lightning_trio.store import GIVE_BACK, Query, RolloutChange, RolloutPosition, Table, Unreadable, begin_attempt
from lightning_trio.store._sql._schema import MIGRATIONS
from lightning_trio.store._sql._transaction import Transaction
from lightning_trio.store._sqlite import _connection
from lightning_trio.store._sqlite import _store as _sqlite
from lightning_trio.testing import store_checks
from lightning_trio.testing._store_checks._steps import SOON, Check, calling, claim_one, finish, outcome_of, span_of

T = TypeVar("T")


@attrs.frozen
class Judge(Resource, resource_type="sqlite_test_judge"):
    llm: LLM


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.db"


# On the real clock, because the store's threads ignore a mocked one.
@pytest.mark.parametrize("check", store_checks(), ids=lambda check: check.__name__)
async def test_the_store_keeps_the_rule(check: Check, path: Path) -> None:
    with trio.fail_after(30):
        async with SqliteLightningStore(path) as store:
            await check(store)


# Direct access to files.


def read(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def size(path: Path) -> int:
    return path.stat().st_size


# Stored values.


def in_store(path: Path, fn: Callable[[SqliteLightningStore], Awaitable[T]], **options: Any) -> T:
    """Open the store in a separate Trio program and call `fn` with it."""

    async def main() -> T:
        with trio.fail_after(60):
            async with SqliteLightningStore(path, **options) as store:
                return await fn(store)

    return trio.run(main)


async def ended_rollout(store: LightningStore, task: Any = "task") -> AttemptedRollout:
    """Run one rollout to its end, with a span reported before its outcome and one in the outcome."""
    await store.enqueue([EnqueueRolloutRequest(task)], run_id="run-1")
    [claimed] = await store.claim(1, run_id="run-1")
    await store.add_spans([span_of(claimed, "early", sequence_id=1)])
    await finish(store, claimed, spans=[span_of(claimed, "late", sequence_id=2)], final_reward=0.5)
    return claimed


def test_what_is_stored_is_there_when_the_store_is_opened_again(path: Path) -> None:
    async def fill(store: LightningStore) -> list[Any]:
        await store.add_resources({"template": PromptTemplate("{a}", engine="f-string")})
        await store.put([Run("run-1", "first", state={"round": (1, 2)})])
        await ended_rollout(store, {"question": ("why", b"?")})
        await store.enqueue([EnqueueRolloutRequest("next", key="k")], run_id="run-1")
        return await contents(store)

    before = in_store(path, fill)
    after = in_store(path, contents)

    assert after == before
    assert [str(type(records[0]).__name__) for records in after[:5]] == [
        "AttemptedRollout",
        "Attempt",
        "Span",
        "ResourcesUpdate",
        "Run",
    ]


async def contents(store: LightningStore) -> list[Any]:
    tables: tuple[Table, ...] = ("rollouts", "attempts", "spans", "resources", "runs", "workers")
    return [*[list(await store.find(Query(table))) for table in tables], await store.summarize()]


def test_the_same_store_opens_again_in_another_trio_run(path: Path) -> None:
    store = SqliteLightningStore(path)

    async def add() -> int:
        async with store:
            await store.enqueue_rollout("task")
            return len(await store.query_rollouts())

    assert [trio.run(add), trio.run(add)] == [1, 2]
    assert not store.is_open


async def test_a_store_is_opened_once(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        with pytest.raises(StoreClosed, match="is open already"):
            async with store:
                pass

        assert await store.enqueue_rollout("still open")


@pytest.mark.parametrize("call", ["enqueue_rollout", "query_rollouts", "wait_claimable"])
async def test_a_closed_store_says_how_to_open_it(path: Path, call: str) -> None:
    store = SqliteLightningStore(path)
    arguments = ("task",) if call == "enqueue_rollout" else ()

    with pytest.raises(StoreClosed, match=r"the store .*run.db is not open; write: async with store:"):
        await getattr(store, call)(*arguments)


def test_a_store_opened_in_another_trio_run_says_so(path: Path) -> None:
    store = SqliteLightningStore(path)
    manager: list[Any] = []

    async def leave_open() -> None:
        manager.append(await store.__aenter__())

    async def use() -> None:
        await store.enqueue_rollout("task")

    trio.run(leave_open)
    with pytest.raises(StoreClosed, match=r"was opened in another trio.run"):
        trio.run(use)
    trio.run(store.__aexit__, None, None, None)

    assert not store.is_open


def test_an_api_key_is_in_no_file(path: Path) -> None:
    async def fill(store: SqliteLightningStore) -> None:
        llm = LLM("http://127.0.0.1:1/v1", "m", api_key="sk-never-to-be-stored")
        snapshot = await store.add_resources({"llm": llm, "judge": Judge(llm)})
        await store.enqueue([EnqueueRolloutRequest({"llm": llm}, metadata={"llm": llm})])
        await store.put([Run("run-1", state=llm)])
        files = [read(file) for file in files_in(path.parent)]
        assert len(files) == 3
        assert not [file for file in files if b"sk-never" in file]
        [claimed] = await store.claim(1)
        found = await store.get_resources_by_id(snapshot.resources_id)
        assert found is not None
        assert claimed.input["llm"].api_key == found.resources["llm"].api_key == "sk-never-to-be-stored"  # type: ignore[attr-defined]

    in_store(path, fill)

    assert b"sk-never" not in read(path)


def test_a_key_is_none_in_another_process_with_a_warning_that_says_why(path: Path) -> None:
    in_store(path, lambda store: store.add_resources({"llm": LLM("e", "m", api_key="sk-1")}))
    program = (
        "import sys, trio, lightning_trio as agl\n"
        "async def main():\n"
        "    async with agl.SqliteLightningStore(sys.argv[1]) as store:\n"
        "        print((await store.get_latest_resources()).resources['llm'].api_key)\n"
        "trio.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)

    assert done.stdout == "None\n"
    assert "was given its api_key as a value in another process" in done.stderr


def test_a_large_task_is_kept_beside_its_row_and_can_be_changed(path: Path) -> None:
    async def run(store: LightningStore) -> list[Any]:
        [rollout_id] = await store.enqueue([EnqueueRolloutRequest("x" * 100_000)])
        [claimed] = await store.claim(1)
        changed = await store.update_rollout(rollout_id, "y" * 50_000)
        small = await store.update_rollout(rollout_id, "z")
        return [len(claimed.input), len(changed.input), small.input]

    assert in_store(path, run) == [100_000, 50_000, "z"]


async def test_payloads_over_the_limit_are_refused_and_change_nothing(path: Path) -> None:
    async with SqliteLightningStore(path, max_payload_bytes=1000) as store:
        claimed = await claim_one(store)
        with pytest.raises(PayloadTooLarge, match="task takes"):
            await store.enqueue_rollout("x" * 1000)
        with pytest.raises(PayloadTooLarge, match="resources takes"):
            await store.add_resources({"t": PromptTemplate("x" * 1000, engine="f-string")})
        with pytest.raises(PayloadTooLarge, match="spans of rollout"):
            await finish(store, claimed, spans=[span_of(claimed, "x" * 1000)])

        assert (await store.statistics()).total_rollouts == 1
        assert await finish(store, claimed) == "succeeded"


async def test_a_task_that_cannot_be_stored_is_refused_with_its_path(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        with pytest.raises(NotStorable, match=r"task\['image'\]\[1\]: object of type _io.BytesIO cannot be stored"):
            await store.enqueue([EnqueueRolloutRequest("good"), EnqueueRolloutRequest({"image": [0, io.BytesIO()]})])

        assert not await store.query_rollouts()


async def test_an_empty_run_id_is_refused(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        with pytest.raises(ValueError, match="run_id='' is empty"):
            await store.enqueue([EnqueueRolloutRequest("task")], run_id="")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"synchronous": "off"}, "synchronous='off'; pass 'full' or 'normal'"),
        ({"max_payload_bytes": 0}, "max_payload_bytes=0"),
        ({"busy_seconds": -1}, "busy_seconds=-1 is negative"),
        ({"path": ":memory:"}, "does not name a file; for a store in memory use InMemoryLightningStore"),
    ],
)
def test_wrong_arguments_are_refused(path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message).replace("InMemory", ".*InMemory")):
        SqliteLightningStore(**{"path": path, **options})


@pytest.mark.parametrize(("synchronous", "level"), [("full", 2), ("normal", 1)])
async def test_synchronous_is_what_was_asked_for(path: Path, synchronous: Any, level: int) -> None:
    async with OpenToSee(path, synchronous=synchronous) as store:
        assert store.writer.run("PRAGMA synchronous") == [(level,)]


# Removal.


async def test_removed_rollouts_are_reported_as_removed_and_vacuum_frees_their_space(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        ids = await store.enqueue([EnqueueRolloutRequest("x" * 20_000) for _ in range(100)], status="cancelled")
        await store.vacuum()
        large = size(path)
        await store.update([RolloutRemoval(rollout_id) for rollout_id in ids])
        with pytest.raises(Evicted, match=f"rollout {ids[0]} has finished and was removed"):
            await store.get_rollout_by_id(ids[0])
        await store.vacuum()

        assert size(path) < large / 10
        assert (await store.summarize()).counts == {"cancelled": 100}
        [new] = await store.enqueue([EnqueueRolloutRequest("new")])
        assert new not in ids


async def test_a_report_of_a_removed_rollout_is_late(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        claimed = await ended_rollout(store)
        await store.update([RolloutRemoval(claimed.rollout_id)])

        assert await finish(store, claimed, spans=[span_of(claimed)]) is None
        assert await store.add_spans([span_of(claimed)]) == []
        assert (await store.statistics()).late_spans == 2


# Claims, which are written in SQL.


async def left_in_the_queue(store: LightningStore, how: str) -> None:
    """Put a rollout into the queue, whose latest attempt is in the state that `how` names."""
    await store.enqueue([EnqueueRolloutRequest("task")])
    if how == "no attempt":
        return
    [claimed] = await store.claim(1)
    if how == "given back":
        await finish(store, claimed, "cancelled", next=GIVE_BACK)
    else:
        if how == "running":
            await store.add_spans([span_of(claimed)])
        await store.update([RolloutChange(claimed.rollout_id, status="requeuing")])


@pytest.mark.parametrize("how", ["no attempt", "given back", "preparing", "running"])
async def test_a_claim_stores_what_begin_attempt_decides(path: Path, how: str) -> None:
    async with SqliteLightningStore(path) as store:
        await left_in_the_queue(store, how)
        [before] = await store.query_rollouts()
        attempts = list(await store.query_attempts(before.rollout_id))
        latest = attempts[-1] if attempts else None
        position = RolloutPosition(
            before.rollout_id,
            before.status,
            True,
            latest.attempt_id if latest else None,
            latest.status if latest else None,
            len(attempts),
        )
        move = begin_attempt(position)
        [claimed] = await store.claim(1)

        [stored] = await store.query_rollouts()
        assert stored == claimed
        assert stored.status == move.status
        *earlier, begun = await store.query_attempts(before.rollout_id)
        assert begun.status == "preparing"
        if latest is not None:
            assert [each.status for each in earlier] == [move.attempt_status or latest.status]
            assert earlier[0].end_time is not None
        # Of the queue, and counted as such.
        assert move.queue_in is None
        assert await store.claim(1) == []
        assert (await store.summarize()).counts == {move.status: 1}
        assert await store.find_faults() == []


# Group commit.


async def test_calls_that_wait_together_are_committed_together_and_fail_alone(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        results: dict[int, Any] = {}

        async def enqueue(number: int) -> None:
            resources_id = "rs-unknown" if number % 10 == 3 else None
            try:
                results[number] = await store.enqueue([EnqueueRolloutRequest(number, resources_id=resources_id)])
            except UnknownId as exc:
                results[number] = exc

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(enqueue, number)
        inputs = sorted(rollout.input for rollout in await store.query_rollouts())

    assert inputs == [number for number in range(100) if number % 10 != 3]
    assert all(isinstance(results[number], UnknownId) == (number % 10 == 3) for number in range(100))


async def test_many_kinds_of_calls_wait_together(path: Path) -> None:
    async with SqliteLightningStore(path) as store:

        async def one(number: int) -> None:
            started = await store.start_rollout(number, worker_id=f"worker-{number}")
            await store.add_span(span_of(started, sequence_id=1))
            with pytest.raises(UnknownId):
                await store.add_span(attrs.evolve(span_of(started), rollout_id="ro-unknown"))
            assert await finish(store, started, spans=[span_of(started, sequence_id=2)]) == "succeeded"

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(one, number)
        statistics = await store.statistics()

    assert (statistics.total_rollouts, statistics.total_spans, statistics.total_workers) == (50, 100, 50)


async def test_spans_of_one_attempt_may_come_from_several_stores(path: Path) -> None:
    async with SqliteLightningStore(path) as store, SqliteLightningStore(path) as other:
        claimed = await claim_one(store)
        spans = [span_of(claimed) for _ in range(6)]
        for number, span in enumerate(spans):
            adding, looking = (store, other) if number % 2 else (other, store)
            [added] = await adding.add_spans([span])
            assert added.sequence_id == number + 1
            assert await looking.add_spans(spans[: number + 1]) == []

        assert [span.span_id for span in await store.query_spans(claimed.rollout_id)] == [s.span_id for s in spans]


async def test_a_span_whose_commit_failed_is_not_taken_for_known(path: Path) -> None:
    async with OpenToSee(path, patience_seconds=0) as store:
        claimed = await claim_one(store)
        first, second = span_of(claimed), span_of(claimed, attributes={"text": "x" * 1_000_000})
        await store.add_spans([first])
        store.writer.run("PRAGMA max_page_count = 60")
        with pytest.raises(StoreFull):
            await store.add_spans([second])
        store.writer.run("PRAGMA max_page_count = 1000000")

        assert [span.sequence_id for span in await store.add_spans([first, second])] == [2]


async def test_a_call_cancelled_while_it_is_written_ends_with_its_result(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_soon, scope)
                # Cancelled during the commit, whose outcome the caller still learns.
                ids = await store.enqueue([EnqueueRolloutRequest(number) for number in range(5000)])
                assert scope.cancel_called
                assert len(ids) == 5000
        assert len(await store.query_rollouts()) == 5000


async def cancel_soon(scope: trio.CancelScope) -> None:
    scope.cancel()
    await trio.lowlevel.cancel_shielded_checkpoint()


async def test_a_call_cancelled_before_it_is_written_does_nothing(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.enqueue([EnqueueRolloutRequest("task")])

        assert scope.cancelled_caught
        assert not await store.query_rollouts()


async def test_closing_waits_for_what_was_submitted(path: Path) -> None:
    store = SqliteLightningStore(path)
    ids: list[str] = []

    async def enqueue() -> None:
        ids.extend(await store.enqueue([EnqueueRolloutRequest(number) for number in range(2000)]))

    async with trio.open_nursery() as nursery, store:
        nursery.start_soon(enqueue)
        await trio.testing.wait_all_tasks_blocked()
    async with store:
        found = await store.query_rollouts()

    assert len(ids) == len(found) == 2000


async def test_waiting_callers_are_woken_when_the_store_is_closed(path: Path) -> None:
    told: list[str] = []

    async def wait(fn: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(StoreClosed):
            await fn()
        told.append(str(fn))

    async with trio.open_nursery() as nursery, SqliteLightningStore(path) as store:
        [rollout_id] = await store.enqueue([EnqueueRolloutRequest("task")], run_id="run-1")
        nursery.start_soon(wait, partial(store.wait_claimable, run_id="run-2"))
        nursery.start_soon(wait, partial(store.wait_finished, [rollout_id]))
        await trio.sleep(SOON)

    assert len(told) == 2


async def test_a_query_can_be_cancelled(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        await store.enqueue([EnqueueRolloutRequest({"n": number}) for number in range(20_000)])
        with trio.move_on_after(0.01) as scope:
            await store.query_rollouts()
        assert scope.cancelled_caught

        assert (await store.query_rollouts(limit=1)).total == 20_000


async def test_no_thread_is_left_when_the_store_is_closed(path: Path) -> None:
    async with SqliteLightningStore(path):
        pass

    assert not [thread for thread in threading.enumerate() if thread.name == "lightning_trio store"]


# Waits for other processes.


async def test_one_store_wakes_another_on_the_same_file(path: Path) -> None:
    async with SqliteLightningStore(path) as store, SqliteLightningStore(path) as other:
        async with calling(store.wait_claimable) as claimable:
            assert claimable.waits
            [rollout_id] = await other.enqueue([EnqueueRolloutRequest("task")])
        [claimed] = await store.claim(1)
        waits = partial(other.wait_finished, [rollout_id])
        async with calling(waits) as first, calling(waits):
            assert first.waits
            await finish(store, claimed)

    assert first.results == [[]]


async def test_the_caller_that_watches_for_all_hands_over_when_it_leaves(path: Path) -> None:
    async with SqliteLightningStore(path) as store, SqliteLightningStore(path) as other:
        first_waits = trio.CancelScope()

        async def wait_first() -> None:
            with first_waits:
                await store.wait_claimable()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_first)
            await trio.sleep(SOON)
            async with calling(store.wait_claimable) as second:
                first_waits.cancel()
                await trio.sleep(SOON)
                assert second.waits
                await other.enqueue([EnqueueRolloutRequest("task")])

    assert second.results == [None]


@pytest.mark.heavy
def test_eight_processes_claim_each_rollout_exactly_once(path: Path) -> None:
    ids = in_store(path, lambda store: store.enqueue([EnqueueRolloutRequest(n) for n in range(1000)]))
    with ProcessPoolExecutor(8, mp_context=multiprocessing.get_context("spawn")) as pool:
        claimed = list(pool.map(claim_and_finish_all, [str(path)] * 8, range(8)))

    async def look(store: LightningStore) -> tuple[Any, Any]:
        return (await store.summarize()).counts, (await store.statistics()).total_attempts

    assert sorted(rollout_id for each in claimed for rollout_id in each) == sorted(ids)
    assert in_store(path, look) == ({"succeeded": 1000}, 1000)


def claim_and_finish_all(path: str, number: int) -> list[str]:
    async def work(store: LightningStore) -> list[str]:
        done: list[str] = []
        while claimed := await store.claim(7, worker_id=f"worker-{number}"):
            statuses = await store.finish([outcome_of(each, spans=[span_of(each)]) for each in claimed])
            done += [each.rollout_id for each, status in zip(claimed, statuses, strict=True) if status == "succeeded"]
        return done

    return in_store(Path(path), work)


# Crashes.

WRITER = """
import sys, trio
import lightning_trio as agl
from lightning_trio._records import AttemptOutcome

async def main():
    async with agl.SqliteLightningStore(sys.argv[1]) as store:
        number = 0
        while True:
            requests = [agl.EnqueueRolloutRequest(number + n, key=str(number + n)) for n in range(20)]
            await store.enqueue(requests, run_id="run-1")
            claimed = await store.claim(20, run_id="run-1", worker_id="worker-1")
            spans = [[agl.Span.from_attributes(attributes={"n": each.input}, rollout_id=each.rollout_id,
                      attempt_id=each.attempt.attempt_id, sequence_id=1)] for each in claimed]
            await store.finish([AttemptOutcome(each.rollout_id, each.attempt.attempt_id, "succeeded", 1.0, own,
                                final_reward=1.0) for each, own in zip(claimed, spans)])
            number += 20
            print(number, flush=True)

trio.run(main)
"""


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(4))
def test_what_was_acknowledged_survives_a_kill_at_any_moment(path: Path, seed: int) -> None:
    moment = random.Random(seed)
    acknowledged = 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            first = int(child.stdout.readline())
            time.sleep(moment.random() * 0.1)
            child.kill()
            # Because of their keys, enqueuing existing rollouts again returns them.
            acknowledged = max([acknowledged, first, *map(int, child.stdout.read().split())])
        in_store(path, partial(check_consistent, acknowledged=acknowledged))


async def check_consistent(store: LightningStore, acknowledged: int) -> None:
    counts = (await store.summarize("run-1")).counts
    rollouts = await store.query_rollouts()
    by_status: dict[str, int] = {}
    for rollout in rollouts:
        by_status[rollout.status] = by_status.get(rollout.status, 0) + 1
    done = [rollout for rollout in rollouts if rollout.status == "succeeded"]
    spans = await store.find(Query("spans"))
    assert dict(counts) == by_status
    assert len(done) + counts.get("cancelled", 0) >= acknowledged
    assert sorted(span.attributes["n"] for span in spans) == sorted(rollout.input for rollout in done)
    assert (await store.summarize()).rewards == {None: (len(done), float(len(done)))}
    # The writer's crash leaves claimed rollouts, which only a runner's lease would requeue. The test cancels them.
    for rollout in rollouts:
        if rollout.status == "preparing":
            await store.update_rollout(rollout.rollout_id, status="cancelled")


def test_a_truncated_log_loses_only_what_is_cut_off(path: Path) -> None:
    copy = path.with_name("copy.db")

    async def fill(store: SqliteLightningStore) -> None:
        await store.enqueue([EnqueueRolloutRequest(0)])
        await store.vacuum()
        for number in range(1, 50):
            await store.enqueue([EnqueueRolloutRequest(number)])
        # As after a crash that cut off the end of the log.
        write(copy, read(path))
        log = read(Path(f"{path}-wal"))
        write(Path(f"{copy}-wal"), log[: len(log) * 2 // 3 + 11])

    in_store(path, fill)

    async def look(store: LightningStore) -> list[int]:
        inputs = [rollout.input for rollout in await store.query_rollouts()]
        await store.enqueue([EnqueueRolloutRequest("goes on")])
        return inputs

    inputs = in_store(copy, look)
    assert inputs == list(range(len(inputs)))
    assert 1 <= len(inputs) < 50


# Unusable files.


async def refusal(path: Path, kind: type[StoreError], **options: Any) -> str:
    with pytest.raises(kind) as caught:
        async with SqliteLightningStore(path, **options):
            raise AssertionError("opened")
    return str(caught.value)


async def test_a_missing_folder_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    message = await refusal(tmp_path / "no" / "run.db", StoreUnavailable)

    assert message == (
        f"the folder {tmp_path / 'no'} of the store run.db does not exist; create it first: mkdir -p {tmp_path / 'no'}"
    )


async def test_a_directory_is_no_store(tmp_path: Path) -> None:
    message = await refusal(tmp_path, StoreUnavailable)

    assert message == f"{tmp_path} is a directory; pass the path of a file in it: {tmp_path / 'runs.db'}"


async def test_a_pipe_or_a_device_is_no_store(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    for path in (pipe, Path("/dev/null")):
        assert "is a pipe or a device; pass the path of a store" in await refusal(path, StoreUnavailable)


@pytest.mark.parametrize("path", [None, 3, b"runs.db"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(TypeError, match=r"path=.* is not the path of a file; pass a str or a pathlib.Path"):
        SqliteLightningStore(path)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("PRAGMA user_version = -1", r"is damaged \(its schema has the version -1\)"),
        ("PRAGMA user_version = 0", r"is damaged \(its schema has the version 0\)"),
        ("DROP TABLE attempts; DROP TABLE meta", r"is damaged \(missing tables: attempts, meta\)"),
        ("DELETE FROM meta", r"is damaged \(its table meta does not say how ids are made\)"),
        ("UPDATE meta SET value = 'x'", r"is damaged \(its table meta does not say how ids are made\)"),
    ],
)
async def test_a_store_that_lacks_something_is_reported_as_damaged(path: Path, statement: str, said: str) -> None:
    async with SqliteLightningStore(path):
        pass
    tamper(path, statement)

    assert re.search(said, await refusal(path, StoreFormatError))


def tamper(path: Path, statements: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(statements)
    connection.close()


DEEP = "[" * 20_000 + "]" * 20_000


@pytest.mark.parametrize(
    ("statement", "query", "said"),
    [
        ("UPDATE rollouts SET input = x'00ff'", "query_rollouts", "is damaged"),
        ("UPDATE rollouts SET input = CAST(x'ff22' AS TEXT)", "query_rollouts", "is damaged"),
        ("UPDATE traces SET spans = '[['", "query_spans", "spans of attempt at-.* of rollout ro-.* cannot be read"),
        ("UPDATE traces SET spans = '[[1]]'", "query_spans", "spans of attempt at-.* of rollout ro-.* cannot be read"),
        (f"UPDATE traces SET spans = '{DEEP}'", "query_spans", "spans of attempt at-.* cannot be read .RecursionError"),
        ("UPDATE resources SET body = '['", "query_resources", "the resources rs-.* cannot be read"),
    ],
    ids=lambda value: value[:50],
)
async def test_what_cannot_be_read_is_named(path: Path, statement: str, query: str, said: str) -> None:
    async with SqliteLightningStore(path) as store:
        await store.add_resources({"t": PromptTemplate("x", engine="f-string")})
        await store.put([Run("run-1")])
        ended = await claim_one(store)
        await finish(store, ended, "failed", spans=[span_of(ended)], error=ErrorRecord("E", "m", "t"))
    tamper(path, statement)

    async with SqliteLightningStore(path) as store:
        arguments = [ended.rollout_id] if query in ("query_attempts", "query_spans") else []
        with pytest.raises(StoreFormatError, match=said):
            await getattr(store, query)(*arguments)


async def test_an_audit_names_a_trace_that_is_nested_too_deeply(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        ended = await claim_one(store)
        await finish(store, ended, "failed", spans=[span_of(ended)])
    tamper(path, f"UPDATE traces SET spans = '{DEEP}'")

    async with SqliteLightningStore(path) as store:
        found = await audit(store)

    assert "its spans cannot be read" in found.problems[0]


@pytest.mark.parametrize(
    ("statement", "query", "where", "said"),
    [
        ("UPDATE rollouts SET input = '{oops'", "query_rollouts", "input", "rollout ro-.* cannot be read"),
        ("UPDATE rollouts SET config = '[1]'", "query_rollouts", "input", "rollout ro-.* cannot be read"),
        ("UPDATE rollouts SET metadata = '[1'", "query_rollouts", "input", "rollout ro-.* cannot be read"),
        ("UPDATE attempts SET error = '[[3'", "query_attempts", "metadata", "attempt at-.* of rollout ro-.* cannot"),
        ("UPDATE attempts SET error = '[3]'", "query_attempts", "metadata", "attempt at-.* of rollout ro-.* cannot"),
        ("UPDATE runs SET body = '{}'", "query_runs", "state", "run-1 cannot be read"),
        ("UPDATE workers SET heartbeat_stats = '{'", "query_workers", "heartbeat_stats", "JSON is malformed|truncated"),
    ],
)
async def test_a_value_that_cannot_be_read_is_there_as_unreadable(
    path: Path, statement: str, query: str, where: str, said: str
) -> None:
    async with SqliteLightningStore(path) as store:
        await store.put([Run("run-1")])
        await store.update_worker("worker-1")
        ended = await claim_one(store)
        await finish(store, ended, "failed", error=ErrorRecord("E", "m", "t"))
    tamper(path, statement)

    async with SqliteLightningStore(path) as store:
        [found, *_] = await getattr(store, query)(*[ended.rollout_id] if query == "query_attempts" else [])

    value = getattr(found, where)
    assert isinstance(value, Unreadable)
    assert re.search(said, value.reason)


async def test_a_text_file_is_left_as_it_is(path: Path) -> None:
    write(path, b"name,review\n" * 100)
    message = await refusal(path, StoreFormatError)

    assert "is not a SQLite file (it begins with b'name,review\\nname'); pass the path of a store" in message
    assert read(path) == b"name,review\n" * 100


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    write(path, b"")
    async with SqliteLightningStore(path) as store:
        assert await store.enqueue_rollout("task")


async def test_a_file_of_another_program_is_named_with_its_tables_and_left_as_it_is(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()
    before = read(path)
    message = await refusal(path, StoreFormatError)

    assert "is a SQLite file of another program with the tables bookmarks; pass the path" in message
    assert read(path) == before


async def test_a_newer_schema_is_refused_with_both_versions(path: Path) -> None:
    async with SqliteLightningStore(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    message = await refusal(path, StoreFormatError)

    assert f"its schema is 99, this one knows {len(MIGRATIONS)}; upgrade with: pip install -U" in message


async def test_a_store_that_a_newer_version_migrates_meanwhile_is_neither_read_nor_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "_CHECK_SECONDS", 0.0)
    async with SqliteLightningStore(path) as store:
        await store.enqueue_rollout("task")
        await store.query_rollouts()
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        for _ in range(2):
            with pytest.raises(StoreFormatError, match="its schema is 99"):
                await store.claim(1)
        with pytest.raises(StoreFormatError, match="its schema is 99"):
            await store.query_rollouts()
        statuses = connection.execute("SELECT status FROM rollouts").fetchall()
        connection.close()

    assert statuses == [("queuing",)]


async def test_a_damaged_file_is_reported_as_damaged(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        await store.enqueue([EnqueueRolloutRequest("x" * 500) for _ in range(2000)])
    content = read(path)
    write(path, content[:4096] + b"\xff" * 40_000 + content[44_096:])
    with pytest.raises(StoreFormatError, match=r"is damaged \(.*\); restore a backup"):
        async with SqliteLightningStore(path) as store:
            await store.query_rollouts()


async def test_a_file_that_another_program_keeps_locked_is_reported_as_locked(path: Path) -> None:
    async with SqliteLightningStore(path, busy_seconds=0.05) as store:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            StoreLocked, match=r"is locked: another process has been writing to it for more than 0.05 s"
        ):
            await store.enqueue_rollout("task")
        connection.execute("COMMIT")
        connection.close()

        assert await store.enqueue_rollout("task")


async def test_a_writer_waits_for_another_to_be_done(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        async with calling(partial(store.enqueue_rollout, "task")) as call:
            assert call.waits
            connection.execute("COMMIT")
        connection.close()

        assert len(call.results) == 1


async def test_a_full_disk_is_reported_as_full_and_nothing_committed_is_lost(path: Path) -> None:
    async with OpenToSee(path, patience_seconds=0) as store:
        await store.enqueue([EnqueueRolloutRequest("kept")])
        store.writer.run("PRAGMA max_page_count = 60")
        with pytest.raises(StoreFull, match=r"there is no room left for .* to grow"):
            for _ in range(100):
                await store.enqueue([EnqueueRolloutRequest("x" * 10_000)])
        committed = (await store.summarize()).counts["queuing"]
        store.writer.run("PRAGMA max_page_count = 1000000")
        await store.enqueue([EnqueueRolloutRequest("after there was room again")])

        inputs = [rollout.input for rollout in await store.query_rollouts()]
        assert len(inputs) == committed + 1 >= 2
        assert (inputs[0], inputs[-1]) == ("kept", "after there was room again")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs another user to be refused")
def test_a_read_only_file_is_reported_as_read_only(path: Path) -> None:
    in_store(path, lambda store: store.enqueue_rollout("task"))
    path.chmod(0o444)
    path.parent.chmod(0o555)
    # Names are imported on first use, and the other user may not be allowed to read the package.
    program = (
        "import os, sys, trio, lightning_trio as agl\n"
        "agl.SqliteLightningStore\n"
        "if os.getuid() == 0:\n    os.setuid(65534)\n"
        "async def main():\n"
        "    async with agl.SqliteLightningStore(sys.argv[1]):\n        pass\n"
        "try:\n    trio.run(main)\nexcept agl.StoreUnavailable as exc:\n    print(exc)\n"
    )
    folders = [folder for folder in path.parents if folder.stat().st_uid == os.getuid() and folder != path.parent]
    modes = [(folder, folder.stat().st_mode) for folder in folders]
    try:
        for folder, mode in modes:
            folder.chmod(mode | 0o555)
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    finally:
        path.parent.chmod(0o755)
        for folder, mode in modes:
            folder.chmod(mode)

    assert re.search(
        r"run.db or its folder is read-only \(.*\); grant write access|cannot be read or written", done.stdout
    )


# Versions.


def test_an_older_schema_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = in_store(path, lambda store: store.enqueue([EnqueueRolloutRequest("old")]))

    def add_notes(transaction: Transaction) -> None:
        transaction.execute("CREATE TABLE notes (number INTEGER PRIMARY KEY, text TEXT)")
        transaction.execute("INSERT INTO notes (text) SELECT 'of ' || count(*) FROM rollouts")

    newer = (*MIGRATIONS, add_notes)
    monkeypatch.setattr(_sqlite, "MIGRATIONS", newer)
    found = in_store(path, lambda store: store.query_rollouts())
    # Only once.
    in_store(path, lambda store: store.query_rollouts())

    connection = sqlite3.connect(path)
    assert [rollout.rollout_id for rollout in found] == ids
    assert connection.execute("SELECT text FROM notes").fetchall() == [("of 1",)]
    assert connection.execute("PRAGMA user_version").fetchone() == (len(newer),)
    connection.close()


def test_a_migration_that_fails_leaves_the_store_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_store(path, lambda store: store.enqueue([EnqueueRolloutRequest("old")]))

    def fail(transaction: Transaction) -> None:
        transaction.execute("DELETE FROM rollouts")
        raise RuntimeError("halfway")

    with monkeypatch.context() as patched:
        patched.setattr(_sqlite, "MIGRATIONS", (*MIGRATIONS, fail))
        with pytest.raises(RuntimeError, match="halfway"):
            in_store(path, lambda store: store.query_rollouts())

    assert len(in_store(path, lambda store: store.query_rollouts())) == 1


# With a runner.


def test_a_run_is_in_the_file_and_its_counts_agree(path: Path) -> None:
    async def agent(task: int) -> float:
        if task == 3:
            raise ValueError("no")
        return task / 10

    store = SqliteLightningStore(path)
    result = trio.run(Runner(agent, store=store, max_concurrency=4).fit, range(10))

    async def look(store: LightningStore) -> Any:
        summary = await store.summarize(result.run_id)
        return dict(summary.counts), len(await store.find(Query("spans")))

    assert not store.is_open
    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 9}
    assert in_store(path, look) == ({"failed": 1, "succeeded": 9}, 19)
