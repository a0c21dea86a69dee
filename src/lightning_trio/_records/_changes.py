"""Changes of rollouts and attempts that a caller makes itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs

from .._public import public, public_in
from ._config import RolloutConfig
from ._statuses import AttemptStatus, RolloutMode, RolloutStatus, known_mode
from ._unset import UNSET, Unset


@public_in("lightning_trio.store")
@attrs.frozen
class RolloutChange:
    """A change of a rollout; fields that are UNSET stay the same."""

    rollout_id: str
    input: Any = UNSET
    mode: RolloutMode | None | Unset = attrs.field(default=UNSET, validator=known_mode)
    resources_id: str | None | Unset = UNSET
    status: RolloutStatus | Unset = UNSET
    config: RolloutConfig | Unset = UNSET
    metadata: Mapping[str, Any] | None | Unset = UNSET


@public_in("lightning_trio.store")
@attrs.frozen
class AttemptChange:
    """A change of an attempt; fields that are UNSET stay the same."""

    rollout_id: str
    attempt_id: str
    status: AttemptStatus | Unset = UNSET
    worker_id: str | None | Unset = UNSET
    last_heartbeat_time: float | None | Unset = UNSET
    metadata: Mapping[str, Any] | None | Unset = UNSET


@public
@attrs.frozen
class RolloutReopening:
    """The return of a failed or cancelled rollout to the queue; its attempts are kept and count no longer."""

    rollout_id: str


@public
@attrs.frozen
class RolloutRemoval:
    """The removal of a finished rollout, its attempts and its spans; counts and rewards stay."""

    rollout_id: str


Change: TypeAlias = RolloutChange | AttemptChange | RolloutRemoval | RolloutReopening
"""What a caller may change of rollouts and attempts."""
