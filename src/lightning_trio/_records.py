"""The records that travel between parts: frozen, without behaviour beyond reading themselves.

Times are Unix times in seconds, as `time.time` gives them; durations are seconds.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, overload

import attrs

from ._errors import RemoteAgentError
from ._exception_names import exception_names
from ._groups import sole_exception

if TYPE_CHECKING:
    from ._resources import NamedResources
    from ._span import Span

T_co = TypeVar("T_co", covariant=True)

RolloutMode: TypeAlias = Literal["train", "val", "test"]
RolloutStatus: TypeAlias = Literal["queuing", "preparing", "running", "failed", "succeeded", "cancelled", "requeuing"]
AttemptStatus: TypeAlias = Literal[
    "preparing", "running", "failed", "succeeded", "unresponsive", "timeout", "cancelled"
]
WorkerStatus: TypeAlias = Literal["idle", "busy", "unknown"]
Lane: TypeAlias = Literal["trio", "thread", "asyncio", "process"]


class Unset:
    """The type of `UNSET`, which says "not given" where None is a value."""

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET = Unset()


def _number(attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{attribute.name}={value!r} is of type {type(value).__name__}; give a number of seconds")


def _positive(instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is None:
        return
    _number(attribute, value)
    if not value > 0:
        raise ValueError(f"{attribute.name}={value!r} is not positive; leave it None for no limit")


def _not_negative(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    _number(attribute, value)
    if not value >= 0:
        raise ValueError(f"{attribute.name}={value!r} is negative; give seconds, 0 for no wait")


def _at_least_one(instance: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{attribute.name}={value!r} is of type {type(value).__name__}; give a whole number")
    if value < 1:
        raise ValueError(f"{attribute.name}={value!r}: give at least 1")


_MODES = frozenset({"train", "val", "test", None, UNSET})


def _known_mode(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value not in _MODES:
        raise ValueError(f"mode={value!r}; there are 'train', 'val' and 'test', or None")


_RETRYABLE = frozenset({"failed", "timeout", "unresponsive"})


def _retryable(instance: object, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    if wrong := [status for status in value if status not in _RETRYABLE]:
        raise ValueError(f"retry_condition names {wrong}; it takes a list of statuses out of {sorted(_RETRYABLE)}")


def _statuses(value: Sequence[AttemptStatus]) -> tuple[AttemptStatus, ...]:
    if isinstance(value, str):
        raise TypeError(f"retry_condition={value!r} is a string; write a list: retry_condition=[{value!r}]")
    return tuple(value)


@attrs.frozen
class RolloutConfig:
    """Say how long a rollout's attempts may take and which of them are tried again.

    Args:
        timeout_seconds: an attempt is stopped when it has run this long; None for no limit.
        unresponsive_seconds: an attempt is stopped when it has recorded no span for this long.
        max_attempts: how many attempts a rollout gets, the first included.
        retry_condition: the attempt statuses that are tried again: ``"failed"``, ``"timeout"``,
            ``"unresponsive"``.
        backoff_seconds: the wait before the second attempt; it doubles with each further one.
        backoff_max_seconds: the longest wait between two attempts.
        backoff_jitter: the share of the wait that is random, from 0 to 1, so that attempts that failed
            together do not return together.
        max_lost_attempts: how many attempts may be lost with the runner that ran them before the rollout fails:
            a task that kills its process must not go from one to the next for ever. They do not count towards
            `max_attempts`.
        retry_exceptions: failed attempts are tried again, but only those that raised one of these: classes, or their
            names with or without the module, such as ``"openai.RateLimitError"``. Of a group all members must be.
        queue_timeout_seconds: a rollout that has waited longer than this to be claimed is not run.
        total_timeout_seconds: how long all attempts together may take, the waits between them included, from the
            beginning of the first.

    >>> RolloutConfig(timeout_seconds=30, max_attempts=3, retry_condition=["timeout"]).max_attempts
    3
    """

    timeout_seconds: float | None = attrs.field(default=None, validator=_positive)
    unresponsive_seconds: float | None = attrs.field(default=None, validator=_positive)
    max_attempts: int = attrs.field(default=1, validator=_at_least_one)
    retry_condition: Sequence[AttemptStatus] = attrs.field(default=(), converter=_statuses, validator=_retryable)
    backoff_seconds: float = attrs.field(default=0.5, kw_only=True, validator=_not_negative)
    backoff_max_seconds: float = attrs.field(default=30.0, kw_only=True, validator=_not_negative)
    backoff_jitter: float = attrs.field(
        default=0.5, kw_only=True, validator=[attrs.validators.ge(0), attrs.validators.le(1)]
    )
    max_lost_attempts: int = attrs.field(default=3, kw_only=True, validator=_at_least_one)
    retry_exceptions: Sequence[str] = attrs.field(default=(), kw_only=True, converter=exception_names)
    queue_timeout_seconds: float | None = attrs.field(default=None, kw_only=True, validator=_positive)
    total_timeout_seconds: float | None = attrs.field(default=None, kw_only=True, validator=_positive)


DEFAULT_CONFIG = RolloutConfig()


@attrs.frozen
class ErrorRecord:
    """Say what went wrong in an attempt.

    `exception` is the exception itself where the attempt ran in this process, else None.
    """

    type: str
    message: str
    traceback: str
    exception: BaseException | None = attrs.field(default=None, repr=False, eq=False)

    @classmethod
    def from_exception(cls, exception: BaseException) -> ErrorRecord:
        """Make the record of `exception`; of a group with one member, type and message are the member's."""
        sole = sole_exception(exception)
        if isinstance(sole, RemoteAgentError):
            return cls(sole.kind, sole.text, "".join(traceback.format_exception(exception)), exception)
        try:
            message = str(sole)
        except Exception as exc:
            message = f"<str() of it raised {type(exc).__name__}>"
        formatted = "".join(traceback.format_exception(exception))
        return cls(type(sole).__name__, message, formatted, exception)

    def without_exception(self) -> ErrorRecord:
        """Give the record alone; the exception keeps the frames it went through, and all they hold, alive."""
        return ErrorRecord(self.type, self.message, self.traceback)


