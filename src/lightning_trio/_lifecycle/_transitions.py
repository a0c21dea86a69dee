"""The state machine of rollouts and attempts, as pure functions from a position to a move.

A store calls one of them for each event, carries out the move, and has no rules of its own. An attempt runs if it is
its rollout's latest and has not ended. A rollout has ended once it is succeeded, failed or cancelled.

=====================  ==============================  ===============  ==============  ==========================
event                  position                        rollout          its attempt     may be claimed
=====================  ==============================  ===============  ==============  ==========================
`begin_attempt`        no attempt runs                 preparing        unchanged       no
`begin_attempt`        an attempt runs: superseded     preparing        unresponsive    no
`begin_attempt`        ended                           `StaleAttempt`
`note_heartbeat`       it runs                         running          running         no
`note_heartbeat`       otherwise                       None: too late
`end_attempt`          it does not run                 None: too late
`end_attempt`          `GiveBack`                      requeuing        as reported     now, or no if it is not
                                                                                        `queued`; does not count
`end_attempt`          succeeded or cancelled          the same         as reported     no
`end_attempt`          failed, another granted         requeuing        as reported     `RetryIn`: in its seconds;
                                                                                        `ReporterRetries`: no
`end_attempt`          failed, none granted            failed           as reported     no
`lose_attempt`         it does not run                 None: too late
`lose_attempt`         fewer than `max_lost_attempts`  requeuing        unresponsive    now; does not count
`lose_attempt`         otherwise                       failed           unresponsive    no
`change_rollout`       to its own status, in place     None: unchanged
`change_rollout`       to queuing or requeuing         the same         unchanged       now
`change_rollout`       to preparing or running         the same         unchanged       no
`change_rollout`       to a terminal status            the same         the same if it  no
                                                                        runs
`change_rollout`       ended                           `StaleAttempt`
`change_attempt`       to its own status               None: unchanged
`change_attempt`       it runs                         as `end_attempt` with `RETRY_NOW`
`change_attempt`       otherwise                       `StaleAttempt`
`reopen_rollout`       failed or cancelled             requeuing, or    unchanged       now; the attempts so far
                                                       queuing if it                    count no longer
                                                       has no attempt
`reopen_rollout`       succeeded                       `StaleAttempt`
`reopen_rollout`       not ended                       None: unchanged
`check_removal`        not ended                       `ValueError`
=====================  ==============================  ===============  ==============  ==========================

"Failed" here is failed, timeout or unresponsive. Another attempt is granted if `retry_condition` names the status (or
it is failed, and there are `retry_exceptions`), fewer than `max_attempts` attempts count, and `next` is not `Final`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final as Constant
from typing import Protocol, cast, get_args

import attrs

from .._errors import StaleAttempt
from .._public import public_in
from .._records import (
    DEFAULT_CONFIG,
    RETRY_NOW,
    AttemptStatus,
    Final,
    GiveBack,
    Next,
    RetryIn,
    RolloutConfig,
    RolloutStatus,
    WorkerStatus,
)
from ._statuses import QUEUED, TERMINAL_ATTEMPT, TERMINAL_ROLLOUT


@public_in("lightning_trio.store")
class Position(Protocol):
    """The attributes of a rollout that the state machine reads; a store's own record provides them."""

    @property
    def rollout_id(self) -> str:
        """The rollout's id, for messages."""
        ...

    @property
    def status(self) -> RolloutStatus:
        """The rollout's status."""
        ...

    @property
    def queued(self) -> bool:
        """Whether the rollout is in the queue, due or not."""
        ...

    @property
    def attempt_id(self) -> str | None:
        """The latest attempt's id, None before the first."""
        ...

    @property
    def attempt_status(self) -> AttemptStatus | None:
        """The latest attempt's status, None before the first."""
        ...

    @property
    def counted(self) -> int:
        """The number of attempts, the latest included, that count towards `max_attempts`."""
        ...

    @property
    def lost(self) -> int:
        """The number of attempts that were lost with their worker."""
        ...

    @property
    def config(self) -> RolloutConfig | None:
        """The rollout's config, None for the default; read only when a decision depends on it."""
        ...


