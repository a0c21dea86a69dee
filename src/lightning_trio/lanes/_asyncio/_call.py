"""One agent's call on an asyncio loop: its task, the tasks it creates, its cancellation, its end."""

from __future__ import annotations

import asyncio
import contextvars
import time
import weakref
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, cast

import outcome
import trio

from ..._concurrency import is_kind, leaves, note
from ..._errors import AgentError
from ..._exception_text import class_name
from ..._log import Log
from ...tracing import CURRENT, AttemptRecorder
from ._background import names_of
from ._children import CHILD, Child, find_creator
from ._clean_up import CleanUp
from ._generators import follow_generators, restore_hooks
from ._loop import LEFTOVER_SECONDS
from ._shared_loop import hide_task, keep_settings_apart
from ._waiters import FAR, all_waiters_of_future, cancelled_with, settable, waiters_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ._bridge import AsyncioBridge
    from ._clean_up import Disturbance
    from ._shared_loop import TaskFactory


logger = Log("lightning_trio.lanes")

_PROMPT_SECONDS = 0.1
"""How long a cancelled attempt waits for the tasks that its agent left behind, once they are cancelled."""

_LAST_SECONDS = 1.0
"""How long what an abandoned agent does counts as its clean-up, from its last cancellation."""

_CALL: contextvars.ContextVar[AsyncioCall | None] = contextvars.ContextVar("lightning_trio_asyncio_call", default=None)
"""The call whose agent is running; tasks that the agent creates inherit it."""


_NO_CONTEXT = contextvars.Context()


