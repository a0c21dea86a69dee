"""Values of expressions in an agent's code, as far as they are known before it runs, and which need an asyncio loop.

Nothing is imported or called to find out, and no code of an object's runs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NamedTuple, TypeAlias

_LOOP_BOUND = (
    "asyncio",
    "_asyncio",
    "aio_pika",
    "aioboto3",
    "aiobotocore",
    "aiofiles",
    "aiohttp",
    "aiokafka",
    "aiomysql",
    "aiopg",
    "aioredis",
    "aiosqlite",
    "async_timeout",
    "asyncpg",
    "autogen_agentchat",
    "autogen_core",
    "autogen_ext",
    "langchain_core",
    "langgraph",
    "litellm",
    "playwright.async_api",
    "redis.asyncio",
    "sqlalchemy.ext.asyncio",
    "tqdm.asyncio",
    "websockets",
)
"""Modules whose awaitables need an asyncio loop."""

_OPENAI_AGENTS = "agents"
"""The package of OpenAI's agents SDK, which also needs a loop; other packages may have this name."""


class Object(NamedTuple):
    """An object that exists already, such as a module or a global."""

    value: Any


class LoopBound(NamedTuple):
    """Something of a loop-bound module that exists only when the function runs, such as what ``Queue()`` returns."""

    name: str


class Instance(NamedTuple):
    """An object of a class that exists only when the function runs, such as what ``Solver()`` returns."""

    kind: type


class Method(NamedTuple):
    """A method with its object, or with its class if it is a class method."""

    function: FunctionType
    owner: Object | Instance


Value: TypeAlias = Object | LoopBound | Instance | Method | None


def module_named(name: str) -> Value:
    """Return a module, as far as it is known."""
    if name in sys.modules:
        return Object(sys.modules[name])
    # Not imported here: that would run its code.
    return LoopBound(name) if _is_in(name, _LOOP_BOUND) else None


def attribute_of(value: object, name: str) -> Value:
    """Return an attribute of a value, as far as it is known."""
    bound = loop_bound_name(value)
    if isinstance(value, LoopBound):
        return LoopBound(f"{value.name}.{name}")
    if isinstance(value, Instance):
        return class_attribute(value.kind.__mro__, name, value)
    if not isinstance(value, Object):
        return None
    owner = value.value
    if isinstance(owner, ModuleType):
        if name in vars(owner):
            return Object(vars(owner)[name])
        if f"{owner.__name__}.{name}" in sys.modules:
            return Object(sys.modules[f"{owner.__name__}.{name}"])
    if bound is not None:
        return LoopBound(f"{bound}.{name}")
    if isinstance(owner, ModuleType):
        return None
    if isinstance(owner, type):
        return class_attribute(owner.__mro__, name, None)
    return _attribute_of_object(value, name)


def _attribute_of_object(value: Object, name: str) -> Value:
    owner = value.value
    try:
        # Runs no code of the object's.
        found = inspect.getattr_static(owner, name)
    except AttributeError:
        return None
    if name in getattr(owner, "__dict__", ()):
        return Object(found)
    return class_attribute(type(owner).__mro__, name, value)


def class_attribute(classes: Sequence[type], name: str, owner: Object | Instance | None) -> Value:
    """Return a function that is an attribute of a class, as its object has it, or the class itself without one."""
    found = next((vars(each)[name] for each in classes if name in vars(each)), None)
    if isinstance(found, staticmethod):
        return Object(found.__func__)
    if isinstance(found, classmethod):
        function: Any = found.__func__
        return Method(function, Object(classes[0])) if isinstance(function, FunctionType) else None
    if not isinstance(found, FunctionType):
        return None
    return Object(found) if owner is None else Method(found, owner)


def result_of(callee: object) -> Value:
    """Return what a call of a value returns, as far as it is known."""
    if isinstance(callee, Object) and isinstance(callee.value, type) and loop_bound_name(callee) is None:
        kind = callee.value
        is_plain = type(kind).__call__ is type.__call__ and all(
            "__new__" not in vars(each) for each in kind.__mro__[:-1]
        )
        return Instance(kind) if is_plain else None
    name = loop_bound_name(callee)
    # What asyncio.run returns may be anything.
    if name is None or name.startswith("asyncio.run"):
        return None
    return LoopBound(name if name.rpartition(".")[2][:1].isupper() else f"{name}()")


def is_of(value: object, modules: tuple[str, ...]) -> bool:
    """Whether a value comes from one of the modules, or from one within them."""
    return isinstance(value, Object) and _is_in(_origin(value.value)[0], modules)


def loop_bound_name(value: object) -> str | None:
    """Return the name of something of a loop-bound module, None for anything else."""
    match value:
        case LoopBound(name):
            return name
        case Object(found) | Instance(found) | Method(found, _):
            module, name = _origin(found)
        case _:
            return None
    public = next((each for each in _LOOP_BOUND if _is_in(module, (each,))), None)
    if public is None and _is_in(module, (_OPENAI_AGENTS,)):
        package = sys.modules.get(_OPENAI_AGENTS)
        public = _OPENAI_AGENTS if hasattr(package, "OpenAIResponsesModel") else None
    if public is None:
        return None
    return f"{public.lstrip('_')}.{name}" if name else module


def _origin(value: object) -> tuple[str, str]:
    """Return the module that an object comes from, and its name there; an instance's are its class's."""
    kind = type(value)
    if issubclass(kind, ModuleType):
        return str(vars(value).get("__name__", "")), ""
    if not issubclass(kind, type | FunctionType | BuiltinFunctionType):
        value = kind
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return (module, name) if isinstance(module, str) and isinstance(name, str) else ("", "")


def _is_in(module: str, modules: tuple[str, ...]) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in modules)
