"""A server for an ASGI application on a free port of the loopback interface."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import trio

if TYPE_CHECKING:
    from hypercorn.config import Config

ASGIApp: TypeAlias = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]
"""An application as specified by https://asgi.readthedocs.io, such as a Starlette or FastAPI application."""

_LOG: Final = logging.getLogger("lightning_trio.server")


@asynccontextmanager
async def open_server(app: ASGIApp, *, log: logging.Logger | None = _LOG) -> AsyncGenerator[str]:
    """Serve an application with Hypercorn on a free loopback port until the block ends.

    The server runs in the calling Trio program and answers clients in it, in threads and elsewhere. The application's
    lifespan, if it has one, has started up when the block is entered.

    Leaving the block closes the server immediately: requests in flight and the lifespan are cancelled. An error in
    the block propagates unchanged, not in an exception group. Only a client that has stopped reading a reply too large
    for the socket's buffers can delay closing, until it closes its connection.

    Args:
        app: the application; an error that it raises is logged, and its request gets status 500.
        log: the logger for these errors; None if the application logs them itself.

    Yields:
        The server's address, ``http://127.0.0.1:{port}``.

    Raises:
        ImportError: Hypercorn is missing; it comes with ``lightning-trio[testing]``.

    Example::

        async with open_server(Starlette(routes=[Route("/", hello)])) as url, httpx.AsyncClient() as client:
            print((await client.get(url)).text)
    """
    try:
        # Optional: the extra `testing`.
        import hypercorn.trio
        from hypercorn.config import Config
    except ImportError as error:
        raise ImportError(
            f"open_server needs Hypercorn ({error}); run: pip install 'lightning-trio[testing]'"
        ) from error
    # Hypercorn's type of an application is incomplete, and names ASGI's types differently from us and Starlette.
    serve = cast("Callable[..., Awaitable[None]]", hypercorn.trio.serve)  # pyright: ignore[reportUnknownMemberType]
    alone: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            [url] = await nursery.start(serve, app, _configure(Config(), log))
            try:
                yield url
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery wraps an error of the block in a group, which would hide it from the caller's `except ValueError`.
        alone, *others = group.exceptions
        if others:
            raise
    if alone is not None:
        # Outside `except`, so that the group does not become its context.
        raise alone


def _configure(config: Config, log: logging.Logger | None) -> Config:
    config.bind = ["127.0.0.1:0"]
    # Hypercorn accepts a logger, but its type does not.
    config.errorlog = cast("Any", log)
    config.accesslog = None
    # Connections stay open: closing one just as a client reuses it would fail the client's request.
    config.keep_alive_timeout = math.inf
    config.keep_alive_max_requests = sys.maxsize
    # Thousands of clients may connect at once; the kernel lowers this to its own limit.
    config.backlog = 65_535
    return config
