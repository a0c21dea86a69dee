"""Sub-rollouts: an agent calls a runner, its own or another one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import patch

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner, UsageError
from lightning_trio._runner import _sub_rollouts


class Recursive:
    """An agent that calls a runner of itself, which a test sets."""

    runner: Runner

    async def __call__(self, task: int) -> float:
        return 1.0 + (0.0 if task == 0 else (await self.runner.step(task - 1)).final_reward or 0.0)


async def free_slots(runner: Runner) -> int:
    """Count the slots that rollouts can take at once."""
    engine: Any = runner._engine  # pyright: ignore[reportPrivateUsage]
    slots = engine._workers.slots
    count: int = slots.take_nowait(1000)
    slots.give_back(count)
    return count


@pytest.mark.parametrize("depth", [3, 100])
async def test_a_recursion_deeper_than_there_are_slots_returns(depth: int) -> None:
    agent = Recursive()
    async with Runner(agent.__call__, max_concurrency=2) as agent.runner:
        with trio.fail_after(20):
            done = await agent.runner.step(depth)
        free = await free_slots(agent.runner)

    assert done.final_reward == depth + 1
    assert free == 2


async def test_several_sub_rollouts_at_once_take_turns_on_the_slot_of_their_parent() -> None:
    running = peak = 0

    async def agent(task: str) -> float:
        nonlocal running, peak
        if task == "outer":
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(runner.step, "inner")
            return 1.0
        running += 1
        peak = max(peak, running)
        await wait_all_tasks_blocked()
        running -= 1
        return 1.0

    async with Runner(agent, max_concurrency=1) as runner:
        with trio.fail_after(3):
            await runner.step("outer")
        succeeded, free = runner.statistics().succeeded, await free_slots(runner)

    assert (succeeded, peak, free) == (6, 1, 1)


async def test_free_slots_are_used_besides_the_slot_of_the_parent() -> None:
    peak = 0

    async def agent(task: str) -> float:
        nonlocal peak
        if task == "outer":
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(runner.step, "inner")
            return 1.0
        await wait_all_tasks_blocked()
        peak = max(peak, runner.statistics().running - 1)
        return 1.0

    async with Runner(agent, max_concurrency=3) as runner:
        with trio.fail_after(3):
            await runner.step("outer")

    assert peak == 3


async def test_all_parents_can_wait_for_many_sub_rollouts_each() -> None:
    async def agent(task: int) -> float:
        if task:
            async with trio.open_nursery() as nursery:
                for _ in range(task):
                    nursery.start_soon(runner.step, task - 1)
        return 1.0

    async with Runner(agent, max_concurrency=3) as runner:
        with trio.fail_after(20):
            result = await runner.fit([4] * 5)
        succeeded, free = runner.statistics().succeeded, await free_slots(runner)

    assert result.counts["succeeded"] == 5
    assert (succeeded, free) == (5 * (1 + 4 + 12 + 24 + 24), 3)


async def test_a_sub_rollout_is_linked_to_its_parents_current_span_and_names_it() -> None:
    inner: list[agl.CompletedRollout] = []

    async def agent(task: str) -> float:
        if task == "outer":
            with agl.operation(name="plan"):
                inner.append(await runner.step("inner"))
        return 1.0

    async with Runner(agent) as runner:
        outer = await runner.step("outer")

    [plan] = [span for span in outer.spans if span.name == "agentlightning.operation"]
    [link] = inner[0].spans[0].links
    assert (link.context.trace_id, link.context.span_id) == (plan.trace_id, plan.span_id)
    assert link.attributes["agentlightning.rollout_id"] == outer.rollout.rollout_id
    assert inner[0].rollout.metadata == {
        "parent_rollout_id": outer.rollout.rollout_id,
        "parent_attempt_id": outer.attempt.attempt_id,
    }


async def test_the_spans_and_tokens_of_a_sub_rollout_are_its_own() -> None:
    inner: list[agl.CompletedRollout] = []

    async def agent(task: str) -> float:
        agl.emit_annotation({"gen_ai.usage.input_tokens": 10 if task == "outer" else 1000})
        if task == "outer":
            inner.append(await runner.step("inner"))
            agl.emit_message("after")
        return 1.0

    async with Runner(agent) as runner:
        outer = await runner.step("outer")

    assert (outer.attempt.usage.input_tokens, inner[0].attempt.usage.input_tokens) == (10, 1000)
    assert len({span.trace_id for span in (*outer.spans, *inner[0].spans)}) == 2
    assert agl.get_message_value(outer.spans[2]) == "after"


async def test_a_fit_counts_the_rollouts_asked_for_without_their_sub_rollouts() -> None:
    agent = Recursive()
    agent.runner = Runner(agent.__call__, max_concurrency=2)

    result = await agent.runner.fit([0, 1, 2, 3])

    assert dict(result.counts) == {"cancelled": 0, "failed": 0, "succeeded": 4}
    assert result.mean_reward["train"] == 2.5
    assert len(await agent.runner.store.query_rollouts()) == 4 + 1 + 2 + 3


async def test_fit_inside_an_agent_runs_on_its_slot_and_is_a_run_of_its_own() -> None:
    async def agent(task: Any) -> float:
        if task != "outer":
            return 0.5
        result = await runner.fit(["inner"] * 3)
        return result.mean_reward["train"] or 0.0

    async with Runner(agent, max_concurrency=1) as runner:
        with trio.fail_after(3):
            result = await runner.fit(["outer", "outer"])
        free = await free_slots(runner)
        rollouts = await runner.store.query_rollouts()

    assert (result.counts["succeeded"], result.mean_reward["train"], free) == (2, 0.5, 1)
    outer = {rollout.rollout_id for rollout in rollouts if rollout.input == "outer"}
    assert len({rollout.run_id for rollout in rollouts}) == 3
    assert {(rollout.metadata or {}).get("parent_rollout_id") for rollout in rollouts} == outer | {None}


async def test_a_stream_inside_an_agent_runs_on_its_slot() -> None:
    async def agent(task: Any) -> float:
        if task != "outer":
            return 0.5
        async with runner.stream(["inner"] * 4) as results:
            return sum([done.final_reward or 0.0 async for done in results])

    async with Runner(agent, max_concurrency=1) as runner:
        with trio.fail_after(3):
            done = await runner.step("outer")
        free = await free_slots(runner)

    assert (done.final_reward, free) == (2.0, 1)


async def test_a_thread_calls_its_own_runner() -> None:
    def agent(task: int) -> float:
        if task == 0:
            return 1.0
        return trio.from_thread.run(runner.step, task - 1).final_reward or 0.0

    async with Runner(agent, max_concurrency=1) as runner:
        with trio.fail_after(5):
            done = await runner.step(3)

    assert done.final_reward == 1.0


async def test_an_asyncio_agent_calls_its_own_runner() -> None:
    token = trio.lowlevel.current_trio_token()

    def step(task: int) -> agl.CompletedRollout:
        return trio.from_thread.run(runner.step, task, trio_token=token)

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        return 1.0 if task == 0 else (await asyncio.to_thread(step, task - 1)).final_reward or 0.0

    async with Runner(agent, max_concurrency=1) as runner:
        with trio.fail_after(5):
            done = await runner.step(3)

    assert done.final_reward == 1.0
    assert (done.rollout.metadata, runner.statistics().succeeded) == (None, 4)


async def test_two_runners_whose_agents_call_each_other() -> None:
    runners: list[Runner] = []

    async def agent(task: int) -> float:
        return 1.0 if task == 0 else (await runners[task % 2].step(task - 1)).final_reward or 0.0

    async with Runner(agent, max_concurrency=1) as first, Runner(agent, max_concurrency=1) as second:
        runners += [first, second]
        with trio.fail_after(5):
            done = await first.step(9)
        free = await free_slots(first), await free_slots(second)

    assert done.final_reward == 1.0
    assert free == (1, 1)


async def test_two_runners_that_are_full_of_rollouts_waiting_for_each_other() -> None:
    """Neither has an attempt of the other's above it, so nobody has a slot to lend."""
    started = 0

    async def agent(task: str) -> float:
        nonlocal started
        if task == "inner":
            return 1.0
        started += 1
        while started < 4:
            await trio.lowlevel.checkpoint()
        other = second if task == "first" else first
        return (await other.step("inner")).final_reward or 0.0

    async with Runner(agent, max_concurrency=2) as first, Runner(agent, max_concurrency=2) as second:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(first.step, "first")
                    nursery.start_soon(second.step, "second")
        succeeded = first.statistics().succeeded, second.statistics().succeeded
        free = await free_slots(first), await free_slots(second)

    assert succeeded == (4, 4)
    assert free == (2, 2)


