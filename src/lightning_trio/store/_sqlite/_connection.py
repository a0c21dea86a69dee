"""A connection to a SQLite file, and what its errors mean."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from ..._errors import StoreFormatError, StoreFull, StoreLocked, StoreUnavailable
from ..._spans import MOST
from .._sql import SQLITE, Columns, Connection, Kind

T = TypeVar("T")

_decode_rows = msgspec.json.Decoder(list[list[Any]]).decode


class SqliteConnection(Connection):
    """A connection to a SQLite file.

    Python's sqlite3 releases the interpreter's lock for each step of a statement, and regains it late while another
    thread is busy: up to five milliseconds per row. So rows are written and read by few statements of one step each:
    `select_with` has SQLite return a whole result as one JSON text.
    """

    dialect = SQLITE

    ahead: float | None = None
    """How far the file's clock is ahead of the monotonic one, see `start_clock`; None for the wall clock."""

    def __init__(self, path: Path, busy_seconds: float) -> None:
        super().__init__()
        self._path = path
        self._busy_seconds = busy_seconds
        self._now = 0.0
        self._data_version: int | None = None
        try:
            self._connection = sqlite3.connect(
                path, timeout=0.0, isolation_level=None, check_same_thread=False, cached_statements=512
            )
        except sqlite3.Error as exc:
            self._fail(exc)
        self._execute = self._connection.execute

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run any statement and return its rows."""
        try:
            return self._execute(sql, parameters).fetchall()
        except sqlite3.Error as exc:
            self._fail(exc)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        try:
            return self._execute(sql, parameters).rowcount
        except sqlite3.Error as exc:
            self._fail(exc)

    def select_with(self, tables: str, columns: Columns, rest: str, parameters: Sequence[Any]) -> list[list[Any]]:
        try:
            cursor = self._execute(_packed(tables, columns, rest), parameters)
            [text] = cursor.fetchone()
        except sqlite3.Error as exc:
            self._fail(exc)
        try:
            return [] if text is None else _decode_rows(f"[{text}]")
        except msgspec.DecodeError as exc:
            raise StoreFormatError.damaged_file(self._path, exc) from exc

    def take_numbers(self, name: str, count: int) -> int:
        rows = self.run("UPDATE counters SET value = value + ? WHERE name = ? RETURNING value", (count, name))
        last: int = rows[0][0]
        return last - count + 1

    def now(self) -> float:
        return self._now

    def steady_now(self) -> float:
        return self._now if self.ahead is None else time.monotonic() + self.ahead

    def begin(self, *, write: bool) -> None:
        if write:
            self.with_retries(lambda: self.execute("BEGIN IMMEDIATE"))
        else:
            self.execute("BEGIN")
        self._now = time.time()

    def commit(self) -> None:
        self.execute("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self.execute("ROLLBACK")

    def others_committed(self) -> bool:
        # Takes 5 µs; `data_version` changes with commits of other connections only.
        [[version]] = self.run("PRAGMA data_version")
        before, self._data_version = self._data_version, version
        return bool(before != version)

    def interrupt(self) -> None:
        # The connection may have been closed just now.
        with suppress(sqlite3.ProgrammingError):
            self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()

    def with_retries(self, fn: Callable[[], T]) -> T:
        """Call `fn` again while another connection holds the lock, for `busy_seconds` at most."""
        deadline = time.monotonic() + self._busy_seconds
        wait = 0.0005
        while True:
            try:
                return fn()
            except StoreLocked:
                if time.monotonic() >= deadline:
                    raise
            # Random, so that connections that collided do not collide again.
            time.sleep(wait * (0.5 + random.random()))
            wait = min(wait * 1.5, 0.01)

    def _fail(self, exc: sqlite3.Error) -> NoReturn:
        raise _as_store_error(exc, self._path, self._busy_seconds) from exc


def _packed(tables: str, columns: Columns, rest: str) -> str:
    """Return a query whose result is one JSON text: a list per row, without the outer brackets."""
    names = [f"c{index}" for index in range(len(columns))]
    inner = ", ".join(f"{column} AS {name}" for column, name in zip(columns, names, strict=True))
    pieces = " || ',' || ".join(_as_json(name, kind) for name, kind in zip(names, columns.values(), strict=True))
    return f"{tables} SELECT group_concat('[' || {pieces} || ']') FROM (SELECT {inner} {rest})"


def _as_json(name: str, kind: Kind) -> str:
    if kind == "int":
        return f"coalesce({name}, 'null')"
    if kind == "real":
        # 17 digits preserve a float exactly (beyond 1e90, to its last digit); SQLite's own conversion keeps 15. The
        # largest float is exact, too, and an infinity, which JSON lacks, is read as the largest float.
        return (
            f"CASE WHEN abs({name}) < 1.797693134862315e308 THEN printf('%!.17g', {name}) "
            f"WHEN {name} IS NULL THEN 'null' WHEN {name} > 0 THEN '{MOST!r}' ELSE '{-MOST!r}' END"
        )
    return f"json_quote({name})"


def _as_store_error(exc: sqlite3.Error, path: Path, busy_seconds: float) -> Exception:
    code = getattr(exc, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLocked.by_writer(path, busy_seconds)
    if primary == sqlite3.SQLITE_FULL:
        return StoreFull.disk(path, exc)
    if primary == sqlite3.SQLITE_READONLY:
        return StoreUnavailable.read_only_file(path, exc)
    no_text = any(text in str(exc) for text in ("JSON cannot hold BLOB", "Could not decode to UTF-8"))
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or no_text:
        return StoreFormatError.damaged_file(path, exc)
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM):
        return StoreUnavailable.broken_file(path, exc)
    return exc
