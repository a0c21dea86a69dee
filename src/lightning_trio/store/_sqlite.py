"""The store in one SQLite file: durable, without a server, for any number of processes of one machine."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, Self, TypeVar, get_args

import msgspec
import trio

from .._errors import StoreFormatError, StoreFull, StoreLocked, StoreUnavailable
from ._sql._dialect import SQLITE, Kind
from ._sql._schema import MIGRATIONS, TABLES, migrate
from ._sql._store import MAX_PAYLOAD_BYTES, SqlLightningStore
from ._sql._transaction import Columns, Connection

T = TypeVar("T")

Synchronous = Literal["full", "normal"]

_APPLICATION_ID: Final = 0x4C547269
"""Says that a SQLite file is ours: "LTri"."""

_MAGIC: Final = b"SQLite format 3\0"
_LOOK_SECONDS: Final = 0.05
"""How often to look, while somebody waits, whether another process has committed something."""

_LONGEST_NAME: Final = 200
"""How many bytes a run's name may take; file systems take 255 for a name, and ``.db-wal`` is added to it."""

_decode_rows = msgspec.json.Decoder(list[list[Any]]).decode


class SqliteLightningStore(SqlLightningStore):
    """Keep everything in one SQLite file, so that a run survives its process.

    All that is acknowledged is on disk. Several processes of one machine may use the file at once; not over a network
    file system.

    Args:
        path: the file; it is made if it is not there, in a folder that is.
        synchronous: ``"full"``: what was acknowledged survives a power cut. ``"normal"``: it survives a crash of the
            process, but a power cut may lose the last commits (never the file).
        max_payload_bytes: the most bytes that a task, a resources snapshot or the spans of an attempt may take.
        busy_seconds: how long to wait for another process that writes.

    >>> import tempfile, trio
    >>> async def main() -> list[str]:
    ...     with tempfile.TemporaryDirectory() as folder:
    ...         async with SqliteLightningStore(f"{folder}/run.db") as store:
    ...             await store.enqueue_rollout("task")
    ...         async with SqliteLightningStore(f"{folder}/run.db") as store:
    ...             return [rollout.input for rollout in await store.query_rollouts()]
    >>> trio.run(main)
    ['task']
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "full",
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        busy_seconds: float = 30.0,
    ) -> None:
        super().__init__(max_payload_bytes)
        if synchronous not in get_args(Synchronous):
            raise ValueError(f"synchronous={synchronous!r}; there are 'full' and 'normal'")
        if not busy_seconds >= 0:
            raise ValueError(f"busy_seconds={busy_seconds!r} is negative; give seconds, 0 for no wait")
        if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
            raise TypeError(f"path={path!r} is no path of a file; give a str or a pathlib.Path, such as 'runs.db'")
        if os.fspath(path) in ("", ":memory:"):
            raise ValueError(f"path={path!r} names no file; for a store in memory use InMemoryLightningStore()")
        self.path = Path(path)
        self._synchronous = synchronous
        self._busy_seconds = busy_seconds
        self._makes_folder = False
        self._watched: SqliteConnection | None = None
        self._commits_seen = 0
        self._in_doubt = False

    @classmethod
    def of_run(cls, name: str, folder: str | os.PathLike[str] = "runs") -> Self:
        """Give the store of a named run, ``runs/{name}.db``; the folder is made when it is opened."""
        unfit = name.startswith(".") or any(character in name for character in '/\\:*?"<>|')
        if not name or unfit or len(name.encode(errors="replace")) > _LONGEST_NAME:
            raise ValueError(f"run_name={name!r} cannot be the name of a file; use letters, digits, spaces, - and _")
        store = cls(Path(folder) / f"{name}.db")
        store._makes_folder = True
        return store

    def __repr__(self) -> str:
        return f"SqliteLightningStore({str(self.path)!r})"

    async def vacuum(self) -> None:
        """Give back to the file system the room of what was removed; nobody else may write meanwhile.

        Raises:
            StoreLocked: another process uses the file.
            StoreFull: there is no room for the copy that is made on the way.
        """
        self._check_open()
        await trio.to_thread.run_sync(self._vacuum)

    def _vacuum(self) -> None:
        connection = self._connect()
        try:
            connection.retrying(lambda: connection.run("VACUUM"))
            connection.retrying(lambda: connection.run("PRAGMA wal_checkpoint(TRUNCATE)"))
        finally:
            connection.close()

    # What SQLite does in its own way.

    @property
    def _where(self) -> str:
        return f"the store {self.path}"

    def _connect(self) -> SqliteConnection:
        return SqliteConnection(self.path, self._busy_seconds)

    def _open_writer(self) -> Connection:
        if self._makes_folder:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        check_path(self.path)
        connection = self._connect()
        try:
            connection.retrying(lambda: self._prepare(connection))
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: SqliteConnection) -> None:
        check_schema(connection, self.path)
        [mode] = connection.run("PRAGMA journal_mode = WAL")
        if mode[0] != "wal":
            raise StoreUnavailable(
                f"{self.path} is on a file system where processes cannot share memory (SQLite's journal mode is "
                f"{mode[0]!r} there); put the store on a local disk"
            )
        connection.run(f"PRAGMA synchronous = {self._synchronous.upper()}")
        connection.run("PRAGMA wal_autocheckpoint = 4000")
        connection.begin(write=True)
        try:
            # Again, now that nobody else can be at it.
            version = check_schema(connection, self.path)
            if version < len(MIGRATIONS):
                new = migrate(connection, version, MIGRATIONS)
                connection.run(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.run(f"PRAGMA user_version = {new}")
            check_tables(connection, self.path)
            connection.commit()
        except BaseException:
            connection.rollback()
            raise

    def _open_reader(self) -> Connection:
        connection = self._connect()
        connection.run("PRAGMA query_only = ON")
        connection.ids = self._ids
        return connection

    async def _wait_foreign(self) -> None:
        while True:
            await trio.sleep(_LOOK_SECONDS)
            if not self.is_open or self._changed():
                return

    def _changed(self) -> bool:
        """Tell whether another process has committed something; may be wrong once after commits of this one.

        Which of the two it was, only the connection that commits can tell, and does with its next commit.
        """
        if self._watched is None:
            self._watched = self._connect()
        try:
            changed = self._watched.others_committed()
        except StoreLocked:
            return False
        own = self._commits != self._commits_seen
        self._commits_seen = self._commits
        if own:
            self._in_doubt = self._in_doubt or changed
            return False
        in_doubt, self._in_doubt = self._in_doubt, False
        return changed or in_doubt

    async def __aexit__(self, *error: Any) -> None:
        # Before the connection that writes: the last one to be closed moves the log into the file.
        watched, self._watched = self._watched, None
        if watched is not None:
            watched.close()
        await super().__aexit__(*error)


class SqliteConnection(Connection):
    """A connection to a SQLite file.

    Python's sqlite3 gives up the interpreter's lock for each step of a statement, and gets it back late where another
    thread is busy: up to five milliseconds a row. So rows are written and read by few statements of one step each;
    `select_with` has SQLite put whole results into one text of JSON.
    """

    dialect = SQLITE

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
        """Run any statement and give its rows."""
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
            raise _damaged(self._path, exc) from exc

    def take_numbers(self, name: str, count: int) -> int:
        rows = self.run("UPDATE counters SET value = value + ? WHERE name = ? RETURNING value", (count, name))
        last: int = rows[0][0]
        return last - count + 1

    def now(self) -> float:
        return self._now

    def begin(self, *, write: bool) -> None:
        if write:
            self.retrying(lambda: self.execute("BEGIN IMMEDIATE"))
        else:
            self.execute("BEGIN")
        self._now = time.time()

    def commit(self) -> None:
        self.execute("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self.execute("ROLLBACK")

    def others_committed(self) -> bool:
        # Takes 5 µs; SQLite keeps a number of what other connections have changed.
        [[version]] = self.run("PRAGMA data_version")
        before, self._data_version = self._data_version, version
        return bool(before != version)

    def interrupt(self) -> None:
        # It may have been closed just now.
        with suppress(sqlite3.ProgrammingError):
            self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()

    def retrying(self, fn: Callable[[], T]) -> T:
        """Call `fn` until no other connection is in its way, for `busy_seconds` at most."""
        deadline = time.monotonic() + self._busy_seconds
        wait = 0.0005
        while True:
            try:
                return fn()
            except StoreLocked:
                if time.monotonic() >= deadline:
                    raise
            # Random, so that those who collide do not do so again.
            time.sleep(wait * (0.5 + random.random()))
            wait = min(wait * 1.5, 0.01)

    def _fail(self, exc: sqlite3.Error) -> NoReturn:
        raise _as_store_error(exc, self._path, self._busy_seconds) from exc


def _packed(tables: str, columns: Columns, rest: str) -> str:
    """Write a query that gives its rows as one JSON text, a list each, without the outer brackets."""
    names = [f"c{index}" for index in range(len(columns))]
    inner = ", ".join(f"{column} AS {name}" for column, name in zip(columns, names, strict=True))
    pieces = " || ',' || ".join(_as_json(name, kind) for name, kind in zip(names, columns.values(), strict=True))
    return f"{tables} SELECT group_concat('[' || {pieces} || ']') FROM (SELECT {inner} {rest})"


def _as_json(name: str, kind: Kind) -> str:
    if kind == "int":
        return f"coalesce({name}, 'null')"
    if kind == "real":
        # 17 digits give back the same float; SQLite's own conversion has 15.
        return f"CASE WHEN {name} IS NULL THEN 'null' ELSE printf('%!.17g', {name}) END"
    return f"json_quote({name})"


def _as_store_error(exc: sqlite3.Error, path: Path, busy_seconds: float) -> Exception:
    code = getattr(exc, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLocked(
            f"{path} is locked: another process has been writing to it for more than {busy_seconds:g} s; end that "
            "process, or wait longer with busy_seconds=…"
        )
    if primary == sqlite3.SQLITE_FULL:
        return StoreFull(
            f"there is no room left for {path} to grow ({exc}); what was committed is kept. Make room and go on"
        )
    if primary == sqlite3.SQLITE_READONLY:
        return StoreUnavailable(f"{path} or its folder is read-only ({exc}); give write access, or copy it elsewhere")
    no_text = any(said in str(exc) for said in ("JSON cannot hold BLOB", "Could not decode to UTF-8"))
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or no_text:
        return _damaged(path, exc)
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM):
        return StoreUnavailable(f"{path} cannot be read or written ({exc}); look at its folder's permissions and disk")
    return exc


def _damaged(path: Path, why: object) -> StoreFormatError:
    return StoreFormatError(
        f"{path} is damaged ({why}); put a copy in its place, or save what can be read: sqlite3 {path} .recover"
    )


def check_path(path: Path) -> None:
    """Refuse what cannot be a store before SQLite touches it.

    Raises:
        StoreUnavailable: the folder is not there, or the path is a folder, a pipe or a device.
        StoreFormatError: the file is no SQLite file.
    """
    folder = path.parent
    if not folder.is_dir():
        raise StoreUnavailable(
            f"the folder {folder} of the store {path.name} does not exist; make it first: mkdir -p {folder}"
        )
    if path.is_dir():
        raise StoreUnavailable(f"{path} is a directory; give the path of a file in it: {path / 'runs.db'}")
    if not path.exists():
        return
    if not path.is_file():
        # Opening a pipe would wait for somebody to write into it.
        raise StoreUnavailable(f"{path} is a pipe or a device; give the path of a store, or of no file yet")
    try:
        with path.open("rb") as file:
            begins = file.read(len(_MAGIC))
    except OSError as exc:
        raise StoreUnavailable(f"{path} cannot be read: {exc.strerror}; look at its permissions") from exc
    if begins and begins != _MAGIC:
        raise StoreFormatError(
            f"{path} is no SQLite file (it begins with {begins!r}); give the path of a store, or of no file yet"
        )


def check_schema(connection: SqliteConnection, path: Path) -> int:
    """Give the version of the schema, 0 for a new file.

    Asked of SQLite and not read from the file, since after a crash it may be in the log.

    Raises:
        StoreFormatError: the file is of another program, or of a newer version of this one.
    """
    [[application]] = connection.run("PRAGMA application_id")
    [[version]] = connection.run("PRAGMA user_version")
    if application != _APPLICATION_ID:
        tables = [name for [name] in connection.run("SELECT name FROM sqlite_master WHERE type = 'table' LIMIT 5")]
        if application or version or tables:
            named = f" with the tables {', '.join(tables)}" if tables else ""
            raise StoreFormatError(
                f"{path} is a SQLite file of another program{named}; give the path of a store, or of no file yet"
            )
        return 0
    if version > len(MIGRATIONS):
        raise StoreFormatError(
            f"{path} was made by a newer version of lightning_trio: its schema is {version}, this one knows "
            f"{len(MIGRATIONS)}; upgrade with: pip install -U lightning-trio"
        )
    if version < 1:
        raise _damaged(path, f"its schema has the version {version}")
    return int(version)


def check_tables(connection: SqliteConnection, path: Path) -> None:
    """Refuse a store that lacks tables.

    Raises:
        StoreFormatError: naming them.
    """
    there = {name for [name] in connection.run("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if missing := sorted({*TABLES, "counters"} - there):
        raise _damaged(path, f"without the tables {', '.join(missing)}")


if sqlite3.sqlite_version_info < (3, 35):  # pragma: no cover
    raise ImportError(f"lightning_trio needs SQLite 3.35 or newer, Python has {sqlite3.sqlite_version}")
