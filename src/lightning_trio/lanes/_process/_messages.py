"""The messages between a runner and its worker processes."""

from __future__ import annotations

import functools
import operator
import pickle
from typing import NamedTuple

import attrs

from ..._records import Attempt, AttemptedRollout, RolloutConfig

_ATTEMPT_FIELDS = tuple(field.name for field in attrs.fields(Attempt))
_ROLLOUT_FIELDS = tuple(
    field.name for field in attrs.fields(AttemptedRollout) if field.name not in ("attempt", "config")
)
_attempt_values = operator.attrgetter(*_ATTEMPT_FIELDS)
_rollout_values = operator.attrgetter(*_ROLLOUT_FIELDS)


class WorkerCall(NamedTuple):
    """One attempt, as it is sent to a worker process."""

    packed: bytes
    rollout: AttemptedRollout
    trace_id: str
    root_id: str
    sequence_id: int
    limit: int | None

    def encode(self) -> bytes:
        """Return the pickled call; its records are sent as field values, which takes a fifth of the time."""
        packed, rollout, *ids = self
        values = (packed, _dump_config(rollout.config), _rollout_values(rollout), _attempt_values(rollout.attempt), ids)
        return pickle.dumps(values, pickle.HIGHEST_PROTOCOL)

    @classmethod
    def decode(cls, data: bytes) -> WorkerCall:
        """Return the call that `encode` pickled."""
        packed, config, rollout_values, attempt_values, ids = pickle.loads(data)
        attempt = Attempt(**dict(zip(_ATTEMPT_FIELDS, attempt_values, strict=True)))
        fields = dict(zip(_ROLLOUT_FIELDS, rollout_values, strict=True))
        return cls(packed, AttemptedRollout(**fields, config=_load_config(config), attempt=attempt), *ids)


# Most rollouts of a runner share one configuration.


@functools.lru_cache(maxsize=64)
def _dump_config(config: RolloutConfig) -> bytes:
    return pickle.dumps(config)


@functools.lru_cache(maxsize=64)
def _load_config(data: bytes) -> RolloutConfig:
    config: RolloutConfig = pickle.loads(data)
    return config


class RemoteError(NamedTuple):
    """An exception of an agent in a worker process; `pickled` is None if it cannot be pickled, or holds a key.

    `names` decides about retries then, see `names_of_members`.
    """

    type: str
    message: str
    traceback: str
    names: tuple[frozenset[str], ...]
    pickled: bytes | None


class WorkerReport(NamedTuple):
    """The result of an attempt in a worker process: its return value or error, and the frames of its spans.

    `in_file` is how many bytes its journal has, if the frames are too large to be sent.
    """

    value: object
    error: RemoteError | None
    frames: bytes
    in_file: int
    sequence_id: int
    late_spans: int
    """How many spans of any attempt were refused since the last report."""

    def encode(self) -> bytes:
        """Return the pickled report."""
        return pickle.dumps(tuple(self), pickle.HIGHEST_PROTOCOL)

    @classmethod
    def decode(cls, data: bytes) -> WorkerReport:
        """Return the report that `encode` pickled."""
        return cls(*pickle.loads(data))
