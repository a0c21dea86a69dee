"""The tasks that wait for a given task: they await it, or a future, event, condition or queue that it sets."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from types import BuiltinMethodType, CellType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any, TypeGuard, TypeVar, overload

from ..._concurrency import await_stack
from ._clean_up import Watch

T = TypeVar("T")

_DEPTH = 2
"""Most steps from a variable to an object: ``self.ready`` and ``waiting[key]`` take one, ``self.ready[key]`` two."""

FAR = 4
"""How far to look where a future too many does no harm, as in ``self.client.cache.waiting[key]``."""

_MOST_OBJECTS = 1000
"""The most objects to look at for one task."""

_CALLS_MODULE = f"{__package__}._call"
"""Its code holds a call, and thereby all others, but sets nothing that an agent waits for."""


def waiters_of(task: asyncio.Task[Any]) -> Iterator[contextvars.Context]:
    """Yield the contexts of the tasks that wait for a task, also through ``shield``, ``gather`` and ``wait_for``.

    Tasks also wait for it if they wait for a future, an event, a condition or a queue that it sets or fills. Which
    ones these are is guessed from its variables and its callbacks, so too many may be found. Locks are not among them,
    because the holder of a lock releases it when it is cancelled; the lock of a condition is an exception.
    """
    # By identity: the class of a future may be an agent's, whose futures may have no hash.
    awaited = {id(future): future for future in cancelled_with(task)}
    for future in settable([task]):
        if id(future) not in awaited:
            yield from waiters_of_future(future)


def waiters_of_future(future: asyncio.Future[Any]) -> Iterator[contextvars.Context]:
    """Yield the contexts of the tasks that await a future."""
    for _, context in _callbacks(future):
        yield context


def all_waiters_of_future(future: asyncio.Future[Any]) -> Iterator[contextvars.Context]:
    """Yield the contexts of the tasks that wait for a future, of those that wait for these tasks, and so on."""
    found = [future]
    for each in found:
        for callback, context in _callbacks(each):
            yield context
            # A task wakes up by a method of its own.
            task = getattr(callback, "__self__", None)
            if _is_a(task, asyncio.Task) and len(found) < _MOST_OBJECTS:
                found.append(task)


def cancelled_with(task: asyncio.Task[Any]) -> Iterator[asyncio.Future[Any]]:
    """Yield the futures that asyncio cancels together with a task: those that it awaits directly or indirectly."""
    found: list[asyncio.Future[Any] | None] = [getattr(task, "_fut_waiter", None)]
    for future in found:
        if future is not None and len(found) < _MOST_OBJECTS:
            yield future
            found += (getattr(future, "_fut_waiter", None), *getattr(future, "_children", ()))


def _callbacks(future: asyncio.Future[Any]) -> Iterable[tuple[Any, contextvars.Context]]:
    # Private, and the same in C and in Python since 3.7: pairs of a callback and its context.
    pairs: Iterable[tuple[Any, contextvars.Context]] = getattr(future, "_callbacks", None) or ()
    return [pair for pair in pairs if type(pair[0]) is not Watch]


def settable(futures: Collection[asyncio.Future[Any]], depth: int = _DEPTH) -> Iterator[asyncio.Future[Any]]:
    """Yield futures, which may be tasks, and those that they or their callbacks may set."""
    yield from futures
    held: list[object] = []
    for future in futures:
        held += (callback for callback, _ in _callbacks(future) if not _is_of_the_lane(callback))
        if _is_a(future, asyncio.Task):
            held += (value for frame in _frames(future) for value in frame.f_locals.values())
    for value in islice(_reachable(held, depth), _MOST_OBJECTS):
        if _is_a(value, asyncio.Future):
            yield value
        elif _is_a(value, asyncio.Event):
            yield from getattr(value, "_waiters", ())
        elif _is_a(value, asyncio.Condition):
            # Since Python 3.13, a cancelled waiter wakes another one, which needs the lock before it can wait again.
            lock = getattr(value, "_lock", None)
            yield from (*getattr(value, "_waiters", ()), *(getattr(lock, "_waiters", None) or ()))
        elif _is_a(value, asyncio.Queue):
            yield from (*getattr(value, "_getters", ()), *getattr(value, "_putters", ()))


def _frames(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """Yield the frames of a task, except the lane's own."""
    return (frame for frame in await_stack(task.get_coro()) if frame.f_globals.get("__name__") != _CALLS_MODULE)


def _is_of_the_lane(callback: object) -> bool:
    return _is_a(callback, MethodType) and type(callback.__self__).__module__ == _CALLS_MODULE


def _reachable(values: Iterable[object], most: int) -> Iterator[object]:
    """Yield the values and what they hold, to a depth."""
    seen: set[int] = set()
    found = deque((value, 0) for value in values)
    while found:
        value, depth = found.popleft()
        # This task may know another one, but it does not set its result.
        if id(value) in seen or _is_a(value, asyncio.Task):
            continue
        seen.add(id(value))
        yield value
        # Cells of closures and functions with bound arguments do not count as a step.
        depth += not _is_a(value, _TRANSPARENT)
        if depth <= most and len(found) < _MOST_OBJECTS:
            found.extend((each, depth) for each in _held_by(value))


def _held_by(value: object) -> Iterator[object]:
    if _is_a(value, FunctionType):
        # Not its module, which is not of the task.
        yield from value.__closure__ or ()
    elif not _is_a(value, _OPAQUE):
        for each in islice(gc.get_referents(value), _MOST_OBJECTS):
            if type(each) not in _PLAIN and not _is_a(each, (type, ModuleType)):
                yield each


@overload
def _is_a(value: object, kinds: type[T]) -> TypeGuard[T]: ...
@overload
def _is_a(value: object, kinds: tuple[type, ...]) -> bool: ...
def _is_a(value: object, kinds: type | tuple[type, ...]) -> bool:
    """Whether a value is of a class; `isinstance` asks its ``__class__``, with which a lazy proxy makes its object."""
    return issubclass(type(value), kinds)


_PLAIN = frozenset({type(None), bool, int, float, str, bytes})

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
"""The types whose objects are not looked into: they hold nothing that a task sets, or `settable` reads them itself."""
