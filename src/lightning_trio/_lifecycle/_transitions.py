"""The state machine of rollouts and attempts, as pure functions from a position to a move.

A store calls one of them for each event, carries out the move, and keeps no rule of its own. "Runs" is said of a
rollout's latest attempt that has not ended; a rollout has ended once it is succeeded, failed or cancelled.

=====================  ==============================  ===============  ==============  ==========================
event                  position                        rollout          its attempt     may be claimed
=====================  ==============================  ===============  ==============  ==========================
`begin_attempt`        none runs                       preparing        stays           no
`begin_attempt`        one runs (it is superseded)     preparing        unresponsive    no
`begin_attempt`        ended                           `StaleAttempt`
`hear_attempt`         it runs                         running          running         no
`hear_attempt`         otherwise                       None: too late
`end_attempt`          it does not run                 None: too late
`end_attempt`          `GiveBack`                      requeuing        as reported     now; does not count
`end_attempt`          succeeded or cancelled          the same         as reported     no
`end_attempt`          failed, another granted         requeuing        as reported     `RetryIn`: in its seconds;
                                                                                        `ReporterRetries`: no
`end_attempt`          failed, none granted            failed           as reported     no
`lose_attempt`         it does not run                 None: too late
`lose_attempt`         fewer than `max_lost_attempts`  requeuing        unresponsive    now; does not count
`lose_attempt`         otherwise                       failed           unresponsive    no
`change_rollout`       the status it has, in place     None: stays
`change_rollout`       to queuing or requeuing         the same         stays           now
`change_rollout`       to preparing or running         the same         stays           no
`change_rollout`       to an end                       the same         the same if it  no
                                                                        runs
`change_rollout`       ended                           `StaleAttempt`
`change_attempt`       the status it has               None: stays
`change_attempt`       it runs                         as `end_attempt` with `RETRY_NOW`
`change_attempt`       otherwise                       `StaleAttempt`
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
    """What the state machine reads of a rollout; a store's own record of it has these attributes."""

    @property
    def rollout_id(self) -> str:
        """For messages."""
        ...

    @property
    def status(self) -> RolloutStatus:
        """The rollout's."""
        ...

    @property
    def queued(self) -> bool:
        """Whether it has a place in the queue, due or not."""
        ...

    @property
    def attempt_id(self) -> str | None:
        """The latest attempt's, None before the first."""
        ...

    @property
    def attempt_status(self) -> AttemptStatus | None:
        """The latest attempt's, None before the first."""
        ...

    @property
    def counted(self) -> int:
        """How many attempts, the latest included, count towards `max_attempts`."""
        ...

    @property
    def lost(self) -> int:
        """How many attempts were lost with their worker."""
        ...

    @property
    def config(self) -> RolloutConfig | None:
        """The rollout's, None for the default; read only where it decides."""
        ...


@public_in("lightning_trio.store")
@attrs.frozen
class Move:
    """What becomes of a rollout."""

    status: RolloutStatus
    """The rollout's from now on."""
    attempt_status: AttemptStatus | None = None
    """What its latest attempt becomes, None if that stays as it is."""
    queue_in: float | None = None
    """After how many seconds it may be claimed; None if it is not, or no longer, in the queue."""
    counts: bool = True
    """False if the attempt that ends does not count towards `max_attempts`."""
    lost: bool = False
    """True if the attempt that ends was lost with its worker."""


