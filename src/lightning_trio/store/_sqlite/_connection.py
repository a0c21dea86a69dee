"""A connection to a SQLite file, and what its errors mean."""

from __future__ import annotations

import math
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

import msgspec

from ..._errors import StoreFormatError, StoreFull, StoreLocked, StoreUnavailable, TryAgain
from ..._host import lacks_descriptors
from ..._spans import MOST
from .._sql import SQLITE, Columns, Connection, Kind
from ._patience import Patience

T = TypeVar("T")

_LITTLE_ROOM: Final = 64 * 1024
"""The room in bytes with which a disk is full: SQLite's shared memory grows by half of it."""

_MAGIC: Final = b"SQLite format 3\0"

_CHECK_SECONDS: Final = 1.0
"""How often queries look at the version of the schema."""

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

    newest: int | None = None
    """The newest version of the schema that this version of the package knows; None to check none."""

    patience: Patience | None = None
    """Set on a connection whose transactions are tried again, see `Connection.begin`."""

    def __init__(self, path: Path, busy_seconds: float) -> None:
        super().__init__()
        self._path = path
        self._busy_seconds = busy_seconds
        self._now = 0.0
        self._data_version: int | None = None
        self._checked = -math.inf
        self._interrupted = False
        # Where SQLite keeps it if the path is a link.
        self._log_path = f"{os.path.realpath(path)}-wal"
        self._files: tuple[int | None, int | None] | None = None
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
        if self.patience is not None:
            self.patience.wait(lambda: self._interrupted or self.unwanted())
        if write:
            self.with_retries(lambda: self.execute("BEGIN IMMEDIATE"))
        else:
            self.execute("BEGIN")
        self.check_files()
        self._now = time.time()
        # A writer checks it before it commits, see `others_committed`.
        if not write and time.monotonic() - self._checked > _CHECK_SECONDS:
            self._check_version()

    def check_files(self) -> None:
        """Validate that the file and its log are the ones that this connection has opened; takes 3 µs.

        A program that opens the file in this process by itself, to copy it for example, takes SQLite's locks away when
        it closes it (section 2.2 of https://sqlite.org/howtocorrupt.html). Another process that then closes the
        database takes itself to be the last one and removes the log, and what this process wrote to it would be lost.

        Raises:
            StoreUnavailable: one of them was removed or replaced.
        """
        files = (_file_number(self._path), _file_number(self._log_path))
        if self._files is None:
            self._files = files
        elif files[0] != self._files[0]:
            raise StoreUnavailable.removed(self._path)
        elif files[1] != self._files[1]:
            raise StoreUnavailable.log_removed(self._path)

    def commit(self) -> None:
        self.execute("COMMIT")
        if self.patience is not None:
            self.patience.succeeded()

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self.execute("ROLLBACK")

    def others_committed(self) -> bool:
        # Takes 5 µs; `data_version` changes with commits of other connections only.
        [[version]] = self.run("PRAGMA data_version")
        if self._data_version == version:
            return False
        # Also at the first call, and again after an error.
        self._check_version()
        self._data_version = version
        return True

    def _check_version(self) -> None:
        """Validate that no process of a newer version has migrated the tables since they were opened.

        Raises:
            StoreFormatError: one has.
        """
        if self.newest is None:
            return
        [[version]] = self.run("PRAGMA user_version")
        if version > self.newest:
            raise StoreFormatError.newer(self._path, version, self.newest)
        self._checked = time.monotonic()

    def interrupt(self) -> None:
        self._interrupted = True
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
        error, passes = _as_store_error(exc, self._path, self._busy_seconds)
        if passes and self.patience is not None and isinstance(error, StoreUnavailable):
            error.__cause__ = exc
            self.patience.note(error)
            raise TryAgain from error
        raise error from exc


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


class _Explained(NamedTuple):
    """The error to raise for one of SQLite, and whether it passes without a change of the program."""

    error: Exception
    passes: bool = False


def _as_store_error(exc: sqlite3.Error, path: Path, busy_seconds: float) -> _Explained:
    code = getattr(exc, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return _Explained(StoreLocked.by_writer(path, busy_seconds))
    if primary == sqlite3.SQLITE_FULL:
        return _Explained(StoreFull.disk(path, exc), passes=True)
    if primary == sqlite3.SQLITE_READONLY:
        return _Explained(StoreUnavailable.read_only_file(path, exc))
    no_text = any(text in str(exc) for text in ("JSON cannot hold BLOB", "Could not decode to UTF-8"))
    if primary == sqlite3.SQLITE_NOTADB and (begins := _first_bytes(path)) != _MAGIC:
        return _Explained(StoreFormatError.not_sqlite(path, begins))
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or no_text:
        return _Explained(StoreFormatError.damaged_file(path, exc))
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM):
        if lacks_descriptors():
            return _Explained(StoreUnavailable.no_descriptors(str(path), exc), passes=True)
        if primary == sqlite3.SQLITE_IOERR and _is_full(path):
            return _Explained(StoreFull.disk(path, exc), passes=True)
        return _Explained(StoreUnavailable.broken_file(path, exc))
    return _Explained(exc)


def _file_number(path: str | Path) -> int | None:
    """Return what tells a file from another one that was put in its place, None without a file."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _first_bytes(path: Path) -> bytes:
    """Read the beginning of a file that is no database; of a database, it would take away the locks."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC))
    except OSError:
        return _MAGIC


def _is_full(path: Path) -> bool:
    """Whether the disk has no room; SQLite says so only of the file itself, not of its index in shared memory."""
    try:
        return shutil.disk_usage(path.parent).free < _LITTLE_ROOM
    except OSError:
        return False
