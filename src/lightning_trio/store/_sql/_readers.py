"""Readers: connections for queries, each used by one worker thread at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import attrs
import trio

from ..._errors import TryAgain
from ._transaction import Connection

T = TypeVar("T")


@attrs.define(eq=False)
class _Lease:
    """A reader that a thread uses, and whether nobody waits for its answer any more."""

    connection: Connection | None = None
    unwanted: bool = False


class Readers:
    """Run queries in worker threads. A cancelled one is interrupted.

    Args:
        open_connection: opens a connection; it is called in a worker thread.
        at_most: how many queries run at a time.
    """

    def __init__(self, open_connection: Callable[[], Connection], at_most: int) -> None:
        self._open_connection = open_connection
        # Append and pop are atomic, which is all that threads do with it.
        self._idle: list[Connection] = []
        self._limiter = trio.CapacityLimiter(at_most)
        self._closed = False

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Call `fn` with a connection in a read transaction."""
        lease = _Lease()
        try:
            return await trio.to_thread.run_sync(self._read, fn, lease, abandon_on_cancel=True, limiter=self._limiter)
        except trio.Cancelled:
            lease.unwanted = True
            if lease.connection is not None:
                lease.connection.interrupt()
            raise

    def close(self) -> None:
        """Close the connections; those in use are closed by the thread that uses them."""
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
            self._give_back(connection, lease)

    def _give_back(self, connection: Connection, lease: _Lease) -> None:
        if self._closed or lease.unwanted:
            # An interrupt may still be on its way to it.
            connection.close()
            return
        self._idle.append(connection)
        if self._closed:
            self.close()
