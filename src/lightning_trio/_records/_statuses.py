"""The names of statuses, modes and lanes."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import attrs

from ._unset import UNSET

RolloutMode: TypeAlias = Literal["train", "val", "test"]
RolloutStatus: TypeAlias = Literal["queuing", "preparing", "running", "failed", "succeeded", "cancelled", "requeuing"]
AttemptStatus: TypeAlias = Literal[
    "preparing", "running", "failed", "succeeded", "unresponsive", "timeout", "cancelled"
]
WorkerStatus: TypeAlias = Literal["idle", "busy", "unknown"]
LaneName: TypeAlias = Literal["trio", "thread", "asyncio", "process"]


_MODES = frozenset({"train", "val", "test", None, UNSET})


def known_mode(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value not in _MODES:
        raise ValueError(f"mode={value!r}; the modes are 'train', 'val' and 'test', or None")


RunStatus: TypeAlias = Literal["running", "finished"]
