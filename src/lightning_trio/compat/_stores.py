"""Stores whose calls may be awaited anywhere: on asyncio loops, in Trio, in several threads at once.

Every call runs in the process's host (see `call_in_host`), so that a script may query a store on its asyncio loop while
`Trainer.fit` works with it in Trio.
"""

from __future__ import annotations

import functools
import inspect
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, TypedDict, cast, get_args

import attrs

from .._lifecycle import RolloutPosition, change_attempt
from .._log import Log
from .._public import public_in
from .._records import UNSET, Attempt, AttemptedRollout, AttemptStatus, Rollout, RolloutConfig, RolloutStatus, Unset
from .._spans import Span
from ..embed import call_in_host
from ..store import TERMINAL_ROLLOUT, ForwardingStore, LightningStore
from ..store import InMemoryLightningStore as NativeInMemoryStore
from ..tracing import find_recorder
from ._overrides import overridden, warn_uncalled

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

logger = Log("lightning_trio.compat")

__all__ = ["UNSET", "Unset"]


class LightningStoreCapabilities(TypedDict, total=False):
    """What a store can do, as Agent-lightning 0.3 asked for it."""

    thread_safe: bool
    async_safe: bool
    zero_copy: bool
    otlp_traces: bool


class LightningStoreStatistics(TypedDict, total=False):
    """Numbers of records in a store."""

    name: str
    total_rollouts: int
    total_attempts: int
    total_spans: int
    total_resources: int
    total_workers: int
    uptime: float


@public_in("lightning_trio.compat")
class HostedStore(ForwardingStore):
    """Forward every call to `store` in the process's host, and add the calls that only Agent-lightning 0.3 has."""

    def __init__(self, store: LightningStore) -> None:
        super().__init__(store)
        self._began = time.monotonic()
        self._numbers: dict[str, int] = {}

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        """What the store can do."""
        return {"thread_safe": True, "async_safe": True, "zero_copy": False, "otlp_traces": False}

    def otlp_traces_endpoint(self) -> str:
        """Raise: spans are recorded in this process."""
        raise NotImplementedError(
            "a store has no OTLP endpoint here; spans are recorded in the process of their rollout"
        )

    # Unlike a store of lightning_trio, one of 0.3 gives its numbers as a dict.
    async def statistics(self) -> Any:
        """Return the numbers of records in the store."""
        numbers = await call_in_host(self._store.statistics)
        return LightningStoreStatistics(
            name=type(self).__name__,
            total_rollouts=numbers.total_rollouts,
            total_attempts=numbers.total_attempts,
            total_spans=numbers.total_spans,
            total_resources=numbers.total_resources,
            total_workers=numbers.total_workers,
            uptime=time.monotonic() - self._began,
        )

    # Numbers of spans.

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        """Return the number of the rollout's next span."""
        [number] = await self.get_many_span_sequence_ids([(rollout_id, attempt_id)])
        return number

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> list[int]:
        """Return the numbers of the next spans of several rollouts."""
        running = find_recorder()
        numbers: list[int] = []
        for rollout_id, _ in rollout_attempt_ids:
            if running is not None and running.rollout.rollout_id == rollout_id:
                numbers.append(running.next_sequence_id())
                continue
            last = await self.query_spans(rollout_id, sort_order="desc", limit=1)
            stored = last[0].sequence_id if last else 0
            self._numbers[rollout_id] = max(self._numbers.get(rollout_id, 0), stored) + 1
            numbers.append(self._numbers[rollout_id])
        return numbers

    async def add_otel_span(
        self, rollout_id: str, attempt_id: str, readable_span: ReadableSpan, sequence_id: int | None = None
    ) -> Span | None:
        """Store a span of the OpenTelemetry SDK; without a number it gets the rollout's next one."""
        if sequence_id is None:
            sequence_id = await self.get_next_span_sequence_id(rollout_id, attempt_id)
        span = Span.from_opentelemetry(readable_span, rollout_id, attempt_id, sequence_id)
        stored = await self.add_span(span)
        if stored is None:
            logger.error("Duplicated span added, or one that came too late: %s of rollout %s", span.name, rollout_id)
        return stored


def hosted(store: LightningStore) -> HostedStore:
    """Return a store that may be awaited anywhere: the store itself, or one that forwards to it."""
    return store if isinstance(store, HostedStore) else HostedStore(store)


