"""The interface of a store: opening and closing, twelve batch-first primitives, and methods with a default."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, final

import trio

from .._records import (
    AttemptedRollout,
    AttemptOutcome,
    Change,
    EnqueueRolloutRequest,
    Expiry,
    PaginatedResult,
    ResourcesUpdate,
    RolloutConfig,
    RolloutStatus,
    Run,
    RunSummary,
    StoreStatistics,
    Worker,
)
from .._spans import Span
from ..tracing import CURRENT, refuse_abandoned
from ._query import Query

Record = TypeVar("Record", bound=ResourcesUpdate | Worker | Run)
"""A record whose id the caller chooses."""

_CHANGING: Final = ("enqueue", "start", "claim", "add_spans", "finish", "update", "expire", "put", "add_many_spans")
"""The methods that change records; all other changes are made by these."""


class StorePrimitives(ABC):
    """The basis of `LightningStore`: a store implements the abstract methods and may override the others.

    What changes records raises `AttemptAbandoned` in the code of an abandoned attempt, in every store.
    """

    # Opening and closing.

    _is_open: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Wrap a subclass's own `__aenter__` and `__aexit__`, which keep `is_open`, and what changes records."""
        super().__init_subclass__(**options)
        for name, marks in (("__aenter__", functools.partial(_marks_open, cls)), ("__aexit__", _marks_closed)):
            if (method := _as_function(cls.__dict__.get(name))) is not None:
                setattr(cls, name, marks(method))
        for name in _CHANGING:
            definer = next((each for each in cls.__mro__ if name in each.__dict__), StorePrimitives)
            # A class that is no store may define it for several stores.
            is_own = definer is cls or not issubclass(definer, StorePrimitives)
            if is_own and (method := _as_function(definer.__dict__[name])) is not None:
                setattr(cls, name, _refuses_abandoned(method))

    if not TYPE_CHECKING:
        # Hidden from type checkers, which find such classes and arguments by themselves.
        def __new__(cls, *args: object, **options: object) -> Self:
            """Make a store; an abstract class says what it lacks, and what to write."""
            if missing := sorted(cls.__abstractmethods__):
                raise TypeError(
                    f"the store {cls.__name__} lacks {', '.join(missing)}; to change some methods of a store derive it "
                    "from InMemoryLightningStore or ForwardingStore, and to store elsewhere implement these"
                )
            if (args or options) and cls.__init__ is object.__init__:
                raise TypeError(f"{cls.__name__}() takes no arguments")
            return super().__new__(cls)

    @property
    def is_open(self) -> bool:
        """Whether the store is inside ``async with``; a runner opens a store that is not, and closes it."""
        return self._is_open

    async def on_open(self) -> None:
        """Open what the store needs; a closed store can be opened again."""
        return

    async def on_close(self) -> None:
        """Close what `on_open` opened."""
        return

    @final
    async def __aenter__(self) -> Self:
        """Open the store by `on_open`."""
        await self.on_open()
        self._is_open = True
        return self

    @final
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the store by `on_close`."""
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
        """Put rollouts into the queue and return their ids; ``"cancelled"`` records them without running them.

        A request without `resources_id` gets the latest snapshot's. For a request whose `key` the run already has,
        nothing is enqueued and the id of the existing rollout is returned, whatever its status. All requests are
        enqueued, or none if this raises, also what the sequence itself raises while it is read.

        Raises:
            UnknownId: a request names a resources snapshot that the store does not have.
            NotStorable: the store cannot keep a task; one that it keeps it can read.
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
        """Start an attempt of each rollout, outside the queue.

        Args:
            rollouts: a request creates a rollout; an id starts another attempt of that rollout, which supersedes the
                previous one.
            run_id: the run of new rollouts.
            worker_id: the worker that runs them.
            default_config: the configuration of rollouts without one.

        Raises:
            UnknownId: the store does not have a rollout or snapshot.
            StaleAttempt: a rollout has a terminal status.
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

        A rollout whose task can no longer be read fails with its attempt, and the next one is taken in its place.

        Args:
            limit: the most rollouts to take; 0 or less takes nothing.
            run_id: take only this run's; None for any.
            worker_id: the worker that takes them; recorded as busy with the last of them.
            default_config: the configuration of rollouts without one.
        """

    @abstractmethod
    async def wait_claimable(self, *, run_id: str | None = None) -> None:
        """Wait until a rollout can be claimed; another worker may still claim it first."""

    @abstractmethod
    async def add_spans(self, spans: Sequence[Span]) -> list[Span]:
        """Store spans and return those that were stored.

        A span is not stored if the store has it already, or if its attempt has ended or been superseded; `statistics`
        counts the latter. A `sequence_id` of 0 is replaced by the attempt's next number.

        Raises:
            UnknownId: the store does not have the rollout or attempt of a span; nothing is stored then.
        """

    @abstractmethod
    async def finish(self, outcomes: Sequence[AttemptOutcome]) -> list[RolloutStatus | None]:
        """Commit the outcomes of attempts with their spans; return each rollout's new status.

        None means that the outcome came too late and was refused: the attempt had ended or been superseded.

        Raises:
            UnknownId: the store does not have a rollout or attempt; nothing is committed then.
        """

    @abstractmethod
    async def update(self, changes: Sequence[Change]) -> None:
        """Change rollouts and attempts, one after the other, all or none.

        Statuses stay consistent: a rollout set to a terminal status ends its latest attempt, and an attempt's status
        moves its rollout as `finish` does. A rollout newly set to ``"queuing"`` or ``"requeuing"`` can be claimed at
        once. A removed rollout can no longer be found, nor its attempts, spans and key; counts and rewards stay. A
        reopened rollout is in the queue again, without an end, and its reward no longer counts, until it ends again.

        Raises:
            UnknownId: the store does not have a rollout, attempt or snapshot.
            StaleAttempt: the status of an ended or superseded attempt, or of a terminal rollout, would change, or a
                rollout to be reopened has succeeded.
            ValueError: a rollout to be removed has not finished.
        """

    @abstractmethod
    async def expire(self) -> Expiry:
        """End the attempts of workers whose lease has run out (see `Worker`), and requeue their rollouts.

        Such an attempt is ``"unresponsive"``; a rollout with `RolloutConfig.max_lost_attempts` lost attempts fails.
        Lost attempts do not count towards `max_attempts`. Runners call this again after `Expiry.next_in` seconds.
        """

    @abstractmethod
    async def put(self, records: Sequence[Record]) -> list[Record]:
        """Store resources snapshots, workers and runs by id, replacing earlier ones; return them as stored.

        A snapshot becomes the latest; one with a known id keeps its `create_time` and gets the next `version`.

        Raises:
            StaleRun: another `fit` has taken over a run, see `check_run`; nothing is stored then.
        """

    @abstractmethod
    async def find(self, query: Query) -> PaginatedResult[Any]:
        """Run a query; rollouts that have attempts are returned as `AttemptedRollout` with the latest."""

    @abstractmethod
    async def wait_finished(self, rollout_ids: Collection[str], *, count: int | None = None) -> list[str]:
        """Wait until `count` of the rollouts have a terminal status (None: all); return the ids of those without.

        Unknown ids count as finished, because a wait for them would never end.
        """

    @abstractmethod
    async def summarize(self, run_id: str | None = None) -> RunSummary:
        """Return the counts, rewards and usage of a run; None for the whole store."""

    # Methods with a default.

    @property
    def max_payload_bytes(self) -> int | None:
        """How many bytes the spans of an attempt may take, None without a limit; runners count while they record."""
        return None

    @property
    def persistent(self) -> bool:
        """Whether records outlive the process, so that a later process can resume a run."""
        return False

    def queued_nowait(self) -> int | None:
        """Return the number of queued rollouts, None where counting them would block."""
        return None

    def holding(self, run_id: str | None = None) -> AbstractContextManager[None]:
        """Keep a run's finished rollouts at least until the block ends, in a store that evicts old ones."""
        return nullcontext()

    async def statistics(self) -> StoreStatistics:
        """Return the numbers of records in the store."""
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
        """Return a sentence for each fault in the store that no query shows; `audit` calls this."""
        await trio.lowlevel.checkpoint()
        return ()

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        """Return the snapshot stored last, None without one."""
        found = await self.find(Query("resources", sort_by="update_time", sort_order="desc", limit=1))
        return found[0] if found else None

    async def vacuum(self) -> None:
        """Free the space of removed rollouts, where a store does not do so by itself."""
        await trio.lowlevel.checkpoint()


