"""Async generators: one that is dropped is closed for the rollout that first iterated it, whoever drops it."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from ...tracing import refusing_context


class GeneratorOwner(Protocol):
    """What is known here of a call."""

    task: asyncio.Task[Any] | None
    context: contextvars.Context
    is_over: bool


def follow_generators(loop: asyncio.AbstractEventLoop, find_call: Callable[[], GeneratorOwner | None]) -> None:
    """Have a new loop close generators that are dropped in the context of their calls.

    Args:
        loop: has not run yet.
        find_call: returns the call whose agent is running.
    """
    # Private, but the same since Python 3.6. A loop of another make may have none.
    if hasattr(loop, "_asyncgen_firstiter_hook") and hasattr(loop, "_asyncgen_finalizer_hook"):
        _Generators(loop, find_call)


def restore_hooks(loop: asyncio.AbstractEventLoop) -> None:
    """Have Python call the loop's hooks again, in case an agent has set others for the thread; takes 0.2 µs."""
    begin = getattr(loop, "_asyncgen_firstiter_hook", None)
    if begin is not None:
        sys.set_asyncgen_hooks(begin, getattr(loop, "_asyncgen_finalizer_hook", None))


class _Generators:
    """The calls in whose contexts a loop's async generators were first iterated; a loop calls the two hooks.

    A generator is known by its address: its weak references are dead when its finaliser is called. The address of one
    that ended by itself may be another one's later, which replaces it here.
    """

    def __init__(self, loop: Any, find_call: Callable[[], GeneratorOwner | None]) -> None:
        self._find_call = find_call
        self._owners: dict[int, GeneratorOwner] = {}
        self._addresses: dict[GeneratorOwner, set[int]] = {}
        self._begin = loop._asyncgen_firstiter_hook
        self._finalise = loop._asyncgen_finalizer_hook
        loop._asyncgen_firstiter_hook = self._on_begin
        loop._asyncgen_finalizer_hook = self._on_finalise

    # In the loop's thread.

    def _on_begin(self, generator: AsyncGenerator[Any, Any]) -> None:
        call = self._find_call()
        if call is None or call.is_over or call.task is None:
            self._owners.pop(id(generator), None)
        else:
            self._owners[id(generator)] = call
            self._addresses_of(call, call.task).add(id(generator))
        self._begin(generator)

    def _addresses_of(self, call: GeneratorOwner, task: asyncio.Task[Any]) -> set[int]:
        addresses = self._addresses.get(call)
        if addresses is None:
            addresses = self._addresses[call] = set()
            task.add_done_callback(lambda _: self._forget(call), context=contextvars.Context())
        return addresses

    def _forget(self, call: GeneratorOwner) -> None:
        for address in self._addresses.pop(call):
            if self._owners.get(address) is call:
                # Another thread may have dropped it just now.
                self._owners.pop(address, None)

    # In the thread that drops the generator.

    def _on_finalise(self, generator: AsyncGenerator[Any, Any]) -> None:
        # The loop's own hook schedules a task that closes the generator, in the context that it is called in.
        call = self._owners.pop(id(generator), None)
        if call is None or call.is_over:
            refusing_context().run(self._finalise, generator)
        elif call is self._find_call():
            self._finalise(generator)
        else:
            # A copy, because another thread may have entered the call's own.
            call.context.copy().run(self._finalise, generator)
