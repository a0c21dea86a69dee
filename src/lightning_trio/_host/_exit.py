"""The interpreter's exit, which waits for no abandoned agent.

An abandoned agent runs in a daemon thread, for which Python does not wait. But Python does wait for every thread of a
`ThreadPoolExecutor` and for every process of `multiprocessing`, hence also for those that the agent itself waits for.
At exit its stack shows which these are: futures, executors, event loops and processes are local variables of the agent,
or of the library that waits for it. Such threads are left behind, and such processes are killed. What a module keeps,
an executor for the whole program say, is not the agent's; of it only the calls that the agent waits for are left.

The same applies to two other kinds of agents that cannot end: one that Ctrl-C has interrupted in Trio's thread, whose
stack is in the exception's traceback, and those of a runner in a daemon thread, which ends with the interpreter.
"""

from __future__ import annotations

# Loaded by an agent when the main thread has ended, it would raise, since it could no longer wait at the exit.
import concurrent.futures.thread
import functools
import inspect
import itertools
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context
from types import FrameType
from typing import Any, Final, Protocol

from .._concurrency import await_stack
from .._log import Log
from ._family import kill_family

logger = Log("lightning_trio.lanes")

_CONTAINERS: Final = (list, tuple, set, frozenset, deque)

_MOST_MEMBERS: Final = 10_000
"""How many members of a container are looked at: an agent may hold millions of numbers."""


class Attempt(Protocol):
    """The attempt that a thread works for."""

    closed: bool
    """Whether it has ended."""
    abandoned: bool
    """Whether it has ended before its agent."""


_MODULES: Final = ("concurrent.futures.thread", "concurrent.futures.process")
"""The modules that wait at exit."""

_preceded: set[str] = set()
"""Those of them that are known to wait after this one has looked."""


def exit_without_abandoned(attempt_of: Callable[[Context], Attempt | None]) -> None:
    """Let the interpreter's exit not wait for what abandoned agents wait for; may be called several times.

    Args:
        attempt_of: returns the attempt that code in a context works for.
    """
    loaded = {name for name in _MODULES if name in sys.modules}
    if loaded <= _preceded:
        return
    _preceded.update(loaded)
    # There is no public API for this; atexit's functions are called later. The last function registered is called
    # first, so this one is registered again when a module has been imported that also waits.
    with suppress(RuntimeError):
        threading._register_atexit(functools.partial(_leave_behind, attempt_of))  # type: ignore[attr-defined]


_interrupted: list[tuple[Any, bool]] = []
"""What interrupted agents held, each as `_held_in` yields it."""


def exit_without_interrupted(exc: BaseException) -> None:
    """Let the interpreter's exit not wait for what an agent waited for when it was interrupted.

    Args:
        exc: the Ctrl-C that left the agent, or a group with it.
    """
    if isinstance(exc, BaseExceptionGroup):
        for each in exc.exceptions:
            exit_without_interrupted(each)
    kinds = (*_owned_kinds(), Future)
    # Not the frames, which would keep alive all that the agent held.
    for frame, _ in traceback.walk_tb(exc.__traceback__):
        _interrupted.extend(held for held in _held_in(frame) if issubclass(type(held[0]), kinds))


def _leave_behind(attempt_of: Callable[[Context], Attempt | None]) -> None:
    try:
        search = _Search(attempt_of)
        search.run()
        if search.processes:
            # First, or an agent whose process ends would go on, and start the next one.
            _forbid(search.left)
        for process in search.processes:
            _kill(process)
    except Exception as exc:
        # Raised here, it would keep Python from waiting for the program's own threads.
        logger.debug("the search for what abandoned agents wait for failed with %r", exc)


