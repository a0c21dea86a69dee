"""Waits for rollouts, of which open runners hear: attempts that wait may hold all their slots."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeAlias

Listener: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Called in the context of the code that waits, it returns what to hold meanwhile."""

_listeners: tuple[Listener, ...] = ()
"""One for each open runner of the process."""


@contextmanager
def hearing_of_waits(listener: Listener) -> Generator[None]:
    """Let `listener` hear of each wait until the block ends."""
    global _listeners
    _listeners = (*_listeners, listener)
    try:
        yield
    finally:
        # Compared by identity: bound methods are equal if their objects are.
        _listeners = tuple(each for each in _listeners if each is not listener)


@contextmanager
def announced_wait() -> Generator[None]:
    """Announce that the calling code waits for rollouts within the block."""
    with ExitStack() as stack:
        for listener in _listeners:
            stack.enter_context(listener())
        yield
