"""Every store behaves like a simple model, for any order of calls, restarts included.

To check another store, add it to `STORES`.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import attrs
import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from postgres_server import PostgresServer, postgres

from lightning_trio import (
    EnqueueRolloutRequest,
    Evicted,
    InMemoryLightningStore,
    LightningStore,
    PostgresLightningStore,
    RolloutConfig,
    Span,
    SqliteLightningStore,
    StaleAttempt,
)
from lightning_trio._records import (
    GIVE_BACK,
    REPORTER_RETRIES,
    RETRY_NOW,
    AttemptOutcome,
    RolloutRemoval,
    RolloutReopening,
    Worker,
)
from lightning_trio._spans import Usage

T = TypeVar("T")

__all__ = ["postgres"]

STORES: dict[str, Callable[[Path], LightningStore]] = {
    "memory": lambda folder: InMemoryLightningStore(),
    "sqlite": lambda folder: SqliteLightningStore(folder / "run.db"),
}
"""Each returns a store in a folder; the same records again if the store is persistent."""

RUNS = ("run-1", "run-2", None)
WORKERS = ("worker-1", "worker-2", None)
ENDED = ("succeeded", "failed", "cancelled")


# The model.


@attrs.define
class ModelAttempt:
    attempt_id: str
    worker_id: str | None
    status: str = "preparing"
    spans: set[str] = attrs.field(factory=set[str])

    @property
    def runs(self) -> bool:
        return self.status in ("preparing", "running")


@attrs.define
class ModelRollout:
    rollout_id: str
    run_id: str | None
    key: str | None
    max_attempts: int
    max_lost: int
    status: str = "queuing"
    queued: bool = True
    attempts: list[ModelAttempt] = attrs.field(factory=list[ModelAttempt])
    not_counted: int = 0
    lost: int = 0
    reward: float | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def begin(self, attempt_id: str, worker_id: str | None) -> None:
        if self.attempts and self.attempts[-1].runs:
            self.attempts[-1].status = "unresponsive"
        self.attempts.append(ModelAttempt(attempt_id, worker_id))
        self.status, self.queued, self.reward = "preparing", False, None

    def retry_or_fail(self, again: bool, queued: bool) -> None:
        self.status = "requeuing" if again else "failed"
        self.queued = again and queued


@attrs.define
class Model:
    rollouts: dict[str, ModelRollout] = attrs.field(factory=dict[str, ModelRollout])
    removed: list[ModelRollout] = attrs.field(factory=list[ModelRollout])
    late_spans: int = 0
    tokens: Counter[str | None] = attrs.field(factory=Counter["str | None"])

    def of(self, run_id: str | None) -> list[ModelRollout]:
        return [each for each in (*self.rollouts.values(), *self.removed) if each.run_id == run_id]


class Program:
    """A Trio program in a separate thread that keeps a store open."""

    def __init__(self, store: LightningStore) -> None:
        self.store = store
        self._open = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        self._open.wait(30)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with self.store:
            self._open.set()
            await self._stop.wait()

    def call(self, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        async def call() -> T:
            with trio.fail_after(20):
                return await fn(*args)

        return trio.from_thread.run(call, trio_token=self._token)

    def stop(self) -> None:
        self._token.run_sync_soon(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()


class StoreMachine(RuleBasedStateMachine):
    """Call a store and its model, and compare them."""

    open_store: ClassVar[Callable[[Path], LightningStore]]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.program = Program(type(self).open_store(Path(self.folder.name)))
        self.model = Model()
        self.numbers = itertools.count()

    @property
    def store(self) -> LightningStore:
        return self.program.store

    def call(self, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        return self.program.call(fn, *args)

    def some(self, index: int) -> ModelRollout:
        rollouts = list(self.model.rollouts.values())
        return rollouts[index % len(rollouts)]

    def some_attempt(self, index: int) -> tuple[ModelRollout, ModelAttempt]:
        attempts = [(each, attempt) for each in self.model.rollouts.values() for attempt in each.attempts]
        # Counted from the end, where most are running.
        return attempts[-1 - index % len(attempts)]

    def new_span(self, rollout: ModelRollout, attempt: ModelAttempt) -> Span:
        return Span.from_attributes(
            attributes={"n": next(self.numbers)}, rollout_id=rollout.rollout_id, attempt_id=attempt.attempt_id
        )

    # Rules.

    @initialize(limits=st.lists(st.integers(1, 3), min_size=2, max_size=2))
    def begin(self, limits: list[int]) -> None:
        """Create some records of each kind, because most rules do nothing without."""
        for run_id in RUNS:
            self.enqueue(run_id, ["a", None, None], (2, 2), False)
        for limit, worker_id in zip(limits, WORKERS, strict=False):
            self.claim(None, worker_id, limit)

    @rule(
        run_id=st.sampled_from(RUNS),
        keys=st.lists(st.none() | st.sampled_from("ab"), min_size=1, max_size=4),
        config=st.tuples(st.integers(1, 3), st.integers(1, 2)),
        cancelled=st.booleans(),
    )
    def enqueue(self, run_id: str | None, keys: list[str | None], config: tuple[int, int], cancelled: bool) -> None:
        max_attempts, max_lost = config
        own = RolloutConfig(max_attempts=max_attempts, retry_condition=["failed"], max_lost_attempts=max_lost)
        requests = [EnqueueRolloutRequest(next(self.numbers), config=own, key=key) for key in keys]

        async def enqueue() -> list[str]:
            return await self.store.enqueue(requests, run_id=run_id, status="cancelled" if cancelled else "queuing")

        ids = self.call(enqueue)
        known = {each.key: each.rollout_id for each in self.model.rollouts.values() if each.run_id == run_id}
        for key, rollout_id in zip(keys, ids, strict=True):
            if key is not None and key in known:
                assert rollout_id == known[key]
                continue
            assert rollout_id not in self.model.rollouts
            made = self.model.rollouts[rollout_id] = ModelRollout(rollout_id, run_id, key, max_attempts, max_lost)
            if cancelled:
                made.status, made.queued = "cancelled", False
            known[key] = rollout_id

    @rule(run_id=st.sampled_from([None, *RUNS]), worker_id=st.sampled_from(WORKERS), limit=st.integers(0, 4))
    def claim(self, run_id: str | None, worker_id: str | None, limit: int) -> None:
        async def claim() -> Sequence[Any]:
            return await self.store.claim(limit, run_id=run_id, worker_id=worker_id)

        claimed = self.call(claim)
        there = {
            each.rollout_id for each in self.model.rollouts.values() if each.queued and run_id in (None, each.run_id)
        }
        ids = [each.rollout_id for each in claimed]
        assert set(ids) <= there
        assert len(ids) == len(set(ids)) == min(limit, len(there))
        for each in claimed:
            rollout = self.model.rollouts[each.rollout_id]
            rollout.begin(each.attempt.attempt_id, worker_id)
            assert each.attempt.sequence_id == len(rollout.attempts)

    @precondition(lambda self: self.model.rollouts)
    @rule(index=st.integers(0, 50), worker_id=st.sampled_from(WORKERS))
    def start_again(self, index: int, worker_id: str | None) -> None:
        rollout = self.some(index)
        if rollout.ended:
            with pytest.raises(StaleAttempt):
                self.call(self.store.start_attempt, rollout.rollout_id, worker_id)
            return
        started = self.call(self.store.start_attempt, rollout.rollout_id, worker_id)
        rollout.begin(started.attempt.attempt_id, worker_id)

    @precondition(lambda self: any(each.attempts for each in self.model.rollouts.values()))
    @rule(index=st.integers(0, 10), again=st.booleans(), count=st.integers(1, 3))
    def add_spans(self, index: int, again: bool, count: int) -> None:
        rollout, attempt = self.some_attempt(index)
        spans = [self.new_span(rollout, attempt) for _ in range(count)]
        added = self.call(self.store.add_spans, [*spans, spans[0]] if again else spans)
        if attempt is not rollout.attempts[-1] or not attempt.runs:
            assert added == []
            self.model.late_spans += count + again
            return
        assert [span.span_id for span in added] == [span.span_id for span in spans]
        last = len(attempt.spans)
        assert [span.sequence_id for span in added] == list(range(last + 1, last + 1 + count))
        attempt.spans |= {span.span_id for span in added}
        attempt.status = "running"
        if not rollout.ended:
            rollout.status, rollout.queued = "running", False

    @precondition(lambda self: any(each.attempts for each in self.model.rollouts.values()))
    @rule(
        indices=st.lists(st.integers(0, 6), min_size=1, max_size=3),
        status=st.sampled_from(["succeeded", "failed", "timeout", "cancelled"]),
        requeue=st.booleans(),
        retried_here=st.booleans(),
        reward=st.none() | st.sampled_from([0.0, 0.5, -1.25]),
    )
    def finish(self, indices: list[int], status: Any, requeue: bool, retried_here: bool, reward: float | None) -> None:
        requeue = requeue and status == "cancelled"
        following = GIVE_BACK if requeue else REPORTER_RETRIES if retried_here else RETRY_NOW
        reports = [self.some_attempt(index) for index in indices]
        outcomes = [
            AttemptOutcome(
                rollout.rollout_id,
                attempt.attempt_id,
                status,
                time.time(),
                [attrs.evolve(self.new_span(rollout, attempt), sequence_id=len(attempt.spans) + 1)],
                final_reward=reward,
                next=following,
                usage=Usage(3, 1),
            )
            for rollout, attempt in reports
        ]
        statuses = self.call(self.store.finish, outcomes)
        for (rollout, attempt), outcome, new in zip(reports, outcomes, statuses, strict=True):
            if rollout.ended or attempt is not rollout.attempts[-1] or not attempt.runs:
                assert new is None
                self.model.late_spans += 1
                continue
            attempt.status = status
            attempt.spans |= {span.span_id for span in outcome.spans}
            self.model.tokens[rollout.run_id] += 3
            if requeue:
                rollout.not_counted += 1
                rollout.status, rollout.queued = "requeuing", True
            elif status in ("succeeded", "cancelled"):
                rollout.status, rollout.queued = status, False
            else:
                counted = len(rollout.attempts) - rollout.not_counted
                rollout.retry_or_fail(status == "failed" and counted < rollout.max_attempts, not retried_here)
            assert new == rollout.status
            # Also for an attempt that is not the last: it is the rollout's reward if that is cancelled before the next.
            rollout.reward = reward

    @precondition(lambda self: self.model.rollouts)
    @rule(index=st.integers(0, 50), status=st.sampled_from(["cancelled", "queuing", "requeuing"]))
    def set_status(self, index: int, status: Any) -> None:
        rollout = self.some(index)

        async def change() -> None:
            await self.store.update_rollout(rollout.rollout_id, status=status)

        if rollout.ended and status != rollout.status:
            with pytest.raises(StaleAttempt):
                self.call(change)
            return
        self.call(change)
        if rollout.ended or (status == rollout.status and rollout.queued):
            return
        rollout.status, rollout.queued = status, status != "cancelled"
        if status == "cancelled" and rollout.attempts and rollout.attempts[-1].runs:
            rollout.attempts[-1].status = "cancelled"

    @precondition(lambda self: self.model.rollouts)
    @rule(index=st.integers(0, 50))
    def remove(self, index: int) -> None:
        rollout = self.some(index)
        if not rollout.ended:
            with pytest.raises(ValueError, match="only finished rollouts can be removed"):
                self.call(self.store.update, [RolloutRemoval(rollout.rollout_id)])
            return
        self.call(self.store.update, [RolloutRemoval(rollout.rollout_id)])
        self.model.removed.append(self.model.rollouts.pop(rollout.rollout_id))
        with pytest.raises(Evicted):
            self.call(self.store.get_rollout_by_id, rollout.rollout_id)
        assert self.call(self.store.wait_finished, [rollout.rollout_id]) == []

    @precondition(lambda self: self.model.rollouts)
    @rule(index=st.integers(0, 50))
    def reopen(self, index: int) -> None:
        rollout = self.some(index)
        if rollout.status == "succeeded":
            with pytest.raises(StaleAttempt):
                self.call(self.store.update, [RolloutReopening(rollout.rollout_id)])
            return
        self.call(self.store.update, [RolloutReopening(rollout.rollout_id)])
        if rollout.ended:
            rollout.status, rollout.queued = "requeuing" if rollout.attempts else "queuing", True
            rollout.not_counted, rollout.lost = len(rollout.attempts), 0

    @rule(worker_id=st.sampled_from(["worker-1", "worker-2"]))
    def expire(self, worker_id: str) -> None:
        self.call(self.store.put, [Worker(worker_id, lease_seconds=0.0)])
        expiry = self.call(self.store.expire)
        requeued: set[str] = set()
        failed: set[str] = set()
        for rollout in self.model.rollouts.values():
            if rollout.ended or not rollout.attempts:
                continue
            last = rollout.attempts[-1]
            if last.runs and last.worker_id == worker_id:
                last.status = "unresponsive"
                rollout.not_counted += 1
                rollout.lost += 1
                rollout.retry_or_fail(rollout.lost < rollout.max_lost, queued=True)
                (requeued if rollout.queued else failed).add(rollout.rollout_id)
        assert (set(expiry.requeued), set(expiry.failed)) == (requeued, failed)
        assert expiry.next_in is None

    @rule()
    def restart(self) -> None:
        self.program.stop()
        store = self.store
        self.program = Program(type(self).open_store(Path(self.folder.name)) if store.persistent else store)

    # Invariants.

    @invariant()
    def counts_agree(self) -> None:
        for run_id in ("run-1", "run-2"):
            summary = self.call(self.store.summarize, run_id)
            rollouts = self.model.of(run_id)
            rewards = [each.reward for each in rollouts if each.ended and each.reward is not None]
            assert dict(summary.counts) == dict(Counter(each.status for each in rollouts))
            count, total = summary.rewards.get(None, (0, 0.0))
            assert count == len(rewards)
            assert math.isclose(total, sum(rewards), abs_tol=1e-9)
            assert summary.usage.input_tokens == self.model.tokens[run_id]
        whole = self.call(self.store.summarize)
        assert sum(whole.counts.values()) == len(self.model.rollouts) + len(self.model.removed)

    @invariant()
    def the_unfinished_are_known(self) -> None:
        async def look() -> list[str]:
            return await self.store.wait_finished(list(self.model.rollouts), count=0)

        assert self.call(look) == [each.rollout_id for each in self.model.rollouts.values() if not each.ended]

    def teardown(self) -> None:
        try:
            self._compare_all()
        finally:
            self.program.stop()
            self.folder.cleanup()

    def _compare_all(self) -> None:
        rollouts = self.call(self.store.query_rollouts)
        assert [(each.rollout_id, each.status, each.key, each.run_id) for each in rollouts] == [
            (each.rollout_id, each.status, each.key, each.run_id) for each in self.model.rollouts.values()
        ]
        for rollout in self.model.rollouts.values():
            attempts = self.call(self.store.query_attempts, rollout.rollout_id)
            assert [(each.attempt_id, each.status, each.worker_id) for each in attempts] == [
                (each.attempt_id, each.status, each.worker_id) for each in rollout.attempts
            ]
            for attempt in rollout.attempts:
                spans = self.call(self.store.query_spans, rollout.rollout_id, attempt.attempt_id)
                assert {span.span_id for span in spans} == attempt.spans
                assert len(spans) == len(attempt.spans)
        assert self.call(self.store.statistics).late_spans == self.model.late_spans


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.heavy] if name != "memory" else []) for name in STORES]
)
def test_the_store_does_as_the_model(name: str) -> None:
    check_against_model(STORES[name], examples=60)


@pytest.mark.heavy
def test_the_store_in_postgresql_does_as_the_model(postgres: PostgresServer) -> None:
    # One schema per store, because all share the server.
    check_against_model(lambda folder: PostgresLightningStore(postgres.dsn, connections=2, schema=folder.name), 25)


def check_against_model(open_store: Callable[[Path], LightningStore], examples: int) -> None:
    machine = type("machine", (StoreMachine,), {"open_store": staticmethod(open_store)})

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
