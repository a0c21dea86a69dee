"""The thread lane: a plain function runs in a worker thread, with the rollout's context."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs
import trio

from .._errors import AgentError
from ._abandoned import AbandonedCall


@attrs.define(eq=False)
class WorkerThread:
    """One call's thread, from its start to its real end, which may be long after nobody waits for it any more.

    To Trio it is the call's limiter: taken before the thread starts, given back in Trio's thread when it has ended.
    What really limits threads are the runner's slots; Trio's own limiter has 40 places for the whole process.
    """

    kind: ClassVar[str] = "thread"
    runs: bool = attrs.field(default=False, init=False)
    ident: int | None = attrs.field(default=None, init=False)
    """The thread's id, once the call has begun in it."""
    _on_end: Callable[[], None] | None = attrs.field(default=None, init=False)

    def when_ended(self, fn: Callable[[], None]) -> None:
        """Call `fn` when the thread has ended, at once if it has."""
        if self.runs:
            self._on_end = fn
        else:
            fn()

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Note that the thread is about to start; called by Trio."""
        await trio.lowlevel.checkpoint()
        self.runs = True

    def release_on_behalf_of(self, borrower: object) -> None:
        """Note that the thread has ended; called by Trio."""
        self.runs = False
        if self._on_end is not None:
            self._on_end()


async def run_in_thread(
    fn: Callable[..., Any],
    task: Any,
    arguments: Mapping[str, Any],
    thread: WorkerThread,
    abandon: Callable[[AbandonedCall], None],
) -> Any:
    """Call the function in a thread; on cancellation go on without it and hand it to `abandon`."""
    try:
        [value] = await trio.to_thread.run_sync(
            _call,
            fn,
            task,
            arguments,
            thread,
            abandon_on_cancel=True,
            # Trio asks for no more than these two methods, see trio.to_thread.run_sync.
            limiter=thread,  # type: ignore[arg-type]
        )
        return value
    except trio.Cancelled:
        if thread.runs:
            abandon(thread)
        raise


def _call(fn: Callable[..., Any], task: Any, arguments: Mapping[str, Any], thread: WorkerThread) -> tuple[Any]:
    thread.ident = threading.get_ident()
    try:
        # In a tuple, for Trio refuses a coroutine in words that speak of this function.
        return (fn(task, **arguments),)
    except KeyboardInterrupt as exc:
        # Ctrl-C reaches the main thread only, so this is the agent's own and must not stop the program.
        raise AgentError("the agent raised KeyboardInterrupt") from exc
