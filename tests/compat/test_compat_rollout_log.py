"""What `Baseline` logs, as in Agent-lightning 0.3, whose users read it to debug their agents."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import lightning_trio.compat as agl

LOGGER = "agentlightning.algorithm.fast"


@agl.rollout
def length(task: str) -> float:
    """Return the length of the task, which is not empty."""
    if not task:
        raise ValueError("no task")
    return float(len(task))


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, LOGGER)
    return lambda: [record.getMessage() for record in caplog.records if record.name == LOGGER]


def test_each_rollout_is_logged_with_its_attempt_and_spans(logged: Any) -> None:
    agl.Trainer().dev(length, ["tea"])

    ended, attempt, root, reward = logged()
    assert "] Finished with status succeeded in 0." in ended
    assert "| Attempt 1] ID: at-" in attempt
    assert ". Status: succeeded. Worker: runner-" in attempt
    assert "] #1 (invoke_agent length) From 20" in root
    assert reward.endswith(
        " seconds. Attribute keys: ['agentlightning.reward.0.name', 'agentlightning.reward.0.value']"
    )


def test_a_failed_rollout_is_logged_as_such(logged: Any) -> None:
    agl.Trainer().fit(length, [""])

    assert "Status: failed." in logged()[1]


@pytest.mark.parametrize(
    ("verbosity", "expected"),
    [("key_values", ["'agentlightning.reward.0.value': 3.0"]), ("none", [])],
)
def test_how_much_of_a_span_is_logged_can_be_chosen(logged: Any, verbosity: Any, expected: list[str]) -> None:
    agl.Trainer(algorithm=agl.Baseline(span_verbosity=verbosity)).fit(length, ["tea"])

    values = [line for line in logged() if "Span " in line and "reward" in line]
    assert len(values) == len(expected)
    assert all(part in line for line, part in zip(values, expected, strict=True))


def test_a_run_by_hand_is_logged_with_the_adapted_data(logged: Any) -> None:
    class Names(agl.TraceAdapter[list[str]]):
        def adapt(self, source: Any, /) -> list[str]:
            return [span.name for span in source]

    algorithm, store = agl.Baseline(), agl.InMemoryLightningStore()
    algorithm.set_store(store)
    algorithm.set_adapter(Names())

    async def main() -> None:
        runner: Any = agl.LitAgentRunner(agl.OtelTracer(), max_rollouts=1)
        with runner.run_context(agent=length, store=store):
            await asyncio.gather(algorithm.run(["tea"]), runner.iter())

    asyncio.run(main())

    assert ". Status: succeeded. Worker: Worker-0" in logged()[1]
    assert logged()[-1].endswith("Adapted data: ['invoke_agent length', 'agentlightning.annotation']")
