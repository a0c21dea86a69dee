"""Whoever blocks Trio's thread is named, and others do not pay for it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner
from lightning_trio._runner import _loop_watch

LIMITED = RolloutConfig(timeout_seconds=0.3)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "Trio's thread has been blocked" in record.message]


def blocks_or_sleeps(seconds: float) -> Callable[[str], Awaitable[float]]:
    """Return an agent that blocks Trio's thread for the task "blocks", and sleeps for others."""

    async def agent(task: str) -> float:
        if task == "blocks":
            time.sleep(1)  # noqa: ASYNC251 - the fault
        else:
            await trio.sleep(seconds)
        return 1.0

    return agent


async def test_an_agent_that_blocks_is_named_once_with_its_line(caplog: pytest.LogCaptureFixture) -> None:
    async def agent(task: str) -> None:
        agl.emit_message(agl.current_rollout().rollout_id)
        time.sleep(1.8)  # noqa: ASYNC251 - the fault

    async with Runner(agent) as runner:
        done = await runner.step("blocks")

    [warning] = warnings_of(caplog)
    assert f"by rollout {done.rollout.rollout_id} (agent agent), in agent at {__file__}" in warning
    assert "time.sleep(1.8)" in warning
    assert {record.name for record in caplog.records} == {"lightning_trio.runner"}


async def test_a_child_task_that_blocks_is_its_rollouts(caplog: pytest.LogCaptureFixture) -> None:
    async def child() -> None:
        await trio.sleep(0.01)
        time.sleep(1.5)  # noqa: ASYNC251 - the fault

    async def agent(task: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    async with Runner(agent) as runner:
        done = await runner.step("blocks")

    [warning] = warnings_of(caplog)
    assert f"by rollout {done.rollout.rollout_id} (agent agent), in child at {__file__}" in warning


async def test_a_host_that_blocks_its_rollouts_is_named_with_its_line(caplog: pytest.LogCaptureFixture) -> None:
    async def agent(task: str) -> None:
        await trio.sleep(0.1)

    async def host() -> None:
        await trio.sleep(0.01)
        time.sleep(1.5)  # noqa: ASYNC251 - the fault

    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, "waits")
        nursery.start_soon(host)

    [warning] = warnings_of(caplog)
    assert "with 1 rollouts on it, by no agent's code, in host at" in warning


async def test_nothing_is_said_of_agents_that_wait(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def agent(task: str) -> None:
        await trio.sleep(1.5)

    async with Runner(agent, config=LIMITED) as runner:
        with pytest.raises(agl.AttemptTimedOut):
            await runner.step("waits")
    async with Runner(agent) as runner:
        await runner.step("waits")

    assert caplog.records == []


async def test_the_watch_ends_with_its_last_runner() -> None:
    async def agent(task: str) -> None:
        await trio.lowlevel.checkpoint()

    def watching() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "lightning_trio-watch"]

    async with Runner(agent) as first, Runner(agent) as second:
        before = len(watching())
        await first.step("task")
        await second.step("task")
        meanwhile = len(watching())
    with trio.fail_after(5):
        while watching():
            await trio.sleep(0.05)

    assert (before, meanwhile) == (0, 1)


async def test_neighbours_do_not_fail_for_the_time_that_an_agent_blocked() -> None:
    async def agent(task: str) -> float:
        if task == "blocks":
            await trio.sleep(0.05)
            time.sleep(1)  # noqa: ASYNC251 - the fault
        else:
            await trio.sleep(0.1)
        return 1.0

    result = await Runner(agent, config=LIMITED).fit(["ok"] * 5 + ["blocks"] + ["ok"] * 5)

    assert dict(result.counts) == {"cancelled": 0, "failed": 1, "succeeded": 10}


async def test_neighbours_of_steps_that_begin_together_do_not_fail_either() -> None:
    failed: list[str] = []
    async with Runner(blocks_or_sleeps(0.01), config=LIMITED) as runner:

        async def step(task: str) -> None:
            try:
                await runner.step(task)
            except agl.AttemptTimedOut:
                failed.append(task)

        async with trio.open_nursery() as nursery:
            for task in ["ok"] * 5 + ["blocks"] + ["ok"] * 5:
                nursery.start_soon(step, task)

    assert failed == ["blocks"]


async def test_nor_do_neighbours_in_threads_that_begin_together_with_it() -> None:
    async def blocks(task: str) -> None:
        time.sleep(1)  # noqa: ASYNC251 - the fault

    def quick(task: str) -> float:
        time.sleep(0.1)
        return 1.0

    done: list[agl.CompletedRollout] = []
    async with Runner(blocks) as first, Runner(quick, config=LIMITED) as second:

        async def step() -> None:
            done.append(await second.step("quick"))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(step)
            nursery.start_soon(first.step, "blocks")

    assert [each.status for each in done] == ["succeeded"] * 4


