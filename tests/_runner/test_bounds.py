"""Retries by exception, and the time limits of a rollout: in the queue, and for all its attempts."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner, UsageError
from lightning_trio._lifecycle import RolloutPosition, allowance, end_attempt, is_final
from lightning_trio._records import FINAL, RETRY_NOW, ErrorRecord, Next, exception_names, is_named


class Flaky(ConnectionError):
    """An error that justifies another attempt."""


async def statuses(runner: Runner) -> list[agl.AttemptStatus]:
    [rollout] = await runner.store.query_rollouts()
    return [attempt.status for attempt in await runner.store.query_attempts(rollout.rollout_id)]


async def last_error(runner: Runner) -> agl.ErrorRecord:
    [rollout] = await runner.store.query_rollouts()
    attempt = await runner.store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    assert attempt.error is not None
    return attempt.error


# Retries by exception.


def failing_with(*errors: Exception | None) -> Any:
    async def agent(task: int, rollout: agl.AttemptedRollout) -> float:
        error = errors[rollout.attempt.sequence_id - 1]
        agl.emit_message(f"attempt {rollout.attempt.sequence_id}")
        if error is not None:
            raise error
        return 1.0

    return agent


@pytest.mark.parametrize(
    "named",
    [Flaky, ConnectionError, OSError, "Flaky", "builtins.OSError", f"{__name__}.Flaky"],
    ids=str,
)
async def test_only_attempts_that_raised_what_is_named_are_tried_again(autojump_clock: MockClock, named: Any) -> None:
    config = RolloutConfig(max_attempts=5, retry_exceptions=[named])
    runner = Runner(failing_with(Flaky(), Flaky(), ValueError(), None), config=config)

    result = await runner.fit([1])

    assert result.counts["failed"] == 1
    assert await statuses(runner) == ["failed"] * 3


async def test_all_attempts_are_kept_side_by_side_with_their_errors_and_spans(autojump_clock: MockClock) -> None:
    runner = Runner(
        failing_with(Flaky("one"), Flaky("two"), None), config=RolloutConfig(max_attempts=5, retry_exceptions=[Flaky])
    )
    await runner.fit([1])

    [rollout] = await runner.store.query_rollouts()
    attempts = await runner.store.query_attempts(rollout.rollout_id)
    messages = [
        [agl.get_message_value(span) for span in await runner.store.query_spans(rollout.rollout_id, each.attempt_id)][1]
        for each in attempts
    ]
    assert [each.error.message if each.error else None for each in attempts] == ["one", "two", None]
    assert [each.final_reward for each in attempts] == [None, None, 1.0]
    assert messages == ["attempt 1", "attempt 2", "attempt 3"]


async def test_step_tries_again_by_exception_as_well(autojump_clock: MockClock) -> None:
    config = RolloutConfig(max_attempts=5, retry_exceptions=[Flaky])
    async with Runner(failing_with(Flaky(), KeyError("no")), config=config) as runner:
        with pytest.raises(KeyError):
            await runner.step(1)

        assert await statuses(runner) == ["failed", "failed"]


@pytest.mark.parametrize(
    ("group", "attempts"),
    [
        (ExceptionGroup("one", [Flaky()]), 2),
        (ExceptionGroup("nested", [ExceptionGroup("", [Flaky()]), TimeoutError()]), 2),
        (ExceptionGroup("mixed", [Flaky(), ValueError()]), 1),
    ],
    ids=lambda value: getattr(value, "message", ""),
)
async def test_of_a_group_all_members_must_be_named(
    autojump_clock: MockClock, group: ExceptionGroup[Exception], attempts: int
) -> None:
    config = RolloutConfig(max_attempts=2, retry_exceptions=[Flaky, TimeoutError])
    runner = Runner(failing_with(group, None), config=config)

    await runner.fit([1])

    assert len(await statuses(runner)) == attempts


async def test_an_exception_named_says_nothing_about_deadlines(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> None:
        await trio.sleep_forever()

    runner = Runner(agent, config=RolloutConfig(timeout_seconds=1, max_attempts=3, retry_exceptions=[TimeoutError]))
    await runner.fit([1])

    assert await statuses(runner) == ["timeout"]


def test_classes_are_kept_by_name_so_that_they_travel() -> None:
    config = RolloutConfig(retry_exceptions=[Flaky, TimeoutError, "RateLimitError", "not_imported.Error"])

    assert config.retry_exceptions == (
        f"{__name__}.Flaky",
        "builtins.TimeoutError",
        "RateLimitError",
        "not_imported.Error",
    )
    assert RolloutConfig(retry_exceptions=config.retry_exceptions) == config


def test_a_name_by_which_a_class_is_imported_means_the_class() -> None:
    assert exception_names(["lightning_trio._errors.AttemptTimedOut"]) == ("lightning_trio.AttemptTimedOut",)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([int], "retry_exceptions names <class 'int'>, which is not an exception"),
        (["int"], "retry_exceptions names 'int', which is not an exception"),
        (["trio.sleep"], "retry_exceptions names 'trio.sleep', which is not an exception"),
        ([429], "retry_exceptions names 429, which is not an exception; pass classes, or names such as"),
        (["rate limit"], "retry_exceptions names 'rate limit'"),
        ([""], "retry_exceptions names ''"),
        ("OSError", r"retry_exceptions='OSError'; pass a list: retry_exceptions=\['OSError'\]"),
        (OSError, r"pass a list: retry_exceptions=\[OSError\]"),
    ],
    ids=str,
)
def test_what_is_no_exception_is_refused_at_once(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RolloutConfig(retry_exceptions=wrong)


def test_a_name_that_its_module_does_not_have_is_refused_before_anything_runs() -> None:
    config = RolloutConfig(retry_exceptions=["trio.TooSlowErorr"])

    with pytest.raises(UsageError, match=r"config has retry_exceptions=\['trio.TooSlowErorr'\], and its module has"):
        Runner(failing_with(None), config=config)
    with pytest.raises(UsageError, match="the agent's config has retry_exceptions"):
        Runner(agl.rollout(config=config)(failing_with(None)))


def test_an_exception_that_could_not_come_over_is_known_by_its_type() -> None:
    config = RolloutConfig(retry_exceptions=["openai.RateLimitError"])

    assert not is_final("failed", ErrorRecord("RateLimitError", "", ""), config, 0.0)
    assert is_final("failed", ErrorRecord("KeyError", "", ""), config, 0.0)


def test_naming_exceptions_means_that_failures_are_tried_again() -> None:
    config = RolloutConfig(max_attempts=2, retry_exceptions=[OSError])

    def status_after(status: agl.AttemptStatus, number: int, following: Next = RETRY_NOW) -> agl.RolloutStatus:
        position = RolloutPosition("ro-1", "running", False, "at-1", "running", number, 0, config)
        move = end_attempt(position, "at-1", status, following)
        assert move is not None
        return move.status

    assert status_after("failed", 1) == "requeuing"
    assert status_after("failed", 2) == "failed"
    assert status_after("failed", 1, FINAL) == "failed"
    assert status_after("timeout", 1) == "failed"


def test_a_bare_name_means_every_class_of_that_name() -> None:
    class Inner(Exception): ...

    assert is_named(Inner(), ["Inner"])
    assert is_named(Inner(), exception_names([Inner]))
    assert not is_named(Inner(), ["elsewhere.Inner"])


# The time in the queue.


async def test_a_rollout_that_waited_too_long_in_the_queue_is_not_run(autojump_clock: MockClock) -> None:
    ran: list[int] = []

    async def agent(task: int) -> None:
        ran.append(task)

    config = RolloutConfig(queue_timeout_seconds=0.01, max_attempts=3, retry_condition=["timeout"])
    runner = Runner(agent, config=config)
    await runner.store.enqueue_rollout(1)
    time.sleep(0.02)  # noqa: ASYNC251 - the store tells the time that a calendar tells
    async with runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.serve)
        [rollout] = await runner.store.query_rollouts()
        [done] = await runner.store.wait_for_rollouts([rollout.rollout_id])
        nursery.cancel_scope.cancel()

    error = await last_error(runner)
    assert not ran
    assert done.status == "failed"
    assert await statuses(runner) == ["timeout"]
    assert error.type == "AttemptTimedOut"
    assert error.message.startswith("not run because it waited 0.0")
    assert error.message.endswith(" s in the queue; queue_timeout_seconds is 0.01")


async def test_a_rollout_claimed_in_time_is_run(autojump_clock: MockClock) -> None:
    runner = Runner(failing_with(None), config=RolloutConfig(queue_timeout_seconds=3600))

    assert (await runner.fit([1])).counts["succeeded"] == 1


async def test_only_the_first_claim_is_bounded() -> None:
    config = RolloutConfig(
        queue_timeout_seconds=3600, max_attempts=2, retry_condition=["failed"], backoff_seconds=0, timeout_seconds=5
    )

    assert allowance(config, 1, waited=3601, spent=0.0).seconds == 0
    assert allowance(config, 2, waited=3601, spent=0.0).seconds == 5


# The time of all attempts.


async def sleep_and_fail(task: float) -> None:
    await trio.sleep(task)
    raise ValueError


async def test_the_last_attempt_is_cut_to_what_is_left_of_the_rollouts_time(autojump_clock: MockClock) -> None:
    config = RolloutConfig(
        timeout_seconds=8,
        total_timeout_seconds=20,
        max_attempts=9,
        retry_condition=["failed", "timeout"],
        backoff_seconds=1,
        backoff_max_seconds=1,
        backoff_jitter=0,
    )
    async with Runner(sleep_and_fail, config=config) as runner:
        with pytest.raises(agl.AttemptTimedOut, match="stopped because its rollout had taken 20 s") as caught:
            await runner.step(100)

    assert (caught.value.seconds, caught.value.parameter) == (20, "total_timeout_seconds")
    # 8 s, 1 s of waiting, 8 s, 1 s of waiting, 2 s.
    assert trio.current_time() == pytest.approx(20)
    assert await statuses(runner) == ["timeout"] * 3


async def test_no_retry_begins_after_the_rollouts_time(autojump_clock: MockClock) -> None:
    config = RolloutConfig(
        total_timeout_seconds=10, max_attempts=9, retry_condition=["failed"], backoff_seconds=6, backoff_jitter=0
    )
    async with Runner(sleep_and_fail, config=config) as runner:
        with pytest.raises(ValueError):  # noqa: PT011 - the agent's
            await runner.step(5)

    assert trio.current_time() == pytest.approx(5)
    assert await statuses(runner) == ["failed"]


async def test_a_total_alone_is_the_first_attempts_deadline(autojump_clock: MockClock) -> None:
    runner = Runner(sleep_and_fail, config=RolloutConfig(total_timeout_seconds=3))

    await runner.fit([100])

    assert trio.current_time() == pytest.approx(3)
    assert await statuses(runner) == ["timeout"]


async def test_claimed_attempts_count_from_the_first_one() -> None:
    """Measured by the store's real clock, so a slow machine may make few attempts, but none makes too many."""
    config = RolloutConfig(
        total_timeout_seconds=0.3,
        max_attempts=1000,
        retry_condition=["failed", "timeout"],
        backoff_seconds=0.1,
        backoff_max_seconds=0.1,
    )
    runner = Runner(sleep_and_fail, config=config)
    with trio.fail_after(10):
        result = await runner.fit([0.01])

    assert result.counts["failed"] == 1
    assert 1 <= len(await statuses(runner)) < 10


