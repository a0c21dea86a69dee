"""What the tests of several lanes use."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest


class _Empty(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def empty_port() -> Iterator[int]:
    """The port of a server on loopback that answers every request with 204."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()
