"""The fixture `runner`."""

from __future__ import annotations

import pytest
import trio

import lightning_trio as agl
from lightning_trio.testing.pytest_plugin import AgentTester

pytest_plugins = ["pytester"]


async def half(task: int) -> float:
    return task / 2


async def test_runs_an_agent_in_a_trio_test(runner: AgentTester) -> None:
    async with runner(half) as opened:
        done = await opened.step(3)

    assert done.final_reward == 1.5


def test_runs_tasks_in_a_plain_test_and_keeps_their_order(runner: AgentTester) -> None:
    async def slow_first(task: int) -> float:
        await trio.sleep(0.02 if task == 0 else 0)
        return float(task)

    done = runner.run(slow_first, [0, 1, 2])

    assert [each.final_reward for each in done] == [0.0, 1.0, 2.0]


def test_gives_failures_as_data(runner: AgentTester) -> None:
    async def fails(task: int) -> None:
        raise ValueError("no")

    [done] = runner.run(fails, [1])

    assert done.error is not None
    assert done.error.message == "no"


def test_an_agent_that_leaves_something_running_fails_its_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other plugins that happen to be installed take seconds to import.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        """
        import contextvars
        import trio
        import lightning_trio as agl

        async def late():
            await trio.sleep(0.01)
            try:
                agl.emit_message("late")
            except agl.NoActiveRollout:
                pass

        async def agent(task):
            trio.lowlevel.spawn_system_task(late, context=contextvars.copy_context())

        async def test_agent(runner):
            async with runner(agent) as opened:
                await opened.step(1)
                await trio.sleep(0.05)
        """
    )
    pytester.makeini("[pytest]\ntrio_mode = true\n")

    result = pytester.runpytest_subprocess("-p", "trio", "-p", "lightning_trio")

    assert "came after their attempt had ended" in result.stdout.str()


def test_a_rollout_without_a_deadline_gets_one(runner: AgentTester) -> None:
    assert runner(half).config.timeout_seconds == 30.0


def test_an_explicit_deadline_is_kept(runner: AgentTester) -> None:
    assert runner(half, config=agl.RolloutConfig(timeout_seconds=1)).config.timeout_seconds == 1
