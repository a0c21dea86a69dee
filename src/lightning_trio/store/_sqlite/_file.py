"""What must hold of a file before it is taken for a store."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from ..._errors import StoreFormatError, StoreUnavailable
from .._sql import TABLES
from ._connection import SqliteConnection, damaged

APPLICATION_ID: Final = 0x4C547269
"""Says that a SQLite file is ours: "LTri"."""

_MAGIC: Final = b"SQLite format 3\0"


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


def check_schema(connection: SqliteConnection, path: Path, newest: int) -> int:
    """Give the version of the schema, 0 for a new file.

    Asked of SQLite and not read from the file, since after a crash it may be in the log.

    Args:
        connection: to the file.
        path: of the file, for errors.
        newest: the newest version of the schema that this version of the package knows.

    Raises:
        StoreFormatError: the file is of another program, or of a newer version of this one.
    """
    [[application]] = connection.run("PRAGMA application_id")
    [[version]] = connection.run("PRAGMA user_version")
    if application != APPLICATION_ID:
        tables = [name for [name] in connection.run("SELECT name FROM sqlite_master WHERE type = 'table' LIMIT 5")]
        if application or version or tables:
            named = f" with the tables {', '.join(tables)}" if tables else ""
            raise StoreFormatError(
                f"{path} is a SQLite file of another program{named}; give the path of a store, or of no file yet"
            )
        return 0
    if version > newest:
        raise StoreFormatError(
            f"{path} was made by a newer version of lightning_trio: its schema is {version}, this one knows "
            f"{newest}; upgrade with: pip install -U lightning-trio"
        )
    if version < 1:
        raise damaged(path, f"its schema has the version {version}")
    return int(version)


def check_tables(connection: SqliteConnection, path: Path) -> None:
    """Refuse a store that lacks tables.

    Raises:
        StoreFormatError: naming them.
    """
    there = {name for [name] in connection.run("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if missing := sorted({*TABLES, "counters"} - there):
        raise damaged(path, f"without the tables {', '.join(missing)}")


if sqlite3.sqlite_version_info < (3, 35):  # pragma: no cover
    raise ImportError(f"lightning_trio needs SQLite 3.35 or newer, Python has {sqlite3.sqlite_version}")
