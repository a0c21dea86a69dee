"""What a function must look like to be an agent, and in which lane it runs."""

from __future__ import annotations

import inspect

from .._errors import AgentSignatureError


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
