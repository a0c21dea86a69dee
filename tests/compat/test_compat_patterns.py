"""The functions that 0.3's decorators take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lightning_trio as agl
import lightning_trio.compat as old
from lightning_trio.compat._modules import module


def nothing_said(task: Any, unknown: Any) -> float:
    return 1.0


def not_annotated(task, unknown) -> float:  # type: ignore[no-untyped-def]  # noqa: ANN001
    return 1.0


@pytest.mark.parametrize("function", [nothing_said, not_annotated])
def test_a_parameter_that_nothing_is_said_about_is_an_error(function: Callable[..., float]) -> None:
    with pytest.raises(NotImplementedError, match=r"does not match any known agent patterns.*'unknown'"):
        old.rollout(function)


def by_model(task: Any, llm: Any) -> float:
    return 1.0


def by_prompt(task: Any, prompt_template: Any, more: Any) -> float:
    return 1.0


def by_class(task: Any, judge: agl.LLM) -> float:
    return 1.0


def with_default(task: Any, rollout: Any, times: Any = 3) -> float:
    return 1.0


def task_alone(task: Any) -> float:
    return 1.0


@pytest.mark.parametrize("function", [by_model, by_prompt, by_class, with_default, task_alone])
def test_a_function_whose_parameters_say_what_they_get_is_an_agent(function: Callable[..., float]) -> None:
    assert isinstance(old.rollout(function), old.LitAgent)
    assert isinstance(old.rollout(func=function), old.LitAgent)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (task_alone, "must have at least 2 parameters"),
        (lambda question, llm: 1.0, "must be a positional parameter called 'task'"),
        (by_prompt, "must have a positional parameter called 'llm'"),
    ],
)
def test_programs_can_ask_whether_a_function_is_an_llm_rollout(function: Callable[..., Any], message: str) -> None:
    decorator: Any = module("litagent.decorator")

    assert decorator._validate_llm_rollout_func(by_model)
    with pytest.raises(ValueError, match=message):
        decorator._validate_llm_rollout_func(function)


class Mixed(old.LitAgent):  # type: ignore[misc, name-defined]
    """Has an async method, which 0.3 called for every mode, and a plain one, which it did not call."""

    def validation_rollout(self, task: Any, resources: Any, rollout: Any) -> float:
        return 0.25

    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> float:
        return 1.0


def test_an_async_agents_plain_methods_are_not_called() -> None:
    result = old.Trainer().dev(Mixed(), ["tea"], val_dataset=["milk"])

    assert result.mean_reward == {"train": 1.0, "val": 1.0}
