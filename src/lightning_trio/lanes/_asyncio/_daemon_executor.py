"""The executor behind ``asyncio.to_thread`` and ``run_in_executor(None, …)`` in the agents' loop."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import outcome
import trio

P = ParamSpec("P")
T = TypeVar("T")


class DaemonExecutor(ThreadPoolExecutor):
    """Run each call at once in a thread of Trio's cache, in its caller's context; the interpreter's exit does not wait.

    asyncio's own executor has as few as six threads, so a few agents whose blocked calls were cancelled would delay all
    others, and the interpreter waits for its threads at exit. asyncio accepts only subclasses of `ThreadPoolExecutor`,
    hence the base class, whose threads are never started.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start the function in a thread, in the context of the calling task."""
        future: Future[T] = Future()

        def deliver(result: outcome.Outcome[T]) -> None:
            if isinstance(result, outcome.Error):
                future.set_exception(result.error)
            else:
                future.set_result(result.unwrap())

        future.set_running_or_notify_cancel()
        trio.lowlevel.start_thread_soon(functools.partial(contextvars.copy_context().run, fn, *args, **kwargs), deliver)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: threads end by themselves, and no caller waits for them."""
