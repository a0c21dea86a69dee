"""Faults of a store's file or server.

`place` names it in messages, never with a password; for a file, `path` is set as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from ._base import compose, public
from ._store import StoreError

_PASS_A_STORE = "pass the path of a store, or of a file that does not exist yet"
_UNKNOWN = "; whether the last write was committed is unknown: check before you repeat it"


@public
class StoreFormatError(StoreError, ValueError):
    """A file or schema is not a store, is damaged, or was made by a newer version."""

    place: str | None = None
    """The store as the message calls it, with its file, or with its schema, database and server."""

    path: Path | None = None
    """The store's file, if it has one."""

    # Files.

    @classmethod
    def not_sqlite(cls, path: Path, begins: bytes) -> Self:
        """Return the error for a file of another format."""
        message = f"{path} is not a SQLite file (it begins with {begins!r}); {_PASS_A_STORE}"
        return compose(cls, message, place=str(path), path=path)

    @classmethod
    def foreign_file(cls, path: Path, tables: Sequence[str]) -> Self:
        """Return the error for a SQLite file of another program."""
        named = f" with the tables {', '.join(tables)}" if tables else ""
        message = f"{path} is a SQLite file of another program{named}; {_PASS_A_STORE}"
        return compose(cls, message, place=str(path), path=path)

    @classmethod
    def damaged_file(cls, path: Path, why: object) -> Self:
        """Return the error for a damaged SQLite file."""
        message = f"{path} is damaged ({why}); restore a backup, or save what can be read: sqlite3 {path} .recover"
        return compose(cls, message, place=str(path), path=path)

    @classmethod
    def damaged_schema(cls, path: Path, version: int) -> Self:
        """Return the error for a file whose schema has an impossible version."""
        return cls.damaged_file(path, f"its schema has the version {version}")

    @classmethod
    def damaged_tables(cls, path: Path, missing: Sequence[str]) -> Self:
        """Return the error for a file that lacks tables."""
        return cls.damaged_file(path, f"missing tables: {', '.join(missing)}")

    # Servers.

    @classmethod
    def foreign_tables(cls, place: str, tables: Sequence[str]) -> Self:
        """Return the error for a schema that another program uses."""
        message = (
            f"{place} has tables of another program: {', '.join(sorted(tables)[:5])}; give the store a schema of its "
            "own with schema=…"
        )
        return compose(cls, message, place=place)

    @classmethod
    def missing_tables(cls, place: str, missing: Sequence[str]) -> Self:
        """Return the error for a schema that lacks tables when it is opened."""
        message = f"{place} is damaged (missing tables: {', '.join(missing)}); restore a backup"
        return compose(cls, message, place=place)

    @classmethod
    def changed_tables(cls, place: str, said: str) -> Self:
        """Return the error for tables that disappeared while the store was open."""
        message = (
            f"tables of {place} have been dropped or changed ({said}); close and reopen the store to recreate them, or "
            "restore them"
        )
        return compose(cls, message, place=place)

    # Both.

    @classmethod
    def newer(cls, place: str | Path, version: int, known: int) -> Self:
        """Return the error for a schema of a newer version of the package."""
        message = (
            f"{place} was made by a newer version of lightning_trio: its schema is {version}, this one knows {known}; "
            "upgrade with: pip install -U lightning-trio"
        )
        return compose(cls, message, place=str(place), path=place if isinstance(place, Path) else None)

    @classmethod
    def without_id_cipher(cls, place: str) -> Self:
        """Return the error for a store that has lost the key of its rollout ids."""
        message = f"{place} is damaged (its table meta does not say how ids are made); restore a backup"
        return compose(cls, message, place=place)

    @classmethod
    def damaged_value(cls, place: str, why: object) -> Self:
        """Return the error for a value in a store that cannot be read."""
        message = (
            f"{place} has a record that this process cannot read: {why}; import the version of its class that stored "
            "it, or restore a backup"
        )
        return compose(cls, message, place=place)

    @classmethod
    def unreadable_task(cls, reason: str) -> Self:
        """Return the error of a rollout that was claimed and cannot be read."""
        message = (
            f"{reason}; import the version of its class that stored it and write "
            "fit(…, resume=True, retry_failed=True), or enqueue its task again"
        )
        return compose(cls, message)


