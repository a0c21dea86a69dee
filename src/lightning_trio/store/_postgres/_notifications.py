"""Notifications from other processes about their commits. Needs psycopg."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, Final

import attrs
import psycopg
import trio
from psycopg import sql

from ..._concurrency import run_in_thread

POLL_SECONDS: Final = 3.0
"""How often to look without a notification: one may be lost with the connection or with the process that sends it."""


@attrs.define(eq=False)
class _Opening:
    """A connection being opened in a thread; whichever thread takes it out of `connection` owns it."""

    connection: list[psycopg.Connection[Any]] = attrs.field(factory=list[psycopg.Connection[Any]])
    unwanted: bool = False
    """Whether the task that asked for it has been cancelled."""

    def take(self) -> psycopg.Connection[Any] | None:
        """Remove and return the connection, None if it is not there."""
        try:
            return self.connection.pop()
        except IndexError:
            return None


class Hints:
    """Listen for commits of other processes.

    Args:
        connect: opens a connection; called in a worker thread.
        channel: the notification channel.
        own: the process ids, on the server, of this store's connections, whose notifications are ignored.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], channel: str, own: Container[int]) -> None:
        self._connect = connect
        self._channel = channel
        self._own = own
        self._connection: psycopg.Connection[Any] | None = None
        self._closed = False

    async def wait(self) -> None:
        """Return when it is time to look again: on a notification, or after a few seconds.

        Raises:
            trio.ClosedResourceError: `close` was called during the wait.
        """
        if self._connection is None:
            if not await self.open():
                await trio.sleep(POLL_SECONDS)
            # Return at once: a commit from before the LISTEN was not announced.
            return
        with trio.move_on_after(POLL_SECONDS):
            while self._connection is not None and not self._connection.closed:
                await trio.lowlevel.wait_readable(self._connection.pgconn.socket)
                if self._take():
                    return
        if self._connection is not None and self._connection.closed:
            self._drop()

    def close(self) -> None:
        """Stop listening, for good."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if not connection.closed:
                trio.lowlevel.notify_closing(connection.pgconn.socket)
            connection.close()

    async def open(self) -> bool:
        """Open the connection, and return whether that succeeded; if not, the next wait tries again."""
        opening = _Opening()
        try:
            await run_in_thread(lambda: self._listen(opening), abandon_on_cancel=True)
        except psycopg.Error:
            return False
        finally:
            opening.unwanted = True
            if (connection := opening.take()) is not None:
                self._connection = connection
                if self._closed:
                    self._drop()
        return True

    def _listen(self, opening: _Opening) -> None:
        connection = self._connect()
        try:
            connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
        except BaseException:
            connection.close()
            raise
        opening.connection.append(connection)
        if opening.unwanted and opening.take() is not None:
            connection.close()

    def _take(self) -> bool:
        """Consume pending notifications; return whether any is a reason to look."""
        assert self._connection is not None
        pgconn = self._connection.pgconn
        try:
            pgconn.consume_input()
        except psycopg.OperationalError:
            # The server is gone, and with it notifications not yet received.
            self._drop()
            return True
        heard = False
        while (notification := pgconn.notifies()) is not None:
            heard |= notification.be_pid not in self._own
        return heard
