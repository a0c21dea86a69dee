"""Recognition of errors that calls of asyncio raise in Trio, and calls of Trio in asyncio."""

from __future__ import annotations

from .._concurrency import is_kind, leaves
from .._exception_text import message_of

_OF_ASYNCIO = (
    "no running event loop",
    "no current event loop",
    "unrecognized yield message",
    "Timeout should be used inside",
    # Raised by asyncio's Queue, Event, Lock and Semaphore without a loop.
    "'NoneType' object has no attribute 'create_future'",
)

_OF_TRIO = (
    "must be called from async context",
    "'RunContext' object has no attribute",
    "Task got bad yield: <class 'trio.",
    "Task got bad yield: WaitTaskRescheduled(",
)

WRONG_LOOP_ERRORS = (RuntimeError, TypeError, AttributeError, ExceptionGroup)
"""The types of exceptions that can be or contain such an error."""


def find_asyncio_sign(exc: BaseException) -> BaseException | None:
    """Return the error that a call of asyncio raised in Trio, also from a nursery's group; None if there is none."""
    return _find(exc, _OF_ASYNCIO)


def find_trio_sign(exc: BaseException) -> BaseException | None:
    """Return the error that a call of Trio raised in asyncio, also from a task group's; None if there is none."""
    return _find(exc, _OF_TRIO)


def _find(exc: BaseException, signs: tuple[str, ...]) -> BaseException | None:
    return next((each for each in leaves(exc) if is_kind(each, WRONG_LOOP_ERRORS) and _has_sign(each, signs)), None)


def _has_sign(exc: BaseException, signs: tuple[str, ...]) -> bool:
    message = message_of(exc)
    return any(sign in message for sign in signs)
