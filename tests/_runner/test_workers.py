"""The seam of workers: an engine runs with any object that has its methods, here one that works in batches."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import lightning_trio as agl
from lightning_trio import EnqueueRolloutRequest, ErrorRecord, RolloutConfig, Runner, RunningAttempt
from lightning_trio._agents import as_agent
from lightning_trio._runner._bindings import Bindings
from lightning_trio._runner._engine import Engine, EngineSettings
from lightning_trio._runner._live_attempt import EndedAttempt
from lightning_trio._runner._slots import Slots
from lightning_trio._runner._workers import AttemptCounts, ClaimedRollout, Workers
from lightning_trio.lanes import OpenLane
from lightning_trio.store import FINAL, GIVE_BACK, AttemptOutcome, RetryIn


async def never_called(task: float) -> float:
    raise AssertionError


@attrs.define(eq=False)
class Leftover:
    """A call that runs on after its attempt has ended."""

    kind: ClassVar[str] = "machine"
    end: Callable[[], None] | None = None

    def when_ended(self, fn: Callable[[], None]) -> None:
        self.end = fn


class BatchWorkers:
    """Run what comes together in one task, as if it went to another process.

    A task is a number: that many seconds are slept, and it is the reward; a negative one fails. Of the task ``"stuck"``
    something runs on until `leftover` ends.
    """

    def __init__(self, slots: int = 4) -> None:
        self._slots = Slots(slots)
        self.batches: list[list[Any]] = []
        self.claimed: dict[str, ClaimedRollout] = {}
        self.begun = 0
        self.seen: list[str] = []
        """What the commits of attempts counted as."""
        self.leftover = Leftover()
        self.is_stuck = False
        self.closed = False

    @property
    def slots(self) -> Slots:
        return self._slots

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        yield

    def start(
        self, claimed: Sequence[ClaimedRollout], nursery: trio.Nursery, report: Callable[[EndedAttempt], None]
    ) -> None:
        nursery.start_soon(self._run_batch, claimed, report)

    async def _run_batch(self, claimed: Sequence[ClaimedRollout], report: Callable[[EndedAttempt], None]) -> None:
        self.batches.append([each.rollout.input for each in claimed])
        for ended in await self._run(claimed):
            if ended.stop is not None:
                ended.outcome = attrs.evolve(ended.outcome, next=GIVE_BACK)
            report(ended)
            stop = ended.stop
        if stop is not None:
            raise stop

    async def run(self, claimed: ClaimedRollout) -> EndedAttempt:
        [ended] = await self._run([claimed])
        return ended

    async def _run(self, claimed: Sequence[ClaimedRollout]) -> list[EndedAttempt]:
        self.begun += len(claimed)
        self.claimed |= {each.rollout.attempt.attempt_id: each for each in claimed}
        stop: BaseException | None = None
        try:
            await trio.sleep(max(seconds_of(each) for each in claimed))
        except trio.Cancelled as exc:
            stop = exc
        for each in claimed:
            del self.claimed[each.rollout.attempt.attempt_id]
        return [self._ended(each, stop) for each in claimed]

    def _ended(self, claimed: ClaimedRollout, stop: BaseException | None) -> EndedAttempt:
        rollout = claimed.rollout
        outcome = AttemptOutcome(rollout.rollout_id, rollout.attempt.attempt_id, "succeeded", time.time())
        if stop is not None:
            return EndedAttempt(rollout, attrs.evolve(outcome, status="cancelled"), stop)
        if rollout.input == "stuck":
            failed = attrs.evolve(outcome, status="timeout", next=FINAL)
            return EndedAttempt(rollout, failed, abandoned=self.leftover)
        if rollout.input < 0:
            error = ErrorRecord.from_exception(ValueError(f"{rollout.input} seconds"))
            return EndedAttempt(rollout, attrs.evolve(outcome, status="failed", error=error, next=RetryIn(5.0)))
        return EndedAttempt(rollout, attrs.evolve(outcome, final_reward=float(rollout.input)))

    def committed(self, ended: EndedAttempt, status: agl.AttemptStatus) -> None:
        self.seen.append(status)
        if ended.abandoned is None:
            self._slots.give_back()
        else:
            self.is_stuck = True
            ended.abandoned.when_ended(self._abandoned_ended)

    def _abandoned_ended(self) -> None:
        self.is_stuck = False
        self._slots.give_back()

    def counts(self) -> AttemptCounts:
        return AttemptCounts(len(self.claimed), self.begun, int(self.is_stuck), 0)

    def recorder_of(self, attempt_id: str) -> None:
        return None

    def running(self, limit: int | None = None) -> list[RunningAttempt]:
        return [
            RunningAttempt(
                each.rollout.rollout_id,
                each.rollout.attempt.attempt_id,
                each.rollout.attempt.sequence_id,
                each.rollout.mode,
                "elsewhere",
                0.0,
                None,
                None,
                None,
                False,
                None,
            )
            for each in list(self.claimed.values())[:limit]
        ]

    def youngest_age(self) -> float | None:
        return 0.0 if self.claimed else None

    def log_abandoned(self) -> None:
        self.closed = True


def seconds_of(claimed: ClaimedRollout) -> float:
    task = claimed.rollout.input
    return 1.0 if task == "stuck" else abs(task)


class ElsewhereRunner(Runner):
    """A runner whose attempts run in other workers."""

    def __init__(self, workers: Workers, **options: Any) -> None:
        super().__init__(never_called, **options)
        self._elsewhere = workers

    def _make_workers(self, lanes: Mapping[str, OpenLane], bindings: Bindings) -> Workers:
        return self._elsewhere


@asynccontextmanager
async def open_engine(store: agl.LightningStore, workers: Workers) -> AsyncGenerator[Engine]:
    settings = EngineSettings("agent", RolloutConfig(), 4, 5.0, "runner-1")
    bindings = Bindings(as_agent(never_called), {}, store)
    async with store:
        engine = Engine(settings, store, agl.Tracer(), bindings, workers)
        async with engine.open():
            yield engine


async def test_an_engine_runs_one_rollout_with_other_workers(autojump_clock: MockClock) -> None:
    workers = BatchWorkers()
    async with open_engine(agl.InMemoryLightningStore(), workers) as engine:
        await engine.acquire_slot()
        done = await engine.run_new(EnqueueRolloutRequest(2.0))

    assert (done.status, done.final_reward) == ("succeeded", 2.0)
    assert workers.seen == ["succeeded"]
    assert workers.slots.take_nowait(10) == 4


async def test_an_engine_works_off_a_queue_with_other_workers_batch_by_batch(autojump_clock: MockClock) -> None:
    workers, store = BatchWorkers(), agl.InMemoryLightningStore()
    async with open_engine(store, workers) as engine, trio.open_nursery() as nursery:
        ids = await store.enqueue([EnqueueRolloutRequest(1.0) for _ in range(10)])
        nursery.start_soon(engine.work, None)
        await store.wait_for_rollouts(rollout_ids=ids)
        nursery.cancel_scope.cancel()

    assert [len(batch) for batch in workers.batches] == [4, 4, 2]
    assert workers.seen == ["succeeded"] * 10


async def test_fit_runs_with_other_workers(autojump_clock: MockClock) -> None:
    workers = BatchWorkers(slots=3)

    result = await ElsewhereRunner(workers).fit([1.0, 2.0, 3.0, 4.0])

    assert result.counts["succeeded"] == 4
    assert result.mean_reward["train"] == 2.5
    assert workers.closed


async def test_a_failed_attempt_is_run_again_when_its_workers_say_so(autojump_clock: MockClock) -> None:
    workers = BatchWorkers()
    config = RolloutConfig(max_attempts=2, retry_condition=["failed"])

    result = await ElsewhereRunner(workers, config=config).fit([-1.0])

    assert result.counts["failed"] == 1
    assert workers.seen == ["failed", "failed"]
    assert trio.current_time() == pytest.approx(1 + 5 + 1)


async def test_step_raises_what_other_workers_report(autojump_clock: MockClock) -> None:
    async with ElsewhereRunner(BatchWorkers()) as runner:
        with pytest.raises(ValueError, match=r"-1\.0 seconds"):
            await runner.step(-1.0)


async def test_a_cancelled_step_is_cancelled_in_other_workers(autojump_clock: MockClock) -> None:
    workers = BatchWorkers()
    async with ElsewhereRunner(workers) as runner:
        with trio.move_on_after(1) as scope:
            await runner.step(100.0)
        [rollout] = await runner.store.query_rollouts()

    assert scope.cancelled_caught
    assert rollout.status == "cancelled"
    assert workers.slots.take_nowait(10) == 4


async def test_what_is_cancelled_goes_back_to_the_queue(autojump_clock: MockClock) -> None:
    workers, store = BatchWorkers(), agl.InMemoryLightningStore()
    async with ElsewhereRunner(workers, store=store) as runner:
        await store.enqueue([EnqueueRolloutRequest(100.0) for _ in range(2)])
        with trio.move_on_after(1):
            await runner.serve()

    assert [rollout.status for rollout in await store.query_rollouts()] == ["requeuing", "requeuing"]
    assert workers.slots.take_nowait(10) == 4


async def test_workers_learn_that_an_outcome_was_refused(autojump_clock: MockClock) -> None:
    workers = BatchWorkers()
    async with ElsewhereRunner(workers) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 5.0)
        await trio.sleep(1)
        [rollout] = await runner.store.query_rollouts()
        await runner.store.update_rollout(rollout.rollout_id, status="cancelled")

    assert workers.seen == ["cancelled"]
    assert workers.slots.take_nowait(10) == 4


async def test_a_runner_shows_attempts_that_run_in_other_workers(autojump_clock: MockClock) -> None:
    async with ElsewhereRunner(BatchWorkers()) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 5.0)
        await wait_all_tasks_blocked()
        [attempt] = runner.running()
        numbers = runner.statistics()
        text = runner.describe()
        nursery.cancel_scope.cancel()

    assert attempt.lane == "elsewhere"
    assert (numbers.running, numbers.attempts) == (1, 1)
    assert attempt.rollout_id in text


async def test_what_other_workers_abandon_keeps_its_slot(autojump_clock: MockClock) -> None:
    workers = BatchWorkers(slots=1)
    async with ElsewhereRunner(workers) as runner, trio.open_nursery() as nursery:
        await runner.store.enqueue([EnqueueRolloutRequest("stuck")])
        nursery.start_soon(runner.serve)
        await trio.sleep(2)
        abandoned, taken = runner.statistics().abandoned_threads, workers.slots.take_nowait(1)
        assert workers.leftover.end is not None
        workers.leftover.end()
        done = await runner.step(1.0)
        nursery.cancel_scope.cancel()

    assert (abandoned, taken) == (1, 0)
    assert done.status == "succeeded"
