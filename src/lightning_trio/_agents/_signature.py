"""The signature that a function needs to be an agent."""

from __future__ import annotations

import inspect

from .._errors import AgentSignatureError


def check_function(fn: object) -> None:
    """Validate that `fn` can be an agent's function; the error shows what to write."""
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
