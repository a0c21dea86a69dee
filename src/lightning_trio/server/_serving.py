"""Serving an ASGI application on a free port of the loopback interface."""

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
"""An application by https://asgi.readthedocs.io, such as one of Starlette or FastAPI: scope, receive, send."""

_LOG: Final = logging.getLogger("lightning_trio.server")


@asynccontextmanager
async def open_server(app: ASGIApp, *, log: logging.Logger | None = _LOG) -> AsyncGenerator[str]:
    """Serve an application on a free loopback port, by Hypercorn, until the block ends.

    The server runs in the calling Trio program and answers clients in it, in threads and elsewhere. The application's
    lifespan, if it has one, has started up when the block is entered.

    Leaving the block closes the server at once: requests in flight and the lifespan are cancelled. An error in the
    block leaves it as it is, in no exception group. One thing can hold the closing up: a client that has stopped
    reading a reply too large for the socket's buffers, until it closes its connection.

    Args:
        app: the application; what it raises fails its request with status 500 and is logged.
        log: where to log that; None where the application does so itself.

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
    # Hypercorn's type of an application has holes, and spells ASGI's types otherwise than we and Starlette do.
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
        # The nursery wraps an error of the block in a group, and would hide it from the caller's `except ValueError`.
        alone, *others = group.exceptions
        if others:
            raise
    if alone is not None:
        # Outside `except`, so that the group does not become its context.
        raise alone


def _configure(config: Config, log: logging.Logger | None) -> Config:
    config.bind = ["127.0.0.1:0"]
    # The type has no loggers, which Hypercorn takes.
    config.errorlog = cast("Any", log)
    config.accesslog = None
    # A connection the server closes just as a client reuses it is an error its user did not ask for.
    config.keep_alive_timeout = math.inf
    config.keep_alive_max_requests = sys.maxsize
    # Thousands of clients may connect at once; the kernel lowers this to its own limit.
    config.backlog = 65_535
    return config
