"""Servers on loopback."""

from ._server import ASGIApp as ASGIApp
from ._server import open_server as open_server
