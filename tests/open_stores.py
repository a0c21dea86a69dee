"""Stores whose inner parts tests can reach."""

from __future__ import annotations

from lightning_trio import SqliteLightningStore
from lightning_trio.store._sql._transaction import Connection
from lightning_trio.store._sqlite._connection import SqliteConnection


class OpenToSee(SqliteLightningStore):
    """A store whose writing connection tests can reach."""

    writer: SqliteConnection

    def _open_writer(self) -> Connection:
        connection = super()._open_writer()
        assert isinstance(connection, SqliteConnection)
        self.writer = connection
        return connection
