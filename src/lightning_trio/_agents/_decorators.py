"""The decorators that make an agent from a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, overload

from .._errors import AgentSignatureError
from .._public import public
from .._records import LaneName, RolloutConfig
from ._agent import FunctionalLitAgent, P, R


@overload
def rollout(func: Callable[P, R]) -> FunctionalLitAgent[P, R]: ...
@overload
def rollout(
    func: None = None,
    *,
    runs_in: LaneName | str | None = None,
    name: str | None = None,
    config: RolloutConfig | None = None,
    strip_proxy: bool = True,
) -> Callable[[Callable[P, R]], FunctionalLitAgent[P, R]]: ...
@public
def rollout(
    func: Callable[..., Any] | None = None,
    *,
    runs_in: LaneName | str | None = None,
    name: str | None = None,
    config: RolloutConfig | None = None,
    strip_proxy: bool = True,
) -> Any:
    """Make an agent from a sync or async function, as ``@rollout`` or ``@rollout(name=…)``.

    The first parameter is the task, whatever its name. The others are supplied by name or annotation:
    ``rollout`` (`AttemptedRollout`), ``emitter`` (`Emitter`), ``resources`` (all of them), a resource's own
    name, a resource class as annotation, ``llm`` and ``prompt_template`` (the first of that type). A parameter that
    cannot be supplied and has no default raises an error before the first rollout starts.

    Args:
        func: the function, if used without options.
        runs_in: ``"trio"`` (the default of ``async def``), ``"thread"`` (the default of ``def``),
            ``"asyncio"``, ``"process"`` or the name of a lane of your own.
        name: the agent's name in spans; by default the function's name.
        config: the deadlines and retries of its rollouts.
        strip_proxy: whether the function gets a `ProxyLLM` as a plain `LLM` whose endpoint names the attempt.

    Raises:
        AgentSignatureError: the function has no parameter for the task.
        UnsupportedLane: `runs_in` is the name of no lane, or its lane does not fit the function.

    >>> @rollout
    ... async def answer(task: str, llm: "LLM") -> float:
    ...     return 1.0
    >>> answer
    <agent answer>
    """

    def decorate(function: Callable[..., Any]) -> FunctionalLitAgent[..., Any]:
        return FunctionalLitAgent(function, runs_in=runs_in, name=name, config=config, strip_proxy=strip_proxy)

    return decorate if func is None else decorate(func)


@overload
def llm_rollout(func: Callable[P, R]) -> FunctionalLitAgent[P, R]: ...
@overload
def llm_rollout(
    func: None = None,
    *,
    strip_proxy: bool = True,
    runs_in: LaneName | str | None = None,
    name: str | None = None,
    config: RolloutConfig | None = None,
) -> Callable[[Callable[P, R]], FunctionalLitAgent[P, R]]: ...
@public
def llm_rollout(func: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make an agent from a function with a parameter ``llm``; otherwise like `rollout`, options included.

    >>> @llm_rollout
    ... async def answer(task: str, llm: "LLM") -> float:
    ...     return float(llm.model == task)
    >>> answer
    <agent answer>
    """
    return _rollout_with("llm", func, options)


@overload
def prompt_rollout(func: Callable[P, R]) -> FunctionalLitAgent[P, R]: ...
@overload
def prompt_rollout(
    func: None = None,
    *,
    runs_in: LaneName | str | None = None,
    name: str | None = None,
    config: RolloutConfig | None = None,
) -> Callable[[Callable[P, R]], FunctionalLitAgent[P, R]]: ...
@public
def prompt_rollout(func: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make an agent from a function with a parameter ``prompt_template``; otherwise like `rollout`, options included.

    >>> @prompt_rollout
    ... def answer(task: str, prompt_template: "PromptTemplate") -> float:
    ...     return float(len(prompt_template.format(question=task)))
    >>> answer
    <agent answer>
    """
    return _rollout_with("prompt_template", func, options)


def _rollout_with(parameter: str, func: Callable[..., Any] | None, options: dict[str, Any]) -> Any:
    def decorate(function: Callable[..., Any]) -> FunctionalLitAgent[..., Any]:
        agent = FunctionalLitAgent(function, **options)
        if parameter not in inspect.signature(function).parameters:
            raise AgentSignatureError.no_parameter(agent.name, parameter)
        return agent

    return decorate if func is None else decorate(func)
