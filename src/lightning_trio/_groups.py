"""Exception groups: nurseries raise them, callers want the exception they know."""

from __future__ import annotations

from types import TracebackType

import trio

from ._errors import AgentError


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
    error = AgentError(
        "the agent raised a cancellation that was not meant for it: a trio.Cancelled from another task, from a rollout "
        "before, or from a trio.run() of its own. Let cancellations go on up, and keep the outcome of none for others"
    )
    error.__cause__ = exc
    return error


class Terminated(SystemExit):
    """SIGTERM has come: the program is to end with the status that shells give a program so killed, 128 + 15."""

    def __init__(self) -> None:
        super().__init__(143)


def find_interruption(exc: BaseException) -> BaseException | None:
    """Give a new Ctrl-C if there is one in `exc`, or a `Terminated`."""
    if isinstance(exc, BaseExceptionGroup):
        found = [each for inner in exc.exceptions if (each := find_interruption(inner)) is not None]
        return found[0] if found else None
    if isinstance(exc, Terminated):
        return Terminated()
    return KeyboardInterrupt() if isinstance(exc, KeyboardInterrupt) else None


class FlatNursery:
    """A nursery that does not wrap a lone exception into a group; a Ctrl-C or SIGTERM comes out alone as well.

    Our callers are behind our own context managers and expect ``except ValueError`` to work around them. Errors
    of several tasks at once still come as a group.
    """

    def __init__(self) -> None:
        self._manager = trio.open_nursery()

    # A Ctrl-C between our frame and Trio's would leave the nursery half open.
    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> trio.Nursery:
        return await self._manager.__aenter__()

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        try:
            return await self._manager.__aexit__(kind, exc, tb)
        except BaseExceptionGroup as group:
            flat = find_interruption(group) or sole_exception(group)
            if flat is group:
                raise
            if flat is exc:
                return False
            # Not `from None`, which would drop a cause of its own; the group adds nothing.
            raise flat from flat.__cause__
