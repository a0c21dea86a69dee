"""Binding: the method of an agent that runs a rollout, and its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import attrs

from .._errors import AgentSignatureError
from .._records import RolloutMode
from .._resources import NamedResources
from ..lanes import BoundAgent, lane_named, resolve_lane
from ._agent import FunctionalLitAgent, LitAgent, overrides
from ._injection import bind_function, supply_keywords


def select_method(agent: LitAgent[Any], mode: RolloutMode | None) -> Callable[..., Any]:
    """Return the function or method that runs a rollout of `mode`.

    Raises:
        AgentSignatureError: the agent overrides no method for `mode`.
    """
    if isinstance(agent, FunctionalLitAgent):
        return agent.function
    names = agent.method_names(mode)
    for name in names:
        if overrides(agent, name):
            return cast("Callable[..., Any]", getattr(agent, name))
    raise AgentSignatureError.no_method(agent.name, mode, reversed(names))


def bind_agent(agent: LitAgent[Any], mode: RolloutMode | None, resources: NamedResources) -> BoundAgent:
    """Return an agent bound to the arguments that its parameters get from `resources`.

    Raises:
        AgentSignatureError: the agent has no method for `mode`, or a parameter cannot be supplied.
        UnsupportedLane: its `runs_in` does not fit it, or it cannot be pickled for a worker process.
    """
    fn = select_method(agent, mode)
    lane = resolve_lane(agent.name, fn, agent.runs_in)
    in_class, strip_proxy = True, False
    if isinstance(agent, FunctionalLitAgent):
        in_class, strip_proxy = False, agent.strip_proxy
    bound = bind_function(agent.name, fn, resources, strip_proxy)
    bound = attrs.evolve(bound, lane=lane, in_class=in_class)
    if in_class:
        bound = supply_keywords(bound, resources)
    prepared = lane_named(lane, agent.name).prepare(bound, resources)
    return bound if prepared is None else attrs.evolve(bound, prepared=prepared)