@pytest.mark.parametrize(("slots", "runners", "steps"), [(1, 2, 2), (3, 2, 2), (4, 3, 8)])
async def test_runners_whose_agents_start_several_rollouts_of_the_next_one(
    slots: int, runners: int, steps: int
) -> None:
    """Those that are left when a lent slot comes back are stuck as before."""
    ring: list[Runner] = []

    def agent_of(number: int) -> Any:
        async def agent(task: int) -> float:
            async with trio.open_nursery() as nursery:
                for _ in range(2 if task else 0):
                    nursery.start_soon(ring[(number + 1) % runners].step, task - 1)
            return 1.0

        return agent

    async with contextlib.AsyncExitStack() as stack:
        for number in range(runners):
            ring.append(Runner(agent_of(number), max_concurrency=slots))
            await stack.enter_async_context(ring[-1])
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(steps):
                    nursery.start_soon(ring[number % runners].step, 2)
        free = [await free_slots(runner) for runner in ring]

    assert free == [slots] * runners


@pytest.mark.parametrize("call", ["step", "fit", "serve"])
async def test_another_trio_run_than_the_runners_is_told_how_to_reach_it(call: str) -> None:
    def agent(task: str) -> float:
        arguments = {"step": ["inner"], "fit": [["inner"]], "serve": []}[call]
        with pytest.raises(agl.NotInTrio, match=rf"another Trio run .* trio\.from_thread\.run\(runner\.{call}, …\)"):
            trio.run(getattr(runner, call), *arguments)
        return 1.0

    async with Runner(agent) as runner:
        with trio.fail_after(5):
            done = await runner.step("outer")

    assert done.final_reward == 1.0


