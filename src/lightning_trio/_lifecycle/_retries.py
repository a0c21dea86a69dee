"""Whether and when a failed attempt is tried again."""

from __future__ import annotations

from .._errors import PayloadTooLarge
from .._records import AttemptStatus, ErrorRecord, RolloutConfig, is_named


def is_final(status: AttemptStatus, error: ErrorRecord | None, config: RolloutConfig, spent: float) -> bool:
    """Whether no further attempt follows, whatever `retry_condition` says; as after one that recorded too much.

    Args:
        status: the attempt's status.
        error: its error.
        config: the rollout's.
        spent: the seconds from the start of the first attempt to the start of the next one.

    >>> is_final("failed", ErrorRecord.from_exception(KeyError()), RolloutConfig(retry_exceptions=[OSError]), 0.0)
    True
    """
    if config.total_timeout_seconds is not None and spent >= config.total_timeout_seconds:
        return True
    if error is not None and error.type == PayloadTooLarge.__name__:
        return True
    if status != "failed" or not config.retry_exceptions or error is None:
        return False
    if error.exception is None:
        # It was raised in another process and could not be unpickled here.
        return error.type not in {name.rpartition(".")[2] for name in config.retry_exceptions}
    return not is_named(error.exception, config.retry_exceptions)


def retry_delay(sequence_id: int, config: RolloutConfig, random: float) -> float:
    """Return the wait in seconds after attempt number `sequence_id`; `random` lies in [0, 1).

    The wait doubles with each attempt up to `backoff_max_seconds`, and a share `backoff_jitter` of it is random.
    Source: "equal jitter" for 0.5 and "full jitter" for 1, in
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.

    >>> retry_delay(3, RolloutConfig(), 0.0), retry_delay(3, RolloutConfig(), 0.5)
    (1.0, 1.5)
    """
    # Capped because a larger exponent would overflow a float.
    whole = min(config.backoff_seconds * 2.0 ** min(sequence_id - 1, 63), config.backoff_max_seconds)
    return whole * (1.0 - config.backoff_jitter) + whole * config.backoff_jitter * random
