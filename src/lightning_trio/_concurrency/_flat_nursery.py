"""A nursery for the package's own context managers: a single exception leaves it unwrapped."""

from __future__ import annotations

from types import TracebackType

import trio

from ._exception_groups import flat


class FlatNursery:
    """A nursery that does not wrap a single exception in a group; Ctrl-C and SIGTERM leave it unwrapped as well.

    Users write ``except ValueError`` around the package's context managers and expect it to work. Errors of several
    tasks at once are still raised as a group.
    """

    def __init__(self) -> None:
        self._manager = trio.open_nursery()

    # A Ctrl-C between this frame and Trio's would leave the nursery half open.
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
            inner = flat(group)
            if inner is group:
                raise
            if inner is exc:
                return False
            # Not `from None`, which would drop the exception's own cause; the group adds nothing.
            raise inner from inner.__cause__