async def test_an_asyncio_loop_is_told_how_to_reach_a_runner() -> None:
    def agent(task: str) -> float:
        with pytest.raises(agl.NotInTrio, match=r"embed\.open_asyncio\(runner\)"):
            asyncio.run(runner.step("inner"))
        return 1.0

    async with Runner(agent) as runner:
        done = await runner.step("outer")

    assert done.final_reward == 1.0


async def test_another_runners_limit_holds_for_the_sub_rollouts_of_many_parents() -> None:
    peak = 0

    async def judge(task: object) -> float:
        nonlocal peak
        peak = max(peak, judging.statistics().running)
        await wait_all_tasks_blocked()
        return 1.0

    async def agent(task: int) -> float:
        return (await judging.step(task)).final_reward or 0.0

    async with Runner(judge, max_concurrency=2) as judging, Runner(agent, max_concurrency=10) as runner:
        result = await runner.fit(list(range(10)))

    assert (result.counts["succeeded"], peak) == (10, 2)


async def test_the_deadline_of_the_parent_cancels_its_sub_rollout(autojump_clock: MockClock) -> None:
    async def agent(task: str) -> None:
        if task == "outer":
            await runner.step("inner")
        await trio.sleep(60)

    async with Runner(agent, max_concurrency=1, config=RolloutConfig(timeout_seconds=5)) as runner:
        with pytest.raises(agl.AttemptTimedOut):
            await runner.step("outer")
        rollouts = await runner.store.query_rollouts()
        free = await free_slots(runner)

    assert {rollout.input: rollout.status for rollout in rollouts} == {"outer": "failed", "inner": "cancelled"}
    assert free == 1


