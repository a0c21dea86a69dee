"""The session: one run, as its algorithm sees it."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Self

import attrs
import trio

from .._checks import check_count
from .._errors import StaleAttempt, UsageError
from .._lifecycle import TERMINAL_ROLLOUT, UNFINISHED_ROLLOUT
from .._log import Log
from .._public import public
from .._records import (
    Attempt,
    AttemptedRollout,
    CompletedRollout,
    EnqueueRolloutRequest,
    ResourcesUpdate,
    Rollout,
    RolloutChange,
    RolloutMode,
    RolloutRemoval,
    Run,
)
from .._repr import counted, one_line
from .._resources import NamedResources, check_resources
from .._spans import Span
from ..adapters import Adapter
from ..store import Condition, LightningStore, Query
from ..tracing import refuse_abandoned
from ._datasets import digest_of_resources, is_other_task, with_task
from ._tables import check_tasks

logger = Log("lightning_trio.runner")

_WINDOW_AT_LEAST = 1024
"""How many rollouts to keep enqueued and unfinished, so that a runner always finds a batch to claim."""


@public
class Session:
    """One run, as its algorithm sees it: run rollouts with candidate resources, read results, publish better resources.

    Attributes:
        run_id: the run.
        store: the store, bound to the run.
        initial_resources: the resources that the run started with.
        adapter: the runner's adapter, which turns spans into training data; None if it has none.
        repeats: how often `run` and `work_off` run each task, unless they are told otherwise; from ``fit(repeats=…)``.

    >>> from lightning_trio import Runner, algo
    >>> import trio
    >>> @algo
    ... async def once(session, train_dataset):
    ...     for done in await session.run(train_dataset, mode="train"):
    ...         session.note(task=done.rollout.input, reward=done.final_reward)
    >>> trio.run(Runner(len, algorithm=once).fit, ["tea"]).history
    ({'task': 'tea', 'reward': 3.0},)
    """

    def __init__(
        self,
        run: Run,
        store: LightningStore,
        initial: ResourcesUpdate | None,
        max_concurrency: int,
        adapter: Adapter[Any] | None = None,
    ) -> None:
        self.adapter: Adapter[Any] | None = adapter
        self.run_id: str = run.run_id
        self.store = store
        self.initial_resources: NamedResources = {} if initial is None else initial.resources
        self.repeats: int = run.repeats
        self._record = run
        self._best = initial
        self._history: list[Mapping[str, Any]] = []
        self._window = max(_WINDOW_AT_LEAST, 4 * max_concurrency)
        self._rounds: Counter[str] = Counter()
        self._published: set[str] = set()
        self._earlier: dict[str, Any] | None = None
        """The tasks of earlier fits of the run by key, once they are needed."""
        self.begun: trio.Event = trio.Event()
        """Set once queued rollouts may run: in a run with a saved state, after the algorithm has loaded it."""
        if run.state is None:
            self.begun.set()

    @one_line
    def __repr__(self) -> str:
        parts = [
            counted(self._rounds.total(), "round"),
            f"{len(self._published):,} published",
            f"best {self._best.resources_id if self._best is not None else None}",
            counted(len(self._history), "note"),
        ]
        return f"<Session of {self.run_id}: {', '.join(parts)}>"

    @property
    def best(self) -> ResourcesUpdate | None:
        """The best resources so far: those declared last, or the initial ones."""
        return self._best

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """The notes so far."""
        return tuple(self._history)

    async def publish(self, resources: NamedResources) -> ResourcesUpdate:
        """Store a snapshot to run rollouts with.

        A resumed run that publishes the same resources again gets the same id, and with it the finished rollouts.

        Raises:
            ResourceError: a value is not a resource.
            AgentSignatureError: the run's agent has a parameter that the snapshot cannot supply.
        """
        refuse_abandoned()
        checked = check_resources(resources, "publish()")
        digest = await digest_of_resources(checked, self.run_id.encode())
        resources_id = f"rs-{digest.hex()[:12]}"
        if resources_id in self._published:
            return await self.store.add_resources(checked)
        self._published.add(resources_id)
        return await self.store.update_resources(resources_id, checked)

    async def save_state(self, state: Any) -> None:
        """Store `state` with the run, so that `load_state` returns it in a resumed run.

        The history, the best resources and the number of rounds so far belong to the state: `load_state` restores them
        as well. An algorithm needs this only if it cannot repeat its decisions, for instance because it asks a model
        for candidates. Any other algorithm simply runs again, and its finished rollouts are not run a second time.

        Args:
            state: a value that a store can keep, such as a mapping of strings to numbers.
        """
        await self.record(
            state=state,
            position=dict(self._rounds),
            history=self.history,
            best_resources_id=None if self._best is None else self._best.resources_id,
        )

    async def load_state(self) -> Any:
        """Return the state that `save_state` stored last and continue from there; None in a run without one.

        Unfinished rollouts of later rounds are cancelled, because the algorithm may decide otherwise this time.
        Finished ones are not run a second time if it asks for them again.
        """
        refuse_abandoned()
        record = self._record
        if record.state is None:
            return None
        self._rounds = Counter(record.position)
        await self._cancel_later_rounds()
        self.begun.set()
        self._history = list(record.history)
        if record.best_resources_id is not None:
            self._best = await self.store.get_resources_by_id(record.best_resources_id)
        return record.state

    async def _cancel_later_rounds(self) -> None:
        unfinished = await self.store.query_rollouts(status_in=UNFINISHED_ROLLOUT, run_id_in=[self.run_id])
        later = [each.rollout_id for each in unfinished if each.key is not None and self._is_later(each.key)]
        for rollout_id in later:
            # Removed as well, to free the key. A rollout that has just ended stays.
            with suppress(StaleAttempt):
                await self.store.update([RolloutChange(rollout_id, status="cancelled"), RolloutRemoval(rollout_id)])
        if later:
            logger.info("%s: cancelled %d rollouts of an interrupted round", self.run_id, len(later))

    def _is_later(self, key: str) -> bool:
        """Whether a rollout was enqueued after the state was saved."""
        mode, resources_id, number, *_ = key.split("/")
        return int(number) >= self._rounds[f"{mode}/{resources_id}"]

    async def record(self, **changes: Any) -> Run:
        """Write changed fields of the run's record to the store; for runners."""
        refuse_abandoned()
        self._record = attrs.evolve(self._record, **changes)
        await self.store.put([self._record])
        return self._record

    def declare_best(self, snapshot: ResourcesUpdate) -> None:
        """Make `snapshot` the best resources of the run so far."""
        refuse_abandoned()
        self._best = snapshot

    def note(self, **values: Any) -> None:
        """Add an entry to the run's history, such as a round's number and score."""
        refuse_abandoned()
        self._history.append(values)

    async def run(
        self,
        tasks: Sequence[Any],
        *,
        mode: RolloutMode | None = None,
        resources: ResourcesUpdate | None = None,
        metadata: Mapping[str, Any] | None = None,
        repeats: int | None = None,
    ) -> list[CompletedRollout]:
        """Run every task and return the completed rollouts, in the order of the tasks, repeats of a task in a row.

        A rollout that never ran (see `max_rollouts`) is ``"cancelled"``, and its attempt has the `sequence_id` 0.

        Args:
            tasks: the inputs.
            mode: ``"train"``, ``"val"`` or ``"test"``.
            resources: the snapshot to run with, from `publish`; None for the best so far.
            metadata: stored with every rollout.
            repeats: how often to run each task; ``metadata["repeat"]`` counts from 0 where it is more than once. None
                for `Session.repeats`.
        """
        order: dict[str, int] = {}
        completed: list[CompletedRollout] = []
        with self.store.holding():
            async with aclosing(self._finished(tasks, mode, resources, metadata, repeats)) as batches:
                async for enqueued, finished in batches:
                    order.update({rollout_id: len(order) + index for index, rollout_id in enumerate(enqueued)})
                    completed += await self._completed(finished)
        return sorted(completed, key=lambda done: order[done.rollout.rollout_id])

    async def work_off(
        self,
        tasks: Sequence[Any],
        *,
        mode: RolloutMode | None = None,
        resources: ResourcesUpdate | None = None,
        repeats: int | None = None,
    ) -> None:
        """Run every task like `run`, without reading results; memory use is constant."""
        async with aclosing(self._finished(tasks, mode, resources, None, repeats)) as batches:
            async for _ in batches:
                pass

    async def _finished(
        self,
        tasks: Sequence[Any],
        mode: RolloutMode | None,
        resources: ResourcesUpdate | None,
        metadata: Mapping[str, Any] | None,
        repeats: int | None,
    ) -> AsyncGenerator[tuple[list[str], list[str]], None]:
        """Enqueue tasks as earlier ones end; yield the ids enqueued and those finished in each step."""
        refuse_abandoned()
        if resources is not None and not isinstance(resources, ResourcesUpdate):
            raise UsageError.not_a_snapshot(resources)
        repeats = self.repeats if repeats is None else repeats
        check_count("repeats", repeats)
        check_tasks("tasks", tasks, by_index=True)
        self.begun.set()
        snapshot = resources or self._best
        resources_id = None if snapshot is None else snapshot.resources_id
        step = self._window // 2
        unfinished: list[str] = []
        prefix = self._next_keys(mode, resources_id)
        for start, chunk in _chunks(tasks, max(step // repeats, 1)):
            ends = await self._key_ends(chunk)
            requests = [
                EnqueueRolloutRequest(task, mode, resources_id, None, metadata, f"{prefix}/{index}{end}")
                for index, (task, end) in enumerate(zip(chunk, ends, strict=True), start)
            ]
            if repeats > 1:
                requests = [each for request in requests for each in _repeated(request, repeats)]
            if self._may_mix_up:
                requests = await self._by_content(requests)
            enqueued = await self.store.enqueue(requests)
            before = unfinished + enqueued
            unfinished = await self.store.wait_finished(before, count=len(before) - step)
            yield enqueued, _without(before, unfinished)
        yield [], _without(unfinished, await self.store.wait_finished(unfinished))

    def _next_keys(self, mode: RolloutMode | None, resources_id: str | None) -> str:
        """Return how the keys of one round begin: mode, snapshot, number of the round; an index and a task follow."""
        what = f"{mode or '-'}/{resources_id or '-'}"
        prefix = f"{what}/{self._rounds[what]}"
        self._rounds[what] += 1
        return prefix

    async def _key_ends(self, tasks: Sequence[Any]) -> Sequence[str]:
        if not self.store.persistent:
            return [""] * len(tasks)
        # With a checksum of the task: a round that differs from the interrupted one gets new rollouts, not old results.
        return [f"/{await _checksum(task)}" for task in tasks]

    @property
    def _may_mix_up(self) -> bool:
        """Whether a key of an earlier `fit` may belong to another task: in memory, keys have no checksums."""
        return bool(self._record.takeovers) and not self.store.persistent

    async def _by_content(self, requests: Sequence[EnqueueRolloutRequest]) -> list[EnqueueRolloutRequest]:
        """Return the requests, with other keys for tasks that differ from those that have their keys."""
        if self._earlier is None:
            found = await self.store.query_rollouts(run_id_in=[self.run_id])
            self._earlier = {rollout.key: rollout.input for rollout in found if rollout.key is not None}
        earlier = self._earlier
        return [
            attrs.evolve(request, key=f"{request.key}/{await _checksum(request.input)}")
            if request.key in earlier and await is_other_task(earlier[request.key], request.input)
            else request
            for request in requests
        ]

    async def _completed(self, rollout_ids: Collection[str]) -> list[CompletedRollout]:
        rollouts = await self.store.query_rollouts(rollout_id_in=rollout_ids)
        found = await self.store.find(Query("spans", (Condition("rollout_id", rollout_ids),)))
        spans: dict[tuple[str, str], list[Span]] = {}
        for span in found:
            spans.setdefault((span.rollout_id, span.attempt_id), []).append(span)
        return [_as_completed(rollout, spans) for rollout in rollouts]

    async def wait_all(self) -> None:
        """Wait until all rollouts of this run have ended."""
        while True:
            counts = (await self.store.summarize()).counts
            if all(status in TERMINAL_ROLLOUT for status in counts):
                return
            rollouts = await self.store.query_rollouts(status_in=UNFINISHED_ROLLOUT, run_id_in={self.run_id})
            await self.store.wait_finished([rollout.rollout_id for rollout in rollouts])


def index_of_key(key: str | None) -> int | None:
    """Return the index of a rollout's task among the tasks of its round, from its key; None without one.

    >>> index_of_key("train/rs-1/0/17/5d41402a#2"), index_of_key("mine")
    (17, None)
    """
    parts = [] if key is None else key.partition("#")[0].split("/")
    return int(parts[3]) if len(parts) > 3 and parts[3].isdecimal() else None


async def keys_of_other_task(key: str | None, task: object) -> set[str]:
    """Return the keys that `task` may have in the place of the task with this key."""
    if key is None:
        return set()
    # In memory, keys have a checksum only where tasks changed.
    checksum = await _checksum(task)
    return {f"{key}/{checksum}", f"{'/'.join(key.split('/')[:4])}/{checksum}"}


async def _checksum(task: object) -> str:
    return f"{(await with_task(task, _Checksum())).value:08x}"


class _Checksum:
    """The checksum of bytes, as a digest."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def update(self, data: bytes, /) -> None:
        self.value = zlib.crc32(data, self.value)

    def copy(self) -> Self:
        return type(self)(self.value)


def _without(ids: Sequence[str], left_out: Collection[str]) -> list[str]:
    skip = set(left_out)
    return [rollout_id for rollout_id in ids if rollout_id not in skip]


def _as_completed(rollout: Rollout, spans: Mapping[tuple[str, str], Sequence[Span]]) -> CompletedRollout:
    if isinstance(rollout, AttemptedRollout):
        attempt = rollout.attempt
    else:
        # Cancelled before it was ever claimed.
        attempt = Attempt(rollout.rollout_id, "", 0, rollout.start_time, rollout.end_time, "cancelled")
    return CompletedRollout(rollout, attempt, tuple(spans.get((rollout.rollout_id, attempt.attempt_id), ())))


def _chunks(tasks: Sequence[Any], size: int) -> Iterator[tuple[int, list[Any]]]:
    # Not by slice, because datasets of Agent-lightning 0.3 have only `__len__` and `__getitem__` for integers.
    for start in range(0, len(tasks), size):
        yield start, [tasks[index] for index in range(start, min(start + size, len(tasks)))]


def _repeated(request: EnqueueRolloutRequest, repeats: int) -> list[EnqueueRolloutRequest]:
    """Return the requests of a task's repeats; the first has the key of a task that runs once."""
    return [
        attrs.evolve(
            request,
            metadata={**(request.metadata or {}), "repeat": repeat},
            key=f"{request.key}#{repeat}" if repeat else request.key,
        )
        for repeat in range(repeats)
    ]