@attrs.frozen
class Usage:
    """What calls of models took, summed up: tokens, and what they cost where spans say so.

    Source: the attributes ``gen_ai.usage.input_tokens``, ``gen_ai.usage.output_tokens`` and ``gen_ai.usage.cost`` of
    an attempt's spans; `cost` is in whatever currency these are.

    >>> Usage(10, 2) + Usage(5, 1, 0.5)
    Usage(input_tokens=15, output_tokens=3, cost=0.5)
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens, self.cost + other.cost
        )


NO_USAGE = Usage()


@attrs.frozen
class Attempt:
    """One execution of a rollout. `sequence_id` counts the rollout's attempts from 1."""

    rollout_id: str
    attempt_id: str
    sequence_id: int
    start_time: float
    end_time: float | None = None
    status: AttemptStatus = "preparing"
    worker_id: str | None = None
    last_heartbeat_time: float | None = None
    metadata: Mapping[str, Any] | None = None
    error: ErrorRecord | None = None
    final_reward: float | None = None
    duration: float | None = None
    """Seconds the agent ran, by the runner's clock; None while it runs."""
    usage: Usage = NO_USAGE


@attrs.frozen
class Rollout:
    """One unit of work: a task (`input`), how to run it, and how far it is."""

    rollout_id: str
    input: Any
    start_time: float
    end_time: float | None = None
    mode: RolloutMode | None = None
    resources_id: str | None = None
    status: RolloutStatus = "queuing"
    config: RolloutConfig = DEFAULT_CONFIG
    metadata: Mapping[str, Any] | None = None
    run_id: str | None = None
    key: str | None = None
    """Which of its run's tasks this is, see `EnqueueRolloutRequest`."""


def _same_rollout(instance: AttemptedRollout, attribute: attrs.Attribute[Attempt], value: Attempt) -> None:
    if value.rollout_id != instance.rollout_id:
        raise ValueError(
            f"attempt {value.attempt_id} belongs to rollout {value.rollout_id}, not to {instance.rollout_id}"
        )


@attrs.frozen
class AttemptedRollout(Rollout):
    """A rollout with its latest attempt."""

    attempt: Attempt = attrs.field(kw_only=True, validator=_same_rollout)


@attrs.frozen
class EnqueueRolloutRequest:
    """Ask a store for one rollout. `config` None takes the agent's, else the runner's.

    A `key` names the rollout within its run: enqueued a second time, it is the rollout that is there already. So a
    run that goes on after a crash enqueues what it did before and runs only what is missing.
    """

    input: Any
    mode: RolloutMode | None = attrs.field(default=None, validator=_known_mode)
    resources_id: str | None = None
    config: RolloutConfig | None = None
    metadata: Mapping[str, Any] | None = None
    key: str | None = None


