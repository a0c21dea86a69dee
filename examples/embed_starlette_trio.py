"""A Starlette service on Hypercorn's Trio worker in which every request runs a rollout.

Trio runs here already, so `async with runner` is enough.

    python examples/embed_starlette_trio.py --port 8000
    curl -d '{"text": "a wonderful book"}' http://127.0.0.1:8000/label

Needs: pip install starlette 'hypercorn[trio]'
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Awaitable, Callable
from typing import cast

import attrs
import hypercorn.trio
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import lightning_trio as agl

GOOD = {"wonderful", "good", "great", "happy", "love", "perfect"}


def make_runner(seconds: float) -> agl.Runner:
    """Make a runner of an agent that sleeps for some seconds, where yours would ask a model."""

    @agl.rollout
    async def label_review(text: str) -> float:
        words = text.lower().split()
        if not words:
            raise ValueError("there is nothing to label")
        await trio.sleep(seconds)
        return float(any(word in GOOD for word in words))

    return agl.Runner(label_review, max_concurrency=200)


def make_app(runner: agl.Runner) -> Starlette:
    """Make the service, which must be served while the runner is open."""

    async def label(request: Request) -> Response:
        text = (await request.json())["text"]
        response = JSONResponse({"detail": "cancelled"}, 503)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_when_disconnected, request, nursery.cancel_scope)
            try:
                done = await runner.step(text)
                label = "positive" if done.final_reward else "negative"
                response = JSONResponse({"label": label, "rollout_id": done.rollout.rollout_id})
            except ValueError as error:
                response = JSONResponse({"detail": str(error)}, 422)
            nursery.cancel_scope.cancel()
        return response

    async def statistics(request: Request) -> Response:
        return JSONResponse(attrs.asdict(runner.statistics()))

    return Starlette(routes=[Route("/label", label, methods=["POST"]), Route("/statistics", statistics)])


async def cancel_when_disconnected(request: Request, scope: trio.CancelScope) -> None:
    """Cancel the scope when the client disconnects: Hypercorn reports it, but does not stop the handler."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def serve(runner: agl.Runner, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM, after which running requests have a second to end."""

    async def wait_signal() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await anext(signals)

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.backlog = 2048
    config.graceful_timeout = 1.0
    # Hypercorn and Starlette name ASGI's types differently.
    run = cast("Callable[..., Awaitable[None]]", hypercorn.trio.serve)
    async with runner:
        await run(make_app(runner), config, shutdown_trigger=wait_signal)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Label reviews over HTTP, a rollout for each request.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--seconds", type=float, default=0.1, help="how long the agent sleeps (default 0.1)")
    arguments = parser.parse_args()
    trio.run(serve, make_runner(arguments.seconds), arguments.port)
