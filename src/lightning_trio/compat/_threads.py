"""Threads that an agent starts record into its rollout, as in Agent-lightning 0.3.

There a process ran one rollout at a time, so that an emitter found it from any thread. Here many run at once, and a
thread follows the rollout whose code started it, or whose code gave it work.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any

from ..tracing import find_recorder


class _Followed:
    """Whether threads are followed: while at least one block of `following_threads` runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._replaced = False

    def change(self, blocks: int) -> None:
        with self._lock:
            self._blocks += blocks
            if not self._replaced:
                # For good, since another library may have replaced them as well by the time that the block ends.
                self._replaced = True
                _replace_start(threading.Thread)
                if "start" in vars(threading.Timer):
                    # OpenTelemetry's instrumentation of threads leaves the class one of its own.
                    _replace_start(threading.Timer)
                _replace_submit()

    def here(self) -> bool:
        """Whether a thread that the calling code starts now belongs to a rollout."""
        return self._blocks > 0 and find_recorder() is not None


_followed = _Followed()


@contextmanager
def following_threads() -> Generator[None]:
    """Let threads and the work of `ThreadPoolExecutor` follow the rollout that starts them, until the block ends."""
    _followed.change(1)
    try:
        yield
    finally:
        _followed.change(-1)


def _replace_start(kind: type[threading.Thread]) -> None:
    start = kind.start

    @functools.wraps(start)
    def start_in_context(self: threading.Thread) -> None:
        if _followed.here():
            # `Thread` calls it by this name, also that of a subclass.
            self.run = functools.partial(copy_context().run, self.run)  # type: ignore[method-assign]
        start(self)

    kind.start = start_in_context  # type: ignore[method-assign]


def _replace_submit() -> None:
    # The method's own type says of every call what `fn` returns, which no wrapper could repeat.
    submit: Any = ThreadPoolExecutor.submit

    @functools.wraps(submit)
    def submit_in_context(
        self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        if not _followed.here():
            future: Future[Any] = submit(self, fn, *args, **kwargs)
            return future
        context = copy_context()
        # In an empty context, since a thread of the pool that this starts will serve other rollouts, too.
        followed: Future[Any] = Context().run(submit, self, context.run, fn, *args, **kwargs)
        return followed

    pool: Any = ThreadPoolExecutor
    pool.submit = submit_in_context
