"""Rollouts and their attempts."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from .._plain_record import PlainRecord
from .._public import public
from .._quick_init import quick_init
from .._repr import counted, one_line
from .._spans import NO_USAGE, Span, Usage
from ._config import DEFAULT_CONFIG, RolloutConfig
from ._error_record import ErrorRecord
from ._statuses import AttemptStatus, RolloutMode, RolloutStatus, known_mode


@public
@quick_init
@attrs.frozen
class Attempt(PlainRecord):
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


@public
@quick_init
@attrs.frozen
class Rollout(PlainRecord):
    """One unit of work: a task (`input`), its configuration, and its status."""

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
    """The key of the task within its run, see `EnqueueRolloutRequest`."""


def _same_rollout(instance: AttemptedRollout, attribute: attrs.Attribute[Attempt], value: Attempt) -> None:
    if value.rollout_id != instance.rollout_id:
        raise ValueError(
            f"attempt {value.attempt_id} belongs to rollout {value.rollout_id}, not to {instance.rollout_id}"
        )


@public
@quick_init
@attrs.frozen
class AttemptedRollout(Rollout):
    """A rollout with its latest attempt."""

    attempt: Attempt = attrs.field(kw_only=True, validator=_same_rollout)


@public
@quick_init
@attrs.frozen
class EnqueueRolloutRequest(PlainRecord):
    """A request to enqueue one rollout. If `config` is None, the agent's applies, else the runner's.

    A `key` names the rollout within its run: a second request with the same key returns the existing rollout. A run
    that is resumed after a crash therefore enqueues the same tasks again and runs only the missing ones.
    """

    input: Any
    mode: RolloutMode | None = attrs.field(default=None, validator=known_mode)
    resources_id: str | None = None
    config: RolloutConfig | None = None
    metadata: Mapping[str, Any] | None = None
    key: str | None = None


@public
@attrs.frozen
class CompletedRollout(PlainRecord):
    """A rollout that has ended, with its last attempt and that attempt's spans in order of their start."""

    rollout: Rollout
    attempt: Attempt
    spans: Sequence[Span]

    @one_line
    def __repr__(self) -> str:
        number = self.attempt.sequence_id
        parts = [self.status, f"attempt {number} took {self.duration:.2f} s" if number else "never run"]
        if self.final_reward is not None:
            parts.append(f"reward {self.final_reward:g}")
        if self.error is not None:
            parts.append(f"{self.error.type}: {textwrap.shorten(self.error.message, 100)}")
        return f"<CompletedRollout {self.rollout.rollout_id}: {', '.join(parts)}, {counted(len(self.spans), 'span')}>"

    @property
    def status(self) -> RolloutStatus:
        """``"succeeded"``, ``"failed"`` or ``"cancelled"``; `attempt.status` distinguishes timeouts."""
        return self.rollout.status

    @property
    def rollout_id(self) -> str:
        """The rollout's id."""
        return self.rollout.rollout_id

    @property
    def input(self) -> Any:
        """The task."""
        return self.rollout.input

    @property
    def mode(self) -> RolloutMode | None:
        """``"train"``, ``"val"``, ``"test"`` or None."""
        return self.rollout.mode

    @property
    def resources_id(self) -> str | None:
        """The id of the resources snapshot that it ran with."""
        return self.rollout.resources_id

    @property
    def metadata(self) -> Mapping[str, Any] | None:
        """The rollout's metadata."""
        return self.rollout.metadata

    @property
    def final_reward(self) -> float | None:
        """The value of the last reward span, None if there was none."""
        return self.attempt.final_reward

    @property
    def error(self) -> ErrorRecord | None:
        """The error of the last attempt, None if it did not fail."""
        return self.attempt.error

    @property
    def duration(self) -> float:
        """How long the last attempt ran, in seconds."""
        return self.attempt.duration or 0.0
