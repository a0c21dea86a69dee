"""Pickled agents for worker processes, and why an agent cannot be pickled."""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any, NamedTuple, cast

from ..._errors import UnsupportedLane
from ..._resources import NamedResources
from .._bound_agent import BoundAgent
from .._function import is_async_function


class PackedAgent(NamedTuple):
    """The parts of an agent that a worker process receives."""

    bound: BoundAgent
    resources: NamedResources
    is_async: bool


def pack_agent(bound: BoundAgent, resources: NamedResources) -> bytes:
    """Return an agent with its resources, pickled.

    Raises:
        UnsupportedLane: the extra is missing, or a part cannot be pickled or imported in the worker process; the
            message names the part.
    """
    if importlib.util.find_spec("trio_parallel") is None:
        raise UnsupportedLane.no_processes(bound.name)
    packed = PackedAgent(bound, dict(resources), is_async_function(bound.fn))
    try:
        data, modules = _dump(packed)
    except Exception as exc:
        what, hint = _find_culprit(packed)
        raise UnsupportedLane.not_picklable(bound.name, what, exc, hint) from exc
    for module in modules:
        if why := _not_importable(module):
            raise UnsupportedLane.not_importable(bound.name, module, why)
    return data


def unpack_agent(data: bytes) -> PackedAgent:
    """Return the agent that `pack_agent` pickled.

    Raises:
        UnsupportedLane: a part of it cannot be imported here.
    """
    try:
        packed: PackedAgent = pickle.loads(data)
    except Exception as exc:
        raise UnsupportedLane.not_loaded(exc) from exc
    return packed


def _dump(value: object) -> tuple[bytes, set[str]]:
    buffer = io.BytesIO()
    pickler = _AgentPickler(buffer, pickle.HIGHEST_PROTOCOL)
    pickler.dump(value)
    return buffer.getvalue(), pickler.modules


class _AgentPickler(pickle.Pickler):
    """Pickle a decorated function by the agent that replaced it in its module, and collect the modules needed."""

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.modules: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType | type):
            self.modules.add(obj.__module__)
        if isinstance(obj, FunctionType):
            found = _find(obj.__module__, obj.__qualname__)
            if found is not obj and getattr(found, "function", None) is obj:
                return getattr, (found, "function")
        return NotImplemented


def _find(module: str, qualname: str) -> object:
    found: object = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found


def _not_importable(module: str) -> str | None:
    """Return why a worker process could not import a module, None if it can."""
    loaded = sys.modules.get(module)
    if module == "__main__":
        # multiprocessing runs it again from its spec or file; a program read from stdin has the file "<stdin>".
        has_file = getattr(loaded, "__spec__", None) is not None or os.path.exists(
            getattr(loaded, "__file__", None) or ""
        )
        return None if has_file else "the main program is not a file (python -c, stdin, a shell, a notebook)"
    if getattr(loaded, "__spec__", None) is not None or getattr(loaded, "__file__", None) is not None:
        return None
    return "it has no file"


def _find_culprit(packed: PackedAgent) -> tuple[str, str]:
    """Return the part that cannot be pickled, and what to do about it."""
    for what, hint, part in _parts(packed):
        try:
            _dump(part)
        except Exception:
            return what, hint
    return "it", "See the pickle module for what can be"


def _parts(packed: PackedAgent) -> Iterator[tuple[str, str, object]]:
    for name, resource in packed.resources.items():
        hint = "Define its class at the top level of a module, and keep files, locks and clients out of it"
        yield f"the resource {name!r} ({type(resource).__name__})", hint, resource
    fn = packed.bound.fn
    owner = fn.__self__ if isinstance(fn, MethodType) else None
    if owner is not None:
        hint = "Make it where it is used, or leave it out in __getstate__"
        state = cast("Mapping[str, object]", owner.__getstate__())
        for name, value in state.items():
            yield f"its attribute self.{name} ({type(value).__name__})", hint, value
        yield (
            f"its class {type(owner).__qualname__}",
            "Define the class at the top level of a module, where a worker process can import it",
            type(owner),
        )
    yield (
        f"its function {getattr(fn, '__qualname__', fn)}",
        "Define it with def at the top level of a module, where a worker process can import it, and not as a lambda "
        "or inside another function",
        fn,
    )
