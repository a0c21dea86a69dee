"""The pytest plugin: a fixture ``runner`` for testing agents.

pytest loads it automatically if the package is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import trio

from .._agents import LitAgent
from .._records import CompletedRollout, RolloutConfig, RolloutMode
from .._runner import Runner

_TIMEOUT_SECONDS = 30.0


class AgentTester:
    """Run agents in tests; the value of the fixture ``runner``.

    A rollout without a deadline of its own gets one of 30 s, so that an agent that hangs fails its test. A test fails
    at its end if spans came after their attempt had ended, because something that the agent started still runs.
    """

    def __init__(self) -> None:
        self._runners: list[Runner] = []

    def __call__(self, agent: LitAgent[Any] | Callable[..., Any], **options: Any) -> Runner:
        """Make a runner, to be used as ``async with runner(agent, resources=…) as r:``.

        Args:
            agent: the agent to run.
            options: as for `Runner`.
        """
        options.setdefault("config", RolloutConfig(timeout_seconds=_TIMEOUT_SECONDS))
        made = Runner(agent, **options)
        self._runners.append(made)
        return made

    def run(
        self,
        agent: LitAgent[Any] | Callable[..., Any],
        tasks: Sequence[Any],
        *,
        mode: RolloutMode | None = None,
        **options: Any,
    ) -> list[CompletedRollout]:
        """Run the tasks with `trio.run` and return their completed rollouts, in order; for synchronous tests.

        Args:
            agent: the agent to run.
            tasks: the inputs.
            mode: ``"train"``, ``"val"`` or ``"test"``.
            options: as for `Runner`.
        """
        made = self(agent, **options)

        async def run_all() -> list[CompletedRollout]:
            completed: dict[int, CompletedRollout] = {}

            async def run_one(index: int) -> None:
                async with made.stream([tasks[index]], mode=mode) as results:
                    completed[index] = await anext(results)

            async with made, trio.open_nursery() as nursery:
                for index in range(len(tasks)):
                    nursery.start_soon(run_one, index)
            return [completed[index] for index in range(len(tasks))]

        return trio.run(run_all)

    def check(self) -> None:
        """Fail if an attempt's spans came late."""
        late = sum(made.tracer.statistics().late_spans for made in self._runners)
        if late:
            pytest.fail(
                f"{late} spans came after their attempt had ended: something that the agent started still runs; start "
                "it in a nursery that ends before the agent returns"
            )


@pytest.fixture
def runner() -> Iterator[AgentTester]:
    """Run your agents: ``async with runner(agent) as r: await r.step(task)``, or ``runner.run(agent, tasks)``."""
    tester = AgentTester()
    yield tester
    tester.check()
