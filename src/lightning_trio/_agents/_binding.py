"""Binding: the method of an agent that runs a rollout, and its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from .._errors import AgentSignatureError
from .._records import RolloutMode
from .._resources import NamedResources
from ..lanes import BoundAgent, lane_named, resolve_lane
from ._agent import TRAIN_METHODS, VALIDATION_METHODS, FunctionalLitAgent, LitAgent, overrides
from ._injection import bind_function, supply_keywords


def select_method(agent: LitAgent[Any], mode: RolloutMode | None) -> str:
    """Return the name of the method that runs a rollout of `mode`.

    Raises:
        AgentSignatureError: the agent overrides no method for `mode`.
    """
    names = TRAIN_METHODS if mode == "train" else VALIDATION_METHODS
    for name in names:
        if overrides(agent, name):
            return name
    raise AgentSignatureError.no_method(agent.name, mode, reversed(names))


def bind_agent(agent: LitAgent[Any], mode: RolloutMode | None, resources: NamedResources) -> BoundAgent:
    """Return an agent bound to the arguments that its parameters get from `resources`.

    Raises:
        AgentSignatureError: the agent has no method for `mode`, or a parameter cannot be supplied.
        UnsupportedLane: its `runs_in` does not fit it, or it cannot be pickled for a worker process.
    """
    fn: Callable[..., Any]
    if isinstance(agent, FunctionalLitAgent):
        method, fn, strip_proxy = None, agent.function, agent.strip_proxy
    else:
        method, strip_proxy = select_method(agent, mode), False
        fn = getattr(agent, method)
    lane = resolve_lane(agent.name, fn, agent.runs_in)
    bound = bind_function(agent.name, fn, resources, strip_proxy)
    bound = attrs.evolve(bound, lane=lane, method=method)
    if method is not None:
        bound = supply_keywords(bound, resources)
    prepared = lane_named(lane, agent.name).prepare(bound, resources)
    return bound if prepared is None else attrs.evolve(bound, prepared=prepared)