@pytest.mark.parametrize("lane", ["thread", "asyncio"])
async def test_the_deadline_of_a_parent_in_another_thread_cancels_its_sub_rollout(lane: str) -> None:
    token = trio.lowlevel.current_trio_token()
    raised: list[BaseException] = []
    ended = trio.Event()

    def step() -> None:
        try:
            trio.from_thread.run(inner.step, "inner", trio_token=token)
        except BaseException as exc:
            raised.append(exc)
            raise
        finally:
            trio.from_thread.run_sync(ended.set, trio_token=token)

    async def for_asyncio(task: str) -> None:
        await asyncio.to_thread(step)

    def in_thread(task: str) -> None:
        step()

    @agl.rollout
    async def sleeper(task: str) -> None:
        await trio.sleep(60)

    agent = agl.rollout(runs_in="asyncio")(for_asyncio) if lane == "asyncio" else agl.rollout(in_thread)
    async with Runner(sleeper) as inner, Runner(agent, config=RolloutConfig(timeout_seconds=0.3)) as outer:
        with trio.fail_after(5), pytest.raises(agl.AttemptTimedOut):
            await outer.step("outer")
        with trio.fail_after(5):
            await ended.wait()
        [rollout] = [each for each in await inner.store.query_rollouts() if each.input == "inner"]

    assert rollout.status == "cancelled"
    assert isinstance(raised[0], agl.AttemptAbandoned if lane == "thread" else agl.NoActiveRollout)


async def test_an_abandoned_thread_can_start_no_sub_rollout() -> None:
    token = trio.lowlevel.current_trio_token()
    raised: list[BaseException] = []
    ended = trio.Event()

    def agent(task: str) -> None:
        time.sleep(0.4)
        try:
            trio.from_thread.run(runner.step, "inner", trio_token=token)
        except agl.AttemptAbandoned as exc:
            raised.append(exc)
        finally:
            trio.from_thread.run_sync(ended.set, trio_token=token)

    async with Runner(agent, config=RolloutConfig(timeout_seconds=0.1)) as runner:
        with pytest.raises(agl.AttemptTimedOut):
            await runner.step("outer")
        with trio.fail_after(5):
            await ended.wait()

    assert len(raised) == 1


async def test_a_cancelled_call_ends_its_sub_rollout_and_the_parent_goes_on(autojump_clock: MockClock) -> None:
    async def agent(task: str) -> float:
        if task == "outer":
            with trio.move_on_after(1):
                await runner.step("inner")
            return 0.5
        await trio.sleep(60)
        return 1.0

    async with Runner(agent, max_concurrency=1) as runner:
        done = await runner.step("outer")
        rollouts = await runner.store.query_rollouts()
        free = await free_slots(runner)

    assert (done.final_reward, trio.current_time(), free) == (0.5, pytest.approx(1), 1)
    assert {rollout.input: rollout.status for rollout in rollouts} == {"outer": "succeeded", "inner": "cancelled"}


async def test_a_sub_rollouts_error_is_raised_in_its_parent() -> None:
    async def agent(task: str) -> float:
        if task == "inner":
            raise KeyError("lost")
        try:
            await runner.step("inner")
        except KeyError as exc:
            return float("lost" in str(exc))
        return 0.0

    async with Runner(agent, max_concurrency=1) as runner:
        done = await runner.step("outer")

    assert done.final_reward == 1.0


async def test_a_sub_rollout_is_retried_on_its_parents_slot(autojump_clock: MockClock) -> None:
    tries = 0

    async def agent(task: str) -> float:
        nonlocal tries
        if task == "outer":
            return (await runner.step("inner")).final_reward or 0.0
        tries += 1
        if tries < 3:
            raise KeyError(tries)
        return 1.0

    config = RolloutConfig(max_attempts=3, retry_condition=["failed"])
    async with Runner(agent, max_concurrency=1, config=config) as runner:
        done = await runner.step("outer")
        free = await free_slots(runner)

    assert (done.final_reward, tries, free) == (1.0, 3, 1)


