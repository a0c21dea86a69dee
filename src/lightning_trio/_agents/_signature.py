"""What a function must look like to be an agent, and in which lane it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args

from .._errors import AgentSignatureError, UnsupportedLane
from .._records import LaneName


def is_async_function(fn: Callable[..., Any]) -> bool:
    """Tell whether calling `fn` gives a coroutine."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def check_function(fn: object) -> None:
    """Refuse what cannot be an agent's function, showing what to write."""
    if inspect.isclass(fn):
        raise AgentSignatureError(
            f"@rollout decorates functions; {fn.__name__} is a class: derive it from agl.LitAgent"
        )
    if not callable(fn):
        raise AgentSignatureError(f"@rollout decorates functions, not {fn!r}; options are keywords: @rollout(name=…)")
    name = getattr(fn, "__name__", repr(fn))
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise AgentSignatureError(f"the agent {name} is a generator; return a reward instead of yielding")
    parameters = list(inspect.signature(fn).parameters.values())
    if not parameters or parameters[0].kind in (
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    ):
        raise AgentSignatureError(f"the agent {name} has no parameter for the task; write: def {name}(task): …")


def resolve_lane(name: str, fn: Callable[..., Any], runs_in: LaneName | None) -> LaneName:
    """Decide where `fn` runs.

    Raises:
        UnsupportedLane: `runs_in` names no lane or one that does not fit a sync or an async function.
    """
    is_async = is_async_function(fn)
    if runs_in is None:
        return "trio" if is_async else "thread"
    if runs_in not in get_args(LaneName):
        raise UnsupportedLane(f"the agent {name} has runs_in={runs_in!r}; there are {', '.join(get_args(LaneName))}")
    if runs_in in ("trio", "asyncio") and not is_async:
        raise UnsupportedLane(
            f"the agent {name} is a plain function and would block the event loop with runs_in={runs_in!r}; leave "
            "runs_in out, which runs it in a worker thread, or write async def"
        )
    if runs_in == "thread" and is_async:
        raise UnsupportedLane(
            f"the agent {name} is async and runs_in={runs_in!r} takes plain functions; leave runs_in out for Trio, "
            'write runs_in="asyncio" for asyncio, or make it a plain function that calls asyncio.run'
        )
    return runs_in
