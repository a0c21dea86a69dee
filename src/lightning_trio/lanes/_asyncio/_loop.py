"""The asyncio loop of the process: one thread, which the agents of all runners share from the first call to the exit.

Clients, locks and sessions belong to the loop that they were first used on. A loop for each runner would make those
that a module keeps fail in the second runner.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol

from ..._exception_text import class_name
from ..._log import Log
from .._place import code_line, file_of, function_of, outwards
from ._background import BackgroundTasks, drain, names_of
from ._shared_loop import tasks_of

logger = Log("lightning_trio.lanes")

LEFTOVER_SECONDS = 1.0
"""How long tasks may take to end once they are cancelled."""

_EXIT_SECONDS = 5.0
"""How long the interpreter's exit waits for the loop at most; draining and cancelling take 3 s at most."""

_EXIT_STUCK_SECONDS = 0.5
"""How long the exit waits for the loop to notice; a blocked one is left behind."""


_MOST_ASKED = 100
"""How many calls are asked whether they go on; when a runner stops, none does."""


class LoopCall(Protocol):
    """What the loop knows of a call."""

    cancelled_at: float | None
    """When it was cancelled, None if it was not."""

    @property
    def filename(self) -> str | None:
        """The file that defines the agent's function."""
        ...

    def owns(self, task: asyncio.Task[Any]) -> bool:
        """Whether the task is the call's own or was created by its agent."""
        ...

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Create the call's task; called in the loop's thread."""
        ...

    def cancel(self) -> None:
        """Cancel the agent; called in the loop's thread."""
        ...


class LoopUser(Protocol):
    """What the loop knows of an open lane; its methods are called in any thread."""

    @property
    def owners(self) -> Collection[LoopCall]:
        """The lane's calls on this loop."""
        ...

    def retire_soon(self) -> None:
        """Move what the loop has not started to another loop."""
        ...

    def fail_soon(self, death: BaseException | None) -> None:
        """Fail the calls on this loop, which has died."""
        ...


