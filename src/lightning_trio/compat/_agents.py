"""Agents of Agent-lightning 0.3: async ones run on asyncio unless they say otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from .._agents import FunctionalLitAgent as NativeFunctionalLitAgent
from .._agents import LitAgent as NativeLitAgent
from .._agents import as_agent as as_native_agent
from .._agents import llm_rollout as native_llm_rollout
from .._agents import prompt_rollout as native_prompt_rollout
from .._public import public_in
from .._records import RolloutMode
from ..lanes import is_async_function

T = TypeVar("T")

_LANE = "asyncio"


@public_in("lightning_trio.compat")
class LitAgent(NativeLitAgent[T], Generic[T]):
    """The base of agents that are classes, as `lightning_trio.LitAgent`; its async methods run on asyncio.

    A class that sets `runs_in` runs there instead.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.runs_in is None and any(_overrides(cls, name) for name in _ASYNC_METHODS):
            cls.runs_in = _LANE

    def method_names(self, mode: RolloutMode | None) -> tuple[str, ...]:
        """Return the names of the methods that may run a rollout of `mode`; of an async agent, the async ones alone."""
        names = super().method_names(mode)
        return tuple(name for name in names if name.endswith("_async")) if self.is_async() else names

    def set_runner(self, runner: Any) -> None:
        """Store a weak reference to the runner, or to the `LitAgentRunner` that it belongs to."""
        super().set_runner(getattr(runner, "face", runner))


_ASYNC_METHODS = ("training_rollout_async", "validation_rollout_async", "rollout_async")


def _overrides(cls: type, name: str) -> bool:
    return getattr(cls, name) is not getattr(NativeLitAgent, name)


@public_in("lightning_trio.compat")
class FunctionalLitAgent(NativeFunctionalLitAgent[..., Any], LitAgent[Any]):
    """An agent made from a function, which runs on asyncio if it is async."""

    def __init__(self, fn: Callable[..., Any], *, runs_in: str | None = None, **options: Any) -> None:
        if runs_in is None and is_async_function(fn):
            runs_in = _LANE
        super().__init__(fn, runs_in=runs_in, **options)

    def _accepts_rollout(self) -> bool:
        # Programs' tests call it.
        return "rollout" in inspect.signature(self.function).parameters


def rollout(func: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make an agent from a sync or async function, as `lightning_trio.rollout` does, with the same options.

    Raises:
        NotImplementedError: a parameter says neither by its name nor by its annotation what it gets.
    """

    def decorate(function: Callable[..., Any]) -> FunctionalLitAgent:
        agent = FunctionalLitAgent(function, **options)
        _check_pattern(function)
        return agent

    return decorate if func is None else decorate(func)


def llm_rollout(func: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make an agent from a function with a parameter ``llm``."""
    return _rollout_with(native_llm_rollout, func, options)


def prompt_rollout(func: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make an agent from a function with a parameter ``prompt_template``."""
    return _rollout_with(native_prompt_rollout, func, options)


def _rollout_with(check: Callable[..., Any], func: Callable[..., Any] | None, options: dict[str, Any]) -> Any:
    def decorate(function: Callable[..., Any]) -> FunctionalLitAgent:
        check(function)
        return FunctionalLitAgent(function, **options)

    return decorate if func is None else decorate(func)


def as_agent(agent: object) -> NativeLitAgent[Any]:
    """Return an agent as it is, and a plain function as an agent."""
    if callable(agent) and not isinstance(agent, NativeLitAgent | type):
        return FunctionalLitAgent(agent)
    return as_native_agent(agent)


_SUPPLIED: Final = frozenset({"llm", "prompt_template", "rollout", "resources", "emitter"})
"""The names of parameters that say what they get."""


def _check_pattern(function: Callable[..., Any]) -> None:
    _, *others = inspect.signature(function).parameters.values()
    names = {each.name for each in others}
    unknown = [each.name for each in others if each.name not in _SUPPLIED and not _says_what(each)]
    if unknown and not names & {"llm", "prompt_template"}:
        raise NotImplementedError(
            f"{getattr(function, '__name__', function)} does not match any known agent patterns: nothing says what its "
            f"parameter {unknown[0]!r} gets. Call it llm or prompt_template, annotate it with the resource's class, or "
            "write @lightning_trio.rollout, which supplies resources by their names, too"
        )


def _says_what(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    annotated = parameter.annotation not in (inspect.Parameter.empty, Any, "Any", "typing.Any")
    return variadic or annotated or parameter.default is not inspect.Parameter.empty


def check_llm_function(func: Callable[..., Any]) -> bool:
    """Return True for a function that `llm_rollout` of Agent-lightning 0.3 took.

    Raises:
        ValueError: it did not; the one here also takes a task of another name.
    """
    return _check_function(func, "llm")


def check_prompt_function(func: Callable[..., Any]) -> bool:
    """Return True for a function that `prompt_rollout` of Agent-lightning 0.3 took.

    Raises:
        ValueError: it did not; the one here also takes a task of another name.
    """
    return _check_function(func, "prompt_template")


def _check_function(func: Callable[..., Any], parameter: str) -> bool:
    names = list(inspect.signature(func).parameters)
    name = getattr(func, "__name__", func)
    if len(names) < 2:
        raise ValueError(f"{name} must have at least 2 parameters, task and {parameter}, not {names}")
    if names[0] != "task":
        raise ValueError(f"the first parameter of {name} must be a positional parameter called 'task', not {names[0]}")
    if parameter not in names:
        raise ValueError(f"{name} must have a positional parameter called {parameter!r}, and has {names}")
    return True
