"""The store in memory: what it keeps, what it evicts, and any order of calls against a model."""

from __future__ import annotations

import math
import queue
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import (
    AttemptedRollout,
    AttemptStatus,
    EnqueueRolloutRequest,
    Evicted,
    InMemoryLightningStore,
    PaginatedResult,
    Rollout,
    RolloutConfig,
    RolloutStatus,
    RunSummary,
    Span,
    StaleAttempt,
    StoreStatistics,
    UnknownId,
)
from lightning_trio._records import (
    GIVE_BACK,
    REPORTER_RETRIES,
    RETRY_NOW,
    AttemptOutcome,
    RetryIn,
    RolloutChange,
)

RETRY = RolloutConfig(max_attempts=3, retry_condition=["failed"])


def report(attempted: AttemptedRollout, status: AttemptStatus = "succeeded", **fields: Any) -> AttemptOutcome:
    return AttemptOutcome(attempted.rollout_id, attempted.attempt.attempt_id, status, 1.0, **fields)


def span_of(attempted: AttemptedRollout) -> Span:
    return Span.from_attributes(attributes={}, rollout_id=attempted.rollout_id, attempt_id=attempted.attempt.attempt_id)


async def test_a_task_may_hold_what_cannot_be_copied_and_contain_itself() -> None:
    lock = threading.Lock()
    task: list[Any] = [lock]
    task.append(task)
    store = InMemoryLightningStore()
    await store.enqueue([EnqueueRolloutRequest({"lock": lock}), EnqueueRolloutRequest(task)])

    plain, circular = await store.claim(2)

    assert plain.input == {"lock": lock}
    assert circular.input is task


async def run_all(store: InMemoryLightningStore, number: int, run_id: str | None = None) -> list[str]:
    """Enqueue, claim and finish `number` rollouts, each with a reward of 1 and a span."""
    ids = await store.enqueue([EnqueueRolloutRequest(task, "train") for task in range(number)], run_id=run_id)
    for attempted in await store.claim(number):
        await store.finish([report(attempted, spans=[span_of(attempted)], final_reward=1.0)])
    return ids


# Retention.


async def test_an_evicted_rollout_says_so_and_how_to_keep_more() -> None:
    store = InMemoryLightningStore(retain=2)
    oldest, *_ = await run_all(store, 3)

    with pytest.raises(Evicted, match=rf"rollout {oldest} has finished .* keeps the newest 2 .*retain=…"):
        await store.get_rollout_by_id(oldest)


@pytest.mark.parametrize("call", ["query_spans", "query_attempts", "get_latest_attempt", "start_attempt"])
async def test_everything_asked_of_an_evicted_rollout_says_so(call: str) -> None:
    store = InMemoryLightningStore(retain=0)
    [gone] = await run_all(store, 1)

    with pytest.raises(Evicted):
        await getattr(store, call)(gone)


async def test_a_change_of_an_evicted_rollout_says_so() -> None:
    store = InMemoryLightningStore(retain=0)
    [gone] = await run_all(store, 1)

    with pytest.raises(Evicted):
        await store.update_rollout(gone, metadata={})


@pytest.mark.parametrize("unknown", ["ro-000000000000", "ro-", "", "at-0", "ro-0x1", "ro-é", "ro-" + "f" * 40])
async def test_an_id_that_never_was_is_unknown_not_evicted(unknown: str) -> None:
    store = InMemoryLightningStore(retain=0)
    await run_all(store, 20)

    assert await store.get_rollout_by_id(unknown) is None
    with pytest.raises(UnknownId):
        await store.update_rollout(unknown, metadata={})


async def test_another_spelling_of_an_id_is_unknown() -> None:
    store = InMemoryLightningStore(retain=0)
    ids = await run_all(store, 20)
    capitals = next(rollout_id for rollout_id in ids if rollout_id.upper()[3:] != rollout_id[3:])

    assert await store.get_rollout_by_id("ro-" + capitals[3:].upper()) is None
    assert await store.get_rollout_by_id("ro-0" + capitals[3:]) is None


