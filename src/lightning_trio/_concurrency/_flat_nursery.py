"""A nursery for our own context managers: a lone exception comes out of it as it is."""

from __future__ import annotations

from types import TracebackType

import trio

from ._exception_groups import find_interruption, sole_exception


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
