"""Functions wrapped in operations, and functions whose results are recorded."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractContextManager, aclosing, suppress
from typing import Any, ParamSpec, Protocol, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


class RunningOperation(Protocol):
    """An operation as the functions that it is around use it."""

    def set_output(self, output: object) -> None:
        """Record the step's result."""
        ...


def around_calls(
    fn: Callable[P, T],
    start: Callable[[tuple[object, ...], dict[str, object]], AbstractContextManager[RunningOperation]],
) -> Callable[P, T]:
    """Return a sync, async or generator function wrapped in the operations that `start` makes of its arguments."""
    if inspect.iscoroutinefunction(fn):
        async_fn = cast("Callable[P, Awaitable[object]]", fn)

        @functools.wraps(fn)
        async def async_operation(*args: P.args, **kwargs: P.kwargs) -> object:
            with start(args, kwargs) as running:
                result = await async_fn(*args, **kwargs)
                running.set_output(result)
                return result

        return cast("Callable[P, T]", async_operation)

    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        return _around_generator(fn, start)

    @functools.wraps(fn)
    def sync_operation(*args: P.args, **kwargs: P.kwargs) -> T:
        with start(args, kwargs) as running:
            result = fn(*args, **kwargs)
            running.set_output(result)
            return result

    return sync_operation


def after_calls(fn: Callable[P, T], then: Callable[[Any], object]) -> Callable[P, T]:
    """Return a sync or async function that calls `then` with what `fn` returns, before it returns that."""
    if inspect.iscoroutinefunction(fn):
        async_fn = cast("Callable[P, Awaitable[object]]", fn)

        @functools.wraps(fn)
        async def async_function(*args: P.args, **kwargs: P.kwargs) -> object:
            result = await async_fn(*args, **kwargs)
            then(result)
            return result

        return cast("Callable[P, T]", async_function)

    @functools.wraps(fn)
    def sync_function(*args: P.args, **kwargs: P.kwargs) -> T:
        result = fn(*args, **kwargs)
        then(result)
        return result

    return sync_function


def _around_generator(fn: Callable[P, Any], start: Callable[..., AbstractContextManager[object]]) -> Callable[P, Any]:
    """Return a generator function wrapped in an operation that begins with the first step."""
    if inspect.isasyncgenfunction(fn):

        @functools.wraps(fn)
        async def async_generator(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
            with start(args, kwargs):
                async with aclosing(fn(*args, **kwargs)) as steps:
                    sent = None
                    with suppress(StopAsyncIteration):
                        while True:
                            sent = yield await steps.asend(sent)

        return async_generator

    @functools.wraps(fn)
    def generator(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, Any]:
        with start(args, kwargs):
            return (yield from fn(*args, **kwargs))

    return generator
