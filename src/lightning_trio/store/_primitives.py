"""What a store has to do: opening and closing, a dozen batch-first primitives, and what it may do better."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, final

import trio

from .._records import (
    AttemptChange,
    AttemptedRollout,
    AttemptOutcome,
    EnqueueRolloutRequest,
    Expiry,
    PaginatedResult,
    ResourcesUpdate,
    RolloutChange,
    RolloutConfig,
    RolloutRemoval,
    RolloutStatus,
    Run,
    RunSummary,
    StoreStatistics,
    Worker,
)
from .._spans import Span
from ._query import Query

Record = TypeVar("Record", bound=ResourcesUpdate | Worker | Run)
"""What a store keeps by an id that the caller chose."""


class StorePrimitives(ABC):
    """What `LightningStore` is made of; a store implements the abstract methods and may do the others better."""

    # Opening and closing.

    _is_open: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a store that has its own `__aenter__` and `__aexit__` be known as open, whatever those call."""
        super().__init_subclass__(**options)
        for name, marks in (("__aenter__", _marks_open), ("__aexit__", _marks_closed)):
            if name in cls.__dict__:
                setattr(cls, name, marks(cls.__dict__[name]))

    @property
    def is_open(self) -> bool:
        """Whether the store is inside ``async with``; a runner opens a store that is not, and closes it."""
        return self._is_open

    async def on_open(self) -> None:
        """Open what the store needs; a store can be opened again after it was closed."""
        return

    async def on_close(self) -> None:
        """Close what `on_open` has opened."""
        return

    @final
    async def __aenter__(self) -> Self:
        """Open the store, as `on_open` does it."""
        await self.on_open()
        self._is_open = True
        return self

    @final
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the store, as `on_close` does it."""
        self._is_open = False
        await self.on_close()

    # Primitives.

    @abstractmethod
    async def enqueue(
        self,
        requests: Sequence[EnqueueRolloutRequest],
        *,
        run_id: str | None = None,
        status: Literal["queuing", "cancelled"] = "queuing",
    ) -> list[str]:
        """Put rollouts into the queue and give their ids; ``"cancelled"`` records them without running them.

        A request without `resources_id` gets the latest snapshot's. One whose `key` the run has already makes nothing
        new and gives the id that is there, whatever became of it.

        Raises:
            UnknownId: a request names a resources snapshot that the store does not have.
        """

    @abstractmethod
    async def start(
        self,
        rollouts: Sequence[EnqueueRolloutRequest | str],
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        """Start an attempt of each rollout, past the queue.

        Args:
            rollouts: a request makes a new rollout; an id starts a further attempt of that rollout, which
                supersedes the one before.
            run_id: the run new rollouts belong to.
            worker_id: who runs them.
            default_config: the configuration of those that have none of their own.

        Raises:
            UnknownId: the store does not have a rollout or snapshot.
            StaleAttempt: a rollout is in a terminal status.
        """

    @abstractmethod
    async def claim(
        self,
        limit: int,
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        """Take up to `limit` rollouts off the queue, oldest first, each with a new attempt.

        Args:
            limit: the most to take; nothing is taken for 0 or less.
            run_id: take only this run's; None for any.
            worker_id: who takes them; noted as busy with the last of them.
            default_config: the configuration of those that have none of their own.
        """

    @abstractmethod
    async def wait_claimable(self, *, run_id: str | None = None) -> None:
        """Wait until a rollout can be claimed; somebody else may be quicker to claim it."""

    @abstractmethod
    async def add_spans(self, spans: Sequence[Span]) -> list[Span]:
        """Store spans and give those that were.

        A span that is known already, or whose attempt has ended or been superseded, is not stored (the latter
        is counted in `statistics`). A `sequence_id` of 0 is replaced by the attempt's next.

        Raises:
            UnknownId: the store does not have the rollout or attempt of a span; nothing is stored then.
        """

    @abstractmethod
    async def finish(self, outcomes: Sequence[AttemptOutcome]) -> list[RolloutStatus | None]:
        """Commit how attempts ended, with their spans; give each rollout's new status.

        None stands for a report that came too late and was refused: its attempt has ended or been superseded.

        Raises:
            UnknownId: the store does not have a rollout or attempt; nothing is committed then.
        """

    @abstractmethod
    async def update(self, changes: Sequence[RolloutChange | AttemptChange | RolloutRemoval]) -> None:
        """Change rollouts and attempts, one after the other, all or none.

        Statuses go together: a rollout set to a terminal one ends its latest attempt, an attempt's moves its rollout
        on as `finish` does. A rollout set to another of ``"queuing"`` and ``"requeuing"`` can be claimed at once. A
        removed rollout is found no more, with its attempts, spans and key; counts and rewards stay.

        Raises:
            UnknownId: the store does not have a rollout, attempt or snapshot.
            StaleAttempt: the status of an ended or superseded attempt, or of a terminal rollout, would change.
            ValueError: a rollout to be removed has not finished.
        """

    @abstractmethod
    async def expire(self) -> Expiry:
        """End the attempts of workers whose lease has run out (see `Worker`), and requeue their rollouts.

        Such an attempt is ``"unresponsive"``; a rollout that has lost `RolloutConfig.max_lost_attempts` of them fails.
        Lost attempts do not count towards `max_attempts`. Runners call this when `Expiry.next_in` says so.
        """

    @abstractmethod
    async def put(self, records: Sequence[Record]) -> list[Record]:
        """Store resources snapshots, workers and runs by their id, replacing what was known; give them as stored.

        A snapshot becomes the latest; one whose id is known keeps its `create_time` and gets the next `version`.

        Raises:
            StaleRun: a run has been taken up by another `fit` meanwhile, see `check_run`; nothing is stored then.
        """

    @abstractmethod
    async def find(self, query: Query) -> PaginatedResult[Any]:
        """Run a query; rollouts that have attempts come as `AttemptedRollout` with the latest."""

    @abstractmethod
    async def wait_finished(self, rollout_ids: Collection[str], *, count: int | None = None) -> list[str]:
        """Wait until `count` of the rollouts are in a terminal status (None: all); give those that are not.

        Ids the store does not have count as finished, since nothing will ever come of them.
        """

    @abstractmethod
    async def summarize(self, run_id: str | None = None) -> RunSummary:
        """Count a run's rollouts and sum up its rewards; None for the whole store."""

    # What a store may do better.

    @property
    def persistent(self) -> bool:
        """Whether what is stored outlives the process, so that a later one can resume a run."""
        return False

    def queued_nowait(self) -> int | None:
        """Count the rollouts that wait to be claimed, None where that takes more than a look."""
        return None

    def holding(self, run_id: str | None = None) -> AbstractContextManager[None]:
        """Keep a run's finished rollouts at least until the block ends, for a store that lets go of old ones."""
        return nullcontext()

    async def statistics(self) -> StoreStatistics:
        """Count what the store holds."""
        counts = (await self.summarize()).counts
        return StoreStatistics(
            name=type(self).__name__,
            total_rollouts=sum(counts.values()),
            total_attempts=(await self.find(Query("attempts", limit=0))).total,
            total_spans=(await self.find(Query("spans", limit=0))).total,
            total_resources=(await self.find(Query("resources", limit=0))).total,
            total_workers=(await self.find(Query("workers", limit=0))).total,
            queued=counts.get("queuing", 0) + counts.get("requeuing", 0),
            late_spans=0,
        )

    async def find_faults(self, run_id: str | None = None) -> Sequence[str]:
        """Say what is wrong in how the store keeps its records, and no query shows; `audit` calls this."""
        await trio.lowlevel.checkpoint()
        return ()

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        """Give the snapshot stored last, None if there is none."""
        found = await self.find(Query("resources", sort_by="update_time", sort_order="desc", limit=1))
        return found[0] if found else None

    async def vacuum(self) -> None:
        """Give room back that removed rollouts have left, where a store keeps it."""
        await trio.lowlevel.checkpoint()


def _marks_open(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def enter(self: StorePrimitives) -> Any:
        opened = await method(self)
        self._is_open = True  # pyright: ignore[reportPrivateUsage]  # of the class that the method is wrapped for
        return opened

    return enter


def _marks_closed(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def leave(self: StorePrimitives, *error: Any) -> Any:
        self._is_open = False  # pyright: ignore[reportPrivateUsage]
        return await method(self, *error)

    return leave
