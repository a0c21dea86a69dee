"""Serving an ASGI application on a free port of the loopback interface."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import hypercorn.trio
import trio
from hypercorn.config import Config
from starlette.applications import Starlette


def _server_config() -> Config:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    # What Hypercorn would log are its start and the script's errors, which `_script_failed` logs.
    config.errorlog = config.accesslog = None
    # A connection the server closes just as a client reuses it is an error the test did not ask for.
    config.keep_alive_timeout = math.inf
    config.keep_alive_max_requests = sys.maxsize
    # Thousands of clients may connect at once; the kernel lowers this to its own limit.
    config.backlog = 65_535
    return config


@asynccontextmanager
async def open_server(app: Starlette) -> AsyncGenerator[str]:
    """Serve an application on a free loopback port; give its URL, close it at once when the block ends.

    An error in the block leaves it as it is. A nursery alone would wrap it in a group, and hide it from the
    caller's ``pytest.raises``.
    """
    # Hypercorn's type of an application has holes, and spells ASGI's types otherwise than Starlette.
    serve = cast("Callable[..., Awaitable[None]]", hypercorn.trio.serve)  # pyright: ignore[reportUnknownMemberType]
    alone: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            [url] = await nursery.start(serve, app, _server_config())
            try:
                yield url
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        alone, *others = group.exceptions
        if others:
            raise
    if alone is not None:
        # Outside `except`, so that the group does not become its context.
        raise alone