def _as_function(attribute: Any) -> Callable[..., Awaitable[Any]] | None:
    """Return a class's attribute as a function that takes the object first; None for what no call can reach.

    It is bound as Python does it, for it may be a `functools.partialmethod`, a static method, or a property.
    """
    if isinstance(attribute, FunctionType):
        return attribute
    bind: Any = getattr(type(attribute), "__get__", None)
    if bind is None and not callable(attribute):
        return None

    def function(self: StorePrimitives, *args: Any, **options: Any) -> Awaitable[Any]:
        method: Any = attribute if bind is None else bind(attribute, self, type(self))
        result: Awaitable[Any] = method(*args, **options)
        return result

    is_abstract = getattr(attribute, "__isabstractmethod__", False)
    function.__isabstractmethod__ = is_abstract  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]
    return function


def _refuses_abandoned(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def change(self: StorePrimitives, *args: Any, **options: Any) -> Any:
        # Not `find_recorder`, which takes a microsecond more outside of attempts.
        recorder = CURRENT.get()
        if recorder is not None and recorder.abandoned:
            refuse_abandoned(recorder)
        return await method(self, *args, **options)

    return change


def _marks_open(cls: Any, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def enter(self: StorePrimitives) -> Any:
        was_open = self.is_open
        try:
            opened = await method(self)
        except BaseException as exc:
            if self.is_open and not was_open:
                # What `super().__aenter__()` has opened, nobody else closes.
                await super(cls, self).__aexit__(type(exc), exc, exc.__traceback__)
            raise
        self._is_open = True  # pyright: ignore[reportPrivateUsage]  # set on instances of the class whose method this wraps
        return opened

    return enter


def _marks_closed(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def leave(self: StorePrimitives, *error: Any) -> Any:
        self._is_open = False  # pyright: ignore[reportPrivateUsage]
        return await method(self, *error)

    return leave
