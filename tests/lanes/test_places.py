"""Lines of code are shown for agents whose module has a loader of its own, whatever that raises."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio

import lightning_trio as agl
from lightning_trio import InMemoryLightningStore, RolloutConfig, Runner

SOURCE = """
async def agent(task):
    if task == "bad":
        {}
    return 1.0
"""


class Loader:
    """A loader that has no source."""

    def __init__(self, answer: Callable[[], object]) -> None:
        self.answer = answer

    def get_source(self, name: str) -> object:
        return self.answer()


def fail() -> object:
    raise RuntimeError("encrypted")


def interrupt() -> object:
    raise KeyboardInterrupt


def no_text() -> object:
    return 7


def agent_of(bad: str, answer: Callable[[], object] = fail) -> Any:
    """Return an agent whose module has such a loader, and whose line for the task "bad" is the text."""
    # A name for each, because Python keeps the lines of a file.
    file = f"encrypted-{hash((bad, answer))}.bin"
    module: dict[str, Any] = {"__name__": file, "__loader__": Loader(answer), "trio": trio, "time": time}
    exec(compile(SOURCE.format(bad), file, "exec"), module)
    return module["agent"]


@pytest.mark.parametrize("answer", [fail, interrupt, no_text])
def test_the_overdue_agent_of_a_module_without_readable_source_is_named_without_its_code(
    answer: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    agent = agent_of("with trio.CancelScope(shield=True): await trio.sleep(3)", answer)
    runner = Runner(agent, config=RolloutConfig(timeout_seconds=0.5), store=InMemoryLightningStore())
    result = trio.run(runner.fit, ["bad", "good"], clock=trio.testing.MockClock(autojump_threshold=0))

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 1}
    assert any(f"in agent at {agent.__code__.co_filename}:4: ;" in each for each in caplog.messages)


async def test_one_that_blocks_its_asyncio_loop_is_named_without_its_code(caplog: pytest.LogCaptureFixture) -> None:
    agent = agl.rollout(agent_of("time.sleep(1.5)"), runs_in="asyncio")
    runner = Runner(agent, config=RolloutConfig(timeout_seconds=0.2), store=InMemoryLightningStore())
    result = await runner.fit(["bad"])

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 0}
    assert any(".bin:4: ;" in each for each in caplog.messages)


async def test_the_error_of_one_that_raises_has_its_lines_without_their_code() -> None:
    async with Runner(agent_of("raise ValueError"), store=InMemoryLightningStore()) as runner:
        await runner.fit(["bad"])
        [rollout] = await runner.store.query_rollouts()
        [attempt] = await runner.store.query_attempts(rollout.rollout_id)

    assert attempt.error is not None
    assert attempt.error.type == "ValueError"
    assert '.bin", line 4, in agent\n' in attempt.error.traceback


class RudeName(str):
    """A name of a file or a function that raises when it is read."""

    __slots__ = ()

    def startswith(self, *_: object) -> bool:
        raise SystemExit

    __str__ = __format__ = __eq__ = __contains__ = startswith  # type: ignore[assignment]
    __hash__ = str.__hash__


UNTRACED = pytest.mark.skipif(sys.gettrace() is not None, reason="coverage reads the names of the code that it traces")


@UNTRACED
async def test_an_agent_whose_code_has_names_that_raise_is_named(caplog: pytest.LogCaptureFixture) -> None:
    agent = agent_of("time.sleep(1.5)")
    agent.__code__ = agent.__code__.replace(co_filename=RudeName("rude.bin"), co_name=RudeName("rude"))
    runner = Runner(agl.rollout(agent, runs_in="asyncio"), store=InMemoryLightningStore())
    result = await runner.fit(["bad"])

    assert result.counts == {"cancelled": 0, "failed": 0, "succeeded": 1}
    assert any("in rude at rude.bin:4: ;" in each for each in caplog.messages)


@UNTRACED
async def test_the_error_of_such_an_agent_has_its_lines() -> None:
    agent = agent_of("raise ValueError")
    agent.__code__ = agent.__code__.replace(co_filename=RudeName("rude.bin"), co_name=RudeName("rude"))
    async with Runner(agent, store=InMemoryLightningStore()) as runner:
        await runner.fit(["bad"])
        [rollout] = await runner.store.query_rollouts()
        [attempt] = await runner.store.query_attempts(rollout.rollout_id)

    assert attempt.error is not None
    assert attempt.error.type == "ValueError"
    assert 'File "rude.bin", line 4, in rude' in attempt.error.traceback
