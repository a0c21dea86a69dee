"""The thread lane: a plain function runs in a worker thread, with the rollout's context."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NamedTuple

import attrs
import trio

from .._errors import AgentError, UnsupportedLane
from ._function import is_async_function
from ._lane import Call, Lane, LaneOptions, OpenLane
from ._place import RunningTask, thread_place


class ThreadLane(Lane):
    """Run plain functions in worker threads."""

    name = "thread"

    def check(self, agent: str, fn: Callable[..., Any]) -> None:
        """Raise `UnsupportedLane` if the function is async."""
        if is_async_function(fn):
            raise UnsupportedLane.for_plain(agent, self.name)

    @asynccontextmanager
    async def open(self, options: LaneOptions) -> AsyncGenerator[OpenLane]:
        """Open the lane; its threads are Trio's, and abandoned ones end by themselves."""
        yield OpenThreadLane()


class OpenThreadLane(OpenLane):
    """Call agents in threads."""

    async def run(self, call: Call) -> Any:
        """Call the agent in a thread; when cancelled, abandon the thread."""
        thread = call.state = WorkerThread()
        try:
            result = await trio.to_thread.run_sync(
                _call,
                call.bound.fn,
                call.recorder.rollout.input,
                call.arguments(),
                thread,
                abandon_on_cancel=True,
                # Trio uses only these two methods of a limiter, see trio.to_thread.run_sync.
                limiter=thread,  # type: ignore[arg-type]
            )
        except trio.Cancelled:
            if thread.runs:
                call.abandoned = thread
            raise
        if isinstance(result, _Raised):
            raise result.exception
        return result.value

    def locate(self, call: Call, loop_thread: int) -> RunningTask | None:
        """Return the current line of the thread."""
        thread: WorkerThread | None = call.state
        return None if thread is None else thread_place(thread.ident)


@attrs.define(eq=False)
class WorkerThread:
    """One call's thread, from its start to its end, which may come long after the call was abandoned.

    To Trio it is the call's limiter, acquired before the thread starts and released in Trio's thread once it has ended.
    The runner's slots limit the number of threads; Trio's own limiter allows 40 in the whole process.
    """

    kind: ClassVar[str] = "thread"
    runs: bool = False
    ident: int | None = None
    """The thread's id, once the call has begun in it."""
    _on_end: Callable[[], None] | None = None

    def when_ended(self, fn: Callable[[], None]) -> None:
        """Call `fn` when the thread has ended, at once if it already has."""
        if self.runs:
            self._on_end = fn
        else:
            fn()

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Mark the thread as running; called by Trio before it starts."""
        # Without letting other tasks run first: one that blocks Trio's thread would hold up this call.
        await trio.lowlevel.checkpoint_if_cancelled()
        self.runs = True

    def release_on_behalf_of(self, borrower: object) -> None:
        """Mark the thread as ended; called by Trio."""
        self.runs = False
        if self._on_end is not None:
            self._on_end()


class _Returned(NamedTuple):
    # Trio refuses a bare coroutine with a message about `_call` instead of the agent.
    value: Any


class _Raised(NamedTuple):
    # Raised through Trio's thread, an exception that is frozen, or has methods that raise, would not arrive.
    exception: BaseException


class _OwnTracing:
    """Undo what an agent sets with `sys.settrace` and `sys.setprofile`, before others run in its thread.

    A function that raises outside of an agent would end the thread, and nobody would learn the result.
    """

    __slots__ = ("_profile", "_trace")

    def __enter__(self) -> None:
        self._trace, self._profile = sys.gettrace(), sys.getprofile()

    def __exit__(self, *_: object) -> None:
        try:
            sys.settrace(self._trace)
        finally:
            # The agent's one is called for this, and may raise for the last time.
            sys.setprofile(self._profile)


def _call(fn: Callable[..., Any], task: Any, arguments: Mapping[str, Any], thread: WorkerThread) -> _Returned | _Raised:
    thread.ident = threading.get_ident()
    try:
        with _OwnTracing():
            return _Returned(fn(task, **arguments))
    except KeyboardInterrupt as exc:
        # Ctrl-C reaches the main thread only: the agent raised this itself, and it must not stop the program.
        error = AgentError.raised("KeyboardInterrupt")
        error.__cause__ = exc
        return _Raised(error)
    except BaseException as exc:
        return _Raised(exc)