class _Search:
    """The search for what the abandoned agents of this process wait for.

    Attributes:
        left: the threads that are not joined.
        processes: those of `multiprocessing` and `subprocess` that they wait for.
    """

    def __init__(self, attempt_of: Callable[[Context], Attempt | None]) -> None:
        self._attempt_of = attempt_of
        self._stacks = sys._current_frames()  # pyright: ignore[reportPrivateUsage]  # documented
        self._queues: Any = getattr(concurrent.futures.thread, "_threads_queues", {})
        self.left: set[threading.Thread] = set()
        self._pending: deque[threading.Thread] = deque()
        self._seen: set[int] = set()
        self._futures: set[int] = set()
        self.processes: list[Any] = []

    def run(self) -> None:
        """Search until nothing more is found, and take the threads out of those that Python joins."""
        for thread in threading.enumerate():
            if thread.daemon and thread is not threading.current_thread() and self._is_left(thread):
                self._leave(thread)
        self._look_at(_interrupted)
        while True:
            while self._pending:
                for frame in self._frames(self._pending.popleft()):
                    self._look_at(_held_in(frame))
            for thread in list(self._queues):
                if self._future_in(thread) in self._futures:
                    self._leave(thread)
            if not self._pending:
                return

    def _frames(self, thread: threading.Thread) -> Iterator[FrameType]:
        frame = self._stacks.get(thread.ident or 0)
        while frame is not None:
            yield frame
            frame = frame.f_back

    def _is_left(self, thread: threading.Thread) -> bool:
        # A program's executor finishes what the agent of an attempt has handed to it, unless that was abandoned.
        is_joined = thread in self._queues
        for frame in self._frames(thread):
            for value in _locals_of(frame).values():
                context = _context_in(value)
                attempt = None if context is None else self._attempt_of(context)
                if attempt is not None and (attempt.abandoned if is_joined else attempt.closed or self._ends_all):
                    return True
        return False

    @functools.cached_property
    def _ends_all(self) -> bool:
        """Whether all runners end with the interpreter, because they are in daemon threads."""
        return not any(
            frame.f_code.co_name == "unrolled_run" and frame.f_globals.get("__name__") == "trio._core._run"
            for thread in threading.enumerate()
            if not thread.daemon
            for frame in self._frames(thread)
        )

    def _leave(self, thread: threading.Thread) -> None:
        """Do not join a thread, nor what it waits for."""
        if thread not in self.left and thread.daemon:
            self.left.add(thread)
            self._pending.append(thread)
            self._queues.pop(thread, None)

    def _future_in(self, thread: threading.Thread) -> int | None:
        """Return the id of the future whose call an executor's thread runs."""
        item = _classes("concurrent.futures.thread", "_WorkItem")
        for frame in self._frames(thread):
            for value in _locals_of(frame).values():
                if issubclass(type(value), item):
                    return id(value.future)
        return None

    def _look_at(self, held: Iterable[tuple[Any, bool]]) -> None:
        for value, is_own in held:
            self._look_at_value(value, is_own=is_own)

    def _look_at_value(self, value: Any, *, is_own: bool) -> None:
        kind = type(value)
        if issubclass(kind, Future):
            self._futures.add(id(value))
        if not is_own or id(value) in self._seen or not issubclass(kind, _owned_kinds()):
            return
        self._seen.add(id(value))
        if id(value) in self._of_modules:
            return
        if issubclass(kind, ThreadPoolExecutor):
            for thread in list(value._threads):
                self._leave(thread)
        elif issubclass(kind, _classes("concurrent.futures.process", "ProcessPoolExecutor")):
            self.processes.extend((value._processes or {}).values())
        elif issubclass(kind, _classes("asyncio", "BaseEventLoop")):
            self._look_at_loop(value)
        elif issubclass(kind, threading.Thread):
            self._leave(value)
        else:
            self.processes.append(value)

    def _look_at_loop(self, loop: Any) -> None:
        self._look_at_value(loop._default_executor, is_own=True)
        for task in sys.modules["asyncio"].all_tasks(loop):
            for frame in await_stack(task.get_coro()):
                self._look_at(_held_in(frame))

    @functools.cached_property
    def _of_modules(self) -> set[int]:
        """The ids of what modules keep."""
        owned = _owned_kinds()
        namespaces = [getattr(module, "__dict__", {}) for module in list(sys.modules.values())]
        return {
            id(value)
            for namespace in namespaces
            if isinstance(namespace, Mapping)
            for value in list(namespace.values())
            if issubclass(type(value), owned)
        }


def _held_in(frame: FrameType) -> Iterator[tuple[Any, bool]]:
    """Yield what the local variables of a function hold, each with whether it is the function's own."""
    free = frame.f_code.co_freevars
    for name, value in _locals_of(frame).items():
        kind = type(value)
        members = value if kind in _CONTAINERS else value.values() if kind is dict else (value,)
        for member in list(itertools.islice(members, _MOST_MEMBERS)):
            # A variable of an enclosing function is not its own.
            yield member, name not in free


def _locals_of(frame: FrameType) -> dict[str, Any]:
    found = frame.f_locals
    values = dict(found)
    if type(found) is dict and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        # Until Python 3.12, this is a copy that the frame keeps. In a thread that outlives the interpreter it would be
        # collected in an order that some objects, such as the buffers of multiprocessing's queues, do not survive.
        found.clear()
    return values


def _classes(module: str, name: str) -> tuple[type, ...]:
    """Return a class of a module as a tuple, an empty one if it is not imported."""
    found = getattr(sys.modules.get(module), name, None)
    return () if found is None else (found,)


def _owned_kinds() -> tuple[type, ...]:
    return (
        threading.Thread,
        ThreadPoolExecutor,
        *_classes("concurrent.futures.process", "ProcessPoolExecutor"),
        *_classes("asyncio", "BaseEventLoop"),
        *_classes("multiprocessing.process", "BaseProcess"),
        *_classes("subprocess", "Popen"),
    )


def _context_in(value: object) -> Context | None:
    """Return the context that a local variable of a thread's code runs in."""
    kind = type(value)
    if kind is Context:
        return value  # type: ignore[return-value]
    if kind is functools.partial:
        # As asyncio.to_thread makes it: Context.run with a function.
        bound_to = getattr(value.func, "__self__", None)  # type: ignore[attr-defined]
        return bound_to if type(bound_to) is Context else None
    if issubclass(kind, _classes("asyncio", "Handle")):
        # A callback of an event loop.
        return value._context  # type: ignore[attr-defined, no-any-return]
    return None


def _forbid(threads: Iterable[threading.Thread]) -> None:
    """Have threads raise `SystemExit` at whatever Python audits, such as starting a process or opening a file.

    An exception set in a thread from outside would do as well, but until that thread runs, Python 3.11 stands still in
    any thread that a debugger or a coverage tool traces. Such a tool's own events are let through, because Python would
    print that it has ignored the exception.
    """
    idents = {thread.ident for thread in threads}

    def refuse(event: str, args: tuple[Any, ...]) -> None:
        if threading.get_ident() in idents and not event.startswith("sys."):
            raise SystemExit

    sys.addaudithook(refuse)


def _kill(process: Any) -> None:
    if issubclass(type(process), _classes("subprocess", "Popen")):
        runs = process.returncode is None
    else:
        # One of multiprocessing; without `_popen` it is this process, its parent, or was not started or is closed.
        runs = process._popen is not None and process.exitcode is None
    if runs and hasattr(os, "killpg"):
        kill_family(process.pid)
    elif runs:
        process.kill()