@attrs.frozen
class RolloutChange:
    """Change fields of a rollout; what is UNSET stays."""

    rollout_id: str
    input: Any = UNSET
    mode: RolloutMode | None | Unset = attrs.field(default=UNSET, validator=_known_mode)
    resources_id: str | None | Unset = UNSET
    status: RolloutStatus | Unset = UNSET
    config: RolloutConfig | Unset = UNSET
    metadata: Mapping[str, Any] | None | Unset = UNSET


@attrs.frozen
class AttemptChange:
    """Change fields of an attempt; what is UNSET stays."""

    rollout_id: str
    attempt_id: str
    status: AttemptStatus | Unset = UNSET
    worker_id: str | None | Unset = UNSET
    last_heartbeat_time: float | None | Unset = UNSET
    metadata: Mapping[str, Any] | None | Unset = UNSET


@attrs.frozen
class RolloutRemoval:
    """Let go of a finished rollout with its attempts and spans; counts and rewards stay."""

    rollout_id: str


@attrs.frozen
class AttemptOutcome:
    """Report how an attempt ended; a store commits it, its spans and the rollout's status together.

    `status` ``"cancelled"`` with `requeue` puts the rollout back into the queue; that attempt does not count
    towards `max_attempts`. `retry_delay` is the wait in seconds before the rollout may be claimed for a further
    attempt, if it gets one; None where the reporter runs that attempt itself. With `final` there is no further
    attempt, whatever the configuration says.
    """

    rollout_id: str
    attempt_id: str
    status: AttemptStatus
    end_time: float
    spans: Sequence[Span] = ()
    error: ErrorRecord | None = None
    final_reward: float | None = None
    duration: float | None = None
    retry_delay: float | None = 0.0
    requeue: bool = False
    final: bool = False
    usage: Usage = NO_USAGE


@attrs.frozen
class CompletedRollout:
    """A rollout that has ended, with its last attempt and that attempt's spans in order of their start."""

    rollout: Rollout
    attempt: Attempt
    spans: Sequence[Span] = attrs.field(repr=False)

    @property
    def status(self) -> RolloutStatus:
        """``"succeeded"``, ``"failed"`` or ``"cancelled"``; `attempt.status` tells a timeout."""
        return self.rollout.status

    @property
    def final_reward(self) -> float | None:
        """The value of the last reward span, None where there was none."""
        return self.attempt.final_reward

    @property
    def error(self) -> ErrorRecord | None:
        """What went wrong, None if nothing did."""
        return self.attempt.error

    @property
    def duration(self) -> float:
        """How long the last attempt ran, in seconds."""
        return self.attempt.duration or 0.0


@attrs.frozen
class Worker:
    """Who takes rollouts from a store, and what it was last seen doing.

    With `lease_seconds` it has its attempts on a lease, which runs out when it was not put into the store anew for
    that long, by the store's clock; 0 ends it at once, None (no lease) lets it keep its attempts for ever.
    """

    worker_id: str
    status: WorkerStatus = "unknown"
    heartbeat_stats: Mapping[str, Any] | None = None
    last_heartbeat_time: float | None = None
    last_dequeue_time: float | None = None
    last_busy_time: float | None = None
    last_idle_time: float | None = None
    current_rollout_id: str | None = None
    current_attempt_id: str | None = None
    lease_seconds: float | None = None
    lease_left_seconds: float | None = attrs.field(default=None, eq=False)
    """How long the lease still lasts, as the store says when it is asked; None without one and once it has run out."""


@attrs.frozen
class Expiry:
    """What `LightningStore.expire` did: the rollouts whose attempt it ended, and when to call it again.

    `next_in` is in seconds; None if nothing at hand can run out.
    """

    requeued: Sequence[str] = ()
    failed: Sequence[str] = ()
    next_in: float | None = None


@attrs.frozen
class DatasetFingerprint:
    """Tell datasets apart: the number of tasks, and a digest of them where they are kept beyond the process."""

    tasks: int
    digest: str | None = None


RunStatus: TypeAlias = Literal["running", "finished"]