async def test_an_id_of_another_store_is_unknown() -> None:
    ids = await run_all(InMemoryLightningStore(), 20)
    store = InMemoryLightningStore(retain=0)
    await run_all(store, 20)

    assert [await store.get_rollout_by_id(rollout_id) for rollout_id in ids] == [None] * 20


async def test_the_newest_are_kept() -> None:
    store = InMemoryLightningStore(retain=2)
    ids = await run_all(store, 5)

    assert [rollout.rollout_id for rollout in await store.query_rollouts()] == ids[3:]
    assert [len(await store.query_spans(rollout_id)) for rollout_id in ids[3:]] == [1, 1]


async def test_a_query_for_many_leaves_out_the_evicted() -> None:
    store = InMemoryLightningStore(retain=2)
    ids = await run_all(store, 5)

    found = await store.query_rollouts(rollout_id_in=ids)

    assert {rollout.rollout_id for rollout in found} == set(ids[3:])


async def test_what_has_not_finished_is_never_evicted() -> None:
    store = InMemoryLightningStore(retain=0)
    [queued] = await store.enqueue([EnqueueRolloutRequest("task")], run_id="other")
    ids = await store.enqueue([EnqueueRolloutRequest(task) for task in range(3)], run_id="run")
    await store.finish([report(attempted) for attempted in (await store.claim(3, run_id="run"))[1:]])

    assert {rollout.rollout_id for rollout in await store.query_rollouts()} == {queued, ids[0]}


async def test_counts_and_rewards_cover_the_evicted() -> None:
    store = InMemoryLightningStore(retain=1)
    await run_all(store, 5, "run-1")
    await run_all(store, 3, "run-2")

    summary = await store.summarize("run-1")
    assert (summary.counts, summary.rewards) == ({"succeeded": 5}, {"train": (5, 5.0)})
    assert (await store.summarize()).rewards == {"train": (8, 8.0)}
    assert (await store.statistics()).total_spans == 8


async def test_an_evicted_rollout_counts_as_finished() -> None:
    store = InMemoryLightningStore(retain=0)
    ids = await run_all(store, 2)

    assert await store.wait_finished(ids) == []


async def test_a_late_report_of_an_evicted_rollout_is_refused_and_holds_up_no_other() -> None:
    store = InMemoryLightningStore(retain=0)
    await store.enqueue([EnqueueRolloutRequest("late"), EnqueueRolloutRequest("good")])
    late, good = await store.claim(2)
    with pytest.raises(Evicted):
        await store.update_rollout(late.rollout_id, status="cancelled")

    assert await store.finish([report(late), report(good)]) == [None, "succeeded"]


async def test_a_late_span_of_an_evicted_rollout_is_counted_and_holds_up_no_other() -> None:
    store = InMemoryLightningStore(retain=0)
    await store.enqueue([EnqueueRolloutRequest("late"), EnqueueRolloutRequest("good")])
    late, good = await store.claim(2)
    await store.finish([report(late)])

    assert len(await store.add_spans([span_of(late), span_of(good)])) == 1
    assert (await store.statistics()).late_spans == 1


async def test_a_batch_of_changes_is_made_whole_though_it_evicts() -> None:
    store = InMemoryLightningStore(retain=1)
    [finished] = await run_all(store, 1)
    [running] = await store.enqueue([EnqueueRolloutRequest("task")])
    await store.update([RolloutChange(running, status="cancelled"), RolloutChange(finished, metadata={})])

    assert (await store.summarize()).counts == {"succeeded": 1, "cancelled": 1}


async def test_a_change_may_follow_the_one_that_evicts_its_rollout() -> None:
    store = InMemoryLightningStore(retain=0)
    [running] = await store.enqueue([EnqueueRolloutRequest("task")])
    await store.update([RolloutChange(running, status="cancelled"), RolloutChange(running, metadata={})])

    assert (await store.summarize()).counts == {"cancelled": 1}


