"""Changes of rollouts and attempts by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from .._public import public, public_in
from ._config import RolloutConfig
from ._statuses import AttemptStatus, RolloutMode, RolloutStatus, known_mode
from ._unset import UNSET, Unset


@public_in("lightning_trio.store")
@attrs.frozen
class RolloutChange:
    """Change fields of a rollout; what is UNSET stays."""

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
    """Change fields of an attempt; what is UNSET stays."""

    rollout_id: str
    attempt_id: str
    status: AttemptStatus | Unset = UNSET
    worker_id: str | None | Unset = UNSET
    last_heartbeat_time: float | None | Unset = UNSET
    metadata: Mapping[str, Any] | None | Unset = UNSET


@public
@attrs.frozen
class RolloutRemoval:
    """Let go of a finished rollout with its attempts and spans; counts and rewards stay."""

    rollout_id: str
