"""Which method of an agent runs a rollout, and with which arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import attrs

from .._errors import AgentSignatureError
from .._records import RolloutMode
from .._resources import NamedResources
from ._injection import BoundAgent, bind_function, supply_keywords
from ._pickling import pack_agent
from ._signature import resolve_lane

if TYPE_CHECKING:
    pass
from ._agent import TRAIN_METHODS, VALIDATION_METHODS, FunctionalLitAgent, LitAgent, overrides


def select_method(agent: LitAgent[Any], mode: RolloutMode | None) -> Callable[..., Any]:
    """Give the function or method that runs a rollout of `mode`.

    Raises:
        AgentSignatureError: the agent overrides none that would do.
    """
    if isinstance(agent, FunctionalLitAgent):
        return agent.function
    names = TRAIN_METHODS if mode == "train" else VALIDATION_METHODS
    for name in names:
        if overrides(agent, name):
            return cast("Callable[..., Any]", getattr(agent, name))
    raise AgentSignatureError.no_method(agent.name, mode, reversed(names))


def bind_agent(agent: LitAgent[Any], mode: RolloutMode | None, resources: NamedResources) -> BoundAgent:
    """Decide what an agent's parameters get from `resources`.

    Raises:
        AgentSignatureError: the agent has no method for `mode`, or a parameter cannot be supplied.
        UnsupportedLane: its `runs_in` does not fit, or it cannot be sent to a worker process.
    """
    fn = select_method(agent, mode)
    strip_proxy = agent.strip_proxy if isinstance(agent, FunctionalLitAgent) else False
    lane = resolve_lane(agent.name, fn, agent.runs_in)
    bound = attrs.evolve(bind_function(agent.name, fn, resources, strip_proxy), lane=lane)
    if not isinstance(agent, FunctionalLitAgent):
        bound = supply_keywords(bound, resources)
    return attrs.evolve(bound, packed=pack_agent(bound, resources)) if lane == "process" else bound