async def test_a_session_loses_no_result_to_a_small_store() -> None:
    results: list[int] = []

    class RunsAll(agl.Algorithm):
        async def run(
            self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None
        ) -> None:
            results.append(len(await self.session.run(train_dataset or [])))

    async def agent(task: int) -> float:
        return 1.0

    runner = agl.Runner(agent, store=InMemoryLightningStore(retain=10), algorithm=RunsAll())
    await runner.fit(range(100))

    assert results == [100]


def test_retain_is_no_negative_number() -> None:
    with pytest.raises(ValueError, match="retain=-1; pass the number of finished rollouts to keep, 0 or more"):
        InMemoryLightningStore(retain=-1)


# Memory.


def sizes(store: InMemoryLightningStore) -> dict[str, int]:
    """Return the sizes of the store's collections."""
    queued = [len(queue.ready) + len(queue.delayed) for queue in store._queues._runs.values()]
    return {
        "entries": len(store._entries),
        "finished": len(store._retention),
        "watches": len(store._waits),
        "workers": len(store._workers),
        "queued": sum(queued),
    }


async def test_memory_is_flat_after_many_rollouts() -> None:
    store = InMemoryLightningStore(retain=100)
    for _ in range(50):
        await run_all(store, 100)

    assert sizes(store) == {"entries": 100, "finished": 100, "watches": 0, "workers": 0, "queued": 0}
    assert (await store.summarize()).counts == {"succeeded": 5000}


async def test_rollouts_cancelled_in_the_queue_are_evicted() -> None:
    store = InMemoryLightningStore(retain=10)
    await store.enqueue([EnqueueRolloutRequest("stays first in the queue")])
    ids = await store.enqueue([EnqueueRolloutRequest(task) for task in range(100)])
    await store.update([RolloutChange(rollout_id, status="cancelled") for rollout_id in ids])

    assert sizes(store)["queued"] == 1


async def test_runs_that_are_over_leave_no_queue_behind() -> None:
    store = InMemoryLightningStore(retain=10)
    for number in range(20):
        await run_all(store, 1, f"run-{number}")

    assert len(store._queues._runs) <= 1


async def test_a_cancelled_wait_leaves_no_watch_behind() -> None:
    store = InMemoryLightningStore()
    ids = await store.enqueue([EnqueueRolloutRequest(task) for task in range(3)])
    with trio.move_on_after(0.01):
        await store.wait_finished(ids, count=2)

    assert sizes(store)["watches"] == 0