async def test_a_parent_is_not_silent_while_its_sub_rollout_records(autojump_clock: MockClock) -> None:
    async def agent(task: str) -> float:
        if task == "outer":
            return (await runner.step("inner")).final_reward or 0.0
        for _ in range(20):
            await trio.sleep(1)
            agl.emit_message("alive")
        return 1.0

    async with Runner(agent, max_concurrency=1, config=RolloutConfig(unresponsive_seconds=5)) as runner:
        done = await runner.step("outer")

    assert done.final_reward == 1.0


async def test_a_sub_rollout_that_outlives_its_parent_keeps_the_slot(autojump_clock: MockClock) -> None:
    """It was started in a nursery around the runner, so nothing stops it with its parent."""

    async def agent(task: str) -> float:
        if task == "outer":
            nursery.start_soon(runner.step, "inner")
            await trio.sleep(1)
            return 1.0
        await trio.sleep(10)
        return 1.0

    async with Runner(agent, max_concurrency=1) as runner, trio.open_nursery() as nursery:
        await runner.step("outer")
        free_meanwhile = await free_slots(runner)
        await trio.sleep(20)
        free = await free_slots(runner)

    assert (free_meanwhile, free, runner.statistics().succeeded) == (0, 1, 2)


def in_its_own_trio(run: Callable[[], Awaitable[Any]]) -> Any:
    return trio.run(run)


async def test_a_runner_opened_in_a_thread_of_an_agent_names_the_parent() -> None:
    inner: list[agl.CompletedRollout] = []

    async def grade(task: object) -> float:
        return 1.0

    def agent(task: str) -> float:
        async def run() -> None:
            async with Runner(grade) as grading:
                inner.append(await grading.step("inner"))

        in_its_own_trio(run)
        return 1.0

    async with Runner(agent) as runner:
        outer = await runner.step("outer")

    assert (inner[0].rollout.metadata or {})["parent_rollout_id"] == outer.rollout.rollout_id
    assert inner[0].spans[0].links[0].context.trace_id == outer.spans[0].trace_id


# Attempts that wait for their own runner in other ways.


def waits_in_store(lane: str, queued: Callable[[], str | None]) -> tuple[Any, dict[str, Any]]:
    """Return an agent that puts a rollout into its runner's queue and waits for it, and where it finds the store."""
    here: dict[str, Any] = {}

    async def wait() -> float:
        store = here["store"]
        ids = await store.enqueue([agl.EnqueueRolloutRequest("inner")], run_id=queued())
        return float(len(await store.wait_for_rollouts(ids)))

    if lane == "thread":

        @agl.rollout(runs_in="thread")
        def in_thread(task: str) -> float:
            return trio.from_thread.run(wait) if task == "outer" else 1.0

        return in_thread, here

    async def in_trio(task: str) -> float:
        return await wait() if task == "outer" else 1.0

    return in_trio, here


@pytest.mark.parametrize("lane", ["trio", "thread"])
async def test_attempts_that_wait_in_the_store_for_rollouts_of_their_run_hold_no_slot_meanwhile(lane: str) -> None:
    agent, here = waits_in_store(lane, lambda: agl.current_rollout().run_id)
    runner = Runner(agent, max_concurrency=2)
    here["store"] = runner.store
    async with runner:
        with trio.fail_after(20):
            result = await runner.fit(["outer"] * 5)
        free = await free_slots(runner)

    assert result.counts["succeeded"] == 10
    assert free == 2


async def test_a_step_that_waits_in_the_store_for_what_its_runner_serves() -> None:
    agent, here = waits_in_store("trio", lambda: None)
    async with Runner(agent, max_concurrency=1) as runner, trio.open_nursery() as nursery:
        here["store"] = runner.store
        await nursery.start(runner.serve)
        with trio.fail_after(20):
            done = await runner.step("outer")
        nursery.cancel_scope.cancel()

    assert done.final_reward == 1.0