class AgentLoop:
    """An asyncio loop in a thread of its own, which runs until the process exits, or until it is replaced or dies.

    Args:
        prepare: called with the new loop before it runs.
        is_nested: whether it is for the runners of one thread only, and stops with the last of them.
    """

    def __init__(self, prepare: Callable[[asyncio.AbstractEventLoop], None], is_nested: bool) -> None:
        self.is_nested = is_nested
        self.users: set[LoopUser] = set()
        """The open lanes with calls here; changed under the lock of this module only."""
        self.retired = False
        """Whether new calls go to another loop; this one stops after its last call."""
        self.warned = False
        self.background = BackgroundTasks()
        self.closing = threading.Event()
        """Set once the loop has begun to close."""
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_log_error)
        prepare(self._loop)
        self.stopping = False
        """Whether the loop closes as soon as it can; no call's result is waited for then."""
        self._serving = False
        self._pinged_at: float | None = None
        self._starting: deque[tuple[LoopCall, list[None]]] = deque()
        self._will_start = False
        self.thread = threading.Thread(target=self._run, name="lightning_trio-asyncio", daemon=True)
        self.thread.start()

    # In any thread.

    def submit(self, call: LoopCall, ticket: list[None]) -> None:
        """Start a call on the loop.

        Raises:
            RuntimeError: the loop is closed.
        """
        # Calls submitted together wake the loop once. It clears the flag before it looks into the queue, so a call
        # that finds the flag set is seen.
        self._starting.append((call, ticket))
        if not self._will_start:
            self._will_start = True
            try:
                self._loop.call_soon_threadsafe(self._start_all)
            except RuntimeError:
                self._will_start = False
                raise

    def call_soon(self, fn: Callable[..., object], *args: object) -> None:
        """Call `fn` in the loop's thread; do nothing if the loop is closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(fn, *args)

    def ping(self) -> None:
        """Send a ping to the loop, unless one is still unanswered."""
        if self._pinged_at is None:
            self._pinged_at = time.monotonic()
            self.call_soon(self._answer_ping)

    def silence(self) -> float:
        """Return the seconds since the unanswered ping, 0 if there is none."""
        # The real clock: a virtual one does not measure how long a thread takes.
        pinged_at = self._pinged_at
        return 0.0 if pinged_at is None else time.monotonic() - pinged_at

    def stop(self) -> None:
        """Close the loop after its current callback, once its background tasks have drained."""
        self.stopping = True
        self.call_soon(self._stop_serving)

    def count_calls(self) -> int:
        """Return how many calls of all runners are on the loop."""
        return sum(len(user.owners) for user in list(self.users))

    def has_others(self, call: LoopCall) -> bool:
        """Whether calls besides one are to go on, as far as a look at some of them says."""
        calls = (each for user in list(self.users) for each in user.owners)
        return any(each is not call and each.cancelled_at is None for each in islice(calls, _MOST_ASKED))

    def running_task(self) -> asyncio.Task[Any] | None:
        """Return the task that the loop's thread runs now."""
        return None if self._loop.is_closed() else asyncio.current_task(self._loop)

    def location(self) -> str:
        """Return the current line of the loop's thread and the call it belongs to, for messages."""
        try:
            return self._locate()
        except (Exception, SystemExit) as exc:
            # The task, the agent's function and their module's loader are of the program's or an agent's classes.
            return f"code that cannot be named, which raises {class_name(exc)}"

    def _locate(self) -> str:
        task = self.running_task()
        calls = [call for user in list(self.users) for call in user.owners]
        call = next((call for call in calls if task is not None and call.owns(task)), None)
        if call is not None:
            owner = f"the agent of {call}"
        else:
            owner = "no agent's task" if task is None else f"the task {names_of([task])}"
        frame = sys._current_frames().get(self.thread.ident or 0)  # pyright: ignore[reportPrivateUsage]  # documented
        if frame is None:
            return owner
        # The agent's own line says more than a line of the library it called.
        named = None if call is None else call.filename
        file = None if named is None else str.__str__(named)
        shown = next((each for each in outwards(frame, None) if file_of(each) == file), frame)
        return f"{owner}, in {function_of(shown)} at {file_of(shown)}:{shown.f_lineno}: {code_line(shown)}"

    def disown(self) -> None:
        """Keep Python from reporting the pending tasks of a loop that cannot be closed."""
        with suppress(RuntimeError):
            _silence(tasks_of(self._loop))

    def forget(self) -> None:
        """Give the loop up in a forked child, where its thread does not exist and its selector is the parent's."""
        # A closed loop refuses calls with a message, and closing it in fact would change the parent's selector.
        with suppress(AttributeError):
            self._loop._closed = True  # type: ignore[attr-defined]

    # In the loop's thread.

    def _start_all(self) -> None:
        self._will_start = False
        while self._starting:
            call, ticket = self._starting.popleft()
            # The call belongs to the thread that takes its ticket: Trio withdraws calls from a loop that is late.
            if ticket:
                with suppress(IndexError):
                    ticket.pop()
                    call.start(self._loop)

    def _answer_ping(self) -> None:
        self._pinged_at = None

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        death: BaseException | None = None
        try:
            self._serve()
        except BaseException as exc:
            death = exc
        if not self.stopping:
            _bury(self, death)
        else:
            self.closing.set()
            for stage in (self._cancel_calls, drain, _cancel_all, _shutdown_generators):
                self._run_stage(stage)
        try:
            self.disown()
            self._loop.close()
        finally:
            asyncio.set_event_loop(None)
            _remove(self)

    def _serve(self) -> None:
        while not self.stopping:
            self._serving = True
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # Raised by a task that an agent created; it is also the task's result, so nothing is lost.
                continue
            finally:
                self._serving = False
            if not self.stopping:
                logger.warning(
                    "an agent called stop() on the asyncio loop that it shares with others; the loop keeps running"
                )

    def _stop_serving(self) -> None:
        # Not while the loop closes already, which this would cut short.
        if self._serving:
            self._loop.stop()

    async def _cancel_calls(self) -> None:
        # Left are those of runners in daemon threads, and abandoned ones; they are not what the exit waits for.
        for user in list(self.users):
            for call in user.owners:
                # What an agent awaits may be of its own class, and refuse it.
                with suppress(BaseException):
                    call.cancel()

    def _run_stage(self, stage: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            self._loop.run_until_complete(stage())
        except BaseException as exc:
            logger.warning("the agents' asyncio loop ended with an error: %r", exc)


async def _cancel_all() -> None:
    tasks = tasks_of(asyncio.get_running_loop()) - {asyncio.current_task()}
    for task in tasks:
        # It may be of an agent's class.
        with suppress(BaseException):
            task.cancel()
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=LEFTOVER_SECONDS)
        if pending:
            logger.warning(
                "the agents' asyncio loop is closed although some tasks ignore their cancellation: %s",
                names_of(pending),
            )