@public_in("lightning_trio.store")
@attrs.frozen
class Move:
    """The change that an event makes to a rollout."""

    status: RolloutStatus
    """The rollout's new status."""
    attempt_status: AttemptStatus | None = None
    """The latest attempt's new status, None if it is unchanged."""
    queue_in: float | None = None
    """The seconds until it may be claimed; None if it is not in the queue."""
    counts: bool = True
    """Whether the attempt that ends counts towards `max_attempts`."""
    lost: bool = False
    """Whether the attempt that ends was lost with its worker."""
    anew: bool = False
    """Whether none of the attempts so far counts any longer, towards `max_attempts` or `max_lost_attempts`."""


@public_in("lightning_trio.store")
@attrs.frozen
class RolloutPosition:
    """A position as a record, for a store whose own record lacks some of the attributes.

    >>> position = RolloutPosition("ro-1", "running", attempt_id="at-1", attempt_status="running", counted=1)
    >>> end_attempt(position, "at-1", "succeeded").status
    'succeeded'
    """

    rollout_id: str
    status: RolloutStatus
    queued: bool = False
    attempt_id: str | None = None
    attempt_status: AttemptStatus | None = None
    counted: int = 0
    lost: int = 0
    config: RolloutConfig | None = None

    @classmethod
    def of(cls, position: Position) -> RolloutPosition:
        """Return a copy of `position` that does not follow its changes."""
        return cls(
            position.rollout_id,
            position.status,
            position.queued,
            position.attempt_id,
            position.attempt_status,
            position.counted,
            position.lost,
            position.config,
        )

    def after(self, move: Move) -> RolloutPosition:
        """Return the position after `move`, before the attempt that the move may begin."""
        return attrs.evolve(
            self,
            status=move.status,
            queued=move.queue_in is not None,
            attempt_status=move.attempt_status or self.attempt_status,
            counted=0 if move.anew else self.counted if move.counts else self.counted - 1,
            lost=0 if move.anew else self.lost + move.lost,
        )


# Created once, so that the calls made for every rollout create no records.
_BEGUN: Constant = Move("preparing")
_SUPERSEDING: Constant = Move("preparing", "unresponsive")
_HEARD: Constant = Move("running", "running")
_COPIED: Constant[Mapping[AttemptStatus, Move]] = {
    "preparing": Move("preparing", "preparing"),
    "running": _HEARD,
    "succeeded": Move("succeeded", "succeeded"),
    "cancelled": Move("cancelled", "cancelled"),
}
_LOST: Constant = Move("requeuing", "unresponsive", 0.0, counts=False, lost=True)
_LOST_FOR_GOOD: Constant = Move("failed", "unresponsive", counts=False, lost=True)
_REOPENED: Constant = Move("requeuing", queue_in=0.0, anew=True)
_REOPENED_UNTRIED: Constant = Move("queuing", queue_in=0.0, anew=True)


@public_in("lightning_trio.store")
def begin_attempt(position: Position) -> Move:
    """Return the move that begins another attempt; a running attempt is superseded.

    Raises:
        StaleAttempt: the rollout has ended.
    """
    if position.status in TERMINAL_ROLLOUT:
        raise StaleAttempt.start(position.rollout_id, position.status)
    before = position.attempt_status
    return _BEGUN if before is None or before in TERMINAL_ATTEMPT else _SUPERSEDING


@public_in("lightning_trio.store")
def note_heartbeat(position: Position, attempt_id: str) -> Move | None:
    """Return the move for a heartbeat of an attempt, such as a span; None if the attempt no longer runs."""
    return _HEARD if _runs(position, attempt_id) else None


@public_in("lightning_trio.store")
def end_attempt(position: Position, attempt_id: str, status: AttemptStatus, following: Next = RETRY_NOW) -> Move | None:
    """Return the move for the report that an attempt ended with `status`; None if the attempt no longer runs.

    >>> config = RolloutConfig(max_attempts=2, retry_condition=["timeout"])
    >>> position = RolloutPosition("ro-1", "running", False, "at-1", "running", counted=1, config=config)
    >>> end_attempt(position, "at-1", "timeout", RetryIn(5.0))
    Move(status='requeuing', attempt_status='timeout', queue_in=5.0, counts=True, lost=False, anew=False)
    """
    return _ended(position, status, following) if _runs(position, attempt_id) else None


@public_in("lightning_trio.store")
def lose_attempt(position: Position, attempt_id: str) -> Move | None:
    """Return the move for an attempt that is lost with its worker; None if the attempt no longer runs."""
    if not _runs(position, attempt_id):
        return None
    return _LOST if position.lost + 1 < (position.config or DEFAULT_CONFIG).max_lost_attempts else _LOST_FOR_GOOD


