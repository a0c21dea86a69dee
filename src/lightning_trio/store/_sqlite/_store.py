"""The store in a SQLite file: durable, for several processes on one machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Self, get_args

import trio

from ..._concurrency import run_in_thread
from ..._errors import StoreFull, StoreLocked, StoreUnavailable
from ..._host import lacks_descriptors
from ..._public import public
from ..._repr import one_line
from .._sql import MAX_PAYLOAD_BYTES, MIGRATIONS, Connection, SqlLightningStore, migrate
from ._clock import start_clock
from ._connection import SqliteConnection
from ._file import APPLICATION_ID, check_path, check_schema, check_tables
from ._patience import Patience

Synchronous = Literal["full", "normal"]
_READER_SECONDS: Final = 5.0
"""The longest that a reading connection waits for a lock."""

_POLL_SECONDS: Final = 0.05
"""How often to check, during a wait, whether another process has committed."""

_LONGEST_NAME: Final = 200
"""The longest name of a run, in bytes; file systems allow 255, and ``.db-wal`` is appended."""


@public
class SqliteLightningStore(SqlLightningStore):
    """Keep everything in one SQLite file, so that a run survives its process.

    An acknowledged call is on disk. Several processes on one machine may use the file at once, but not over a network
    file system.

    Args:
        path: the file; created if it does not exist, in a folder that does. A relative path is made absolute at once,
            so that later changes of the working directory do not matter.
        synchronous: with ``"full"``, acknowledged calls survive a power cut. With ``"normal"``, they survive a crash of
            the process, but a power cut may lose the last commits (never the file).
        max_payload_bytes: the size limit of a task, a resources snapshot or the spans of an attempt, in bytes.
        busy_seconds: how long to wait while another process writes, in seconds.
        patience_seconds: how long to wait, in seconds, for room on a full disk, and for file descriptors if this
            process has none left. A cancelled call does not wait.

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
        patience_seconds: float = 60.0,
    ) -> None:
        super().__init__(max_payload_bytes)
        if synchronous not in get_args(Synchronous):
            raise ValueError(f"synchronous={synchronous!r}; pass 'full' or 'normal'")
        if not busy_seconds >= 0:
            raise ValueError(f"busy_seconds={busy_seconds!r} is negative; pass a number of seconds, 0 for no wait")
        if not patience_seconds >= 0:
            raise ValueError(
                f"patience_seconds={patience_seconds!r} is negative; pass a number of seconds, 0 for no wait"
            )
        if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
            raise TypeError(f"path={path!r} is not the path of a file; pass a str or a pathlib.Path, such as 'runs.db'")
        if os.fspath(path) in ("", ":memory:"):
            raise ValueError(f"path={path!r} does not name a file; for a store in memory use InMemoryLightningStore()")
        # Absolute, because an agent may change the working directory before a further connection is opened.
        self.path: Path = Path(path).absolute()
        self._synchronous = synchronous
        self._busy_seconds = busy_seconds
        self._patience = patience_seconds
        self._creates_folder = False
        self._watched: SqliteConnection | None = None
        self._commits_seen = 0
        self._in_doubt = False
        self._clock_ahead: float | None = None

    @classmethod
    def of_run(cls, name: str, folder: str | os.PathLike[str] = "runs") -> Self:
        """Return the store of a named run, ``runs/{name}.db``; opening it creates the folder."""
        unfit = name.startswith(".") or any(character in name for character in '/\\:*?"<>|')
        if not name or unfit or len(name.encode(errors="replace")) > _LONGEST_NAME:
            raise ValueError(f"run_name={name!r} cannot be the name of a file; use letters, digits, spaces, - and _")
        store = cls(Path(folder) / f"{name}.db")
        store._creates_folder = True
        return store

    @one_line
    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}: {'open' if self.is_open else 'closed'}>"

    async def vacuum(self) -> None:
        """Return the space of removed rows to the file system; other writers wait meanwhile.

        Raises:
            StoreLocked: another process uses the file.
            StoreUnavailable: the file was removed or replaced.
            StoreFull: the disk has no room for the copy that SQLite makes.
        """
        self._check_open()
        await run_in_thread(self._vacuum)

    def _vacuum(self) -> None:
        assert self._watched is not None
        # Or a new file would be made, or another one changed.
        self._watched.check_files()
        connection = self._connect()
        try:
            connection.with_retries(lambda: connection.run("VACUUM"))
            connection.with_retries(lambda: connection.run("PRAGMA wal_checkpoint(TRUNCATE)"))
        finally:
            connection.close()

    # Specific to SQLite.

    @property
    def _where(self) -> str:
        return f"the store {self.path}"

    def _connect(self) -> SqliteConnection:
        return SqliteConnection(self.path, self._busy_seconds)

    def _open_writer(self) -> Connection:
        if self._creates_folder:
            self._create_folder()
        check_path(self.path)
        connection = self._connect()
        try:
            connection.with_retries(lambda: self._prepare(connection))
        except BaseException:
            connection.close()
            raise
        return connection

    def _create_folder(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            if exc.errno == errno.ENOSPC:
                raise StoreFull.disk(self.path, exc.strerror) from exc
            raise

    def _open_first(self) -> Connection:
        connection = super()._open_first()
        assert isinstance(connection, SqliteConnection)
        # Only now: what fails before is tried again with the whole opening.
        connection.patience = Patience(self._patience)
        return connection

    def _patiently(self, connect: Callable[[], SqliteConnection]) -> SqliteConnection:
        """Open a connection, and wait for file descriptors if there are none left."""
        patience, tried_again = Patience(self._patience), False
        while True:
            try:
                connection = connect()
            except StoreUnavailable as exc:
                if _passes(exc):
                    patience.note(exc)
                    patience.wait(lambda: False)
                elif tried_again:
                    raise
                else:
                    # Some may have been closed since it failed.
                    tried_again = True
            else:
                patience.succeeded()
                return connection

    def _prepare(self, connection: SqliteConnection) -> None:
        check_schema(connection, self.path, len(MIGRATIONS))
        [mode] = connection.run("PRAGMA journal_mode = WAL")
        if mode[0] != "wal":
            raise StoreUnavailable.no_shared_memory(self.path, mode[0])
        connection.run(f"PRAGMA synchronous = {self._synchronous.upper()}")
        connection.run("PRAGMA wal_autocheckpoint = 4000")
        connection.begin(write=True)
        try:
            # Again, now under the write lock.
            version = check_schema(connection, self.path, len(MIGRATIONS))
            if version < len(MIGRATIONS):
                new = migrate(connection, version, MIGRATIONS)
                connection.run(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.run(f"PRAGMA user_version = {new}")
            check_tables(connection, self.path)
            start_clock(connection)
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        connection.newest = len(MIGRATIONS)
        self._clock_ahead = connection.ahead

    def _open_reader(self) -> Connection:
        connection = self._patiently(self._connect_reader)
        connection.ids, connection.ahead = self._ids, self._clock_ahead
        connection.newest = len(MIGRATIONS)
        connection.patience = Patience(self._patience)
        return connection

    def _connect_reader(self) -> SqliteConnection:
        connection = self._connect()
        try:
            # Readers wait for no writer, but at their first read for a moment for any connection that is being closed.
            connection.run(f"PRAGMA busy_timeout = {int(1000 * min(self._busy_seconds, _READER_SECONDS))}")
            connection.run("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    async def _wait_foreign(self) -> None:
        while True:
            await trio.sleep(_POLL_SECONDS)
            if not self.is_open or self._changed():
                return

    def _changed(self) -> bool:
        """Whether another process has committed; may be wrong once after commits of this process.

        The watching connection cannot distinguish the two. The writing connection can, and does at its next commit.
        """
        assert self._watched is not None
        try:
            self._watched.check_files()
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

    async def on_open(self) -> None:
        patience, tried_again = Patience(self._patience), False
        while True:
            try:
                await self._open_once()
            except StoreUnavailable as exc:
                if _passes(exc):
                    patience.note(exc)
                elif tried_again:
                    raise
                # What was missing may have come back since it failed.
                tried_again = True
            else:
                patience.succeeded()
                return
            await patience.wait_in_trio()

    async def _open_once(self) -> None:
        """Open all connections, or none."""
        await super().on_open()
        # With the store, because there may be no file descriptors left later, at the first wait.
        try:
            self._watched = self._connect()
            self._changed()
        except BaseException:
            await self.on_close()
            raise

    async def on_close(self) -> None:
        # Before the writing connection: the last one to close moves the log into the file.
        watched, self._watched = self._watched, None
        if watched is not None:
            watched.close()
        await super().on_close()


def _passes(exc: StoreUnavailable) -> bool:
    """Whether an error is one of a full disk, or of a process without file descriptors."""
    return isinstance(exc, StoreFull) or exc.passes or lacks_descriptors()
