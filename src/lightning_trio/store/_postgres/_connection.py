"""A connection to PostgreSQL that reconnects after the server has been away. Needs psycopg."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, LiteralString, NoReturn
from zlib import crc32

import psycopg
import trio
from psycopg import sql
from psycopg.types.numeric import Int8Dumper

from ..._errors import NotBegun, StoreFormatError, StoreFull, StoreUnavailable, TryAgain
from ..._host import lacks_descriptors
from ..._ids import random_bits
from ..._log import Log
from .._sql import MIGRATIONS, POSTGRES, Columns, Connection, Kind
from ._server import Server, is_lost

logger = Log("lightning_trio.store")

_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 1.0
_STEP: Final = 0.05
"""How often to check, during a pause, whether a caller is still waiting."""

_HINT_SECONDS: Final = 0.02
"""The shortest time between two notifications while calls are pending."""

_SETTINGS: Final = (
    # Statements touch few rows by their keys. Plans are made while tables are empty and must still be right when they
    # are large: no plan may scan a whole table that has an index.
    "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; "
    "SET plan_cache_mode = force_generic_plan; SET jit = off; "
    # A session that lost its client must not keep its locks; a client that was only slow reruns its transaction.
    "SET idle_in_transaction_session_timeout = '10s'; SET tcp_user_timeout = '30s'; SET tcp_keepalives_idle = 10; "
    "SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; "
    "SET statement_timeout = 0; SET lock_timeout = 0; SET standard_conforming_strings = on"
)

_ARRAYS: Final[dict[Kind, str]] = {"int": "BIGINT[]", "real": "DOUBLE PRECISION[]", "text": "TEXT[]"}

_NOW: Final = "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"

_VERSION: Final = "(SELECT value FROM meta WHERE name = 'schema_version')"

_CHECK_SECONDS: Final = 1.0
"""How often queries look at the version of the tables."""


class PostgresConnection(Connection):
    """A connection to PostgreSQL.

    Every transaction that writes also writes its own token into the table ``commits``. When the connection is lost
    during a commit, the token shows, once reconnected, whether the transaction was committed; if not, its operations
    run again.

    Args:
        server: the location of the tables.
        patience: how long to wait for a server that is away, in seconds.
        processes: a set to which the connection adds its process id on the server, so that the store can ignore its
            own notifications.
    """

    dialect = POSTGRES

    def __init__(self, server: Server, patience: float, processes: set[int]) -> None:
        super().__init__()
        self._server = server
        self._patience = patience
        self._processes = processes
        self._name = f"{random_bits(64):016x}"
        self._connection: psycopg.Connection[Any] | None = None
        self._process: int | None = None
        self._token = random_bits(32)
        self._token_written = False
        self._writing = False
        self._now: float | None = None
        self._failing_since: float | None = None
        self._pause = _FIRST_PAUSE
        self._cause: BaseException | None = None
        self._full: StoreFull | None = None
        """The error to raise if the server's disk stays full."""
        self._interrupted = False
        self._hint_owed = False
        self._hinted = 0.0
        self._checked = -math.inf

    # Statements.

    def run(self, statement: str, parameters: Sequence[Any] | None = ()) -> psycopg.Cursor[Any]:
        """Run any statement, or with None as `parameters` several without parameters."""
        assert self._connection is not None
        try:
            if parameters is None:
                return self._connection.execute(statement.encode(), prepare=False)
            return self._connection.execute(_numbered(statement), parameters)
        except psycopg.Error as exc:
            self._fail(exc)

    def run_in_schema(self, statement: LiteralString) -> psycopg.Cursor[Any]:
        """Run a statement in which ``{}`` is replaced by the schema."""
        assert self._connection is not None
        try:
            return self._connection.execute(sql.SQL(statement).format(sql.Identifier(self._server.schema)))
        except psycopg.Error as exc:
            self._fail(exc)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self.run(sql, parameters).rowcount

    def select_with(self, tables: str, columns: Columns, rest: str, parameters: Sequence[Any]) -> list[list[Any]]:
        return self.run(f"{tables} SELECT {', '.join(columns)} {rest}", parameters).fetchall()

    def _as_tables(self, columns: Columns, rows: Sequence[Sequence[Any]]) -> Iterable[tuple[list[Any], str]]:
        # One array per column: the statement is the same for any number of rows.
        if rows:
            arrays = [
                _array(column, kind) for column, kind in zip(zip(*rows, strict=True), columns.values(), strict=True)
            ]
            casts = ", ".join(f"CAST(? AS {_ARRAYS[kind]})" for kind in columns.values())
            yield arrays, f"SELECT * FROM unnest({casts})"

    def create_counters(self, names: Iterable[str]) -> None:
        for name in names:
            self.execute(f"CREATE SEQUENCE {name}_numbers")
        self.execute(
            "CREATE TABLE commits (writer TEXT PRIMARY KEY, token BIGINT, since DOUBLE PRECISION) "
            "WITH (fillfactor = 50)"
        )
        for table in ("tallies", "workers"):
            # Room for the next version of a row on its page, so that no index changes (a HOT update).
            self.execute(f"ALTER TABLE {table} SET (fillfactor = 50)")
        for table in ("rollouts", "attempts"):
            self.execute(f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.05)")

    def take_numbers(self, name: str, count: int) -> int:
        # A sequence, because a row would block other writers until this one commits. The lock is released at once; it
        # keeps the numbers of one call contiguous.
        lock = f"{self._server.lock}, {_lock_number(name)}"
        [[_, last, _]] = self.run(
            f"SELECT pg_advisory_lock({lock}), setval('{name}_numbers', nextval('{name}_numbers') + ? - 1), "
            f"pg_advisory_unlock({lock})",
            (count,),
        )
        first: int = last - count + 1
        return first

    def last_number(self, name: str) -> int:
        last: int = self.value("CASE WHEN is_called THEN last_value ELSE 0 END", "int", f"FROM {name}_numbers")
        return last

    def now(self) -> float:
        now = self._now
        if now is None:
            now = self._now = float(self.value(_NOW, "real", ""))
        return now

    def server_message(self, exc: BaseException) -> str:
        """Return the server's message behind an error, on one line."""
        return self._server.scrub(str(exc.__cause__ or exc))

    # Transactions.

    def begin(self, *, write: bool) -> None:
        while True:
            self._wait()
            self._now = None
            self._writing = write
            try:
                self._connect()
                if not write:
                    self._begin_reading()
                    return
                self._token += 1
                # Two statements in one round trip. The version, because a process of a newer one may have migrated the
                # tables while this one had them open.
                cursor = self.run(
                    f"BEGIN; INSERT INTO commits (writer, token, since) VALUES ('{self._name}', {self._token}, {_NOW}) "
                    "ON CONFLICT (writer) DO UPDATE SET token = excluded.token, since = excluded.since "
                    f"RETURNING {_NOW}, {_VERSION}",
                    None,
                )
                cursor.nextset()
                [[self._now, version]] = cursor
                self._token_written = True
                self._check_version(version)
                return
            except TryAgain:
                continue

    def _begin_reading(self) -> None:
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        if time.monotonic() - self._checked < _CHECK_SECONDS:
            self.run(begin)
            return
        cursor = self.run(f"{begin}; SELECT {_VERSION}", None)
        cursor.nextset()
        [[version]] = cursor
        self._check_version(version)

    def _check_version(self, version: str | None) -> None:
        if version is not None and int(version) > len(MIGRATIONS):
            raise StoreFormatError.newer(self._server.place, int(version), len(MIGRATIONS))
        self._checked = time.monotonic()

    def commit(self) -> None:
        assert self._connection is not None
        try:
            self._connection.execute("COMMIT")
        except psycopg.Error as exc:
            if not is_lost(self._connection, exc):
                self._fail(exc)
            self._note_failure(exc)
            self._drop()
            # A read-only transaction has already returned its rows.
            if self._writing and not self._was_committed():
                raise TryAgain from exc
        self._failing_since = self._cause = self._full = None
        if self._writing and (self.summary.queued or self.summary.ended):
            self._hint_owed = True
            if time.monotonic() - self._hinted > _HINT_SECONDS:
                self.on_idle()

    def rollback(self) -> None:
        connection = self._connection
        if connection is None or connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            return
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            self._drop()

    def on_idle(self) -> None:
        """Notify other processes; outside transactions, because commits with a notification wait for one another."""
        if self._hint_owed and self._connection is not None:
            self._hint_owed = False
            self._hinted = time.monotonic()
            # Only a hint: other processes also poll every few seconds.
            with suppress(psycopg.Error):
                self._connection.execute("SELECT pg_notify(%s, '')", (self._server.channel,))

    def interrupt(self) -> None:
        self._interrupted = True
        connection = self._connection
        if connection is not None:
            # The request uses a connection of its own, which must not block Trio.
            trio.lowlevel.start_thread_soon(lambda: connection.cancel_safe(timeout=5.0), lambda _: None)

    def close(self) -> None:
        connection = self._connection
        if connection is not None and not connection.closed and self._token_written:
            with suppress(psycopg.Error):
                connection.execute("DELETE FROM commits WHERE writer = %s", (self._name,))
        self._drop()

    # Connecting and reconnecting.

    def open(self) -> None:
        """Connect.

        Raises:
            StoreUnavailable: the server cannot be reached or does not admit the user.
        """
        try:
            self._connect_once()
        except psycopg.Error as exc:
            raise self._server.explain_no_connection(exc) from None

    def _connect(self) -> None:
        if self._connection is not None and not self._connection.closed:
            return
        try:
            self._connect_once()
        except psycopg.Error as exc:
            if self._failing_since is None and lacks_descriptors():
                self._note_waiting(StoreUnavailable.no_descriptors(self._server.place, self._server.scrub(str(exc))))
            self._note_failure(exc)
            raise TryAgain from exc

    def _connect_once(self) -> None:
        self._drop()
        connection = self._server.connect(f"lightning_trio {self._name}")
        try:
            connection.adapters.register_dumper(int, Int8Dumper)
            connection.row_factory = _lists
            connection.execute(_SETTINGS)
            connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(self._server.schema)))
            if self._process is not None:
                # The session of the lost connection must not keep its locks.
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND application_name = %s "
                    "AND pid <> pg_backend_pid()",
                    (self._process, f"lightning_trio {self._name}"),
                )
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._process = connection.info.backend_pid
        self._processes.add(self._process)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._processes.discard(self._process or 0)
            connection.close()

    def _was_committed(self) -> bool:
        """Whether a transaction whose commit was not answered took place; waits until the server is back."""
        while True:
            self._wait(unknown=True)
            try:
                self._connect()
                # Not a query: only a write to the row waits for the lost transaction, which may still commit, and
                # which may be the one that inserts the row.
                [[token]] = self.run(
                    f"INSERT INTO commits (writer, token, since) VALUES (?, -1, {_NOW}) ON CONFLICT (writer) DO UPDATE "
                    "SET since = excluded.since RETURNING token",
                    (self._name,),
                )
            except TryAgain:
                continue
            return bool(token == self._token)

    def _fail(self, exc: psycopg.Error) -> NoReturn:
        assert self._connection is not None
        if is_lost(self._connection, exc):
            self._note_failure(exc)
            self._drop()
            raise TryAgain from exc
        error = self._server.explain(exc)
        if isinstance(error, StoreFull):
            self._full = error
            self._note_waiting(error)
            self._note_failure(exc)
            raise TryAgain from error
        if isinstance(error, TryAgain):
            self._note_failure(exc)
        if error is exc:
            raise exc
        raise error from exc

    def _note_waiting(self, error: StoreUnavailable) -> None:
        if self._failing_since is None:
            logger.warning("%s; calls wait for up to %g s (patience_seconds=…)", error, self._patience)

    def _note_failure(self, exc: psycopg.Error) -> None:
        self._cause = exc
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            self._pause = _FIRST_PAUSE

    def _wait(self, *, unknown: bool = False) -> None:
        """Pause after a failure.

        Args:
            unknown: whether a commit was sent and never answered.

        Raises:
            StoreUnavailable: the server has been away for too long, or every caller has been cancelled.
        """
        if self._failing_since is None:
            return
        # Random, so that connections lost together do not reconnect together.
        until = time.monotonic() + self._pause * (0.5 + random.random())
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        while (left := until - time.monotonic()) > 0:
            if self._interrupted or self.unwanted():
                self._give_up(unknown=unknown, wanted=False)
            time.sleep(min(left, _STEP))
        if time.monotonic() - self._failing_since > self._patience:
            self._give_up(unknown=unknown, wanted=True)

    def _give_up(self, *, unknown: bool, wanted: bool) -> NoReturn:
        kind = NotBegun if self._writing and not unknown else StoreUnavailable
        place, message, away = self._server.place, self._server.scrub(str(self._cause)), self._connection is None
        full, self._full = self._full, None
        self._failing_since = None
        if wanted and full is not None and not away:
            raise full
        if wanted:
            raise kind.out_of_patience(place, message, self._patience, away=away, unknown=unknown)
        raise kind.unwanted(place, message, away=away, unknown=unknown)


def _lock_number(name: str) -> int:
    return crc32(name.encode()) & 0x7FFF_FFFF


def _lists(cursor: object) -> type[list[Any]]:
    return list


@lru_cache(1024)
def _numbered(statement: str) -> bytes:
    """Return a statement with psycopg's placeholders."""
    return statement.replace("?", "%s").encode()


def _array(values: Sequence[Any], kind: Kind) -> str:
    """Return an array in PostgreSQL's syntax: ten times as fast as psycopg's own list adapter."""
    if kind == "text":
        return "{" + ",".join([_quoted(value) for value in values]) + "}"
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    if "\\" in value:
        value = value.replace("\\", "\\\\")
    if '"' in value:
        value = value.replace('"', '\\"')
    return f'"{value}"'