async def test_neighbours_that_were_due_together_with_the_one_that_blocks() -> None:
    """Some of them run before it, some after it without Trio having looked at its timers in between."""
    ready = trio.Event()

    async def agent(task: str) -> float:
        await ready.wait()
        if task == "blocks":
            time.sleep(1)  # noqa: ASYNC251 - the fault
        return 1.0

    async def set_ready() -> None:
        await trio.sleep(0.1)
        ready.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(set_ready)
        result = await Runner(agent, config=LIMITED).fit(["ok"] * 5 + ["blocks"] + ["ok"] * 5)

    assert dict(result.counts) == {"cancelled": 0, "failed": 1, "succeeded": 10}


async def test_an_agent_that_blocks_and_then_waits_is_judged_by_its_own_time() -> None:
    async def agent(task: str) -> float:
        time.sleep(1)  # noqa: ASYNC251 - the fault
        await trio.sleep(0.01)
        return 1.0

    async with Runner(agent, config=LIMITED) as runner:
        with pytest.raises(agl.AttemptTimedOut, match=r"stopped at its deadline after 0\.3 s"):
            await runner.step("blocks")


@pytest.mark.heavy
async def test_two_agents_that_block_in_turn_are_each_judged_by_their_own_time() -> None:
    ready = trio.Event()

    async def agent(task: float) -> float:
        await ready.wait()
        time.sleep(task)  # noqa: ASYNC251 - the fault
        await trio.sleep(0.01)
        return 1.0

    async def set_ready() -> None:
        await trio.sleep(0.1)
        ready.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(set_ready)
        runner = Runner(agent, config=RolloutConfig(timeout_seconds=1.2))
        result = await runner.fit([0.5, 2.0])

    assert dict(result.counts) == {"cancelled": 0, "failed": 1, "succeeded": 1}


async def test_a_neighbour_that_takes_too_long_itself_is_still_stopped() -> None:
    begin = time.monotonic()
    result = await Runner(blocks_or_sleeps(30), config=LIMITED).fit(["slow", "blocks", "slow"])

    assert result.counts["failed"] == 3
    assert 1.2 < time.monotonic() - begin < 10


@pytest.mark.parametrize("lane", ["thread", "asyncio"])
async def test_a_neighbour_in_another_thread_that_was_in_time_has_succeeded(lane: str) -> None:
    def in_thread(task: str) -> float:
        time.sleep(0.1)
        return 1.0

    async def for_asyncio(task: str) -> float:
        await asyncio.sleep(0.1)
        return 1.0

    async def blocker(task: str) -> None:
        await trio.sleep(0.05)
        time.sleep(1)  # noqa: ASYNC251 - the fault

    neighbour = agl.rollout(runs_in="asyncio")(for_asyncio) if lane == "asyncio" else agl.rollout(in_thread)
    results: list[agl.CompletedRollout] = []

    async def step(runner: Runner) -> None:
        results.append(await runner.step("neighbour"))

    async with Runner(blocker) as blocking, Runner(neighbour, config=LIMITED) as runner:
        await runner.step("warm up")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(step, runner)
            nursery.start_soon(blocking.step, "blocks")

    assert results[0].status == "succeeded"


async def test_the_deadline_of_a_sub_rollouts_parent_moves_with_it() -> None:
    async def agent(task: str) -> float:
        if task == "outer":
            return (await runner.step("inner")).final_reward or 0.0
        await trio.sleep(0.1)
        return 1.0

    async def host() -> None:
        await trio.sleep(0.05)
        time.sleep(1)  # noqa: ASYNC251 - the fault

    async with Runner(agent, config=LIMITED) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(host)
        done = await runner.step("outer")

    assert done.final_reward == 1.0


async def test_a_virtual_clock_is_not_mistaken_for_a_loop_that_is_blocked(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(task: str) -> float:
        if task == "blocks":
            time.sleep(0.7)  # noqa: ASYNC251 - the fault
        await trio.sleep(3600)
        return 1.0

    result = await Runner(agent, config=RolloutConfig(timeout_seconds=1800)).fit(["sleeps", "blocks"])

    assert result.counts["failed"] == 2
    assert trio.current_time() == pytest.approx(1800)
    assert warnings_of(caplog) == []


async def test_a_look_that_fails_is_logged_once_and_the_thread_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise SystemExit

    monkeypatch.setattr(_loop_watch, "runs_now", fail)
    async with Runner(blocks_or_sleeps(0), config=LIMITED) as runner:
        with pytest.raises(agl.AttemptTimedOut):
            await runner.step("blocks")
        assert "lightning_trio-watch" in [thread.name for thread in threading.enumerate()]

    failures = [each for each in caplog.messages if "looking at what Trio's thread runs failed" in each]
    assert len(failures) == 1