async def _shutdown_generators() -> None:
    loop = asyncio.get_running_loop()
    # Not the loop's own, which agents call.
    await type(loop).shutdown_asyncgens(loop)


def _silence(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        # What asyncio.gather() does for its tasks; a task that is left behind has been named already.
        with suppress(AttributeError):
            task._log_destroy_pending = False  # type: ignore[attr-defined]


def _log_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log the error of a callback or a task as asyncio does; what its log's filters raise would end the loop."""
    try:
        loop.default_exception_handler(context)
    except Exception as exc:
        logger.warning("asyncio could not log an error in the agents' loop: its logger raised %s", class_name(exc))


# The loop that new calls go to, and all whose threads run.

_lock = threading.Lock()
_current: AgentLoop | None = None
_loops: set[AgentLoop] = set()


def join_loop(user: LoopUser, prepare: Callable[[asyncio.AbstractEventLoop], None]) -> AgentLoop:
    """Return the process's loop, which is started if there is none, with `user` among its users.

    A runner that an agent runs on the loop, and thereby blocks it, gets a loop for itself.
    """
    global _current
    with _lock:
        here = threading.current_thread()
        is_nested = any(loop.thread is here for loop in _loops)
        loop = None if is_nested else _current
        if loop is None:
            if not _loops:
                # At each new start, because a forked child may have dropped what was registered before.
                atexit.register(close_loops)
            loop = AgentLoop(prepare, is_nested)
            _loops.add(loop)
            if not is_nested:
                _current = loop
        loop.users.add(user)
        return loop


def leave_loop(loop: AgentLoop, user: LoopUser) -> None:
    """Remove a user; a retired loop stops when its last user has left."""
    with _lock:
        loop.users.discard(user)
        is_over = (loop.retired or loop.is_nested) and not loop.users
    if is_over:
        loop.stop()


def retire_loop(loop: AgentLoop) -> None:
    """Let later calls of all lanes, and those that the loop has not started, go to another loop."""
    with _lock:
        if loop.retired:
            return
        users = _retire(loop)
    logger.warning(
        "the agents' asyncio loop is blocked, and later calls of all runners go to a new one; clients and locks that a "
        "module keeps belong to the old one"
    )
    if not users:
        loop.stop()
    for user in users:
        user.retire_soon()


def _retire(loop: AgentLoop) -> list[LoopUser]:
    global _current
    loop.retired = True
    if _current is loop:
        _current = None
    return list(loop.users)


def _bury(loop: AgentLoop, death: BaseException | None) -> None:
    logger.error("the agents' asyncio loop died with %r; later calls go to a new one", death)
    with _lock:
        users = _retire(loop)
    for user in users:
        user.fail_soon(death)


def _remove(loop: AgentLoop) -> None:
    global _current
    with _lock:
        _loops.discard(loop)
        if _current is loop:
            _current = None


def close_loops() -> None:
    """Let background tasks drain and close the loops; called at the interpreter's exit, which it does not hold up.

    A loop that is blocked is left behind: its thread is a daemon.
    """
    with _lock:
        loops = list(_loops)
    until = time.monotonic() + _EXIT_SECONDS
    try:
        for loop in loops:
            loop.stop()
        for loop in loops:
            if loop.closing.wait(_EXIT_STUCK_SECONDS):
                loop.thread.join(max(0.0, until - time.monotonic()))
            if loop.thread.is_alive():
                loop.disown()
    except KeyboardInterrupt:
        # The user does not want to wait.
        return


def _forget_loops() -> None:
    """Begin without a loop in a forked child."""
    global _current, _lock
    _lock = threading.Lock()
    _current = None
    for loop in _loops:
        loop.forget()
    _inherited.extend(_loops)
    _loops.clear()


_inherited: list[AgentLoop] = []
"""The parent's loops in a forked child; never freed, because that would close them."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loops)
