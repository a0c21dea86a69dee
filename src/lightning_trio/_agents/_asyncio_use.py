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
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple, TypeAlias

from ._code_values import (
    Instance,
    Method,
    Object,
    Value,
    attribute_of,
    class_attribute,
    is_of,
    loop_bound_name,
    module_named,
    result_of,
)

_NATIVE = ("trio", "anyio", "sniffio", "trio_asyncio")
"""Modules whose use shows that a function knows about Trio: it may choose between the two."""

_NEED_A_LOOP = ("asyncio.as_completed", "asyncio.create_task", "asyncio.ensure_future", "asyncio.gather")
"""Functions that need a running loop when they are called, before anything is awaited."""

_MOST_CALLS = 5
"""How many calls deep is looked: decorators' wrappers, the agent, and its helper functions."""

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


class _Nested(NamedTuple):
    """A function that is defined in another one."""

    code: CodeType
    around: _Code


_Value: TypeAlias = Value | _Nested


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
    owner = Object(fn.__self__) if isinstance(fn, MethodType) else None
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
                before = self._instructions[index - 1] if index else each
                # ``client = None`` before a ``try`` says nothing of what is awaited: None cannot be.
                if before.opname != "LOAD_CONST" or before.argval is not None:
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
                return Object(cells[name].cell_contents)
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
        if any(is_of(self._value(index), _NATIVE) for index in range(len(self._instructions))):
            return None
        for index, instruction in enumerate(self._instructions):
            found: AsyncioUse | None = None
            if instruction.opname in _AWAITS and index:
                found = self._find_awaited(index - 1, calls)
            elif instruction.opname in _CALLS:
                name = loop_bound_name(self._callee(index))
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
        name = loop_bound_name(value)
        if name is not None:
            return self._use(name, index)
        called = self._followed(value) if is_call else None
        if (called is None or not called.is_async) and self._instructions[index + 1].opname == "BEFORE_ASYNC_WITH":
            called = self._followed(attribute_of(self._value(index), "__aenter__"))
        return None if called is None or not called.is_async or not calls else called.find(calls - 1)

    def _followed(self, callee: _Value) -> _Code | None:
        home = self._names.home
        match callee:
            case _Nested(code, around):
                return around._nested(code)
            case Object(FunctionType() as function):
                function = _without_context_manager(function)
                return _Code.of(function, None, home) if home.has(function) else None
            case Method():
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
            return attribute_of(self._value(index - 1), argument)
        if operation in _CALLS:
            return result_of(self._callee(index))
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
            return Object(namespace[name])
        return Object(super) if name == "super" else None

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
        return is_call and self._callee(before) == Object(super)

    def _inherited(self, name: str) -> _Value:
        """Return the method that ``super()`` finds."""
        kind, owner = self._named("__class__"), self._named(next(iter(self._code.co_varnames), ""))
        if not isinstance(kind, Object) or not isinstance(owner, Object | Instance):
            return None
        classes = (owner.kind if isinstance(owner, Instance) else type(owner.value)).__mro__
        later = classes[classes.index(kind.value) + 1 :] if kind.value in classes else ()
        return class_attribute(later, name, owner)

    def _imported(self, index: int) -> _Value:
        instruction = self._instructions[index]
        if instruction.opname == "IMPORT_NAME":
            # ``import a.b`` stores a, ``from a.b import c`` takes c from b.
            is_from = self._instructions[index - 1].argval is not None
            return module_named(instruction.argval if is_from else instruction.argval.partition(".")[0])
        before = index
        while before > 0 and self._instructions[before].opname != "IMPORT_NAME":
            before -= 1
        module = self._instructions[before].argval
        if instruction.opname == "IMPORT_FROM":
            found = attribute_of(self._imported(before), instruction.argval)
            return found or module_named(f"{module}.{instruction.argval}")
        # ``import a.b as c`` removes a from the stack before it stores b.
        operations = [each.opname for each in self._instructions[max(index - 2, 0) : index]]
        return module_named(module) if operations == ["IMPORT_FROM", "SWAP"] else None


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
