"""What calls of one async library raise where the other one runs: how to tell a user who has mixed them up."""

from __future__ import annotations

_OF_ASYNCIO = (
    "no running event loop",
    "no current event loop",
    "unrecognized yield message",
    "Timeout should be used inside",
    # What asyncio's Queue, Event, Lock and Semaphore come to without a loop.
    "'NoneType' object has no attribute 'create_future'",
)

_OF_TRIO = (
    "must be called from async context",
    "'RunContext' object has no attribute",
    "Task got bad yield: <class 'trio.",
    "Task got bad yield: WaitTaskRescheduled(",
)

WRONG_LOOP_ERRORS = (RuntimeError, TypeError, AttributeError, ExceptionGroup)
"""The exceptions that may be or hold such a sign."""


def find_asyncio_sign(exc: BaseException) -> BaseException | None:
    """Find what a call of asyncio raised in Trio, also in the group of a nursery."""
    return _find(exc, _OF_ASYNCIO)


def find_trio_sign(exc: BaseException) -> BaseException | None:
    """Find what a call of Trio raised in asyncio, also in the group of a task group."""
    return _find(exc, _OF_TRIO)


def _find(exc: BaseException, signs: tuple[str, ...]) -> BaseException | None:
    if isinstance(exc, BaseExceptionGroup):
        return next((found for inner in exc.exceptions if (found := _find(inner, signs)) is not None), None)
    is_one = isinstance(exc, WRONG_LOOP_ERRORS) and any(sign in str(exc) for sign in signs)
    return exc if is_one else None
