"""The asyncio lane: agents written for asyncio, on one loop in a side thread."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading

import pytest
import trio

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner

pytestmark = pytest.mark.filterwarnings("error")


@agl.rollout(runs_in="asyncio")
async def half(task: float) -> float:
    await asyncio.sleep(0.001)
    return task / 2


def limit(seconds: float = 0.1) -> RolloutConfig:
    return RolloutConfig(timeout_seconds=seconds)


async def test_gives_what_the_agent_returned() -> None:
    async with Runner(half) as runner:
        done = await runner.step(3)

    assert done.final_reward == 1.5


async def test_raises_what_the_agent_raised() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        await asyncio.sleep(0)
        raise KeyError("room")

    async with Runner(agent) as runner:
        with pytest.raises(KeyError, match="room"):
            await runner.step(1)


async def test_all_agents_share_one_loop_in_one_side_thread() -> None:
    where: set[tuple[int, int]] = set()

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        await asyncio.sleep(0.01)
        where.add((id(asyncio.get_running_loop()), threading.get_ident()))

    result = await Runner(agent, max_concurrency=50).fit(range(50))

    assert result.counts["succeeded"] == 50
    assert len(where) == 1
    assert where.pop()[1] != threading.main_thread().ident


async def test_they_run_at_the_same_time() -> None:
    arrived: list[int] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        arrived.append(task)
        while len(arrived) < 20:
            await asyncio.sleep(0.001)

    with trio.fail_after(10):
        result = await Runner(agent, max_concurrency=20).fit(range(20))

    assert result.counts["succeeded"] == 20


async def test_emits_reach_their_rollout_from_child_tasks_and_threads() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        async def child() -> None:
            await asyncio.sleep(0.001)
            agl.emit_message(f"child {task}")

        async with asyncio.TaskGroup() as group:
            group.create_task(child())
        await asyncio.to_thread(agl.emit_message, f"thread {task}")

    async with Runner(agent, max_concurrency=20) as runner, runner.stream(range(20)) as results:
        async for done in results:
            texts = [agl.get_message_value(span) for span in done.spans[1:]]
            assert texts == [f"child {done.rollout.input}", f"thread {done.rollout.input}"]


async def test_context_variables_of_the_caller_reach_the_agent() -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    seen: list[str] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        seen.append(who.get())

    async with Runner(agent) as runner:
        who.set("me")
        await runner.step(1)

    assert seen == ["me"]


@pytest.mark.parametrize("exception", [SystemExit(3), asyncio.CancelledError()], ids=repr)
async def test_a_base_exception_fails_its_attempt_and_leaves_its_neighbours(exception: BaseException) -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        await asyncio.sleep(0.01)
        if task == 1:
            raise exception
        await asyncio.sleep(0.05)
        return 1.0

    with trio.fail_after(10):
        result = await Runner(agent).fit([0, 1, 2])

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}


async def test_at_its_deadline_an_agent_is_cancelled_and_its_finally_may_await() -> None:
    cleaned: list[str] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            for step in ("one", "two"):
                await asyncio.sleep(0.01)
                cleaned.append(step)

    with trio.fail_after(10):
        async with Runner(agent, config=limit()) as runner:
            with pytest.raises(agl.AttemptTimedOut):
                await runner.step(1)

    assert cleaned == ["one", "two"]


async def test_an_error_in_the_clean_up_at_the_deadline_is_a_failed_attempt() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("in the clean-up")

    async with Runner(agent, config=limit()) as runner:
        with pytest.raises(ValueError, match="in the clean-up"):
            await runner.step(1)

        [rollout] = await runner.store.query_rollouts(status_in=["failed"])
        attempt = await runner.store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    assert attempt.status == "failed"


async def test_a_cancelled_step_cancels_its_agent_and_waits_for_the_clean_up() -> None:
    events: list[str] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            events.append("cleaned")
            raise

    async with Runner(agent) as runner:
        with trio.move_on_after(0.05) as scope:
            await runner.step(1)
        events.append("step ended")

        [rollout] = await runner.store.query_rollouts()
    assert scope.cancelled_caught
    assert events == ["cleaned", "step ended"]
    assert rollout.status == "cancelled"


async def test_a_deadline_that_passes_before_the_agent_begins_still_ends_it() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        await asyncio.sleep(60)

    with trio.fail_after(10):
        result = await Runner(agent, config=limit(1e-9), max_concurrency=2).fit(range(10))

    assert result.counts["failed"] == 10


async def test_an_agent_may_use_asyncios_own_timeouts() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            return 1.0
        return 0.0

    result = await Runner(agent, config=limit(5)).fit([1])

    assert result.mean_reward["train"] == 1.0


async def test_one_runner_after_the_other_each_has_a_loop() -> None:
    for _ in range(3):
        assert (await Runner(half).fit([2])).mean_reward["train"] == 1.0

    assert not [thread for thread in threading.enumerate() if "asyncio" in thread.name]


async def test_no_loop_is_started_where_no_agent_needs_one() -> None:
    async def native(task: int) -> None: ...

    async with Runner(native) as runner:
        await runner.step(1)

        assert not [thread for thread in threading.enumerate() if "asyncio" in thread.name]


async def test_a_task_an_agent_left_behind_cannot_emit_into_its_rollout_any_more() -> None:
    heard: list[BaseException] = []
    tasks: list[asyncio.Task[None]] = []

    async def late() -> None:
        await asyncio.sleep(0.05)
        try:
            agl.emit_message("late")
        except agl.NoActiveRollout as exc:
            heard.append(exc)

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        tasks.append(asyncio.create_task(late()))

    async with Runner(agent) as runner:
        done = await runner.step(1)
        await trio.sleep(0.2)

    assert len(done.spans) == 1
    assert len(heard) == 1


async def test_leaving_a_task_behind_does_not_hold_the_runner_up() -> None:
    tasks: list[asyncio.Task[None]] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(60)))

    with trio.fail_after(5):
        await Runner(agent).fit([1])

    assert tasks[0].cancelled()


async def test_a_class_may_choose_the_lane() -> None:
    class Agent(agl.LitAgent[int]):
        runs_in = "asyncio"

        async def rollout_async(self, task: int, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
            await asyncio.sleep(0)
            return 1.0

    assert (await Runner(Agent()).fit([1])).mean_reward["train"] == 1.0


async def test_a_host_may_already_run_another_asyncio_loop_elsewhere() -> None:
    """The side loop is set for its own thread only."""
    await Runner(half).fit([1])

    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert "trio_asyncio" not in sys.modules
