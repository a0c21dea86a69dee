"""Readers: connections for queries, each used by one worker thread at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import attrs
import trio

from ..._errors import TryAgain
from ._transaction import Connection

T = TypeVar("T")

_NO_THREAD: Final = "can't start new thread"
"""Python's message, of a bare `RuntimeError`."""

_PAUSES: Final = (0.01, 0.1, *[1.0] * 60)
"""The waits for a thread, in seconds."""


@attrs.define(eq=False)
class _Lease:
    """A connection in use by a thread, and whether its caller has been cancelled."""

    connection: Connection | None = None
    unwanted: bool = False


class Readers:
    """Run queries in worker threads; a cancelled query is interrupted.

    Args:
        open_connection: opens a connection; called in a worker thread.
        at_most: how many queries run at a time.
    """

    def __init__(self, open_connection: Callable[[], Connection], at_most: int) -> None:
        self._open_connection = open_connection
        # Threads only append and pop, which are atomic.
        self._idle: list[Connection] = []
        self._limiter = trio.CapacityLimiter(at_most)
        self._closed = False

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Call `fn` with a connection in a read transaction."""
        for pause in _PAUSES:
            try:
                return await self._read_in_thread(fn)
            except RuntimeError as exc:
                if str(exc) != _NO_THREAD:
                    raise
            # A system that has no thread left now has one again when agents end.
            await trio.sleep(pause)
        return await self._read_in_thread(fn)

    async def _read_in_thread(self, fn: Callable[[Connection], T]) -> T:
        lease = _Lease()
        try:
            return await trio.to_thread.run_sync(self._read, fn, lease, abandon_on_cancel=True, limiter=self._limiter)
        except trio.Cancelled:
            lease.unwanted = True
            if lease.connection is not None:
                lease.connection.interrupt()
            raise

    def close(self) -> None:
        """Close the connections; a connection in use is closed by its thread."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _read(self, fn: Callable[[Connection], T], lease: _Lease) -> T:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._open_connection()
        lease.connection = connection
        try:
            while True:
                try:
                    connection.begin(write=False)
                    result = fn(connection)
                    connection.commit()
                    return result
                except TryAgain:
                    connection.rollback()
        finally:
            lease.connection = None
            connection.rollback()
            self._release(connection, lease)

    def _release(self, connection: Connection, lease: _Lease) -> None:
        if self._closed or lease.unwanted:
            # A late interrupt could hit the next query on it.
            connection.close()
            return
        self._idle.append(connection)
        if self._closed:
            self.close()
