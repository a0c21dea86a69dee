"""A PostgreSQL server as a store sees it: how to connect, and what its errors mean. Needs psycopg."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus
from zlib import crc32

import attrs
import psycopg
from psycopg import errors, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..._errors import NotStorable, StoreError, StoreFormatError, StoreFull, StoreUnavailable, TryAgain

_DEFAULTS: Final[Mapping[str, Any]] = {
    "connect_timeout": 10,
    # Detects within half a minute a server that vanished without closing the connection.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

_FILES: Final = frozenset({"passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir"})
"""The parameters of a connection string that are paths."""

_TRANSIENT: Final = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    # Two writers inserted the same row at once: the one that retries finds it.
    errors.UniqueViolation,
    errors.LockNotAvailable,
)

_RESTARTING: Final = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleInTransactionSessionTimeout,
)


_STARTING: Final = ("starting up", "shutting down", "recovery mode")
"""What a server says that does not let in anybody yet."""

_TOO_MANY_FILES: Final = os.strerror(errno.EMFILE)


@attrs.frozen(repr=False)
class Server:
    """The location of a store's tables: a database, given by its connection string, and a schema in it."""

    conninfo: str
    schema: str
    place: str
    """What messages call the store; never contains a password."""
    user: str
    database: str
    _secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Server({self.place!r})"

    @property
    def lock(self) -> int:
        """The key of the schema's advisory locks."""
        return crc32(self.schema.encode()) & 0x7FFF_FFFF

    @property
    def channel(self) -> str:
        """The notification channel on which processes announce their commits."""
        return self.schema

    def connect(self, application: str) -> psycopg.Connection[Any]:
        """Open a connection in autocommit mode: transactions are begun and ended by explicit statements.

        Raises:
            psycopg.Error: the connection cannot be opened.
        """
        try:
            return psycopg.connect(
                self.conninfo,
                autocommit=True,
                application_name=application,
                prepare_threshold=2,
                client_encoding="utf8",
            )
        except OSError as exc:
            # psycopg waits for the connection with a file descriptor of its own.
            raise psycopg.OperationalError(str(exc)) from exc

    def scrub(self, text: str) -> str:
        """Return a message on one line, without the password."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split())

    def explain(self, exc: psycopg.Error) -> Exception:
        """Return the error to raise for a failed statement; `TryAgain` if a retry may succeed."""
        if isinstance(exc, _TRANSIENT + _RESTARTING):
            return TryAgain(self.scrub(str(exc)))
        message = self.scrub(str(exc))
        if isinstance(exc, errors.DiskFull):
            return StoreFull.server(self.place, message)
        if isinstance(exc, errors.InsufficientPrivilege):
            return StoreUnavailable.not_allowed(self.place, self.user, self.schema, message)
        if isinstance(exc, errors.ReadOnlySqlTransaction):
            return StoreUnavailable.read_only_server(self.place, message)
        if isinstance(exc, errors.UndefinedTable | errors.UndefinedColumn):
            return StoreFormatError.changed_tables(self.place, message)
        if isinstance(exc, psycopg.DataError):
            return NotStorable.by_postgres(message)
        if isinstance(exc, psycopg.OperationalError):
            return StoreUnavailable.broken_server(self.place, message)
        return exc

    def explain_no_connection(self, exc: psycopg.Error) -> StoreError:
        """Return the error for a connection that could not be opened."""
        message = self.scrub(str(exc))
        connection = exc.pgconn
        if connection is not None and connection.needs_password:
            return StoreUnavailable.no_password(self.place, message)
        if "does not exist" in message and f'database "{self.database}"' in message:
            return StoreUnavailable.no_database(self.place, self.database, message)
        if connection is not None and connection.used_password:
            return StoreUnavailable.refused(self.place, self.user, message)
        if "too many clients" in message or "connection slots" in message:
            return StoreUnavailable.no_connection_left(self.place, message)
        if _TOO_MANY_FILES in message:
            return StoreUnavailable.no_descriptors(self.place, message)
        refused = "FATAL" in message and not any(words in message for words in _STARTING)
        return StoreUnavailable.unreachable(self.place, message, passes=not refused)


def read_dsn(dsn: str, schema: str) -> Server:
    """Parse a connection string.

    Raises:
        ValueError: it is not a connection string.
    """
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        given = {}
    if (dsn and not given) or _misread(given):
        # The message does not quote the string, which may contain a password, nor its parts, which may as well.
        raise ValueError(
            "the dsn cannot be read as a PostgreSQL connection string; pass one such as "
            "postgresql://user@host:5432/database or 'host=… dbname=… user=…' (in a URL, special characters of a "
            "password are written as %XX: %2F for /, %40 for @)"
        )
    # Absolute, because an agent may change the working directory before a further connection is opened.
    given = {name: _absolute(value) if name in _FILES else value for name, value in given.items()}
    known = {**_defaults(), **{name: value for name, value in given.items() if value is not None}}
    user, database = known.get("user", ""), known.get("dbname") or known.get("user", "")
    where = known.get("host") or known.get("hostaddr") or "the local socket"
    port = f":{known['port']}" if known.get("port") else ""
    password = str(known.get("password") or "")
    return Server(
        make_conninfo("", **{**_DEFAULTS, **given}),
        schema,
        f"the store in schema {schema!r} of database {database!r} at {where}{port}",
        str(user),
        str(database),
        tuple(dict.fromkeys(each for each in (password, quote(password), quote_plus(password)) if each)),
    )


def _misread(given: Mapping[str, Any]) -> bool:
    """Whether part of a password was parsed as a port, host or database."""
    port, host, database = (str(given.get(name) or "") for name in ("port", "host", "dbname"))
    return (port != "" and not port.replace(",", "").isdecimal()) or "@" in host + database


def _defaults() -> dict[str, str]:
    """Return libpq's defaults for what a connection string leaves out, from the environment and the system's user."""
    return {
        option.keyword.decode(): option.val.decode() for option in pq.Conninfo.get_defaults() if option.val is not None
    }


def is_lost(connection: psycopg.Connection[Any], exc: psycopg.Error) -> bool:
    """Whether the connection itself is gone, not only the statement."""
    return connection.closed or connection.pgconn.status != pq.ConnStatus.OK or isinstance(exc, _RESTARTING)


def _absolute(value: Any) -> Any:
    # "system" stands for the system's certificates; an empty path for libpq's default.
    return os.path.abspath(value) if isinstance(value, str) and value not in ("", "system") else value