@public
class StoreUnavailable(StoreError, OSError):
    """A store's file or server cannot be opened, read or written."""

    place: str | None = None
    """The store as the message calls it, with its file, or with its schema, database and server."""

    path: Path | None = None
    """The store's file, if it has one."""

    seconds: float | None = None
    """How long the store waited for it, in seconds."""

    passes: bool = False
    """Whether it may pass by itself: the server does not answer or is starting, or has no connection left."""

    # Files.

    @classmethod
    def no_folder(cls, path: Path) -> Self:
        """Return the error for a file in a folder that does not exist."""
        folder = path.parent
        message = f"the folder {folder} of the store {path.name} does not exist; create it first: mkdir -p {folder}"
        return compose(cls, message, place=str(path), path=path)

    @classmethod
    def directory(cls, path: Path) -> Self:
        """Return the error for a directory where a file should be."""
        message = f"{path} is a directory; pass the path of a file in it: {path / 'runs.db'}"
        return compose(cls, message, place=str(path), path=path)

    @classmethod
    def special_file(cls, path: Path) -> Self:
        """Return the error for a pipe or a device."""
        return compose(cls, f"{path} is a pipe or a device; {_PASS_A_STORE}", place=str(path), path=path)

    @classmethod
    def removed(cls, path: Path) -> Self:
        """Return the error for a file that is not at its path any more."""
        message = (
            f"{path} was removed or replaced while the store was open; what was stored in it since is lost with it. "
            "Restore the file, or start with a new one"
        )
        return compose(cls, message, place=str(path), path=path)

    @classmethod
    def log_removed(cls, path: Path) -> Self:
        """Return the error for a file whose log is not the one that was opened."""
        message = (
            f"{path}-wal, the log of the store, was removed while the store was open; what was acknowledged is stored, "
            "and later calls would be lost. Open the store again. It happens when another process closes the file "
            "after a program has opened it in this process by itself: to copy an open store, use "
            f'sqlite3 {path} ".backup copy.db"'
        )
        return compose(cls, message, place=str(path), path=path)

    @classmethod
    def unreadable(cls, path: Path, why: object) -> Self:
        """Return the error for a file without permission to read it."""
        return compose(cls, f"{path} cannot be read: {why}; check its permissions", place=str(path), path=path)

    @classmethod
    def no_shared_memory(cls, path: Path, mode: str) -> Self:
        """Return the error for a file on a network disk."""
        message = (
            f"{path} is on a file system where processes cannot share memory (SQLite's journal mode is {mode!r} "
            "there); put the store on a local disk"
        )
        return compose(cls, message, place=str(path), path=path)

    @classmethod
    def read_only_file(cls, path: Path, said: object) -> Self:
        """Return the error for a file without permission to write it."""
        message = f"{path} or its folder is read-only ({said}); grant write access, or copy it elsewhere"
        return compose(cls, message, place=str(path), path=path)

    @classmethod
    def broken_file(cls, path: Path, said: object) -> Self:
        """Return the error for a file that the operating system fails to read or write."""
        message = f"{path} cannot be read or written ({said}); check its folder's permissions and the disk"
        return compose(cls, message, place=str(path), path=path)

    @classmethod
    def no_descriptors(cls, place: str, said: object) -> Self:
        """Return the error for a process that has too many files open to open one more."""
        message = (
            f"no file descriptors left to open {place} ({said}): close files and connections that are not needed, run "
            "fewer agents at a time, or raise the limit: ulimit -n 65536"
        )
        return compose(cls, message, place=place, passes=True)

    # Servers that cannot be connected to.

    @classmethod
    def unreachable(cls, place: str, said: str, *, passes: bool) -> Self:
        """Return the error for a server that does not answer, or refuses the connection."""
        message = (
            f"{place} cannot be reached ({said}); is the server running, and are the host and port in the dsn right?"
        )
        return compose(cls, message, place=place, passes=passes)

    @classmethod
    def not_back(cls, place: str, said: str, seconds: float) -> Self:
        """Return the error for a server that stayed away for as long as the opening of its store waits."""
        message = f"{said} (tried for {seconds:g} s; wait longer with open_patience_seconds=…)"
        return compose(cls, message, place=place, seconds=seconds, passes=True)

    @classmethod
    def no_password(cls, place: str, said: str) -> Self:
        """Return the error for a server that asks for a password when none is configured."""
        message = (
            f"{place} requires a password, and none is configured ({said}); set PGPASSWORD, write it to ~/.pgpass, or "
            "put it into the dsn"
        )
        return compose(cls, message, place=place)

    @classmethod
    def no_database(cls, place: str, database: str, said: str) -> Self:
        """Return the error for a database that does not exist."""
        message = f"there is no database {database!r} for {place} ({said}); create it: createdb {database}"
        return compose(cls, message, place=place)

    @classmethod
    def refused(cls, place: str, user: str, said: str) -> Self:
        """Return the error for a user or a password that the server rejects."""
        message = f"{place} rejects the user {user!r} ({said}); check the user's name and password"
        return compose(cls, message, place=place)

    @classmethod
    def no_connection_left(cls, place: str, said: str) -> Self:
        """Return the error for a server whose connections are all in use."""
        message = (
            f"{place} has no connection left ({said}); give this store fewer with connections=…, or raise "
            "max_connections on the server"
        )
        return compose(cls, message, place=place, passes=True)

    # Servers that refuse an operation.

    @classmethod
    def not_allowed(cls, place: str, user: str, schema: str, said: str) -> Self:
        """Return the error for a role without the rights it needs, with the statements that grant them."""
        message = f"the role {user!r} may not do this in {place} ({said}); as its owner: {_grants(user, schema)}"
        return compose(cls, message, place=place)

    @classmethod
    def cannot_make_tables(cls, place: str, said: str) -> Self:
        """Return the error for a role that may not create the store's tables."""
        message = (
            f"the tables of {place} cannot be created ({said}); let its owner open the store once, or: "
            "GRANT CREATE ON DATABASE … TO …, and for an existing schema GRANT USAGE, CREATE ON SCHEMA … TO …"
        )
        return compose(cls, message, place=place)

    @classmethod
    def read_only_server(cls, place: str, said: str) -> Self:
        """Return the error for a standby server."""
        message = (
            f"{place} can only be read ({said}); is this a standby? Connect to the primary server, or add "
            "target_session_attrs=read-write to the dsn"
        )
        return compose(cls, message, place=place)

    @classmethod
    def broken_server(cls, place: str, said: str) -> Self:
        """Return the error for any other failure that a server reports."""
        return compose(cls, f"{place} cannot be used: {said}", place=place)

    @classmethod
    def gone_while_opened(cls, place: str, said: str) -> Self:
        """Return the error for a server that became unreachable while the store was being opened."""
        return compose(cls, f"{place} became unreachable while it was being opened ({said})", place=place, passes=True)

    @classmethod
    def out_of_patience(cls, place: str, said: str, seconds: float, *, away: bool, unknown: bool) -> Self:
        """Return the error for a transaction that was retried for the whole of `patience_seconds`.

        Args:
            place: the store.
            said: the last failure.
            seconds: how long it was retried.
            away: whether the server is unreachable; otherwise other transactions are in the way.
            unknown: whether a commit was sent and not answered.
        """
        message = (
            f"{place} {_fault(away)} ({said}) for {seconds:g} s; continue with resume=True when it is back, or wait "
            f"longer with patience_seconds=…{_UNKNOWN if unknown else ''}"
        )
        return compose(cls, message, place=place, seconds=seconds)

    @classmethod
    def unwanted(cls, place: str, said: str, *, away: bool, unknown: bool) -> Self:
        """Return the error for a failed transaction whose caller has been cancelled; see `out_of_patience`."""
        message = f"{place} {_fault(away)} ({said}) and the caller no longer waits{_UNKNOWN if unknown else ''}"
        return compose(cls, message, place=place)


