"""The tasks that wait for a given task: they await it, or a future, event, condition or queue that it sets."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

from ..._concurrency import await_stack

_DEPTH = 2
"""Most steps from a variable to an object: ``self.ready`` and ``waiting[key]`` take one, ``self.ready[key]`` two."""

_MOST_OBJECTS = 1000
"""The most objects to look at for one task."""


def waiters_of(task: asyncio.Task[Any]) -> Iterator[contextvars.Context]:
    """Yield the contexts of the tasks that wait for a task, also through ``shield``, ``gather`` and ``wait_for``.

    Tasks also wait for it if they wait for a future, an event, a condition or a queue that it sets or fills. Which
    ones these are is guessed from its variables and its callbacks, so too many may be found. Locks are not among them,
    because the holder of a lock releases it when it is cancelled; the lock of a condition is an exception.
    """
    awaited = set(cancelled_with(task))
    for future in _settable(task):
        if future not in awaited:
            yield from waiters_of_future(future)


def waiters_of_future(future: asyncio.Future[Any]) -> Iterator[contextvars.Context]:
    """Yield the contexts of the tasks that await a future."""
    for _, context in _callbacks(future):
        yield context


def cancelled_with(task: asyncio.Task[Any]) -> Iterator[asyncio.Future[Any]]:
    """Yield the futures that asyncio cancels together with a task: those that it awaits directly or indirectly."""
    found: list[asyncio.Future[Any] | None] = [getattr(task, "_fut_waiter", None)]
    for future in found:
        if future is not None and len(found) < _MOST_OBJECTS:
            yield future
            found += (getattr(future, "_fut_waiter", None), *getattr(future, "_children", ()))


def _callbacks(future: asyncio.Future[Any]) -> Iterable[tuple[Any, contextvars.Context]]:
    # Private, and the same in C and in Python since 3.7: pairs of a callback and its context.
    return getattr(future, "_callbacks", None) or ()


def _settable(task: asyncio.Task[Any]) -> Iterator[asyncio.Future[Any]]:
    """Yield the task and the futures that it or its callbacks may set."""
    yield task
    callbacks = [callback for callback, _ in _callbacks(task)]
    variables = [value for frame in await_stack(task.get_coro()) for value in frame.f_locals.values()]
    for value in islice(_reachable([*callbacks, *variables]), _MOST_OBJECTS):
        if isinstance(value, asyncio.Future):
            yield value
        elif isinstance(value, asyncio.Event):
            yield from getattr(value, "_waiters", ())
        elif isinstance(value, asyncio.Condition):
            # Since Python 3.13, a cancelled waiter wakes another one, which needs the lock before it can wait again.
            lock = getattr(value, "_lock", None)
            yield from (*getattr(value, "_waiters", ()), *(getattr(lock, "_waiters", None) or ()))
        elif isinstance(value, asyncio.Queue):
            yield from (*getattr(value, "_getters", ()), *getattr(value, "_putters", ()))


def _reachable(values: Iterable[object]) -> Iterator[object]:
    """Yield the values and the objects that they hold, up to `_DEPTH` steps away."""
    seen: set[int] = set()
    found = deque((value, 0) for value in values)
    while found:
        value, depth = found.popleft()
        # This task may know another one, but it does not set its result.
        if id(value) in seen or isinstance(value, asyncio.Task):
            continue
        seen.add(id(value))
        yield value
        # Cells of closures and functions with bound arguments do not count as a step.
        depth += not isinstance(value, _TRANSPARENT)
        if depth <= _DEPTH:
            found.extend((each, depth) for each in _held_by(value))


def _held_by(value: object) -> Iterable[object]:
    if isinstance(value, FunctionType):
        # Its globals are left out: they are the module's, not the task's.
        return value.__closure__ or ()
    if isinstance(value, _OPAQUE):
        return ()
    return [each for each in gc.get_referents(value) if not isinstance(each, (type, ModuleType))]


_TRANSPARENT = (CellType, FunctionType, MethodType, functools.partial)

_OPAQUE = (
    int,
    str,
    type,
    ModuleType,
    BuiltinMethodType,
    contextvars.Context,
    asyncio.AbstractEventLoop,
    asyncio.Future,
    asyncio.Event,
    asyncio.Condition,
    asyncio.Queue,
    asyncio.Lock,
    asyncio.Semaphore,
)
"""The types whose objects are not looked into: they hold nothing that a task sets, or `_settable` reads them itself."""