@public_in("lightning_trio.store")
def change_rollout(position: Position, status: RolloutStatus) -> Move | None:
    """Return the move for an explicit change of a rollout's status; None if nothing changes.

    Raises:
        StaleAttempt: the rollout has ended.
        ValueError: `status` is unknown.
    """
    if status == position.status and (position.queued or status not in QUEUED):
        return None
    if status not in _ROLLOUT_STATUSES:
        raise ValueError(f"status={status!r} is not a rollout status; write one of {_ROLLOUT_STATUSES}")
    if position.status in TERMINAL_ROLLOUT:
        raise StaleAttempt.rollout(position.rollout_id, position.status, status)
    if status in TERMINAL_ROLLOUT:
        runs = position.attempt_id is not None and _runs(position, position.attempt_id)
        return Move(status, cast("AttemptStatus", status) if runs else None)
    return Move(status, queue_in=0.0 if status in QUEUED else None)


@public_in("lightning_trio.store")
def change_attempt(position: Position, attempt_id: str, before: AttemptStatus, status: AttemptStatus) -> Move | None:
    """Return the move for an explicit change of an attempt's status; None if nothing changes.

    Args:
        position: the position of its rollout.
        attempt_id: the attempt, which need not be the latest.
        before: its current status.
        status: its new status.

    Raises:
        StaleAttempt: the attempt has ended or was superseded.
        ValueError: `status` is unknown.
    """
    if status == before:
        return None
    if status not in _ATTEMPT_STATUSES:
        raise ValueError(f"status={status!r} is not an attempt status; write one of {_ATTEMPT_STATUSES}")
    if not _runs(position, attempt_id):
        raise StaleAttempt.attempt(position.rollout_id, attempt_id, before, position.status, status)
    return _ended(position, status, RETRY_NOW)


@public_in("lightning_trio.store")
def reopen_rollout(position: Position) -> Move | None:
    """Return the move that puts a failed or cancelled rollout back into the queue; None if it has not ended.

    This is the only way out of a terminal status. A runner takes it for a run that is resumed with `retry_failed`;
    reports of earlier attempts are late as before.

    >>> reopen_rollout(RolloutPosition("ro-1", "failed", attempt_id="at-1", attempt_status="failed", counted=1)).status
    'requeuing'

    Raises:
        StaleAttempt: the rollout has succeeded.
    """
    if position.status == "succeeded":
        raise StaleAttempt.rollout(position.rollout_id, position.status, "requeuing")
    if position.status not in TERMINAL_ROLLOUT:
        return None
    return _REOPENED_UNTRIED if position.attempt_id is None else _REOPENED


@public_in("lightning_trio.store")
def check_removal(position: Position) -> None:
    """Raise unless the rollout has ended and may be removed.

    Raises:
        ValueError: it has not ended.
    """
    if position.status not in TERMINAL_ROLLOUT:
        raise ValueError(f"rollout {position.rollout_id} is {position.status}; only finished rollouts can be removed")


@public_in("lightning_trio.store")
def worker_status(attempt_status: AttemptStatus) -> WorkerStatus:
    """Return the status of a worker whose attempt is explicitly changed to `attempt_status`."""
    if attempt_status in ("timeout", "unresponsive"):
        return "unknown"
    return "idle" if attempt_status in TERMINAL_ATTEMPT else "busy"


def _runs(position: Position, attempt_id: str) -> bool:
    return (
        position.attempt_id == attempt_id
        and position.attempt_status not in TERMINAL_ATTEMPT
        and position.status not in TERMINAL_ROLLOUT
    )


def _ended(position: Position, status: AttemptStatus, following: Next) -> Move:
    if isinstance(following, GiveBack):
        return Move("requeuing", status, 0.0 if following.queued else None, counts=False)
    copied = _COPIED.get(status)
    if copied is not None:
        return copied
    config = position.config or DEFAULT_CONFIG
    granted = status in config.retry_condition or (status == "failed" and config.retry_exceptions)
    if not granted or isinstance(following, Final) or position.counted >= config.max_attempts:
        return Move("failed", status)
    return Move("requeuing", status, following.seconds if isinstance(following, RetryIn) else None)


_ROLLOUT_STATUSES: Constant[tuple[RolloutStatus, ...]] = get_args(RolloutStatus)
_ATTEMPT_STATUSES: Constant[tuple[AttemptStatus, ...]] = get_args(AttemptStatus)
