"""Injection: the argument of each parameter of an agent, chosen once per agent and resources snapshot."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any

import attrs

from .._errors import AgentSignatureError
from .._log import Log
from .._records import Rollout
from .._resources import LLM, NamedResources, PromptTemplate, ProxyLLM, Resource
from ..emitter import Emitter
from ..lanes import BoundAgent, LiveArgument, resolve_lane

logger = Log("lightning_trio.agent")

_BY_NAME: Mapping[str, type[Resource]] = {"llm": LLM, "prompt_template": PromptTemplate}


def bind_function(name: str, fn: Callable[..., Any], resources: NamedResources, strip_proxy: bool) -> BoundAgent:
    """Return `fn` bound to the arguments that its parameters, except the first, get from `resources`."""
    fixed: dict[str, Any] = {}
    live: dict[str, tuple[LiveArgument, Any]] = {}
    _, *parameters = _parameters(fn)
    for parameter in parameters:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        if parameter.name == "rollout" or _is(parameter, Rollout):
            live[parameter.name] = ("rollout", None)
        elif parameter.name == "emitter" or _is(parameter, Emitter):
            live[parameter.name] = ("emitter", None)
        elif parameter.name == "resources" or parameter.annotation in (NamedResources, "NamedResources"):
            live[parameter.name] = ("resources", resources)
        else:
            resource = _find_resource(name, parameter, resources)
            if resource is None:
                continue
            if strip_proxy and isinstance(resource, ProxyLLM):
                live[parameter.name] = ("proxy", resource)
            else:
                fixed[parameter.name] = resource
    return BoundAgent(name, fn, resolve_lane(name, fn, None), fixed, live)


def supply_keywords(bound: BoundAgent, resources: NamedResources) -> BoundAgent:
    """Return a method with ``**kwargs`` bound to the keywords that Agent-lightning 0.3 passes to every method."""
    if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in _parameters(bound.fn)):
        return bound
    return attrs.evolve(bound, live={"resources": ("resources", resources), "rollout": ("rollout", None), **bound.live})


def _parameters(fn: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(fn, eval_str=True)
    except Exception:
        # An annotation names something that only type checkers import; the others can still be evaluated.
        signature = inspect.signature(fn)
        return [_evaluated(parameter, fn) for parameter in signature.parameters.values()]
    return list(signature.parameters.values())


def _evaluated(parameter: inspect.Parameter, fn: Callable[..., Any]) -> inspect.Parameter:
    if not isinstance(parameter.annotation, str):
        return parameter
    try:
        # `inspect.signature(eval_str=True)` does this for all annotations or none.
        annotation = eval(parameter.annotation, getattr(inspect.unwrap(fn), "__globals__", {}))
    except Exception:
        return parameter
    return parameter.replace(annotation=annotation)


def _annotated_classes(parameter: inspect.Parameter) -> list[type]:
    """Return the classes that an annotation allows: itself, or the members of a union."""
    annotation = parameter.annotation
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        members = typing.get_args(annotation)
    else:
        members = (annotation,)
    return [member for member in members if inspect.isclass(member) and member is not inspect.Parameter.empty]


def _is(parameter: inspect.Parameter, kind: type) -> bool:
    annotation = parameter.annotation
    if isinstance(annotation, str):
        subclasses: list[type] = kind.__subclasses__()
        return annotation.rpartition(".")[2] in {each.__name__ for each in (kind, *subclasses)}
    return any(issubclass(member, kind) for member in _annotated_classes(parameter))


def _find_resource(agent: str, parameter: inspect.Parameter, resources: NamedResources) -> Resource | None:
    """Return the resource for a parameter, or None if the parameter keeps its default."""
    wanted = tuple(kind for kind in _annotated_classes(parameter) if issubclass(kind, Resource))
    if parameter.name in resources and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
        named = resources[parameter.name]
        expected = wanted or ((_BY_NAME[parameter.name],) if parameter.name in _BY_NAME else ())
        if expected and not isinstance(named, expected):
            raise AgentSignatureError.other_resource(agent, parameter.name, expected[0].__name__, type(named).__name__)
        return named
    kinds = wanted or ((_BY_NAME[parameter.name],) if parameter.name in _BY_NAME else ())
    found = {name: resource for name, resource in resources.items() if isinstance(resource, kinds)}
    if len(found) > 1:
        _choose_first(agent, parameter, found)
    if found:
        return next(iter(found.values()))
    if parameter.default is not inspect.Parameter.empty:
        return None
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise AgentSignatureError.positional_only(agent, parameter.name)
    raise AgentSignatureError.cannot_supply(agent, parameter.name, kinds[0].__name__ if kinds else None, resources)


def _choose_first(agent: str, parameter: inspect.Parameter, found: NamedResources) -> None:
    """Log that a parameter with a name of Agent-lightning 0.3 gets the first of several resources.

    Raises:
        AgentSignatureError: the parameter has another name.
    """
    if parameter.name not in _BY_NAME:
        [kind, *_] = [each.__name__ for each in _annotated_classes(parameter) if issubclass(each, Resource)]
        raise AgentSignatureError.several_resources(agent, parameter.name, kind, found)
    logger.warning(
        "the agent %s gets %r for its parameter %r, the first of %s; name the parameter after the resource it "
        "should get",
        agent,
        next(iter(found)),
        parameter.name,
        list(found),
    )
