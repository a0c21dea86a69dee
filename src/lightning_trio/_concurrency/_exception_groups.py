"""Exception groups: nurseries raise them, and callers expect the exception inside."""

from __future__ import annotations

import trio

from .._errors import AgentError, Terminated


def sole_exception(exc: BaseException) -> BaseException:
    """Return the only exception inside nested groups, or the group if there are several."""
    inner = exc
    while isinstance(inner, BaseExceptionGroup):
        if len(inner.exceptions) != 1:
            return exc
        inner = inner.exceptions[0]
    return inner


def split_stop(exc: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Return what must propagate (cancellation, Ctrl-C, SIGTERM), and the remaining exceptions."""
    stops = (trio.Cancelled, KeyboardInterrupt, Terminated)
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(stops)
    return (exc, None) if isinstance(exc, stops) else (None, exc)


def without_strays(exc: BaseException) -> BaseException:
    """Remove every `trio.Cancelled` from an exception that was raised where no scope is cancelled.

    A `trio.Cancelled` that was kept and raised again elsewhere belongs to no scope there: a nursery would take it for
    its own and end without an error. Returns the other exceptions, or an `AgentError` if there are none.
    """
    stray, rest = exc.split(trio.Cancelled) if isinstance(exc, BaseExceptionGroup) else (exc, None)
    if stray is None or not isinstance(stray, trio.Cancelled | BaseExceptionGroup):
        return exc
    if rest is not None:
        return rest
    error = AgentError.stray_cancellation()
    error.__cause__ = exc
    return error


def note(exc: BaseException, text: str) -> None:
    """Add a note to an exception once; one that accepts no notes, such as a frozen dataclass, is left as it is."""
    try:
        if text not in getattr(exc, "__notes__", ()):
            exc.add_note(text)
    except Exception:
        # Notes explain an error; they must not replace it.
        return


def find_interruption(exc: BaseException) -> BaseException | None:
    """Return a new `KeyboardInterrupt` or `Terminated` if `exc` contains one."""
    if isinstance(exc, BaseExceptionGroup):
        found = [each for inner in exc.exceptions if (each := find_interruption(inner)) is not None]
        return found[0] if found else None
    if isinstance(exc, Terminated):
        return Terminated()
    return KeyboardInterrupt() if isinstance(exc, KeyboardInterrupt) else None


def flat(exc: BaseException) -> BaseException:
    """Return a new Ctrl-C or SIGTERM if an exception contains one, else its only exception, else itself."""
    return find_interruption(exc) or sole_exception(exc)
