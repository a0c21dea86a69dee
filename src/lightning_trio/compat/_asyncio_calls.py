"""Coroutines written for asyncio, awaited in Trio: hooks, and algorithms' methods."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import trio

from .._runner import Hook as NativeHook

T = TypeVar("T")

_METHODS = ("on_rollout_start", "on_trace_start", "on_trace_end", "on_rollout_end")


async def call_asyncio(fn: Callable[..., Coroutine[Any, Any, T]], **arguments: Any) -> T:
    """Run an async function of asyncio in a worker thread with an event loop of its own, and return its result."""
    # See `AsyncioRunner`.
    import asyncio

    return await trio.to_thread.run_sync(lambda: asyncio.run(fn(**arguments)), abandon_on_cancel=True)


class Hook(NativeHook):
    """The base of hooks, whose methods run on asyncio."""


def in_trio(hooks: Sequence[NativeHook]) -> tuple[NativeHook, ...]:
    """Return the hooks as a runner takes them, which calls them in Trio."""
    return tuple(_AsyncioHook(hook) if isinstance(hook, Hook) else hook for hook in hooks)


class _AsyncioHook(NativeHook):
    """Calls the methods of a hook on asyncio."""

    def __init__(self, hook: Hook) -> None:
        self._hook = hook
        for name in _METHODS:
            method = getattr(hook, name)
            if inspect.iscoroutinefunction(method) and method.__func__ is not getattr(NativeHook, name):
                setattr(self, name, functools.wraps(method)(functools.partial(_call, method)))


async def _call(method: Callable[..., Coroutine[Any, Any, None]], **arguments: Any) -> None:
    arguments["runner"] = getattr(arguments["runner"], "face", arguments["runner"])
    if "spans" in arguments:
        arguments["spans"] = list(arguments["spans"])
    await call_asyncio(method, **arguments)