async def test_waiting_for_a_slot_counts_neither_against_an_attempt_nor_a_rollout(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> float:
        await trio.sleep(4)
        return 1.0

    config = RolloutConfig(timeout_seconds=5, total_timeout_seconds=5)
    async with Runner(agent, config=config, max_concurrency=1) as runner:
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(runner.step, number)
        result = await runner.fit(range(5))

    assert trio.current_time() == pytest.approx(40)
    assert result.counts["succeeded"] == 5
    assert runner.statistics().succeeded == 10


@pytest.mark.parametrize("name", ["queue_timeout_seconds", "total_timeout_seconds"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_bound_is_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value} is not positive; leave it None for no limit"):
        RolloutConfig(**{name: value})  # type: ignore[arg-type]


@given(
    timeout=st.none() | st.floats(0.001, 1e6),
    total=st.none() | st.floats(0.001, 1e6),
    spent=st.floats(0, 2e6),
)
def test_an_attempt_never_gets_more_than_its_own_time_nor_than_is_left(
    timeout: float | None, total: float | None, spent: float
) -> None:
    config = RolloutConfig(timeout_seconds=timeout, total_timeout_seconds=total)

    allowed = allowance(config, 2, 0.0, spent)

    assert allowed.seconds >= 0
    assert timeout is None or allowed.seconds <= timeout
    assert total is None or allowed.seconds <= max(total - spent, 0.0)
    assert allowed.final == (allowed.seconds < (math.inf if timeout is None else timeout))