async def test_a_wait_for_some_leaves_no_watch_behind(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()
    ids = await store.enqueue([EnqueueRolloutRequest(task) for task in range(3)])
    claimed = await store.claim(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(store.wait_finished, ids, count=1))
        await trio.sleep(1)
        await store.finish([report(claimed[0])])

    assert sizes(store)["watches"] == 0


async def test_spans_added_in_one_batch_are_looked_at_once_each() -> None:
    """Twice the spans take about twice the comparisons, not four times."""

    class CountedId(str):
        compared = 0

        def __hash__(self) -> int:
            CountedId.compared += 1
            return super().__hash__()

        __eq__ = str.__eq__

    async def hashes(number: int) -> int:
        store = InMemoryLightningStore()
        [attempted] = await store.start([EnqueueRolloutRequest("task")])
        spans = [
            Span.from_attributes(
                attributes={},
                rollout_id=attempted.rollout_id,
                attempt_id=attempted.attempt.attempt_id,
                span_id=CountedId(index),
            )
            for index in range(number)
        ]
        CountedId.compared = 0
        await store.add_spans(spans)
        return CountedId.compared

    assert await hashes(200) <= 3 * await hashes(100)


# Opening.


async def test_what_it_holds_outlives_closing() -> None:
    store = InMemoryLightningStore()
    async with store:
        [rollout_id] = await store.enqueue([EnqueueRolloutRequest("task")])
        assert store.is_open
    assert not store.is_open

    async with store:
        [claimed] = await store.claim(1)
    assert claimed.rollout_id == rollout_id


def test_a_retry_that_waited_is_due_when_the_store_is_opened_in_another_program() -> None:
    store = InMemoryLightningStore()

    async def fail() -> None:
        async with store:
            [attempted] = await store.start([EnqueueRolloutRequest("task", config=RETRY)])
            await store.finish([report(attempted, "failed", next=RetryIn(math.inf))])
            assert await store.claim(1) == []

    async def claim() -> list[AttemptedRollout]:
        async with store:
            await store.wait_claimable()
            return await store.claim(1)

    trio.run(fail)
    [again] = trio.run(claim)

    assert again.attempt.sequence_id == 2


def test_waiting_works_in_another_program() -> None:
    store = InMemoryLightningStore()

    async def wait_in_vain() -> None:
        async with store:
            with trio.move_on_after(0):
                await store.wait_claimable()

    async def wait() -> None:
        async with store, trio.open_nursery() as nursery:
            nursery.start_soon(store.wait_claimable)
            await trio.testing.wait_all_tasks_blocked()
            await store.enqueue([EnqueueRolloutRequest("task")])

    trio.run(wait_in_vain)
    trio.run(wait)


# Time, on a mocked clock.


async def test_retries_are_claimed_in_the_order_they_are_due(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()
    late, early = await store.start([EnqueueRolloutRequest(task, config=RETRY) for task in ("late", "early")])
    await store.finish([report(late, "failed", next=RetryIn(20.0)), report(early, "failed", next=RetryIn(10.0))])
    order: list[tuple[Any, float]] = []
    for _ in range(2):
        await store.wait_claimable()
        order += [(claimed.input, trio.current_time()) for claimed in await store.claim(5)]

    assert order == [("early", 10.0), ("late", 20.0)]


async def test_a_waiter_is_woken_for_an_earlier_retry_than_it_knew(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()
    late, early = await store.start([EnqueueRolloutRequest(task, config=RETRY) for task in ("late", "early")])
    await store.finish([report(late, "failed", next=RetryIn(20.0))])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.wait_claimable)
        await trio.sleep(1)
        await store.finish([report(early, "failed", next=RetryIn(2.0))])

    assert trio.current_time() == 3.0


async def test_cancelling_a_retry_that_waits_leaves_the_waiter_waiting(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()
    [attempted] = await store.start([EnqueueRolloutRequest("task", config=RETRY)])
    await store.finish([report(attempted, "failed", next=RetryIn(5.0))])
    await store.update_rollout(attempted.rollout_id, status="cancelled")
    with trio.move_on_after(60) as scope:
        await store.wait_claimable()

    assert scope.cancelled_caught


# Any order of calls.


class Model:
    """The model of a rollout."""

    def __init__(self, status: RolloutStatus) -> None:
        self.status = status
        self.attempts: list[AttemptStatus] = []
        self.given_back = 0
        self.reward: float | None = None
        """The latest attempt's reward, which counts once the rollout has ended."""

    @property
    def ended(self) -> bool:
        return self.status in ("succeeded", "failed", "cancelled")

    def begin(self) -> None:
        if self.attempts and self.attempts[-1] in ("preparing", "running"):
            self.attempts[-1] = "unresponsive"
        self.attempts.append("preparing")
        self.status = "preparing"
        self.reward = None

    def finish(self, number: int, status: AttemptStatus, reward: float | None, requeue: bool) -> RolloutStatus | None:
        if self.ended or number != len(self.attempts) or self.attempts[-1] not in ("preparing", "running"):
            return None
        self.attempts[-1] = status
        self.reward = reward
        if requeue:
            self.given_back += 1
            self.status = "requeuing"
        elif status == "succeeded" or status == "cancelled" or status == "running":
            self.status = status
        elif status == "failed" and len(self.attempts) - self.given_back < RETRY.max_attempts:
            self.status = "requeuing"
        else:
            self.status = "failed"
        return self.status


class StoreMachine(RuleBasedStateMachine):
    """Calls of a store in any order; after each, statuses, queue, counts and rewards are the model's."""

    attempts: Bundle[AttemptedRollout] = Bundle("attempts")
    rollouts: Bundle[str] = Bundle("rollouts")

    def __init__(self) -> None:
        super().__init__()
        self.store = InMemoryLightningStore()
        self.models: dict[str, Model] = {}
        self.queue: list[str] = []

    def call(self, fn: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        async def in_trio() -> Any:
            return await fn(*args, **options)

        return trio.run(in_trio)

    @rule(target=rollouts, number=st.integers(0, 3), status=st.sampled_from(["queuing", "queuing", "cancelled"]))
    def enqueue(self, number: int, status: Any) -> Any:
        ids = self.call(self.store.enqueue, [EnqueueRolloutRequest("task", config=RETRY)] * number, status=status)
        self.models.update((rollout_id, Model(status)) for rollout_id in ids)
        self.queue += ids if status == "queuing" else []
        return multiple(*ids)

    @rule(target=attempts, limit=st.integers(0, 3))
    def claim(self, limit: int) -> Any:
        claimed = self.call(self.store.claim, limit)

        assert [attempted.rollout_id for attempted in claimed] == self.queue[:limit]
        del self.queue[:limit]
        for attempted in claimed:
            self.models[attempted.rollout_id].begin()
        return multiple(*claimed)

    @rule(target=attempts, rollout_id=rollouts)
    def start(self, rollout_id: str) -> Any:
        model = self.models[rollout_id]
        if model.ended:
            with pytest.raises(StaleAttempt):
                self.call(self.store.start, [rollout_id])
            return multiple()
        self.leave_queue(rollout_id)
        model.begin()
        [attempted] = self.call(self.store.start, [rollout_id])
        return attempted

    @rule(
        attempted=attempts,
        status=st.sampled_from(["succeeded", "failed", "timeout", "unresponsive", "cancelled"]),
        reward=st.sampled_from([None, 0.25, 1.0]),
        queued=st.booleans(),
    )
    def finish(self, attempted: AttemptedRollout, status: AttemptStatus, reward: float | None, queued: bool) -> None:
        following = RETRY_NOW if queued else REPORTER_RETRIES
        outcome = report(attempted, status, final_reward=reward, spans=[span_of(attempted)], next=following)
        self.expect_finish(attempted, outcome, queued)

    @rule(attempted=consumes(attempts))
    def give_back(self, attempted: AttemptedRollout) -> None:
        self.expect_finish(attempted, report(attempted, "cancelled", next=GIVE_BACK), True)

    def expect_finish(self, attempted: AttemptedRollout, outcome: AttemptOutcome, queued: bool) -> None:
        model = self.models[attempted.rollout_id]
        number = attempted.attempt.sequence_id
        expected = model.finish(number, outcome.status, outcome.final_reward, outcome.next == GIVE_BACK)
        if expected is not None:
            self.leave_queue(attempted.rollout_id)
        if expected == "requeuing" and queued:
            self.queue.append(attempted.rollout_id)

        assert self.call(self.store.finish, [outcome]) == [expected]

    @rule(rollout_id=rollouts)
    def cancel(self, rollout_id: str) -> None:
        model = self.models[rollout_id]
        if model.ended and model.status != "cancelled":
            with pytest.raises(StaleAttempt):
                self.call(self.store.update_rollout, rollout_id, status="cancelled")
            return
        self.leave_queue(rollout_id)
        model.status = "cancelled"
        if model.attempts and model.attempts[-1] in ("preparing", "running"):
            model.attempts[-1] = "cancelled"
        self.call(self.store.update_rollout, rollout_id, status="cancelled")

    @rule(rollout_id=rollouts, status=st.sampled_from(["queuing", "requeuing"]))
    def put_back(self, rollout_id: str, status: RolloutStatus) -> None:
        model = self.models[rollout_id]
        if model.ended:
            with pytest.raises(StaleAttempt):
                self.call(self.store.update_rollout, rollout_id, status=status)
            return
        if rollout_id not in self.queue or model.status != status:
            self.leave_queue(rollout_id)
            self.queue.append(rollout_id)
        model.status = status
        self.call(self.store.update_rollout, rollout_id, status=status)

    @rule(attempted=attempts, status=st.sampled_from(["running", "succeeded", "failed", "timeout", "cancelled"]))
    def change_attempt(self, attempted: AttemptedRollout, status: AttemptStatus) -> None:
        model = self.models[attempted.rollout_id]
        number = attempted.attempt.sequence_id
        ids = (attempted.rollout_id, attempted.attempt.attempt_id)
        if model.attempts[number - 1] == status:
            self.call(self.store.update_attempt, *ids, status=status)
            return
        new = model.finish(number, status, None, requeue=False)
        if new is None:
            with pytest.raises(StaleAttempt):
                self.call(self.store.update_attempt, *ids, status=status)
            return
        self.leave_queue(attempted.rollout_id)
        self.queue += [attempted.rollout_id] if new == "requeuing" else []
        self.call(self.store.update_attempt, *ids, status=status)

    @rule(attempted=attempts)
    def add_span(self, attempted: AttemptedRollout) -> None:
        model = self.models[attempted.rollout_id]
        number = attempted.attempt.sequence_id
        late = model.ended or number != len(model.attempts) or model.attempts[-1] not in ("preparing", "running")
        if not late:
            model.attempts[-1] = model.status = "running"
            self.leave_queue(attempted.rollout_id)

        assert (self.call(self.store.add_span, span_of(attempted)) is None) == late

    @rule(rollout_id=rollouts)
    def change_metadata(self, rollout_id: str) -> None:
        self.call(self.store.update_rollout, rollout_id, metadata={"seen": True})

    @rule(rollout_ids=st.lists(rollouts, max_size=4))
    def look(self, rollout_ids: list[str]) -> None:
        unfinished = self.call(self.store.wait_finished, rollout_ids, count=0)

        assert unfinished == [rollout_id for rollout_id in rollout_ids if not self.models[rollout_id].ended]

    def leave_queue(self, rollout_id: str) -> None:
        if rollout_id in self.queue:
            self.queue.remove(rollout_id)

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        async def read() -> tuple[PaginatedResult[Rollout], RunSummary, StoreStatistics]:
            return await self.store.query_rollouts(), await self.store.summarize(), await self.store.statistics()

        rollouts, summary, statistics = self.call(read)
        statuses = {rollout_id: model.status for rollout_id, model in self.models.items()}
        rewards = [model.reward for model in self.models.values() if model.ended and model.reward is not None]
        assert {rollout.rollout_id: rollout.status for rollout in rollouts} == statuses
        assert summary.counts == Counter(statuses.values())
        assert summary.rewards.get(None, (0, 0.0)) == (len(rewards), sum(rewards))
        assert statistics.total_rollouts == len(self.models)
        assert statistics.total_attempts == sum(len(model.attempts) for model in self.models.values())


StoreMachine.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
TestAnyOrderOfCalls = StoreMachine.TestCase


@asynccontextmanager
async def claimers(store: InMemoryLightningStore, number: int, seen: list[str]) -> AsyncGenerator[None]:
    """Start tasks that wait for rollouts, claim them and finish them, until the block is left."""

    async def work() -> None:
        while True:
            await store.wait_claimable()
            claimed = await store.claim(2)
            seen.extend(attempted.rollout_id for attempted in claimed)
            await store.finish([report(attempted) for attempted in claimed])

    async with trio.open_nursery() as nursery:
        for _ in range(number):
            nursery.start_soon(work)
        yield
        nursery.cancel_scope.cancel()


async def test_many_claimers_and_enqueuers_lose_nothing_and_run_nothing_twice(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()
    ids: list[str] = []
    seen: list[str] = []
    async with claimers(store, 7, seen):
        for number in range(30):
            ids += await store.enqueue([EnqueueRolloutRequest(task) for task in range(number)])
            await trio.sleep(number % 3)
        await store.wait_finished(ids)

    assert sorted(seen) == sorted(ids)


async def test_an_agent_that_changes_its_metadata_changes_no_other_attempts() -> None:
    async with InMemoryLightningStore() as store:
        await store.enqueue_rollout("task", metadata={"tags": ["first"]})
        claimed = await store.dequeue_rollout()
        assert claimed is not None
        changed: Any = claimed.metadata
        changed["tags"].append("late")

        [stored] = await store.query_rollouts()
        assert stored.metadata == {"tags": ["first"]}


# Several threads.


@contextmanager
def held_open(store: InMemoryLightningStore) -> Generator[None]:
    """Keep a store open in the Trio run of another thread."""
    opened, may_close = threading.Event(), threading.Event()

    async def hold() -> None:
        async with store:
            opened.set()
            await trio.to_thread.run_sync(may_close.wait)

    thread = threading.Thread(target=trio.run, args=(hold,))
    thread.start()
    opened.wait(10)
    yield
    may_close.set()
    thread.join(10)


async def no_agent(task: int) -> float:
    return 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.enqueue_rollout(1),
        lambda store: store.wait_for_rollouts(["ro-unknown"]),
        lambda store: store.add_resources({}),
        lambda store: store.__aenter__(),
        lambda store: agl.Runner(no_agent, store=store).fit([1]),
    ],
)
def test_a_second_trio_run_in_another_thread_is_refused(call: Callable[[InMemoryLightningStore], Any]) -> None:
    store = InMemoryLightningStore()

    with held_open(store), pytest.raises(agl.NotInTrio, match="is in use in the Trio run of another thread"):
        trio.run(call, store)


def test_other_threads_may_read_it_and_use_it_once_it_is_closed() -> None:
    store = InMemoryLightningStore()

    with held_open(store):
        assert len(trio.run(store.query_rollouts)) == 0
    assert trio.run(agl.Runner(no_agent, store=store).fit, [1]).counts["succeeded"] == 1


@contextmanager
def waited_in(wait: Callable[[], Awaitable[object]]) -> Generator[None]:
    """Keep a task waiting in a store, without opening it, in the Trio run of another thread."""
    tokens: queue.SimpleQueue[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = queue.SimpleQueue()

    async def hold() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            tokens.put((trio.lowlevel.current_trio_token(), nursery.cancel_scope))

    thread = threading.Thread(target=trio.run, args=(hold,))
    thread.start()
    token, scope = tokens.get(timeout=10)
    yield
    token.run_sync_soon(scope.cancel)
    thread.join(10)


@pytest.mark.parametrize("wait", ["finished", "claimable"])
def test_a_store_that_nobody_opened_is_refused_where_tasks_of_another_thread_wait_in_it(wait: str) -> None:
    store = InMemoryLightningStore()
    [rollout_id] = trio.run(store.enqueue, [EnqueueRolloutRequest(1)])
    trio.run(store.claim, 1)
    call = partial(store.wait_finished, [rollout_id]) if wait == "finished" else store.wait_claimable

    with waited_in(call):
        for refused in (partial(store.enqueue_rollout, 2), partial(store.update_rollout, rollout_id, status="failed")):
            with pytest.raises(agl.NotInTrio, match="is in use in the Trio run of another thread"):
                trio.run(refused)
        assert len(trio.run(store.query_rollouts)) == 1

    assert trio.run(store.enqueue_rollout, 2).input == 2


async def test_a_store_stays_with_its_thread_when_a_wait_in_it_ends() -> None:
    store = InMemoryLightningStore()

    async with store:
        with trio.move_on_after(0.01):
            await store.wait_claimable()

        with pytest.raises(agl.NotInTrio):
            await trio.to_thread.run_sync(trio.run, store.enqueue_rollout, 1)
