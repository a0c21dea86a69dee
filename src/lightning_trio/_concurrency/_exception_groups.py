"""Exception groups: nurseries raise them, callers want the exception they know."""

from __future__ import annotations

import trio

from .._errors import AgentError, Terminated


def sole_exception(exc: BaseException) -> BaseException:
    """Give the only exception inside nested groups, or the group if there are several."""
    inner = exc
    while isinstance(inner, BaseExceptionGroup):
        if len(inner.exceptions) != 1:
            return exc
        inner = inner.exceptions[0]
    return inner


def split_stop(exc: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Split into what must go on up (cancellation, Ctrl-C, SIGTERM) and what else went wrong."""
    stops = (trio.Cancelled, KeyboardInterrupt, Terminated)
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(stops)
    return (exc, None) if isinstance(exc, stops) else (None, exc)


def without_strays(exc: BaseException) -> BaseException:
    """Take out the `trio.Cancelled` of an exception that was raised where nobody has cancelled anything.

    One that was kept, and raised again elsewhere, is no scope's there: a nursery would take it for its own, end, and
    say nothing. What remains is the rest, or an error in its place.
    """
    stray, rest = exc.split(trio.Cancelled) if isinstance(exc, BaseExceptionGroup) else (exc, None)
    if stray is None or not isinstance(stray, trio.Cancelled | BaseExceptionGroup):
        return exc
    if rest is not None:
        return rest
    error = AgentError.stray_cancellation()
    error.__cause__ = exc
    return error


def find_interruption(exc: BaseException) -> BaseException | None:
    """Give a new Ctrl-C if there is one in `exc`, or a `Terminated`."""
    if isinstance(exc, BaseExceptionGroup):
        found = [each for inner in exc.exceptions if (each := find_interruption(inner)) is not None]
        return found[0] if found else None
    if isinstance(exc, Terminated):
        return Terminated()
    return KeyboardInterrupt() if isinstance(exc, KeyboardInterrupt) else None
