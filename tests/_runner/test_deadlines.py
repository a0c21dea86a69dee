"""Deadlines: what they stop, what they record, and that they cost no slot and no other rollout."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import LitAgent, RolloutConfig, Runner


async def sleeper(task: float) -> float:
    await trio.sleep(task)
    return 1.0


def limit(seconds: float, **more: Any) -> RolloutConfig:
    return RolloutConfig(timeout_seconds=seconds, **more)


def named(agent: Any) -> str:
    return str(getattr(agent, "__name__", agent))


async def last_attempt(runner: Runner) -> agl.Attempt:
    [*_, rollout] = await runner.store.query_rollouts()
    attempt = await runner.store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    return attempt


async def test_a_native_agent_is_stopped_at_its_deadline(autojump_clock: MockClock) -> None:
    runner = Runner(sleeper, config=limit(2))

    result = await runner.fit([100])

    attempt = await last_attempt(runner)
    assert trio.current_time() == pytest.approx(2)
    assert result.counts["failed"] == 1
    assert attempt.status == "timeout"
    assert attempt.error is not None
    assert attempt.error.message == "stopped at its deadline after 2 s"


async def test_an_agent_in_time_is_left_alone(autojump_clock: MockClock) -> None:
    result = await Runner(sleeper, config=limit(2)).fit([1.9])

    assert result.counts["succeeded"] == 1


async def test_child_tasks_are_stopped_with_their_agent(autojump_clock: MockClock) -> None:
    stopped: list[float] = []

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            stopped.append(trio.current_time())

    async def agent(task: int) -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(child)
            inner.start_soon(child)

    await Runner(agent, config=limit(2)).fit([1])

    assert stopped == [pytest.approx(2)] * 2


async def test_neighbours_of_a_timed_out_rollout_continue(autojump_clock: MockClock) -> None:
    result = await Runner(sleeper, config=limit(2)).fit([100, 1, 1.5, 100, 1])

    assert result.counts == {"cancelled": 0, "failed": 2, "succeeded": 3}


async def test_a_child_that_fails_while_the_deadline_cancels_it_is_one_failed_attempt(
    autojump_clock: MockClock,
) -> None:
    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in the clean-up")

    async def agent(task: float) -> float:
        async with trio.open_nursery() as nursery:
            if task > 2:
                nursery.start_soon(child)
                nursery.start_soon(trio.sleep_forever)
            await trio.sleep(task)
        return 1.0

    runner = Runner(agent, config=limit(2))
    result = await runner.fit([1, 1.5, 5])

    attempt = await last_attempt(runner)
    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}
    assert attempt.status == "failed"
    assert attempt.error is not None
    assert attempt.error.type == "ValueError"
    assert "The attempt's deadline had passed when this was raised." in attempt.error.traceback


async def test_an_error_of_the_agent_comes_alone_although_a_watcher_runs_beside_it(autojump_clock: MockClock) -> None:
    @agl.rollout(config=limit(2, unresponsive_seconds=60))
    async def agent(task: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in the clean-up")

    async with Runner(agent) as runner:
        with pytest.raises(ValueError, match="in the clean-up"):
            await runner.step(1)


async def test_open_steps_are_closed_as_errors_that_say_so(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> None:
        with agl.operation(name="wait"):
            await trio.sleep_forever()

    runner = Runner(agent, config=limit(2))
    await runner.fit([1])

    attempt = await last_attempt(runner)
    root, step = await runner.store.query_spans(attempt.rollout_id)
    assert (root.status.status_code, step.status.status_code) == ("ERROR", "ERROR")
    assert root.status.description == "AttemptTimedOut: stopped at its deadline after 2 s"
    assert step.parent_id == root.span_id


async def test_what_was_emitted_before_the_deadline_is_kept(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> None:
        agl.emit_message("so far")
        await trio.sleep_forever()

    runner = Runner(agent, config=limit(2))
    await runner.fit([1])

    attempt = await last_attempt(runner)
    spans = await runner.store.query_spans(attempt.rollout_id)
    assert [agl.get_message_value(span) for span in spans] == [None, "so far"]


async def block(task: int) -> float:
    agl.emit_message("so far")
    time.sleep(0.6)  # noqa: ASYNC251 - the fault
    return 1.0


async def swallow_cancellation(task: int) -> float:
    agl.emit_message("so far")
    with suppress(trio.Cancelled):
        await trio.sleep_forever()
    return 1.0


@agl.rollout(runs_in="asyncio")
async def block_asyncio(task: int) -> float:
    return await block(task)


@agl.rollout(runs_in="asyncio")
async def swallow_cancellation_in_asyncio(task: int) -> float:
    agl.emit_message("so far")
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(60)
    return 1.0


@pytest.mark.parametrize(
    "agent", [block, swallow_cancellation, block_asyncio, swallow_cancellation_in_asyncio], ids=named
)
async def test_what_an_agent_returns_after_its_deadline_is_refused(agent: Any) -> None:
    # So long that the agent has begun by then on a busy machine, too.
    with trio.fail_after(20):
        async with Runner(agent, config=limit(0.4)) as runner, runner.stream([1]) as results:
            [done] = [done async for done in results]

    assert (done.status, done.attempt.status, done.final_reward) == ("failed", "timeout", None)
    assert done.error is not None
    assert done.error.message == "returned after its deadline of 0.4 s"
    assert "Its return value was refused because it came too late." in done.error.traceback
    assert agl.get_message_value(done.spans[1]) == "so far"
    assert runner.statistics().late_results == 1


async def test_a_silent_agent_that_swallows_its_cancellation_is_unresponsive(autojump_clock: MockClock) -> None:
    runner = Runner(swallow_cancellation, config=RolloutConfig(unresponsive_seconds=5))

    await runner.fit([1])

    attempt = await last_attempt(runner)
    assert (attempt.status, attempt.final_reward) == ("unresponsive", None)


async def test_an_agent_may_catch_its_own_timeouts(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> float:
        with trio.move_on_after(1):
            await trio.sleep_forever()
        return 1.0

    result = await Runner(agent, config=limit(2)).fit([1])

    assert result.counts["succeeded"] == 1


async def test_a_timeout_error_of_the_agent_is_a_failure_and_no_timeout(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> None:
        with trio.fail_after(1):
            await trio.sleep_forever()

    runner = Runner(agent, config=limit(2))
    await runner.fit([1])

    attempt = await last_attempt(runner)
    assert attempt.error is not None
    assert (attempt.status, attempt.error.type) == ("failed", "TooSlowError")


async def test_shielded_clean_up_may_take_its_time(autojump_clock: MockClock) -> None:
    cleaned: list[float] = []

    async def agent(task: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                cleaned.append(trio.current_time())

    runner = Runner(agent, config=limit(2))
    await runner.fit([1])

    assert cleaned == [pytest.approx(3)]
    assert (await last_attempt(runner)).status == "timeout"


async def test_without_a_deadline_nothing_is_stopped(autojump_clock: MockClock) -> None:
    result = await Runner(sleeper).fit([1000])

    assert result.counts["succeeded"] == 1


async def test_a_silent_agent_is_stopped_as_unresponsive(autojump_clock: MockClock) -> None:
    runner = Runner(sleeper, config=RolloutConfig(unresponsive_seconds=5))

    result = await runner.fit([100])

    attempt = await last_attempt(runner)
    assert result.counts["failed"] == 1
    assert trio.current_time() == pytest.approx(5)
    assert attempt.status == "unresponsive"
    assert attempt.error is not None
    assert attempt.error.message == "stopped because it recorded nothing for 5 s"


async def test_an_agent_that_records_something_now_and_then_is_not_unresponsive(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> float:
        for number in range(10):
            await trio.sleep(4)
            agl.emit_message(str(number))
        return 1.0

    result = await Runner(agent, config=RolloutConfig(unresponsive_seconds=5)).fit([1])

    assert result.counts["succeeded"] == 1


async def test_silence_is_counted_from_the_last_span(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> None:
        await trio.sleep(1)
        agl.emit_message("last words")
        await trio.sleep_forever()

    await Runner(agent, config=RolloutConfig(unresponsive_seconds=10)).fit([1])

    assert trio.current_time() == pytest.approx(11, abs=1)


async def test_the_deadline_wins_where_it_comes_before_silence_does(autojump_clock: MockClock) -> None:
    runner = Runner(sleeper, config=limit(2, unresponsive_seconds=5))

    await runner.fit([100])

    assert (await last_attempt(runner)).status == "timeout"


async def test_a_late_report_changes_nothing(autojump_clock: MockClock) -> None:
    runner = Runner(sleeper, config=limit(1))
    await runner.fit([100])
    attempt = await last_attempt(runner)
    late = agl.Span.from_attributes(
        attributes={}, rollout_id=attempt.rollout_id, attempt_id=attempt.attempt_id, name="late"
    )

    with pytest.raises(agl.StaleAttempt):
        await runner.store.update_attempt(attempt.rollout_id, attempt.attempt_id, status="succeeded")
    assert await runner.store.add_span(late) is None
    assert (await runner.store.statistics()).late_spans == 1
    assert await last_attempt(runner) == attempt


async def test_the_deadline_of_an_attempt_starts_when_it_has_a_slot(autojump_clock: MockClock) -> None:
    result = await Runner(sleeper, config=limit(2), max_concurrency=1).fit([1.5] * 4)

    assert result.counts["succeeded"] == 4


async def raise_native(task: int) -> None:
    raise ValueError


async def raise_group(task: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raise_native, task)
        nursery.start_soon(raise_native, task)


async def time_out_native(task: int) -> None:
    await trio.sleep_forever()


async def return_dict(task: int) -> dict[str, int]:
    return {}


async def return_nan(task: int) -> float:
    return float("nan")


async def exit_process(task: int) -> None:
    raise SystemExit(1)


async def raise_generator_exit(task: int) -> None:
    raise GeneratorExit


async def raise_generator_exit_in_child(task: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raise_generator_exit, task)


def raise_generator_exit_in_thread(task: int) -> None:
    raise GeneratorExit


@agl.rollout(runs_in="asyncio")
async def raise_generator_exit_in_asyncio(task: int) -> None:
    raise GeneratorExit


def raise_in_thread(task: int) -> None:
    raise ValueError


def time_out_in_thread(task: int) -> None:
    time.sleep(0.15)


def exit_in_thread(task: int) -> None:
    raise SystemExit(1)


def exit_thread_by_stop_iteration(task: int) -> None:
    raise StopIteration


@agl.rollout(runs_in="asyncio")
async def raise_in_asyncio(task: int) -> None:
    raise ValueError


@agl.rollout(runs_in="asyncio")
async def time_out_in_asyncio(task: int) -> None:
    await asyncio.sleep(60)


@agl.rollout(runs_in="asyncio")
async def exit_in_asyncio(task: int) -> None:
    raise SystemExit(1)


@agl.rollout(runs_in="trio")
async def asyncio_call_in_trio(task: int) -> None:
    await asyncio.sleep(0)


FAILING = [
    raise_native,
    raise_group,
    time_out_native,
    return_dict,
    return_nan,
    exit_process,
    raise_generator_exit,
    raise_generator_exit_in_child,
    raise_generator_exit_in_thread,
    raise_generator_exit_in_asyncio,
    raise_in_thread,
    time_out_in_thread,
    exit_in_thread,
    exit_thread_by_stop_iteration,
    raise_in_asyncio,
    time_out_in_asyncio,
    exit_in_asyncio,
    asyncio_call_in_trio,
]


@pytest.mark.parametrize("agent", FAILING, ids=named)
async def test_every_kind_of_failure_frees_its_slot(agent: LitAgent[Any] | Callable[..., Any]) -> None:
    """After three times as many failures as slots, a step still finds a slot."""
    ends_well = threading.Event()

    with trio.fail_after(20):
        async with Runner(agent, config=limit(0.05), max_concurrency=3) as runner:
            result = await runner.fit(range(9))
            async with runner.stream(range(9)) as results:
                streamed = [done.status async for done in results]
            with trio.move_on_after(5) as scope:
                with pytest.raises(BaseException):  # noqa: B017, PT011 - every kind of failure comes by
                    await runner.step(1)
                ends_well.set()

            assert not scope.cancelled_caught
            assert ends_well.is_set()
            assert result.counts["failed"] == 9
            assert streamed == ["failed"] * 9
            assert runner.statistics().running == 0


@pytest.mark.parametrize("seconds", [1e-12, 1e-9, 1e-4])
async def test_a_deadline_that_passes_before_a_thread_begins_frees_its_slot(seconds: float) -> None:
    def agent(task: int) -> None: ...

    with trio.fail_after(10):
        async with Runner(agent, config=limit(seconds), max_concurrency=1) as runner:
            result = await runner.fit(range(20))

            await trio.sleep(0.05)
            assert sum(result.counts.values()) == 20
            assert runner.statistics().abandoned_threads == 0
