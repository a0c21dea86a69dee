"""Finalisers: what runs when Python frees an object, in the middle of code that has nothing to do with it.

The garbage collector interrupts whichever code allocates an object, in any rollout and any thread. A ``__del__``, the
callback of a weak reference or the ``finally`` of a generator that it runs would find that code's rollout in its
context, and record into a neighbour's trace. Hence finalisers run in an empty context while a tracer is open, and so
do the tasks and callbacks that they schedule; what they emit is refused and counted.
"""

from __future__ import annotations

import contextvars
import ctypes
import gc
import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import trio

from ._current import find_recorder

if TYPE_CHECKING:
    from ._recorder import SpanSink


_FINALISING: ContextVar[SpanSink | None] = ContextVar("lightning_trio_finalising", default=None)
"""In finalisers, and in what they have scheduled: the tracer that counts what is refused."""

# Documented parts of Python's C API; `Context.run` needs a function to call. Setting variables in the context that is
# there instead would crash Python 3.11, whose collector may interrupt `ContextVar.set`.
_enter = ctypes.pythonapi.PyContext_Enter
_exit = ctypes.pythonapi.PyContext_Exit
_enter.argtypes = _exit.argtypes = [ctypes.py_object]


class _Collections:
    """The collections of the garbage collector while tracers are open.

    There is one at a time in a process, and Python calls `on_collection` before and after it, in its thread.
    """

    def __init__(self) -> None:
        self.tracers: tuple[SpanSink, ...] = ()
        """The open tracers; replaced when it changes, because several threads read it."""
        self.lock = threading.Lock()
        self._entered: contextvars.Context | None = None

    def open(self, tracer: SpanSink) -> None:
        with self.lock:
            self.tracers += (tracer,)
            if self.on_collection not in gc.callbacks:
                gc.callbacks.append(self.on_collection)

    def close(self, tracer: SpanSink) -> None:
        with self.lock:
            left = list(self.tracers)
            left.remove(tracer)
            self.tracers = tuple(left)
            # Not during a collection, whose thread has yet to leave its context; the next one to close removes it.
            if not left and self._entered is None:
                gc.callbacks.remove(self.on_collection)

    # Ctrl-C between the two calls would leave the thread in the wrong context.
    @trio.lowlevel.enable_ki_protection
    def on_collection(self, phase: str, info: Mapping[str, int]) -> None:
        entered, tracers = self._entered, self.tracers
        if phase == "start":
            if tracers:
                self._entered = context = refusing_context()
                _enter(context)
        elif entered is not None:
            _exit(entered)
            self._entered = None


_collections = _Collections()


def refusing_context() -> contextvars.Context:
    """Return an empty context in which what a finaliser emits is refused and counted.

    The tracer of the calling code counts it, else the one that was opened last.
    """
    tracer, recorder = _FINALISING.get(), find_recorder()
    if tracer is None and recorder is not None:
        tracer = recorder.tracer
    # Several threads replace it.
    tracers = _collections.tracers
    if tracer is None and tracers:
        tracer = tracers[-1]
    context = contextvars.Context()
    context.run(_FINALISING.set, tracer)
    return context


@contextmanager
def refusing_finalisers(tracer: SpanSink) -> Generator[None]:
    """Run finalisers outside of rollouts until the block ends.

    Args:
        tracer: counts what they emit, if the collector interrupts code outside of rollouts.
    """
    _collections.open(tracer)
    try:
        yield
    finally:
        _collections.close(tracer)


def find_finaliser_tracer() -> SpanSink | None:
    """Return the tracer that counts what the calling code emits if that is a finaliser of no known rollout."""
    tracer = _FINALISING.get()
    if tracer is None and _closes_generator() and (tracers := _collections.tracers):
        return tracers[-1]
    return tracer


def _closes_generator() -> bool:
    """Whether Trio closes an async generator that was dropped, which it does in a task outside of all rollouts."""
    if not trio.lowlevel.in_trio_task():
        return False
    # Its name is all that tells this task from others. If Trio changes it, emits are still refused.
    name: Any = trio.lowlevel.current_task().name
    return str(name).startswith("close asyncgen ")


def _after_fork_in_child() -> None:
    # A thread of the parent may hold the old one.
    _collections.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
