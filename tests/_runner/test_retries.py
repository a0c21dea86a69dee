"""Retries: which attempts are tried again, how long they wait, and what the store holds then."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner
from lightning_trio._lifecycle import retry_delay


def retrying(max_attempts: int = 3, *conditions: agl.AttemptStatus, **more: float) -> RolloutConfig:
    return RolloutConfig(max_attempts=max_attempts, retry_condition=conditions or ("failed",), **more)  # type: ignore[arg-type]


async def third_time_lucky(task: int, rollout: agl.AttemptedRollout) -> float:
    if rollout.attempt.sequence_id < 3:
        raise ValueError(rollout.attempt.sequence_id)
    return 1.0


async def failing(task: int) -> None:
    agl.emit_message("tried")
    raise ZeroDivisionError


async def statuses(runner: Runner) -> list[agl.AttemptStatus]:
    [rollout] = await runner.store.query_rollouts()
    return [attempt.status for attempt in await runner.store.query_attempts(rollout.rollout_id)]


async def test_a_failed_attempt_is_tried_again(autojump_clock: MockClock) -> None:
    runner = Runner(third_time_lucky, config=retrying())

    result = await runner.fit([1])

    assert result.counts == {"cancelled": 0, "failed": 0, "succeeded": 1}
    assert await statuses(runner) == ["failed", "failed", "succeeded"]


async def test_an_agent_that_changes_its_task_changes_no_other_attempts(autojump_clock: MockClock) -> None:
    async def agent(task: dict[str, list[str]], rollout: agl.AttemptedRollout) -> float:
        [question] = task.pop("questions")
        return await third_time_lucky(len(question), rollout)

    task = {"questions": ["why?"]}
    result = await Runner(agent, config=retrying()).fit([task], [task])

    assert result.counts["succeeded"] == 2
    assert task == {"questions": ["why?"]}


async def test_step_returns_the_attempt_that_succeeded(autojump_clock: MockClock) -> None:
    async with Runner(third_time_lucky, config=retrying()) as runner:
        done = await runner.step(1)

        assert (done.status, done.attempt.sequence_id, done.final_reward) == ("succeeded", 3, 1.0)
        assert await statuses(runner) == ["failed", "failed", "succeeded"]


async def test_step_raises_what_the_last_attempt_raised(autojump_clock: MockClock) -> None:
    async with Runner(third_time_lucky, config=retrying(2)) as runner:
        with pytest.raises(ValueError, match="2"):
            await runner.step(1)


async def test_max_attempts_counts_the_first(autojump_clock: MockClock) -> None:
    runner = Runner(failing, config=retrying(4))

    result = await runner.fit([1])

    assert result.counts["failed"] == 1
    assert await statuses(runner) == ["failed"] * 4


async def test_only_the_statuses_named_are_tried_again(autojump_clock: MockClock) -> None:
    runner = Runner(failing, config=retrying(3, "timeout"))

    await runner.fit([1])

    assert await statuses(runner) == ["failed"]


async def test_a_timeout_is_tried_again_where_it_is_named(autojump_clock: MockClock) -> None:
    async def slow_at_first(task: int, rollout: agl.AttemptedRollout) -> float:
        if rollout.attempt.sequence_id == 1:
            await trio.sleep_forever()
        return 1.0

    runner = Runner(slow_at_first, config=retrying(2, "timeout", timeout_seconds=5))
    result = await runner.fit([1])

    assert result.counts["succeeded"] == 1
    assert await statuses(runner) == ["timeout", "succeeded"]


async def test_silence_is_tried_again_where_it_is_named(autojump_clock: MockClock) -> None:
    async def silent(task: int) -> None:
        await trio.sleep_forever()

    runner = Runner(silent, config=retrying(2, "unresponsive", unresponsive_seconds=5))
    await runner.fit([1])

    assert await statuses(runner) == ["unresponsive", "unresponsive"]


async def test_every_attempt_has_its_own_trace_and_spans(autojump_clock: MockClock) -> None:
    runner = Runner(failing, config=retrying(3))
    await runner.fit([1])

    [rollout] = await runner.store.query_rollouts()
    spans = await runner.store.query_spans(rollout.rollout_id)
    latest = await runner.store.query_spans(rollout.rollout_id, "latest")
    assert len(spans) == 6
    assert len({span.trace_id for span in spans}) == 3
    assert [span.sequence_id for span in latest] == [1, 2]


@pytest.mark.parametrize("through", ["fit", "step"])
async def test_the_wait_doubles(autojump_clock: MockClock, through: str) -> None:
    times: list[float] = []

    async def agent(task: int) -> None:
        times.append(trio.current_time())
        raise ZeroDivisionError

    runner = Runner(agent, config=retrying(5, backoff_seconds=1, backoff_max_seconds=4, backoff_jitter=0))
    if through == "fit":
        await runner.fit([1])
    else:
        async with runner:
            with pytest.raises(ZeroDivisionError):
                await runner.step(1)

    assert times == [pytest.approx(seconds) for seconds in (0, 1, 3, 7, 11)]


@given(attempt=st.integers(1, 10_000), random=st.floats(0, 1, exclude_max=True), jitter=st.floats(0, 1))
def test_a_wait_is_never_longer_than_the_limit_nor_shorter_than_its_fixed_share(
    attempt: int, random: float, jitter: float
) -> None:
    config = RolloutConfig(backoff_jitter=jitter)

    delay = retry_delay(attempt, config, random)

    whole = min(0.5 * 2.0 ** min(attempt - 1, 40), 30.0)
    assert whole * (1 - jitter) <= delay * (1 + 1e-9)
    assert delay <= whole * (1 + 1e-9)


async def test_rollouts_that_failed_together_return_at_different_times(autojump_clock: MockClock) -> None:
    times: set[float] = set()

    async def agent(task: int, rollout: agl.AttemptedRollout) -> None:
        if rollout.attempt.sequence_id == 1:
            raise ValueError
        times.add(trio.current_time())

    await Runner(agent, config=retrying(2, backoff_seconds=8)).fit(range(50))

    assert len(times) > 25
    assert min(times) >= 4
    assert max(times) <= 8


async def test_while_one_waits_for_its_retry_others_use_its_slot(autojump_clock: MockClock) -> None:
    async def agent(task: int, rollout: agl.AttemptedRollout) -> None:
        if task == 0 and rollout.attempt.sequence_id == 1:
            raise ValueError
        await trio.sleep(1)

    config = retrying(2, backoff_seconds=20, backoff_jitter=0)
    result = await Runner(agent, config=config, max_concurrency=1).fit(range(5))

    assert result.counts["succeeded"] == 5
    assert trio.current_time() == pytest.approx(21)


async def test_cancelled_between_attempts_a_step_ends_as_cancelled(autojump_clock: MockClock) -> None:
    async with Runner(failing, config=retrying(backoff_seconds=10)) as runner:
        with trio.move_on_after(1):
            await runner.step(1)

        [rollout] = await runner.store.query_rollouts()
        assert rollout.status == "cancelled"
        assert runner.statistics().retrying == 0


async def test_cancelled_between_attempts_a_fit_leaves_its_rollout_in_the_queue(autojump_clock: MockClock) -> None:
    store = agl.InMemoryLightningStore()
    with trio.move_on_after(1):
        await Runner(third_time_lucky, store=store, config=retrying(backoff_seconds=10)).fit([1])
    [rollout] = await store.query_rollouts()

    async with Runner(third_time_lucky, store=store) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.serve)
        [done] = await store.wait_for_rollouts([rollout.rollout_id])
        nursery.cancel_scope.cancel()
    assert rollout.status == "requeuing"
    assert done.status == "succeeded"


async def test_a_retry_frees_its_slot_each_time(autojump_clock: MockClock) -> None:
    async with Runner(failing, config=retrying(3), max_concurrency=2) as runner:
        await runner.fit(range(6))
        async with runner.stream(range(6)) as results:
            _ = [done async for done in results]

        assert runner.statistics().running == 0
        assert runner.statistics().attempts == 36
        with trio.fail_after(100), pytest.raises(ZeroDivisionError):
            await runner.step(1)
