"""Coroutines written for asyncio, awaited in Trio: hooks, and algorithms' methods.

Hooks run on the loop of the agents, with which they share clients and locks, as in Agent-lightning 0.3. An algorithm
has a loop of its own, which it may block.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import outcome
import trio

from .._concurrency import FlatNursery, run_in_thread
from .._runner import Hook as NativeHook
from ..lanes import BoundAgent, Call, LaneOptions, lane_named
from ..tracing import current_recorder

T = TypeVar("T")

_CLEAN_UP_SECONDS = 5.0
"""How long a cancelled coroutine may take to clean up."""

_METHODS = ("on_rollout_start", "on_trace_start", "on_trace_end", "on_rollout_end")


async def call_asyncio(fn: Callable[..., Coroutine[Any, Any, T]], **arguments: Any) -> T:
    """Run an async function of asyncio in a worker thread with an event loop of its own, and return its result.

    A cancelled caller cancels it on its loop, and waits for at most `_CLEAN_UP_SECONDS` until it has ended.
    """
    call = _AsyncioCall(functools.partial(fn, **arguments))
    result: outcome.Outcome[Any] | None = None
    async with FlatNursery() as nursery:
        waiting = trio.CancelScope(shield=True)
        nursery.start_soon(_pass_on_cancellation, call, waiting)
        with waiting:
            result = await outcome.acapture(run_in_thread, call.run, abandon_on_cancel=True)
            call.ended = True
        nursery.cancel_scope.cancel()
    assert result is not None
    unwrapped: T = result.unwrap()
    return unwrapped


class _AsyncioCall:
    """A coroutine of asyncio in a thread."""

    def __init__(self, fn: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._fn = fn
        self._cancel: Callable[[], object] | None = None
        self.ended = False

    def run(self) -> Any:
        """Run the coroutine to its end."""
        # See `AsyncioRunner`.
        import asyncio

        async def main() -> Any:
            task = asyncio.current_task()
            assert task is not None
            loop = asyncio.get_running_loop()
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            return await self._fn()

        return asyncio.run(main())

    def cancel(self) -> None:
        """Cancel the coroutine, if it runs; from another thread."""
        if self._cancel is not None:
            # The loop may have been closed just now.
            with suppress(RuntimeError):
                self._cancel()


async def _pass_on_cancellation(call: _AsyncioCall, waiting: trio.CancelScope) -> None:
    try:
        await trio.sleep_forever()
    finally:
        if not call.ended:
            call.cancel()
            waiting.deadline = trio.current_time() + _CLEAN_UP_SECONDS


class Hook(NativeHook):
    """The base of hooks, whose methods run on asyncio."""


def in_trio(hooks: Sequence[NativeHook]) -> tuple[NativeHook, ...]:
    """Return the hooks as a runner takes them, which calls them in Trio."""
    return tuple(_in_trio(hook) if isinstance(hook, Hook) else hook for hook in hooks)


def _in_trio(hook: Hook) -> _AsyncioHook:
    # A class of the same name, which log lines about a hook show.
    named: type[_AsyncioHook] = type(type(hook).__name__, (_AsyncioHook,), {})
    return named(hook)


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
    recorder = current_recorder(f"the hook {method.__name__}()")

    def call(task: object) -> Coroutine[Any, Any, None]:
        return method(**arguments)

    bound = BoundAgent(recorder.agent_name, call, "asyncio", {}, {})
    async with lane_named("asyncio", recorder.agent_name).open(LaneOptions()) as lane:
        await lane.run(Call(bound, recorder))
