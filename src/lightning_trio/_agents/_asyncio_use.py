"""The use of asyncio in an async function, found in its byte code before it runs in Trio.

An agent that is written for asyncio and catches its own exceptions fails in Trio without a trace. Evidence is an
``await``, ``async with`` or ``async for`` of something that needs an asyncio loop: in the function itself, in its
comprehensions, and in async functions and methods that it awaits by name. Other nested functions are none, because they
may be called in a thread with ``asyncio.run``. A case that is missed raises the error when it runs, unless the agent
catches it; a false alarm would stop a working agent, so whatever is unclear is no evidence.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
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
)
"""Modules whose awaitables need an asyncio loop."""

_OPENAI_AGENTS = "agents"
"""The package of OpenAI's agents SDK, which also needs a loop; other packages may have this name."""

_NATIVE = ("trio", "anyio", "sniffio", "trio_asyncio")
"""Modules whose use shows that a function knows about Trio: it may choose between the two."""

_NEED_A_LOOP = ("asyncio.as_completed", "asyncio.create_task", "asyncio.ensure_future", "asyncio.gather")
"""Functions that need a running loop when they are called, before anything is awaited."""

_MOST_CALLS = 3
"""How many calls deep is looked: a decorator's wrapper, the agent, a helper function and one of that."""

_AWAITS = ("GET_AWAITABLE", "BEFORE_ASYNC_WITH", "GET_AITER")
_CALLS = ("CALL", "CALL_KW", "CALL_FUNCTION_EX")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")
_NAMES = ("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_DEREF", "LOAD_GLOBAL")
_STORES = ("STORE_FAST", "STORE_DEREF", "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST", "DELETE_FAST")
_SKIPPED = ("NOP", "EXTENDED_ARG", "PRECALL", "KW_NAMES", "PUSH_NULL", "CACHE")
_NOWHERE = (0, 0)
"""The place of an instruction that knows none."""
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>")


class AsyncioUse(NamedTuple):
    """A place where an async function uses asyncio: what it uses, the file, and the line."""

    what: str
    file: str
    line: int


class _Object(NamedTuple):
    """An object that exists already, such as a module or a global."""

    value: Any


class _LoopBound(NamedTuple):
    """Something of a loop-bound module that exists only when the function runs, such as what ``Queue()`` returns."""

    name: str


class _Instance(NamedTuple):
    """An object of a class that exists only when the function runs, such as what ``Solver()`` returns."""

    kind: type


class _Nested(NamedTuple):
    """A function that is defined in another one."""

    code: CodeType
    around: _Code


class _Method(NamedTuple):
    """A method with its object, or with its class if it is a class method."""

    function: FunctionType
    owner: _Object | _Instance


_Value: TypeAlias = _Object | _LoopBound | _Instance | _Nested | _Method | None


class _Home(NamedTuple):
    """Where a function is defined. Functions are followed into others of the same package or folder."""

    package: str
    folder: str

    @classmethod
    def of(cls, function: FunctionType) -> _Home:
        """Return the home of a function."""
        package = (function.__module__ or "").partition(".")[0]
        return cls(package, os.path.dirname(function.__code__.co_filename))

    def has(self, function: FunctionType) -> bool:
        """Whether a function is at home here."""
        other = _Home.of(function)
        return self.package == other.package or bool(self.folder and self.folder == other.folder)


class _Names(NamedTuple):
    """The names that a function can read, apart from its own."""

    namespace: Mapping[str, Any]
    enclosing: Callable[[str], _Value]
    home: _Home


