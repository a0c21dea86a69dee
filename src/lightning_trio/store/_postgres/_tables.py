"""The tables of a store in PostgreSQL: checking, creating and migrating them. Needs psycopg."""

from __future__ import annotations

from typing import Final

from ..._errors import StoreFormatError, StoreUnavailable
from .._sql import MIGRATIONS, migrate
from .._sql import TABLES as SQL_TABLES
from ._connection import PostgresConnection

TABLES: Final = (*SQL_TABLES, "commits")

_LOCK: Final = 0x4C547269
"""The advisory lock under which tables are created: "LTri"."""

_TOKEN_SECONDS: Final = 86_400.0
"""How long the commit token of a connection that vanished is kept."""


def prepare(connection: PostgresConnection, schema: str, place: str) -> None:
    """Create the tables or migrate them; processes that open a store at the same time take turns.

    Raises:
        StoreFormatError: the schema holds something else than a store, or a store of a newer version.
        StoreUnavailable: the role may not create them.
    """
    connection.run("BEGIN")
    try:
        version = _version(connection, schema, place)
        if version < len(MIGRATIONS):
            connection.run("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            # Another process may have migrated them in the meantime.
            version = _version(connection, schema, place)
        if version < len(MIGRATIONS):
            _migrate(connection, schema, place, version)
        connection.run("DELETE FROM commits WHERE since < extract(epoch FROM now()) - ?", (_TOKEN_SECONDS,))
        connection.run("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _version(connection: PostgresConnection, schema: str, place: str) -> int:
    """Return the version of the tables, 0 if they do not exist.

    Raises:
        StoreFormatError: the tables are not a store's, are incomplete, or are of a newer version.
    """
    existing = {name for [name] in connection.run("SELECT tablename FROM pg_tables WHERE schemaname = ?", (schema,))}
    foreign = StoreFormatError.foreign_tables(place, sorted(existing))
    if "meta" not in existing:
        if existing.intersection(TABLES):
            raise foreign
        return 0
    try:
        # By its full name: without USAGE on the schema, a bare name would seem not to exist.
        rows = connection.run_in_schema("SELECT value FROM {}.meta WHERE name = 'schema_version'").fetchall()
    except StoreFormatError:
        raise foreign from None
    if not rows:
        raise foreign
    version = int(rows[0][0])
    if missing := sorted(set(TABLES) - existing):
        raise StoreFormatError.missing_tables(place, missing)
    if version > len(MIGRATIONS):
        raise StoreFormatError.newer(place, version, len(MIGRATIONS))
    return version


def _migrate(connection: PostgresConnection, schema: str, place: str, version: int) -> None:
    try:
        if not connection.run("SELECT 1 FROM pg_namespace WHERE nspname = ?", (schema,)).fetchall():
            connection.run_in_schema("CREATE SCHEMA {}")
        new = migrate(connection, version, MIGRATIONS)
        connection.run(
            "INSERT INTO meta (name, value) VALUES ('schema_version', ?) ON CONFLICT (name) DO UPDATE SET value = "
            "excluded.value",
            (str(new),),
        )
    except StoreUnavailable as exc:
        raise StoreUnavailable.cannot_make_tables(place, connection.server_message(exc)) from exc