@attrs.frozen
class Run:
    """One `fit`, as a store keeps it to be resumed. All but the ids may be empty.

    Args:
        run_id: ``run-…``.
        name: what the user calls it.
        agent: the agent's name.
        algorithm: the algorithm's name.
        datasets: by mode.
        status: ``"running"`` until `fit` has returned, also when the process has died since.
        start_time: when it was begun.
        end_time: when it finished.
        elapsed_seconds: how long it was worked on, over all its processes.
        resources_id: the snapshot it began with.
        best_resources_id: the best so far.
        config: other settings it was begun with, to read, not to resume from.
        state: what the algorithm saved; anything a store can keep.
        position: how often the algorithm had asked for what when it saved its state.
        history: what the algorithm noted.
        ended_early: why it ended before all tasks had run, None if it did not.
        worker_id: whose `fit` it is.
        takeovers: how often another `fit` has taken it up. A store refuses what an earlier one still reports.
    """

    run_id: str
    name: str | None = None
    agent: str = ""
    algorithm: str = ""
    datasets: Mapping[str, DatasetFingerprint] = attrs.field(factory=dict[str, DatasetFingerprint])
    status: RunStatus = "running"
    start_time: float = 0.0
    end_time: float | None = None
    elapsed_seconds: float = 0.0
    resources_id: str | None = None
    best_resources_id: str | None = None
    config: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    state: Any = None
    position: Mapping[str, int] = attrs.field(factory=dict[str, int])
    history: Sequence[Mapping[str, Any]] = ()
    ended_early: str | None = None
    worker_id: str | None = None
    takeovers: int = 0


@attrs.frozen
class ResourcesUpdate:
    """A resources snapshot: a versioned mapping of names to resources."""

    resources_id: str
    create_time: float
    update_time: float
    version: int
    resources: NamedResources


@attrs.frozen
class RunSummary:
    """Count a run's rollouts by status and sum up its rewards by mode.

    `rewards` maps a mode (None for rollouts without) to the number of rewarded rollouts and their sum.
    """

    counts: Mapping[RolloutStatus, int]
    rewards: Mapping[RolloutMode | None, tuple[int, float]]
    usage: Usage = NO_USAGE
    """Of all attempts."""
    agent_seconds: float = 0.0
    """The durations of all attempts."""
    removed: int = 0
    """How many of the finished rollouts counted are no longer kept, evicted or pruned."""

    def mean_reward(self, mode: RolloutMode | None) -> float | None:
        """Give the mean final reward of `mode`, None where nothing was rewarded."""
        count, total = self.rewards.get(mode, (0, 0.0))
        return total / count if count else None


@attrs.frozen
class FitResult:
    """What a `fit` came to.

    `counts` maps terminal statuses to numbers that add up to the rollouts asked for; `resources` and
    `resources_id` are the best the algorithm found; `mean_reward` has the keys ``"train"`` and ``"val"``, each
    None where nothing was rewarded; `history` is what the algorithm noted on the way. `usage` and `agent_seconds` are
    those of all attempts, `duration` the seconds the run was worked on; a resumed run's cover the whole run.
    """

    run_id: str
    resources: NamedResources
    resources_id: str | None
    counts: Mapping[str, int]
    mean_reward: Mapping[str, float | None]
    history: Sequence[Mapping[str, Any]] = ()
    usage: Usage = NO_USAGE
    agent_seconds: float = 0.0
    duration: float = 0.0
    ended_early: str | None = None
    """Why the run ended before all tasks had run, None if it did not."""


@attrs.frozen
class RunnerStatistics:
    """What a runner does now and has done since it was opened; all are numbers of rollouts or attempts.

    `abandoned_threads` counts attempts that were given up and still run, in threads or on a blocked asyncio loop;
    `late_results` those of them that have ended since, and agents that returned after their deadline without having
    been given up; their results were refused.
    """

    running: int
    retrying: int
    succeeded: int
    failed: int
    timed_out: int
    cancelled: int
    attempts: int
    abandoned_threads: int
    max_concurrency: int
    late_results: int = 0

    @property
    def done(self) -> int:
        """How many attempts have ended, however."""
        return self.succeeded + self.failed + self.timed_out + self.cancelled


@attrs.frozen
class StoreStatistics:
    """How much a store holds; `queued` counts rollouts nobody has claimed yet."""

    name: str
    total_rollouts: int
    total_attempts: int
    total_spans: int
    total_resources: int
    total_workers: int
    queued: int
    late_spans: int


@attrs.frozen
class PaginatedResult(Sequence[T_co], Generic[T_co]):
    """A page of query results that is also a plain sequence; `limit` -1 means all."""

    items: Sequence[T_co]
    limit: int
    offset: int
    total: int

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | Sequence[T_co]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T_co]:
        return iter(self.items)