async def test_a_hook_that_waits_in_the_store_for_a_rollout_of_its_run() -> None:
    class Waits(agl.Hook):
        async def on_rollout_end(self, *, runner: Runner, rollout: agl.AttemptedRollout, **others: Any) -> None:
            if rollout.input == "outer":
                ids = await runner.store.enqueue([agl.EnqueueRolloutRequest("inner")], run_id=rollout.run_id)
                await runner.store.wait_for_rollouts(ids)

    async def agent(task: str) -> float:
        return 1.0

    with trio.fail_after(20):
        result = await Runner(agent, hooks=[Waits()], max_concurrency=1).fit(["outer"])

    assert result.counts["succeeded"] == 2


async def test_a_retry_that_all_slots_wait_for_gets_one_when_it_is_due(autojump_clock: MockClock) -> None:
    agent, here = waits_in_store("trio", lambda: agl.current_rollout().run_id)
    failed: list[str] = []

    async def fails_once(task: str) -> float:
        if task == "inner" and not failed:
            failed.append(task)
            raise ValueError
        return float(await agent(task))

    config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
    runner = Runner(fails_once, max_concurrency=1, config=config)
    here["store"] = runner.store
    with trio.fail_after(60):
        result = await runner.fit(["outer"])

    assert result.counts["succeeded"] == 2


@pytest.mark.parametrize("method", ["on_rollout_start", "on_trace_start", "on_trace_end", "on_rollout_end"])
@pytest.mark.parametrize("call", ["step", "fit", "stream"])
async def test_a_hook_calls_its_own_runner_whose_slots_are_all_held(method: str, call: str) -> None:
    inner: list[str] = []

    async def run_inner(self: agl.Hook, *, runner: Runner, rollout: agl.AttemptedRollout, **others: Any) -> None:
        if rollout.input == "inner":
            inner.append(rollout.rollout_id)
        elif call == "step":
            await runner.step("inner")
        elif call == "fit":
            await runner.fit(["inner"])
        else:
            async with runner.stream(["inner"]) as results:
                [_] = [done async for done in results]

    async def agent(task: str) -> float:
        return 1.0

    hook = type("Calls", (agl.Hook,), {method: run_inner})()
    async with Runner(agent, hooks=[hook], max_concurrency=2) as runner:
        with trio.fail_after(20):
            await runner.fit(["outer"] * 4)
        free = await free_slots(runner)

    assert len(inner) == 4
    assert free == 2


async def test_a_recursion_without_end_is_an_error() -> None:
    async def agent(task: str) -> None:
        await runner.step(task)

    with patch.object(_sub_rollouts, "_MOST_DEEP", 5):
        async with Runner(agent, max_concurrency=2) as runner:
            with trio.fail_after(20), pytest.raises(agl.AgentError, match="a sub-rollout at depth 5 and cannot have"):
                await runner.step("again")
            assert await free_slots(runner) == 2


# A runner that its own agent closes.


@pytest.mark.parametrize("lane", ["trio", "thread"])
@pytest.mark.parametrize("call", ["step", "fit"])
async def test_an_agent_that_closes_its_own_runner_gets_an_error_and_the_runner_goes_on(lane: str, call: str) -> None:
    async def close() -> None:
        await runner.__aexit__(None, None, None)

    async def in_trio(task: str) -> float:
        if task == "close":
            await close()
        return 1.0

    def in_thread(task: str) -> float:
        if task == "close":
            trio.from_thread.run(close)
        return 1.0

    async with Runner(in_trio if lane == "trio" else in_thread, max_concurrency=1) as runner:
        with trio.fail_after(20):
            if call == "step":
                with pytest.raises(UsageError, match=r"rollout ro-\w+ closes it, and closing waits for that rollout"):
                    await runner.step("close")
            else:
                assert (await runner.fit(["close"])).counts["failed"] == 1
            assert (await runner.step("go on")).final_reward == 1.0


async def test_a_runner_that_another_task_closes_goes_on() -> None:
    async def agent(task: str) -> float:
        return 1.0

    async with Runner(agent) as runner:

        async def close() -> None:
            with pytest.raises(UsageError, match="closed in the task that opened it"):
                await runner.__aexit__(None, None, None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close)
        assert (await runner.step("go on")).final_reward == 1.0
