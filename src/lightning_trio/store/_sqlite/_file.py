"""Checks of a file before a store uses it."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Final

from ..._errors import StoreFormatError, StoreUnavailable
from .._sql import TABLES
from ._connection import SqliteConnection

APPLICATION_ID: Final = 0x4C547269
"""Marks a SQLite file as a store: "LTri"."""


def check_path(path: Path) -> None:
    """Validate a path before SQLite touches it.

    Raises:
        StoreUnavailable: the folder does not exist, or the path is a folder, a pipe, a device or not readable.
    """
    if not path.parent.is_dir():
        raise StoreUnavailable.no_folder(path)
    if path.is_dir():
        raise StoreUnavailable.directory(path)
    if not path.exists():
        return
    if not path.is_file():
        # Opening a pipe would block until another process writes to it.
        raise StoreUnavailable.special_file(path)
    # Not by opening it: closing it again would take away the locks of this process's other connections to it.
    if not os.access(path, os.R_OK):
        raise StoreUnavailable.unreadable(path, os.strerror(errno.EACCES))


def check_schema(connection: SqliteConnection, path: Path, newest: int) -> int:
    """Return the version of the schema, 0 for a new file.

    It is asked of SQLite, not read from the file's header, because after a crash it may still be in the log.

    Args:
        connection: a connection to the file.
        path: the file's path, for errors.
        newest: the newest version of the schema that this version of the package knows.

    Raises:
        StoreFormatError: the file belongs to another program or to a newer version of this package, or is damaged.
    """
    [[application]] = connection.run("PRAGMA application_id")
    [[version]] = connection.run("PRAGMA user_version")
    if application != APPLICATION_ID:
        tables = [name for [name] in connection.run("SELECT name FROM sqlite_master WHERE type = 'table' LIMIT 5")]
        if application or version or tables:
            raise StoreFormatError.foreign_file(path, tables)
        return 0
    if version > newest:
        raise StoreFormatError.newer(path, version, newest)
    if version < 1:
        raise StoreFormatError.damaged_schema(path, version)
    return int(version)


def check_tables(connection: SqliteConnection, path: Path) -> None:
    """Validate that all tables exist.

    Raises:
        StoreFormatError: tables are missing; the message names them.
    """
    existing = {name for [name] in connection.run("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if missing := sorted({*TABLES, "counters"} - existing):
        raise StoreFormatError.damaged_tables(path, missing)


if sqlite3.sqlite_version_info < (3, 35):  # pragma: no cover
    raise ImportError(f"lightning_trio needs SQLite 3.35 or newer, Python has {sqlite3.sqlite_version}")