def _hosted(name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def call(self: HostedStore, *args: Any, **kwargs: Any) -> Any:
        inner = getattr(self._store, name)  # pyright: ignore[reportPrivateUsage]
        return await call_in_host(functools.partial(inner, *args, **kwargs))

    return call


def _async_methods() -> Iterator[tuple[str, Callable[..., Awaitable[Any]]]]:
    for name, method in inspect.getmembers(LightningStore, inspect.iscoroutinefunction):
        if not name.startswith("_") and name not in vars(HostedStore):
            yield name, method


for _name, _method in _async_methods():
    setattr(HostedStore, _name, _hosted(_name, _method))


_IN_BATCHES: Mapping[str, str] = {
    "enqueue_rollout": "enqueue",
    "enqueue_many_rollouts": "enqueue",
    "wait_for_rollouts": "wait_finished",
    "dequeue_rollout": "claim",
    "dequeue_many_rollouts": "claim",
    "start_rollout": "start",
    "start_attempt": "start",
    "add_span": "finish",
    "add_many_spans": "finish",
    "add_otel_span": "finish",
    "update_attempt": "finish",
    "update_worker": "put",
}
"""Methods that algorithms and runners of Agent-lightning 0.3 called, with what `Runner.fit` calls instead."""


def warn_of_store(who: str, store: LightningStore, uncalled: Set[str] = _IN_BATCHES.keys()) -> None:
    """Warn about methods that a program's own store overrides in vain.

    Args:
        who: what calls none of the methods in `uncalled`.
        store: the store.
        uncalled: names of methods.
    """
    names = [
        name
        for name in overridden(store, (each for each in _IN_BATCHES if each in uncalled))
        if not overridden(store, [_IN_BATCHES[name]])
    ]
    instead = ", ".join(dict.fromkeys(_IN_BATCHES[name] for name in names))
    warn_uncalled(who, store, names, f"it works in batches: override {instead} as well, which are awaited in Trio")


@public_in("lightning_trio.compat")
class InMemoryLightningStore(HostedStore):
    """A store in memory.

    Args:
        thread_safe, scan_debounce_seconds: accepted for Agent-lightning 0.3; the store is always safe in threads, and
            deadlines are the runner's.
        eviction_memory_threshold, safe_memory_threshold, span_size_estimator, tracker: ignored with a warning.
    """

    def __init__(
        self,
        *,
        thread_safe: bool = True,
        eviction_memory_threshold: float | None = None,
        safe_memory_threshold: float | None = None,
        span_size_estimator: Callable[[Span], int] | None = None,
        tracker: object = None,
        scan_debounce_seconds: float = 0.0,
    ) -> None:
        if (
            eviction_memory_threshold is not None
            and safe_memory_threshold is not None
            and not safe_memory_threshold < eviction_memory_threshold
        ):
            raise ValueError(
                f"safe_memory_threshold={safe_memory_threshold!r} must be smaller than "
                f"eviction_memory_threshold={eviction_memory_threshold!r}"
            )
        ignored = {
            "eviction_memory_threshold": eviction_memory_threshold,
            "safe_memory_threshold": safe_memory_threshold,
            "span_size_estimator": span_size_estimator,
            "tracker": tracker,
        }
        if given := [name for name, value in ignored.items() if value is not None]:
            warnings.warn(
                f"InMemoryLightningStore ignores {', '.join(given)}: it keeps the newest 100,000 finished rollouts; "
                "for another number write lightning_trio.InMemoryLightningStore(retain=…)",
                DeprecationWarning,
                stacklevel=2,
            )
        super().__init__(NativeInMemoryStore())


@public_in("lightning_trio.compat")
class LightningStoreThreaded(HostedStore):
    """A store for several threads, which every store here is."""


def estimate_model_size(obj: Any) -> int:
    """Return how much memory a record takes with what it contains, roughly, in bytes."""
    return sys.getsizeof(obj) + sum(map(estimate_model_size, _contents(obj)))


def _contents(obj: Any) -> Iterable[Any]:
    if attrs.has(type(obj)):
        return (getattr(obj, field.name) for field in attrs.fields(type(obj)))
    if isinstance(obj, Mapping):
        return obj.values()
    if isinstance(obj, list | tuple | set):
        return cast("Iterable[Any]", obj)
    # Pydantic's models, of users.
    return vars(obj).values() if hasattr(type(obj), "model_fields") else ()


def is_queuing(rollout: Rollout) -> bool:
    """Whether the rollout waits in the queue."""
    return rollout.status in ("queuing", "requeuing")


def is_running(rollout: Rollout) -> bool:
    """Whether an attempt of the rollout is under way."""
    return rollout.status in ("preparing", "running")


def is_finished(rollout: Rollout) -> bool:
    """Whether the rollout has a final status."""
    return rollout.status in TERMINAL_ROLLOUT


async def rollout_status_from_attempt(attempt: Attempt, config: RolloutConfig) -> RolloutStatus:
    """Return the status of a rollout whose latest attempt has the status of `attempt`.

    Raises:
        ValueError: that is not a status of attempts.
    """
    if attempt.status not in get_args(AttemptStatus):
        raise ValueError(f"Invalid attempt status: {attempt.status}")
    before: AttemptStatus = "running" if attempt.status != "running" else "preparing"
    position = RolloutPosition(
        attempt.rollout_id,
        "running",
        attempt_id=attempt.attempt_id,
        attempt_status=before,
        counted=attempt.sequence_id,
        config=config,
    )
    move = change_attempt(position, attempt.attempt_id, before, attempt.status)
    assert move is not None
    return move.status


async def scan_unhealthy_rollouts(rollouts: Sequence[AttemptedRollout]) -> dict[tuple[str, str], AttemptStatus]:
    """Return the status, by rollout and attempt, of attempts that have run too long or been silent too long."""
    now = time.time()
    found: dict[tuple[str, str], AttemptStatus] = {}
    for rollout in rollouts:
        attempt, config = rollout.attempt, rollout.config
        silent = now - (attempt.last_heartbeat_time or attempt.start_time)
        key = (attempt.rollout_id, attempt.attempt_id)
        if config.timeout_seconds is not None and now - attempt.start_time > config.timeout_seconds:
            found[key] = "timeout"
        elif config.unresponsive_seconds is not None and silent > config.unresponsive_seconds:
            found[key] = "unresponsive"
    return found