def find_asyncio_use(fn: Callable[..., Any]) -> AsyncioUse | None:
    """Return where an async function certainly needs an asyncio loop, None if no such place is known."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if not isinstance(fn, FunctionType | MethodType):
        fn = getattr(fn, "__call__", fn)  # noqa: B004
    function = fn.__func__ if isinstance(fn, MethodType) else fn
    if not isinstance(function, FunctionType):
        return None
    owner = _Object(fn.__self__) if isinstance(fn, MethodType) else None
    return _Code.of(function, owner, _Home.of(function)).find(_MOST_CALLS)


class _Code:
    """The byte code of one function.

    An instruction knows the place of its expression in the source. So the function of a call is found without a model
    of the stack: its expression begins where the call's does.
    """

    def __init__(self, code: CodeType, names: _Names, owner: _Value = None) -> None:
        self._code = code
        self._names = names
        self._instructions = [each for each in dis.get_instructions(code) if each.opname not in _SKIPPED]
        self._by_start: dict[tuple[int, int], list[int]] = {}
        stores: dict[str, list[int]] = {}
        for index, each in enumerate(self._instructions):
            if each.opname in _STORES:
                for name in _stored(each):
                    stores.setdefault(name, []).append(index)
            elif each.opname in (*_NAMES, *_ATTRIBUTES, *_CALLS):
                self._by_start.setdefault(_start(each), []).append(index)
        parameters = code.co_varnames[: _count_parameters(code)]
        self._stores = {name: at[0] for name, at in stores.items() if len(at) == 1 and name not in parameters}
        """The names that are stored exactly once, so that their value is known, with the place."""
        self._known: dict[str, _Value] = {}
        if owner is not None and code.co_argcount and code.co_varnames[0] not in stores:
            self._known[code.co_varnames[0]] = owner

    @classmethod
    def of(cls, function: FunctionType, owner: _Value, home: _Home) -> _Code:
        """Return the code of a function that exists, with the content of its closure."""
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))

        def enclosing(name: str) -> _Value:
            try:
                return _Object(cells[name].cell_contents)
            except ValueError:
                # It is empty as yet.
                return None

        return cls(function.__code__, _Names(function.__globals__, enclosing, home), owner)

    @property
    def is_async(self) -> bool:
        """Whether it is run by being awaited, or by ``async for``."""
        return bool(self._code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR))

    def find(self, calls: int) -> AsyncioUse | None:
        """Return the first use of asyncio, looking up to `calls` calls deep."""
        if any(_is_of(self._value(index), _NATIVE) for index in range(len(self._instructions))):
            return None
        for index, instruction in enumerate(self._instructions):
            found: AsyncioUse | None = None
            if instruction.opname in _AWAITS and index:
                found = self._find_awaited(index - 1, calls)
            elif instruction.opname in _CALLS:
                name = _name_of(self._callee(index))
                found = self._use(name, index) if name in _NEED_A_LOOP else None
            elif isinstance(instruction.argval, CodeType) and instruction.argval.co_name in _COMPREHENSIONS:
                # In Python 3.11 a comprehension is a function of its own.
                found = self._nested(instruction.argval).find(calls)
            if found is not None:
                return found
        return None

    def _find_awaited(self, index: int, calls: int) -> AsyncioUse | None:
        """Return the use of asyncio in an expression that is awaited, or in the function that it calls."""
        is_call = self._instructions[index].opname in _CALLS
        value = self._callee(index) if is_call else self._value(index)
        name = _name_of(value)
        if name is not None:
            return self._use(name, index)
        called = self._followed(value) if is_call else None
        if (called is None or not called.is_async) and self._instructions[index + 1].opname == "BEFORE_ASYNC_WITH":
            called = self._followed(_attribute(self._value(index), "__aenter__"))
        return None if called is None or not called.is_async or not calls else called.find(calls - 1)

    def _followed(self, callee: _Value) -> _Code | None:
        home = self._names.home
        match callee:
            case _Nested(code, around):
                return around._nested(code)
            case _Object(FunctionType() as function):
                function = _without_context_manager(function)
                return _Code.of(function, None, home) if home.has(function) else None
            case _Method():
                # Unpacked: to type checkers, an attribute that is a function is a method.
                method, owner = callee
                method = _without_context_manager(method)
                return _Code.of(method, owner, home) if home.has(method) else None
            case _:
                return None

    def _nested(self, code: CodeType) -> _Code:
        return _Code(code, self._names._replace(enclosing=self._named))

    def _use(self, name: str, index: int) -> AsyncioUse:
        positions = self._instructions[index].positions
        line = None if positions is None else positions.lineno
        return AsyncioUse(name, self._code.co_filename, line or self._code.co_firstlineno)

    # Values.

    def _value(self, index: int) -> _Value:
        """Return what an instruction leaves on the stack, None if it is not known."""
        if index < 0:
            return None
        instruction = self._instructions[index]
        operation, argument = instruction.opname, instruction.argval
        if operation in _NAMES:
            return self._named(argument)
        if operation in ("STORE_FAST_LOAD_FAST", "LOAD_FAST_LOAD_FAST"):
            return self._named(argument[1])
        if operation in _ATTRIBUTES and self._is_super(index):
            return self._inherited(argument)
        if operation in _ATTRIBUTES:
            return _attribute(self._value(index - 1), argument)
        if operation in _CALLS:
            return _result(self._callee(index))
        if operation in ("IMPORT_NAME", "IMPORT_FROM", "POP_TOP"):
            return self._imported(index)
        if operation in ("MAKE_FUNCTION", "SET_FUNCTION_ATTRIBUTE"):
            while self._instructions[index].opname == "SET_FUNCTION_ATTRIBUTE":
                index -= 1
            code = self._instructions[index - 1].argval
            return _Nested(code, self) if isinstance(code, CodeType) else None
        return None

    def _named(self, name: str) -> _Value:
        if name in self._known:
            return self._known[name]
        if name in self._stores:
            # Until it is known: a name may depend on itself, in a loop.
            self._known[name] = None
            self._known[name] = self._value(self._stores[name] - 1)
            return self._known[name]
        code = self._code
        if name in code.co_freevars:
            return self._names.enclosing(name)
        if name in code.co_varnames or name in code.co_cellvars:
            return None
        namespace = self._names.namespace
        if name in namespace:
            return _Object(namespace[name])
        return _Object(super) if name == "super" else None

    def _callee(self, index: int) -> _Value:
        """Return the function that a call calls."""
        call = self._instructions[index]
        if _end(call) == _NOWHERE:
            return None
        inside = [
            (_end(self._instructions[before]), before)
            for before in self._by_start.get(_start(call), ())
            if before < index and _end(self._instructions[before]) < _end(call)
        ]
        return self._value(max(inside)[1]) if inside else None

    def _is_super(self, index: int) -> bool:
        """Whether an attribute is one of ``super()``."""
        if self._instructions[index].opname == "LOAD_SUPER_ATTR":
            return True
        # In Python 3.11, and where ``super`` has arguments.
        before = index - 1
        is_call = self._instructions[before].opname in _CALLS and self._instructions[before].arg == 0
        return is_call and self._callee(before) == _Object(super)

    def _inherited(self, name: str) -> _Value:
        """Return the method that ``super()`` finds."""
        kind, owner = self._named("__class__"), self._named(next(iter(self._code.co_varnames), ""))
        if not isinstance(kind, _Object) or not isinstance(owner, _Object | _Instance):
            return None
        classes = (owner.kind if isinstance(owner, _Instance) else type(owner.value)).__mro__
        later = classes[classes.index(kind.value) + 1 :] if kind.value in classes else ()
        return _class_attribute(later, name, owner)

    def _imported(self, index: int) -> _Value:
        instruction = self._instructions[index]
        if instruction.opname == "IMPORT_NAME":
            # ``import a.b`` stores a, ``from a.b import c`` takes c from b.
            is_from = self._instructions[index - 1].argval is not None
            return _module(instruction.argval if is_from else instruction.argval.partition(".")[0])
        before = index
        while before > 0 and self._instructions[before].opname != "IMPORT_NAME":
            before -= 1
        module = self._instructions[before].argval
        if instruction.opname == "IMPORT_FROM":
            found = _attribute(self._imported(before), instruction.argval)
            return found or _module(f"{module}.{instruction.argval}")
        # ``import a.b as c`` removes a from the stack before it stores b.
        operations = [each.opname for each in self._instructions[max(index - 2, 0) : index]]
        return _module(module) if operations == ["IMPORT_FROM", "SWAP"] else None


def _count_parameters(code: CodeType) -> int:
    stars = (inspect.CO_VARARGS, inspect.CO_VARKEYWORDS)
    return code.co_argcount + code.co_kwonlyargcount + sum(bool(code.co_flags & star) for star in stars)


def _stored(instruction: dis.Instruction) -> tuple[str, ...]:
    names = instruction.argval
    if instruction.opname == "STORE_FAST_STORE_FAST":
        # Twice, because the values are not known.
        return (*names, *names)
    return (names[0],) if instruction.opname == "STORE_FAST_LOAD_FAST" else (names,)


def _start(instruction: dis.Instruction) -> tuple[int, int]:
    place = instruction.positions
    return _NOWHERE if place is None else (place.lineno or 0, place.col_offset or 0)


def _end(instruction: dis.Instruction) -> tuple[int, int]:
    place = instruction.positions
    return _NOWHERE if place is None else (place.end_lineno or 0, place.end_col_offset or 0)


def _without_context_manager(function: FunctionType) -> FunctionType:
    """Return the generator that `contextlib.asynccontextmanager` has decorated, other functions as they are."""
    inner = getattr(function, "__wrapped__", None)
    if isinstance(inner, FunctionType) and function.__code__.co_filename == contextlib.__file__:
        return inner
    return function


def _module(name: str) -> _Value:
    if name in sys.modules:
        return _Object(sys.modules[name])
    # Not imported here: that would run its code.
    return _LoopBound(name) if _is_in(name, _LOOP_BOUND) else None


def _attribute(value: _Value, name: str) -> _Value:
    bound = _name_of(value)
    if isinstance(value, _LoopBound):
        return _LoopBound(f"{value.name}.{name}")
    if isinstance(value, _Instance):
        return _class_attribute(value.kind.__mro__, name, value)
    if not isinstance(value, _Object):
        return None
    owner = value.value
    if isinstance(owner, ModuleType):
        if name in vars(owner):
            return _Object(vars(owner)[name])
        if f"{owner.__name__}.{name}" in sys.modules:
            return _Object(sys.modules[f"{owner.__name__}.{name}"])
    if bound is not None:
        return _LoopBound(f"{bound}.{name}")
    if isinstance(owner, ModuleType):
        return None
    if isinstance(owner, type):
        return _class_attribute(owner.__mro__, name, None)
    return _attribute_of_object(value, name)


def _attribute_of_object(value: _Object, name: str) -> _Value:
    owner = value.value
    try:
        # Runs no code of the object's.
        found = inspect.getattr_static(owner, name)
    except AttributeError:
        return None
    if name in getattr(owner, "__dict__", ()):
        return _Object(found)
    return _class_attribute(type(owner).__mro__, name, value)


def _class_attribute(classes: Sequence[type], name: str, owner: _Object | _Instance | None) -> _Value:
    """Return a function that is an attribute of a class, as its object has it, or the class itself without one."""
    found = next((vars(each)[name] for each in classes if name in vars(each)), None)
    if isinstance(found, staticmethod):
        return _Object(found.__func__)
    if isinstance(found, classmethod):
        function: Any = found.__func__
        return _Method(function, _Object(classes[0])) if isinstance(function, FunctionType) else None
    if not isinstance(found, FunctionType):
        return None
    return _Object(found) if owner is None else _Method(found, owner)


def _result(callee: _Value) -> _Value:
    if isinstance(callee, _Object) and isinstance(callee.value, type) and _name_of(callee) is None:
        kind = callee.value
        is_plain = type(kind).__call__ is type.__call__ and all(
            "__new__" not in vars(each) for each in kind.__mro__[:-1]
        )
        return _Instance(kind) if is_plain else None
    name = _name_of(callee)
    # What asyncio.run returns may be anything.
    if name is None or name.startswith("asyncio.run"):
        return None
    return _LoopBound(name if name.rpartition(".")[2][:1].isupper() else f"{name}()")


def _is_of(value: _Value, modules: tuple[str, ...]) -> bool:
    return isinstance(value, _Object) and _is_in(_origin(value.value)[0], modules)


def _name_of(value: _Value) -> str | None:
    """Return the name of something of a loop-bound module, None for anything else."""
    match value:
        case _LoopBound(name):
            return name
        case _Object(found) | _Instance(found) | _Method(found, _):
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
