"""Announcements of waits for rollouts: open runners listen, because attempts that wait may hold all their slots."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeAlias

Listener: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Called in the context of the waiting code; the context manager that it returns is held during the wait."""

_listeners: tuple[Listener, ...] = ()
"""The listener of each open runner of the process."""


@contextmanager
def listening_for_waits(listener: Listener) -> Generator[None]:
    """Call `listener` at the start of each announced wait until the block ends."""
    global _listeners
    _listeners = (*_listeners, listener)
    try:
        yield
    finally:
        # Compared by identity: bound methods are equal if their objects are.
        _listeners = tuple(each for each in _listeners if each is not listener)


@contextmanager
def announced_wait() -> Generator[None]:
    """Notify the listeners that the calling code waits for rollouts within the block."""
    with ExitStack() as stack:
        for listener in _listeners:
            stack.enter_context(listener())
        yield
