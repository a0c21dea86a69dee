"""The configuration of a rollout: time limits and retries of its attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from .._plain_record import PlainRecord
from .._public import public
from ._exception_names import exception_names
from ._statuses import AttemptStatus


def _number(attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{attribute.name}={value!r} is of type {type(value).__name__}; pass a number of seconds")


def _positive(instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is None:
        return
    _number(attribute, value)
    if not value > 0:
        raise ValueError(f"{attribute.name}={value!r} is not positive; leave it None for no limit")


def _not_negative(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    _number(attribute, value)
    if not value >= 0:
        raise ValueError(f"{attribute.name}={value!r} is negative; pass a number of seconds, 0 for no wait")


def _at_least_one(instance: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{attribute.name}={value!r} is of type {type(value).__name__}; pass a whole number")
    if value < 1:
        raise ValueError(f"{attribute.name}={value!r}: pass at least 1")


_RETRYABLE = frozenset({"failed", "timeout", "unresponsive"})


def _retryable(instance: object, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    if wrong := [status for status in value if status not in _RETRYABLE]:
        raise ValueError(f"retry_condition names {wrong}; it takes a list of statuses out of {sorted(_RETRYABLE)}")


def _statuses(value: Sequence[AttemptStatus]) -> tuple[AttemptStatus, ...]:
    if isinstance(value, str):
        raise TypeError(f"retry_condition={value!r} is a string; write a list: retry_condition=[{value!r}]")
    return tuple(value)


@public
@attrs.frozen
class RolloutConfig(PlainRecord):
    """The time limits of a rollout's attempts, and which of them are retried.

    Args:
        timeout_seconds: an attempt is stopped once it has run this long; None for no limit.
        unresponsive_seconds: an attempt is stopped once it has recorded no span for this long.
        max_attempts: the number of attempts of a rollout, including the first.
        retry_condition: the attempt statuses that are retried: ``"failed"``, ``"timeout"``,
            ``"unresponsive"``.
        backoff_seconds: the wait before the second attempt; it doubles before each further one.
        backoff_max_seconds: the longest wait between two attempts.
        backoff_jitter: the random share of the wait, from 0 to 1, so that attempts that failed together are not
            retried together.
        max_lost_attempts: how many attempts may be lost with their runner before the rollout fails, so that a task
            that kills its process does not go from runner to runner for ever. They do not count towards
            `max_attempts`. As many may fail because another asyncio rollout was stopped.
        retry_exceptions: failed attempts are retried only if they raised one of these: classes, or their names with
            or without the module, such as ``"openai.RateLimitError"``. Of a group, all members must be among them.
        queue_timeout_seconds: a rollout that has waited longer than this to be claimed is not run.
        total_timeout_seconds: the time limit of all attempts together, including the waits between them, from the
            start of the first.

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
