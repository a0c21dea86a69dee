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
        raise AgentSignatureError.decorated_class(fn)
    if not callable(fn):
        raise AgentSignatureError.decorated_value(fn)
    name = getattr(fn, "__name__", repr(fn))
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise AgentSignatureError.generator(name)
    parameters = list(inspect.signature(fn).parameters.values())
    if not parameters or parameters[0].kind in (
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    ):
        raise AgentSignatureError.no_task(name)


def resolve_lane(name: str, fn: Callable[..., Any], runs_in: LaneName | None) -> LaneName:
    """Decide where `fn` runs.

    Raises:
        UnsupportedLane: `runs_in` names no lane or one that does not fit a sync or an async function.
    """
    is_async = is_async_function(fn)
    if runs_in is None:
        return "trio" if is_async else "thread"
    if runs_in not in get_args(LaneName):
        raise UnsupportedLane.unknown(name, runs_in, get_args(LaneName))
    if runs_in in ("trio", "asyncio") and not is_async:
        raise UnsupportedLane.for_async(name, runs_in)
    if runs_in == "thread" and is_async:
        raise UnsupportedLane.for_plain(name, runs_in)
    return runs_in
