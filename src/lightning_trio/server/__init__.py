"""Servers on loopback."""

from ._serving import ASGIApp as ASGIApp
from ._serving import open_server as open_server
