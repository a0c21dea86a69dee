"""The type of a runner's tasks, for type checkers: mypy and pyright check this file; running it checks nothing more."""

from __future__ import annotations

from typing import Any, assert_type

import lightning_trio as agl


class Shout(agl.LitAgent[str]):
    def rollout(self, task: str, *args: Any, **kwargs: Any) -> float:
        return float(task.isupper())


def double(task: int) -> float:
    return task * 2.0


def pick(task: bytes, prompt_template: agl.PromptTemplate, rollout: agl.Rollout) -> float:
    return 1.0


async def test_a_runner_has_its_agents_type_of_task() -> None:
    runner = agl.Runner(Shout())

    assert_type(runner, agl.Runner[str])
    assert_type(runner.agent, agl.LitAgent[str])
    assert_type(agl.Runner(double), agl.Runner[int])
    async with runner:
        await runner.step("TEA")
        await runner.step(input="TEA")


async def test_a_runner_without_a_type_takes_any_task() -> None:
    def name(runner: agl.Runner) -> str:
        assert_type(runner, agl.Runner[Any])
        return runner.agent.name

    assert name(agl.Runner(Shout())) == "Shout"
    assert_type(agl.Runner(lambda task: 1.0), agl.Runner[Any])