def prepare_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Have a new loop know the calls whose agents create tasks and iterate async generators."""
    # The stubs require keyword parameters that a function with **options does not satisfy.
    loop.set_task_factory(cast("Any", create_task))
    follow_generators(loop, _CALL.get)
    keep_settings_apart(loop, _CALL.get)


def create_task(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    """Create a task, and add it to the call in whose context it is created."""
    context: contextvars.Context | None = options.get("context")
    is_given = context is not None
    call = _CALL.get() if context is None else context.get(_CALL)
    if call is None or call.is_over:
        task = asyncio.Task(coro, loop=loop, **options)
        hide_task(task)
        return task
    if context is None:
        # The task would make this copy.
        options["context"] = context = contextvars.copy_context()
        child = Child(CHILD.get(), find_creator())
        context.run(CHILD.set, child)
    else:
        # The caller's own context, which other tasks may share.
        inherited = context.get(CHILD)
        child = Child(None, find_creator()) if inherited is None else inherited
    if call.task_factory is None:
        task = asyncio.Task(coro, loop=loop, **options)
    elif is_given:
        task = call.task_factory(loop, coro, **options)
    else:
        # Not every factory knows the option.
        del options["context"]
        task = context.run(call.task_factory, loop, coro, **options)
    hide_task(task)
    call.add_child(task, child)
    return task


def _note_span(recorder: AttemptRecorder) -> None:
    """Note which task records a span; called in its context, also when it is too late."""
    child, call = CHILD.get(), _CALL.get()
    # A task that serves many rollouts may record for another one than that which started it.
    if child is not None and call is not None and CURRENT.get() is recorder:
        child.note_span()
        call.end_late(child)


class AsyncioCall:
    """One call from Trio to a loop."""

    kind: ClassVar[str] = "asyncio call"

    __slots__ = (
        "__weakref__",
        "_bridge",
        "_call",
        "_caller",
        "_children",
        "_clean_up",
        "_on_end",
        "_ticket",
        "cancelled_at",
        "cancelled_there",
        "context",
        "disturbances",
        "disturbed_by",
        "ended",
        "executor",
        "is_ending",
        "is_over",
        "raise_cancel",
        "task",
        "task_factory",
    )

    def __init__(self, fn: Callable[..., Coroutine[Any, Any, Any]], task: Any, arguments: Mapping[str, Any]) -> None:
        self._call = (fn, task, arguments)
        self._caller = trio.lowlevel.current_task()
        self._ticket: list[None] = []
        self._on_end: Callable[[], None] | None = None
        self.raise_cancel: trio.lowlevel.RaiseCancelT | None = None
        self.cancelled_at: float | None = None
        """When Trio cancelled the call, by the real clock."""
        self.cancelled_there = False
        """Whether the cancellation has reached the loop."""
        self.ended = False
        """Whether Trio has its result."""
        self.disturbances: list[Disturbance] | None = None
        """What the ends of other rollouts did to what this call waited for."""
        self.disturbed_by: str | None = None
        """The rollout whose end made the agent fail."""
        self._clean_up: CleanUp | None = None
        self.is_ending = False
        """Whether the agent has returned or raised."""
        self.is_over = False
        """Whether tasks that are created in its context are no longer its own."""
        self.task: asyncio.Task[outcome.Outcome[Any]] | None = None
        self.task_factory: TaskFactory | None = None
        self.executor: Executor | None = None
        # Created with the first task: most agents create none, and this would take longer than everything else here.
        self._children: weakref.WeakKeyDictionary[asyncio.Task[Any], Child] | None = None
        self.context = contextvars.copy_context()
        self.context.run(_CALL.set, self)
        if CHILD.get() is not None:
            # A runner that an agent opened.
            self.context.run(CHILD.set, None)

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
        bridge.loop.submit(self, ticket)

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
            if self.disturbed_by is not None:
                raise AgentError.cancelled_with_another(self.disturbed_by) from result.error
            raise AgentError.stray_asyncio_cancellation() from result.error
        if isinstance(result, outcome.Error) and self.disturbed_by is not None:
            note(result.error, f"It stems from the end of {self.disturbed_by}, which was stopped")
        return result.unwrap()

    def _abort(self, raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        if self.withdraw():
            return trio.lowlevel.Abort.SUCCEEDED
        self.raise_cancel = raise_cancel
        self.cancelled_at = time.monotonic()
        self._bridge.loop.call_soon(self.cancel)
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
        if bridge.is_leaving:
            bridge.leave()

    def abandon(self) -> None:
        """Abandon the call and wake its caller."""
        self._bridge.calls.remove(self)
        self._bridge.abandoned.add(self)
        if self.cancelled_there:
            # Its time to clean up is over.
            self.cancel_again()
        trio.lowlevel.reschedule(self._caller, outcome.Value(None))

    def cancel_again(self) -> None:
        """Cancel an abandoned call once more."""
        self._bridge.loop.call_soon(self.cancel)

    def when_ended(self, fn: Callable[[], None]) -> None:
        """Call `fn` when the call has ended, at once if it already has."""
        if self.ended:
            fn()
        else:
            self._on_end = fn

    def runs_now(self) -> bool:
        """Whether one of its tasks is what the loop's thread runs now; called from any thread."""
        task = self._bridge.loop.running_task()
        return task is not None and self.owns(task)

    def owns(self, task: asyncio.Task[Any]) -> bool:
        """Whether the task is the call's own or was created by its agent."""
        return task is self.task or (self._children is not None and task in self._children)

    def end_late(self, child: Child) -> None:
        """Cancel the task that goes on although its rollout was stopped, and now works for it; in any thread."""
        late: Child | None = child
        while late is not None and not late.ends_at_span:
            late = late.parent
        if late is not None:
            late.ends_at_span = False
            self._bridge.loop.call_soon(self._cancel_child, late)

    # In the loop's thread.

    def add_child(self, task: asyncio.Task[Any], child: Child) -> None:
        """Add a task that the agent created."""
        if self._children is None:
            self._children = weakref.WeakKeyDictionary()
            recorder = self.context.get(CURRENT)
            if recorder is not None:
                recorder.on_span = _note_span
        self._children[task] = child

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Create the call's task."""
        restore_hooks(loop)
        # Not through the loop's factory: this task is not a child, and it runs in the call's own context.
        self.task = asyncio.Task(self._run(), loop=loop, context=self.context)
        self.task.add_done_callback(self._done)
        hide_task(self.task)

    def cancel(self) -> None:
        """Cancel the agent, unless it has ended."""
        self.cancelled_there = True
        if self in self._bridge.abandoned:
            # Its agent may ignore this, and go on for as long as the others.
            context = contextvars.Context()
            asyncio.get_running_loop().call_later(_LAST_SECONDS, self._end_clean_up, context=context)
        if self.task is not None and not self.is_ending:
            if self._bridge.loop.has_others(self):
                self._watch_others(self.task)
            self.task.cancel()

    def _end_clean_up(self) -> None:
        if self._clean_up is not None:
            self._clean_up.end()
            self._clean_up = None

    def _done(self, task: asyncio.Task[outcome.Outcome[Any]]) -> None:
        restore_hooks(task.get_loop())
        if self._bridge.loop.stopping:
            # The interpreter exits: no caller waits any more, and the attempt was not cancelled as one that failed.
            return
        if self._clean_up is not None:
            # In the next pass, for what its last step has ended is noted in this one.
            task.get_loop().call_soon(self._end_clean_up)
        # A task that is cancelled before its first step returns no result.
        captured = outcome.capture(task.result)
        result = captured.value if isinstance(captured, outcome.Value) else captured
        if self.disturbances and isinstance(result, outcome.Error) and self.cancelled_at is None:
            causes = (each.rollout for each in self.disturbances if each.made_fail(result.error))
            self.disturbed_by = next(causes, None)
        self._bridge.report(self, result)

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
        self.is_ending = True
        if self._children:
            await self._end_children(self._children)
        self.is_over = True
        return result

    async def _end_children(self, children: Mapping[asyncio.Task[Any], Child]) -> None:
        # They and what they hold are of the agent's classes, and must not cost its result.
        try:
            await self._end_left(children)
        except BaseException as exc:
            logger.warning(
                "tasks that %s left behind may go on, because a method of one of them raised %s",
                str(self),
                class_name(exc),
            )

    async def _end_left(self, children: Mapping[asyncio.Task[Any], Child]) -> None:
        """Cancel and await the rollout's own tasks that the agent did not await, and let the others go on."""
        # No warning for tasks that are about to end by themselves, or that the agent has cancelled.
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        self.is_over = True
        left = {task: child for task, child in children.items() if not task.done()}
        if not left:
            return
        own = self._find_own(left)
        if others := {task: self._has_made(child) for task, child in left.items() if task not in own}:
            self._bridge.loop.background.keep(others, str(self))
        if own:
            await self._end_own(own)

    def _find_own(self, left: Mapping[asyncio.Task[Any], Child]) -> set[asyncio.Task[Any]]:
        """Return the tasks that are the rollout's own work, and have the others end when they work for it later."""
        was_stopped = self.cancelled_at is not None
        own = {
            task
            for task, child in left.items()
            if task.cancelling() or child.recorded or (was_stopped and self._has_made(child))
        }
        others = {child for task, child in left.items() if task not in own}
        for child in others:
            child.ends_at_span = was_stopped
        waiters = {task: list(waiters_of(task)) for task in own}
        while shared := {task for task in own if self._is_shared(waiters[task], others)}:
            own -= shared
            others.update(left[task] for task in shared)
        return own

    def _has_made(self, child: Child) -> bool:
        """Whether a line of the program created the task, or one of the package that the agent is in."""
        return child.is_by(getattr(self._call[0], "__module__", None) or "")

    def _is_shared(self, waiters: Collection[contextvars.Context], others: Collection[Child | None]) -> bool:
        """Whether code outside the rollout waits for a task, or a task that goes on does."""
        return any(context.get(_CALL) is not self or context.get(CHILD) in others for context in waiters)

    async def _end_own(self, own: set[asyncio.Task[Any]]) -> None:
        if forgotten := [task for task in own if not task.cancelling()]:
            logger.log(
                self._bridge.loop.background.level_of(forgotten),
                "%s ended and left tasks behind, which are cancelled now: %s; await them before the agent returns, in "
                "an asyncio.TaskGroup, or start a task that serves many rollouts in a context of its own: "
                "asyncio.create_task(…, context=contextvars.Context())",
                str(self),
                names_of(forgotten),
            )
        for task in forgotten:
            task.cancel()
        with suppress(asyncio.CancelledError):
            _, own = await asyncio.wait(own, timeout=_PROMPT_SECONDS)
        if own and self.cancelled_at is not None:
            # The attempt ends at its deadline; its remaining tasks keep its slot.
            self._bridge.abandon_soon(self)
        if own:
            with suppress(asyncio.CancelledError):
                _, own = await asyncio.wait(own, timeout=LEFTOVER_SECONDS)
        if own:
            logger.warning(
                "tasks that %s left behind do not end although they are cancelled: %s", str(self), names_of(own)
            )

    def _cancel_child(self, child: Child) -> None:
        found = [task for task, each in (self._children or {}).items() if each is child and not task.done()]
        for task in found:
            logger.warning(
                "a task that a stopped rollout left behind still records for it, and is cancelled: %s",
                names_of([task]),
            )
            task.cancel()

    def _watch_others(self, task: asyncio.Task[Any]) -> None:
        """Have other calls know why they fail, if their agents wait for what the clean-up of this one ends."""
        # What it looks at is of the agents' classes, and must not keep this one from being cancelled.
        try:
            self._watch_what_ends_with(task)
        except BaseException as exc:
            logger.warning(
                "whom the end of %s makes fail may not be known, because looking at what its agent holds raised %s",
                str(self),
                class_name(exc),
            )

    def _watch_what_ends_with(self, task: asyncio.Task[Any]) -> None:
        clean_up = self._clean_up = self._clean_up or CleanUp(str(self))
        cancelled = list(cancelled_with(task))
        own = [child for child in self._children or () if not child.done()]
        # First those that are certain, should the search for the others raise.
        for future in chain(cancelled, settable([task, *own, *cancelled], FAR)):
            for context in all_waiters_of_future(future):
                call = context.get(_CALL)
                if call is not None and call is not self and not call.is_ending:
                    clean_up.watch(future, call)


def _is_cancellation(exc: BaseException) -> bool:
    return all(is_kind(each, asyncio.CancelledError) for each in leaves(exc))
