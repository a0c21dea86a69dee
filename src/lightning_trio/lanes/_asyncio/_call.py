"""One agent's call on an asyncio loop: its task, the tasks it creates, its cancellation, its end."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import outcome
import trio

from ..._errors import AgentError
from ...tracing import CURRENT

if TYPE_CHECKING:
    from ._bridge import AsyncioBridge


logger = logging.getLogger("lightning_trio.lanes")

LEFTOVER_SECONDS = 1.0
"""How long the tasks that an agent leaves behind may take to end once they are cancelled."""

_PROMPT_SECONDS = 0.1
"""How much of that time a cancelled attempt waits for them."""

_CALL: contextvars.ContextVar[AsyncioCall | None] = contextvars.ContextVar("lightning_trio_asyncio_call", default=None)
"""The call whose agent is running; tasks that the agent creates inherit it."""


_NO_CONTEXT = contextvars.Context()


def create_task(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    """Create a task, and add it to the call in whose context it is created."""
    task = asyncio.Task(coro, loop=loop, **options)
    context: contextvars.Context | None = options.get("context")
    call = _CALL.get() if context is None else context.get(_CALL)
    if call is not None:
        call.add_child(task)
    return task


def names_of(tasks: Iterable[asyncio.Task[Any]]) -> str:
    """Return the names of tasks and their functions, for a message."""
    names = [f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', '?')})" for task in tasks]
    return ", ".join(sorted(names)[:10]) + (", …" if len(names) > 10 else "")


class AsyncioCall:
    """One call from Trio to a loop."""

    kind: ClassVar[str] = "asyncio call"

    __slots__ = (
        "__weakref__",
        "_bridge",
        "_call",
        "_caller",
        "_children",
        "_ending",
        "_on_end",
        "_ticket",
        "cancelled_at",
        "cancelled_there",
        "context",
        "ended",
        "raise_cancel",
        "task",
    )

    def __init__(self, fn: Callable[..., Coroutine[Any, Any, Any]], task: Any, arguments: Mapping[str, Any]) -> None:
        self._call = (fn, task, arguments)
        self._caller = trio.lowlevel.current_task()
        self._ticket: list[None] = []
        self._on_end: Callable[[], None] | None = None
        self._ending = False
        self.raise_cancel: trio.lowlevel.RaiseCancelT | None = None
        self.cancelled_at: float | None = None
        """When Trio cancelled the call, by the real clock."""
        self.cancelled_there = False
        """Whether the cancellation has reached the loop."""
        self.ended = False
        self.task: asyncio.Task[outcome.Outcome[Any]] | None = None
        # Created with the first task: most agents create none, and a WeakSet takes longer than everything else here.
        self._children: weakref.WeakSet[asyncio.Task[Any]] | None = None
        self.context = contextvars.copy_context()
        self.context.run(_CALL.set, self)

    def __str__(self) -> str:
        recorder = self.context.get(CURRENT)
        return "?" if recorder is None else f"rollout {recorder.rollout.rollout_id} ({recorder.agent_name})"

    @property
    def filename(self) -> str | None:
        """The file that defines the agent's function."""
        code = getattr(self._call[0], "__code__", None)
        return None if code is None else code.co_filename

    # In Trio's thread.

    def submit(self, bridge: AsyncioBridge) -> None:
        """Submit the call to a loop."""
        self._bridge = bridge
        self._ticket = ticket = [None]
        bridge.calls.add(self)
        bridge.submit(self, ticket)

    def withdraw(self) -> bool:
        """Withdraw the call if the loop has not started it yet."""
        try:
            self._ticket.pop()
        except IndexError:
            return False
        self._bridge.calls.discard(self)
        return True

    async def wait(self) -> Any:
        """Wait for the result; when cancelled, cancel the call and wait for its clean-up.

        Raises:
            trio.Cancelled: also when the call was abandoned; then it is in its bridge's `abandoned`.
        """
        result: outcome.Outcome[Any] | None = await trio.lowlevel.wait_task_rescheduled(self._abort)
        raise_cancel = self.raise_cancel
        if result is None:
            assert raise_cancel is not None
            raise_cancel()
        if isinstance(result, outcome.Error) and _is_cancellation(result.error):
            if raise_cancel is not None:
                raise_cancel()
            raise AgentError.stray_asyncio_cancellation() from result.error
        return result.unwrap()

    def _abort(self, raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        if self.withdraw():
            return trio.lowlevel.Abort.SUCCEEDED
        self.raise_cancel = raise_cancel
        self.cancelled_at = time.monotonic()
        self._bridge.call_soon(self._cancel)
        # Not yet: the call's clean-up runs first, and its end wakes this task.
        return trio.lowlevel.Abort.FAILED

    def finish(self, result: outcome.Outcome[Any]) -> None:
        """Wake the caller, or record the end of an abandoned call."""
        if self.ended:
            return
        self.ended = True
        bridge = self._bridge
        # Both refer back to the call, and a cycle for each call is work for the garbage collector.
        self.task, self.context = None, _NO_CONTEXT
        if self in bridge.calls:
            bridge.calls.remove(self)
            trio.lowlevel.reschedule(self._caller, outcome.Value(result))
        else:
            bridge.abandoned.discard(self)
            if self._on_end is not None:
                self._on_end()
        if bridge.retired and not bridge.calls and not bridge.abandoned:
            bridge.stop()

    def abandon(self) -> None:
        """Abandon the call and wake its caller."""
        self._bridge.calls.remove(self)
        self._bridge.abandoned.add(self)
        if self.cancelled_there:
            # Its time to clean up is over.
            self._bridge.call_soon(self._cancel)
        trio.lowlevel.reschedule(self._caller, outcome.Value(None))

    def when_ended(self, fn: Callable[[], None]) -> None:
        """Call `fn` when the call has ended, at once if it already has."""
        if self.ended:
            fn()
        else:
            self._on_end = fn

    def owns(self, task: asyncio.Task[Any]) -> bool:
        """Whether the task is the call's own or was created by its agent."""
        return task is self.task or (self._children is not None and task in self._children)

    # In the loop's thread.

    def add_child(self, task: asyncio.Task[Any]) -> None:
        """Add a task that the agent created."""
        if self._children is None:
            self._children = weakref.WeakSet()
        self._children.add(task)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Create the call's task."""
        # Not through the loop's factory: this task is not a child, and it runs in the call's own context.
        self.task = asyncio.Task(self._run(), loop=loop, context=self.context)
        self.task.add_done_callback(self._done)

    def _cancel(self) -> None:
        self.cancelled_there = True
        if self.task is not None and not self._ending:
            self.task.cancel()

    def _done(self, task: asyncio.Task[outcome.Outcome[Any]]) -> None:
        # A task that is cancelled before its first step captures no result.
        self._bridge.report(self, outcome.Error(asyncio.CancelledError()) if task.cancelled() else task.result())

    async def _run(self) -> outcome.Outcome[Any]:
        fn, task, arguments = self._call
        result: outcome.Outcome[Any]
        # BaseException too, because a SystemExit that leaves a task would stop the loop.
        try:
            result = outcome.Value(await fn(task, **arguments))
        except KeyboardInterrupt as exc:
            # Ctrl-C reaches the main thread only: the agent raised this itself, and it must not stop the program.
            error = AgentError.raised("KeyboardInterrupt")
            error.__cause__ = exc
            result = outcome.Error(error)
        except BaseException as exc:
            result = outcome.Error(exc)
        if self._children:
            self._ending = True
            await self._end_children(self._children)
        return result

    async def _end_children(self, children: Iterable[asyncio.Task[Any]]) -> None:
        """Cancel and await the tasks that the agent created and did not await."""
        # No warning for tasks that are about to end by themselves, or that the agent has cancelled.
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        left = {child for child in children if not child.done()}
        if not left:
            return
        if forgotten := [child for child in left if not child.cancelling()]:
            logger.warning(
                "%s ended and left tasks behind, which are cancelled now: %s; await them before the agent returns, in "
                "an asyncio.TaskGroup, or start a task that serves many rollouts in a context of its own: "
                "asyncio.create_task(…, context=contextvars.Context())",
                str(self),
                names_of(forgotten),
            )
        for child in forgotten:
            child.cancel()
        with suppress(asyncio.CancelledError):
            _, left = await asyncio.wait(left, timeout=_PROMPT_SECONDS)
        if left and self.cancelled_at is not None:
            # The attempt ends at its deadline; its remaining tasks keep its slot.
            self._bridge.abandon_soon(self)
        if left:
            with suppress(asyncio.CancelledError):
                _, left = await asyncio.wait(left, timeout=LEFTOVER_SECONDS)
        if left:
            logger.warning(
                "tasks that %s left behind do not end although they are cancelled: %s", str(self), names_of(left)
            )


def _is_cancellation(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(asyncio.CancelledError)[1] is None
    return isinstance(exc, asyncio.CancelledError)
