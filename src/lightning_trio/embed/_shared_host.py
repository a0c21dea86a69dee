"""The process's one host: a Trio thread for objects that are used from Trio, asyncio and blocking code alike.

It starts with the first call and lives as long as the process. Every call in it is a task of its own, in the caller's
context, so that one object, such as a store in memory, may be used from several event loops and threads at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any, Generic, TypeVar, cast

import outcome
import trio

from .._errors import UsageError
from ._blocking import close_host, wait_blocking
from ._host import CANCEL_SECONDS, Job, TrioHost

T = TypeVar("T")
M = TypeVar("M", bound=AbstractAsyncContextManager[Any])

_host: TrioHost | None = None
_lock = threading.Lock()


def _shared() -> TrioHost:
    global _host
    if _host is None:
        with _lock:
            if _host is None:
                opened = threading.Event()
                host = TrioHost(nullcontext(), opened.set, opened.set, "lightning_trio-shared-host")
                opened.wait()
                _host = host
    return _host


def _forget() -> None:
    # Threads do not survive a fork.
    global _host, _lock
    _host, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


async def call_in_host(fn: Callable[[], Awaitable[T]]) -> T:
    """Run an async function of Trio in the process's host, and return its result; awaited in Trio or in asyncio.

    A cancelled caller cancels the call and waits until it has ended. In Trio the result of a call that has succeeded
    nevertheless is returned.

    Raises:
        UsageError: neither Trio nor asyncio runs here.
    """
    return await _call(_shared(), fn)


async def _call(host: TrioHost, fn: Callable[[], Awaitable[T]]) -> T:
    if trio.lowlevel.in_trio_task():
        if host.runs_here():
            return await fn()
        return await _from_trio(host, fn)
    # See `AsyncioRunner`.
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise UsageError.no_event_loop() from None
    from ._loop import await_job

    awaited: T = await await_job(host, fn)
    return awaited


def block_in_host(fn: Callable[[], Awaitable[T]]) -> T:
    """Run an async function of Trio in the process's host, and return its result to blocking code."""
    return wait_blocking(_shared(), fn)


async def _from_trio(host: TrioHost, fn: Callable[[], Awaitable[T]]) -> T:
    token = trio.lowlevel.current_trio_token()
    ended = trio.Event()

    def wake() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(ended.set)

    job = host.submit(Job(fn, wake))
    try:
        await ended.wait()
    except trio.Cancelled:
        host.cancel(job)
        with trio.move_on_after(CANCEL_SECONDS, shield=True):
            await ended.wait()
        if isinstance(job.result, outcome.Value):
            return cast("T", job.result.unwrap())
        raise
    assert job.result is not None
    result: T = job.result.unwrap()
    return result


class HostedManager(Generic[M]):
    """An async context manager of Trio, such as a `Runner`, open in a thread of its own until `close`.

    Args:
        manager: what to open. An error in opening it is raised.
    """

    def __init__(self, manager: M) -> None:
        self.manager: M = manager
        self._ended = threading.Event()
        opened = threading.Event()

        def end() -> None:
            self._ended.set()
            opened.set()

        self._host = TrioHost(manager, opened.set, end)
        opened.wait()
        if self._ended.is_set():
            self.close()

    async def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        """Run an async function of Trio in the thread; awaited in Trio or in asyncio."""
        return await _call(self._host, fn)

    def close(self) -> None:
        """Cancel what runs there, and close the manager; raise its error if it has failed."""
        close_host(self._host, self._ended)
