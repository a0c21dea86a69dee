"""Binding: the method of an agent that runs a rollout, and its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from .._errors import AgentSignatureError, AsyncioAgentError
from .._records import RolloutMode
from .._resources import NamedResources
from ..lanes import BoundAgent, is_async_function, lane_named, resolve_lane
from ._agent import FunctionalLitAgent, LitAgent, overrides
from ._injection import bind_function, supply_keywords


def select_method(agent: LitAgent[Any], mode: RolloutMode | None) -> str:
    """Return the name of the method that runs a rollout of `mode`.

    Raises:
        AgentSignatureError: the agent overrides no method for `mode`.
    """
    names = agent.method_names(mode)
    for name in names:
        if overrides(agent, name):
            return name
    raise AgentSignatureError.no_method(agent.name, mode, reversed(names))


def _select(agent: LitAgent[Any], mode: RolloutMode | None) -> tuple[str | None, Callable[..., Any]]:
    """Return an agent's function for rollouts of `mode`, with its name if it is a method."""
    if isinstance(agent, FunctionalLitAgent):
        return None, agent.function
    method = select_method(agent, mode)
    return method, getattr(agent, method)


def check_written_for_trio(agent: LitAgent[Any], mode: RolloutMode | None) -> None:
    """Validate that an agent without `runs_in` does not use asyncio in Trio, as far as its code shows.

    Raises:
        AgentSignatureError: it has no method for `mode`.
        AsyncioAgentError: it does.
    """
    method, fn = _select(agent, mode)
    if agent.runs_in is not None or not is_async_function(fn):
        return
    # Worker processes, which import the package again, have no use for it; nor have agents in other lanes.
    from ._asyncio_use import find_asyncio_use

    use = find_asyncio_use(fn)
    if use is not None:
        place = f"{use.file}:{use.line}"
        raise AsyncioAgentError.before_it_ran(agent.name, use.what, place, is_method=method is not None)


def bind_agent(agent: LitAgent[Any], mode: RolloutMode | None, resources: NamedResources) -> BoundAgent:
    """Return an agent bound to the arguments that its parameters get from `resources`.

    Raises:
        AgentSignatureError: the agent has no method for `mode`, or a parameter cannot be supplied.
        UnsupportedLane: its `runs_in` does not fit it, or it cannot be pickled for a worker process.
    """
    method, fn = _select(agent, mode)
    strip_proxy = isinstance(agent, FunctionalLitAgent) and agent.strip_proxy
    lane = resolve_lane(agent.name, fn, agent.runs_in)
    bound = bind_function(agent.name, fn, resources, strip_proxy)
    bound = attrs.evolve(bound, lane=lane, method=method)
    if method is not None:
        bound = supply_keywords(bound, resources)
    prepared = lane_named(lane, agent.name).prepare(bound, resources)
    return bound if prepared is None else attrs.evolve(bound, prepared=prepared)
