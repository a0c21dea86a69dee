"""The store in a PostgreSQL database: durable, for any number of processes on any number of machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from ..._concurrency import run_in_thread
from ..._errors import StoreFull, StoreUnavailable, TryAgain
from ..._ids import random_bits
from ..._log import Log
from ..._public import public
from ..._repr import one_line
from .._sql import MAX_PAYLOAD_BYTES, Connection, SqlLightningStore

if TYPE_CHECKING:
    from ._connection import PostgresConnection
    from ._notifications import Hints


logger = Log("lightning_trio.store")

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
"""The pauses between two tries to open a store whose server is away, in seconds."""

_SHARDS: Final = 64
"""How many rows each count is spread over, so that writers seldom wait for the same row."""


@public
class PostgresLightningStore(SqlLightningStore):
    """Keep everything in a PostgreSQL database, so that runners on many machines share one queue.

    An acknowledged call is committed. While the server restarts, calls wait; nothing is lost or done twice.
    Needs the extra: ``pip install 'lightning-trio[postgres]'``.

    Args:
        dsn: a connection string, ``postgresql://user@host/database`` or ``host=… dbname=…``; what it leaves out comes
            from libpq's environment variables and files (``PGPASSWORD``, ``~/.pgpass``).
        connections: how many connections write; at most as many read, and one more listens for notifications.
        schema: the schema of the tables; created if it does not exist. Each store in a database needs its own.
        max_payload_bytes: the size limit of a task, a resources snapshot or the spans of an attempt, in bytes.
        patience_seconds: how long to wait, in seconds, for a server that is away or has no room left on its disk. A
            cancelled call does not wait.
        open_patience_seconds: how long opening the store waits, in seconds, for a server that does not answer or is
            starting, such as one that restarts. A cancelled caller does not wait.
    """

    def __init__(
        self,
        dsn: str,
        *,
        connections: int = 4,
        schema: str = "lightning_trio",
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        patience_seconds: float = 60.0,
        open_patience_seconds: float = 10.0,
    ) -> None:
        super().__init__(max_payload_bytes)
        if not isinstance(connections, int) or connections < 1:
            raise ValueError(f"connections={connections!r}; pass the number of writing connections, at least 1")
        if not 0 < len(schema.encode()) <= 63 or "\0" in schema or schema.startswith("pg_"):
            raise ValueError(
                f"schema={schema!r}; pass a name of 1 to 63 bytes that does not start with 'pg_', which is reserved by "
                "PostgreSQL"
            )
        for name, seconds in ("patience_seconds", patience_seconds), ("open_patience_seconds", open_patience_seconds):
            if not seconds >= 0:
                raise ValueError(f"{name}={seconds!r} is negative; pass a number of seconds, 0 for no wait")
        _require_psycopg()
        # Needs an optional dependency, so imported on use.
        from ._server import read_dsn

        self._server = read_dsn(dsn, schema)
        self._writers = self._most_readers = connections
        self._patience = patience_seconds
        self._open_patience = open_patience_seconds
        self._processes: set[int] = set()
        self._hints: Hints | None = None
        self._prepared = False
        self._first_shard = random_bits(6)

    @one_line
    def __repr__(self) -> str:
        place = self._server.place.removeprefix("the store ")
        return f"<{type(self).__name__} {place}: {'open' if self.is_open else 'closed'}>"

    async def vacuum(self, *, full: bool = False) -> None:
        """Free the space of removed rows for new ones, while other processes keep using the store.

        Args:
            full: also return the space to the file system. This copies one table after the other; other users of a
                table wait meanwhile.

        Raises:
            StoreUnavailable: the server is away, or the role does not own the tables.
            StoreFull: the disk has no room for the copy of a table.
        """
        self._check_open()
        await run_in_thread(lambda: self._vacuum(full))

    def _vacuum(self, full: bool) -> None:
        from ._tables import TABLES

        connection = self._connect()
        try:
            connection.open()
            for table in TABLES:
                connection.run(f"VACUUM ({'FULL, ' if full else ''}ANALYZE) {table}")
        except TryAgain as exc:
            lost = StoreUnavailable.broken_server(self._where, connection.server_message(exc))
            raise _final(exc, lost) from exc
        finally:
            connection.close()

    # Specific to PostgreSQL.

    @property
    def _where(self) -> str:
        return self._server.place

    def _connect(self) -> PostgresConnection:
        from ._connection import PostgresConnection

        return PostgresConnection(self._server, self._patience, self._processes)

    def _open_writer(self) -> Connection:
        connection = self._connect()
        connection.shard = (self._first_shard + len(self._processes)) % _SHARDS
        try:
            connection.open()
            if not self._prepared:
                from ._tables import prepare

                prepare(connection, self._server.schema, self._where)
                self._prepared = True
        except TryAgain as exc:
            connection.close()
            lost = StoreUnavailable.gone_while_opened(self._where, connection.server_message(exc))
            raise _final(exc, lost) from exc
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_reader(self) -> Connection:
        connection = self._connect()
        connection.ids = self._ids
        return connection

    async def on_open(self) -> None:
        from ._notifications import Hints

        await self._open_patiently()
        self._hints = Hints(lambda: self._server.connect("lightning_trio hints"), self._server.channel, self._processes)
        try:
            # With the store, because there may be no connection or file descriptor left later, at the first wait.
            await self._hints.open()
        except BaseException:
            await self.on_close()
            raise

    async def _open_patiently(self) -> None:
        """Open the store's connections, and wait for a server that is away."""
        until, pause = trio.current_time() + self._open_patience, _FIRST_PAUSE
        while True:
            try:
                await super().on_open()
                return
            except StoreUnavailable as exc:
                if not exc.passes or self._open_patience == 0:
                    raise
                left = until - trio.current_time()
                if left <= 0:
                    raise StoreUnavailable.not_back(self._where, str(exc), self._open_patience) from exc
                if pause == _FIRST_PAUSE:
                    logger.warning("%s; tried for up to %g s (open_patience_seconds=…)", exc, self._open_patience)
            await trio.sleep(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _wait_foreign(self) -> None:
        if self._hints is None:
            self._check_open()
        assert self._hints is not None
        try:
            await self._hints.wait()
        except trio.ClosedResourceError:
            self._check_open()
            raise

    async def on_close(self) -> None:
        hints, self._hints = self._hints, None
        try:
            await super().on_close()
        finally:
            self._prepared = False
            if hints is not None:
                hints.close()


def _require_psycopg() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError as exc:
        raise ImportError(
            f"PostgresLightningStore needs psycopg ({exc}): pip install 'lightning-trio[postgres]'"
        ) from exc


def _final(exc: TryAgain, lost: StoreUnavailable) -> StoreUnavailable:
    """Return the error to raise where nothing is tried again: `lost`, unless the disk is full."""
    return exc.__cause__ if isinstance(exc.__cause__, StoreFull) else lost
