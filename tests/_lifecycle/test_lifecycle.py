"""The state machine and the waits between attempts."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_trio import Attempt, AttemptedRollout, AttemptStatus, RolloutConfig, RolloutStatus
from lightning_trio._lifecycle import TERMINAL_ATTEMPT, TERMINAL_ROLLOUT, RolloutPosition, end_attempt, retry_delay

RETRYABLE: list[AttemptStatus] = ["failed", "timeout", "unresponsive"]

# A rollout's status from its latest attempt's.


def status_after(status: AttemptStatus, number: int, config: RolloutConfig) -> RolloutStatus:
    """Return the status of a rollout whose attempt `number` is reported with `status`."""
    move = end_attempt(RolloutPosition("ro-1", "running", False, "at-1", "running", number, 0, config), "at-1", status)
    assert move is not None
    return move.status


@pytest.mark.parametrize("status", ["preparing", "running", "succeeded", "cancelled"])
def test_a_rollout_copies_what_needs_no_decision(status: AttemptStatus) -> None:
    config = RolloutConfig(max_attempts=3, retry_condition=RETRYABLE)

    assert status_after(status, 1, config) == status


@pytest.mark.parametrize("status", RETRYABLE)
def test_an_attempt_that_may_be_retried_requeues_its_rollout_until_the_last(status: AttemptStatus) -> None:
    config = RolloutConfig(max_attempts=3, retry_condition=[status])

    statuses = [status_after(status, number, config) for number in (1, 2, 3, 4)]

    assert statuses == ["requeuing", "requeuing", "failed", "failed"]


@pytest.mark.parametrize("status", RETRYABLE)
def test_a_status_outside_the_retry_condition_fails_the_rollout_at_once(status: AttemptStatus) -> None:
    others = [other for other in RETRYABLE if other != status]

    assert status_after(status, 1, RolloutConfig(max_attempts=3, retry_condition=others)) == "failed"


@pytest.mark.parametrize("status", RETRYABLE)
def test_by_default_nothing_is_retried(status: AttemptStatus) -> None:
    assert status_after(status, 1, RolloutConfig()) == "failed"


configs = st.builds(
    RolloutConfig,
    max_attempts=st.integers(1, 5),
    retry_condition=st.lists(st.sampled_from(RETRYABLE), unique=True),
)


@settings(deadline=None)
@given(st.sampled_from(get_args(AttemptStatus)), st.integers(1, 6), configs)
def test_an_ended_attempt_ends_its_rollout_or_requeues_it(
    status: AttemptStatus, number: int, config: RolloutConfig
) -> None:
    after: RolloutStatus = status_after(status, number, config)

    assert after in get_args(RolloutStatus)
    assert (status in TERMINAL_ATTEMPT) == (after in TERMINAL_ROLLOUT or after == "requeuing")


@settings(deadline=None)
@given(st.sampled_from(RETRYABLE), configs)
def test_there_are_never_more_attempts_than_asked_for(status: AttemptStatus, config: RolloutConfig) -> None:
    number = 1
    while status_after(status, number, config) == "requeuing":
        number += 1

    assert number == (config.max_attempts if status in config.retry_condition else 1)


# Waits.

seconds = st.floats(0, 1e6)
backoffs = st.builds(
    RolloutConfig, backoff_seconds=seconds, backoff_max_seconds=seconds, backoff_jitter=st.floats(0, 1)
)
randoms = st.floats(0, 1, exclude_max=True)
numbers = st.integers(1, 2000)


@pytest.mark.parametrize(("number", "longest"), [(1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (2000, 30.0)])
def test_by_default_waits_double_from_half_a_second_to_thirty(number: int, longest: float) -> None:
    shortest = retry_delay(number, RolloutConfig(), 0.0)

    assert shortest == longest / 2
    assert retry_delay(number, RolloutConfig(), 0.999999) == pytest.approx(longest, rel=1e-5)


@settings(deadline=None)
@given(numbers, backoffs, randoms)
def test_a_wait_is_never_negative_nor_longer_than_the_longest(
    number: int, config: RolloutConfig, random: float
) -> None:
    delay = retry_delay(number, config, random)

    assert 0 <= delay <= config.backoff_max_seconds * (1 + 1e-12)


@settings(deadline=None)
@given(numbers, backoffs, randoms)
def test_waits_never_get_shorter_from_attempt_to_attempt(number: int, config: RolloutConfig, random: float) -> None:
    assert retry_delay(number, config, random) <= retry_delay(number + 1, config, random)


@settings(deadline=None)
@given(numbers, backoffs, randoms)
def test_only_the_share_called_jitter_is_random(number: int, config: RolloutConfig, random: float) -> None:
    whole = min(config.backoff_seconds * 2.0 ** min(number - 1, 63), config.backoff_max_seconds)

    delay = retry_delay(number, config, random)

    assert delay >= whole * (1 - config.backoff_jitter) * (1 - 1e-12)
    assert delay <= whole * (1 + 1e-12)


def test_without_jitter_the_wait_is_the_same_each_time() -> None:
    config = RolloutConfig(backoff_jitter=0)

    assert retry_delay(2, config, 0.0) == retry_delay(2, config, 0.9) == 1.0


def test_a_backoff_of_zero_does_not_wait() -> None:
    assert retry_delay(9, RolloutConfig(backoff_seconds=0), 0.9) == 0.0


# Configuration.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_seconds": 0}, "timeout_seconds=0 is not positive; leave it None for no limit"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds=nan is not positive"),
        ({"unresponsive_seconds": -1}, "unresponsive_seconds=-1 is not positive"),
        ({"max_attempts": 0}, "max_attempts=0: pass at least 1"),
        ({"retry_condition": ["timeout", "succeeded"]}, r"retry_condition names \['succeeded'\]"),
        ({"backoff_seconds": -1}, "backoff_seconds=-1 is negative"),
        ({"backoff_max_seconds": float("nan")}, "backoff_max_seconds=nan is negative"),
        ({"backoff_jitter": 2}, "'backoff_jitter' must be <= 1"),
    ],
)
def test_a_bad_configuration_is_refused_by_name_and_value(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RolloutConfig(**options)  # type: ignore[arg-type]  # bad input


def test_an_attempted_rollout_refuses_the_attempt_of_another() -> None:
    with pytest.raises(ValueError, match="attempt at-1 belongs to rollout ro-2, not to ro-1"):
        AttemptedRollout("ro-1", "task", 0.0, attempt=Attempt("ro-2", "at-1", 1, 0.0))