def _grants(user: str, schema: str) -> str:
    return (
        f'GRANT USAGE ON SCHEMA "{schema}" TO "{user}"; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA '
        f'"{schema}" TO "{user}"; GRANT ALL ON ALL SEQUENCES IN SCHEMA "{schema}" TO "{user}"'
    )


def _fault(away: bool) -> str:
    return "has been unreachable" if away else "has been blocked by other transactions"


@public
class StoreFull(StoreUnavailable):
    """There is no room left for a store to grow; what was committed is kept."""

    @classmethod
    def disk(cls, path: Path, said: object) -> Self:
        """Return the error for a file that cannot grow."""
        message = (
            f"there is no room left for {path} to grow ({said}); what was committed is kept. Make room and continue"
        )
        return compose(cls, message, place=str(path), path=path)

    @classmethod
    def server(cls, place: str, said: str) -> Self:
        """Return the error for a server whose disk is full."""
        message = (
            f"there is no room left on the server of {place} ({said}); what was committed is kept. "
            "Make room and continue"
        )
        return compose(cls, message, place=place)


@public
class StoreLocked(StoreUnavailable, TimeoutError):
    """Another process kept a store to itself for too long."""

    @classmethod
    def by_writer(cls, path: Path, seconds: float) -> Self:
        """Return the error for a file that another process kept writing to."""
        message = (
            f"{path} is locked: another process has been writing to it for more than {seconds:g} s; end that process, "
            "or wait longer with busy_seconds=…"
        )
        return compose(cls, message, place=str(path), path=path, seconds=seconds)


class NotBegun(StoreUnavailable):
    """Private: a transaction did not take place, and its caller no longer waits for it."""


class TryAgain(Exception):
    """Private: a transaction failed through no fault of its operations; begin it and run them again."""