@public_in("lightning_trio.store")
@attrs.frozen
class RolloutPosition:
    """A position as a record, for a store whose own record does not have all the attributes.

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
        """Return a record of `position`, which stays when that one changes."""
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
        """Return the position that `move` leads to, before the attempt that it may begin."""
        return attrs.evolve(
            self,
            status=move.status,
            queued=move.queue_in is not None,
            attempt_status=move.attempt_status or self.attempt_status,
            counted=self.counted if move.counts else self.counted - 1,
            lost=self.lost + move.lost,
        )


# Made once: the calls for every rollout of a run make no records.
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


@public_in("lightning_trio.store")
def begin_attempt(position: Position) -> Move:
    """Return the move with which another attempt begins; one that runs is superseded by it.

    Raises:
        StaleAttempt: the rollout has ended.
    """
    if position.status in TERMINAL_ROLLOUT:
        raise StaleAttempt.start(position.rollout_id, position.status)
    before = position.attempt_status
    return _BEGUN if before is None or before in TERMINAL_ATTEMPT else _SUPERSEDING


@public_in("lightning_trio.store")
def hear_attempt(position: Position, attempt_id: str) -> Move | None:
    """Return the move for a sign of life from an attempt, such as a span; None if it comes too late."""
    return _HEARD if _runs(position, attempt_id) else None


@public_in("lightning_trio.store")
def end_attempt(position: Position, attempt_id: str, status: AttemptStatus, following: Next = RETRY_NOW) -> Move | None:
    """Return the move for the report that an attempt ended with `status`; None if it comes too late.

    >>> config = RolloutConfig(max_attempts=2, retry_condition=["timeout"])
    >>> position = RolloutPosition("ro-1", "running", False, "at-1", "running", counted=1, config=config)
    >>> end_attempt(position, "at-1", "timeout", RetryIn(5.0))
    Move(status='requeuing', attempt_status='timeout', queue_in=5.0, counts=True, lost=False)
    """
    return _ended(position, status, following) if _runs(position, attempt_id) else None


@public_in("lightning_trio.store")
def lose_attempt(position: Position, attempt_id: str) -> Move | None:
    """Return the move for an attempt that is lost with its worker; None if it had ended or was superseded."""
    if not _runs(position, attempt_id):
        return None
    return _LOST if position.lost + 1 < (position.config or DEFAULT_CONFIG).max_lost_attempts else _LOST_FOR_GOOD


@public_in("lightning_trio.store")
def change_rollout(position: Position, status: RolloutStatus) -> Move | None:
    """Return the move for a rollout whose status is changed by hand; None if nothing changes.

    Raises:
        StaleAttempt: the rollout has ended.
        ValueError: there is no such status.
    """
    if status == position.status and (position.queued or status not in QUEUED):
        return None
    if status not in _ROLLOUT_STATUSES:
        raise ValueError(f"status={status!r} is no rollout status; there are {_ROLLOUT_STATUSES}")
    if position.status in TERMINAL_ROLLOUT:
        raise StaleAttempt.rollout(position.rollout_id, position.status, status)
    if status in TERMINAL_ROLLOUT:
        runs = position.attempt_id is not None and _runs(position, position.attempt_id)
        return Move(status, cast("AttemptStatus", status) if runs else None)
    return Move(status, queue_in=0.0 if status in QUEUED else None)


@public_in("lightning_trio.store")
def change_attempt(position: Position, attempt_id: str, before: AttemptStatus, status: AttemptStatus) -> Move | None:
    """Return the move for an attempt whose status is changed by hand; None if nothing changes.

    Args:
        position: its rollout's.
        attempt_id: which attempt; it need not be the latest.
        before: the status it has.
        status: the status it is to have.

    Raises:
        StaleAttempt: the attempt has ended or was superseded.
        ValueError: there is no such status.
    """
    if status == before:
        return None
    if status not in _ATTEMPT_STATUSES:
        raise ValueError(f"status={status!r} is no attempt status; there are {_ATTEMPT_STATUSES}")
    if not _runs(position, attempt_id):
        raise StaleAttempt.attempt(position.rollout_id, attempt_id, before, position.status, status)
    return _ended(position, status, RETRY_NOW)


@public_in("lightning_trio.store")
def check_removal(position: Position) -> None:
    """Raise unless the rollout has ended, so that it may be removed.

    Raises:
        ValueError: it has not ended.
    """
    if position.status not in TERMINAL_ROLLOUT:
        raise ValueError(f"rollout {position.rollout_id} is {position.status}; only finished rollouts can be removed")


@public_in("lightning_trio.store")
def worker_status(attempt_status: AttemptStatus) -> WorkerStatus:
    """Return what a worker is noted as when its attempt is given `attempt_status` by hand."""
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
        return Move("requeuing", status, 0.0, counts=False)
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
