"""A FastAPI service on uvicorn in which every request runs a rollout.

    python examples/embed_fastapi.py --port 8000
    curl -H 'content-type: application/json' -d '{"text": "a wonderful book"}' http://127.0.0.1:8000/label

Needs: pip install fastapi uvicorn
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import trio
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel

import lightning_trio as agl
from lightning_trio import embed

T = TypeVar("T")

GOOD = {"wonderful", "good", "great", "happy", "love", "perfect"}


class Review(BaseModel):
    """The text to label."""

    text: str


class Label(BaseModel):
    """The answer, and the id of the rollout whose trace explains it."""

    label: str
    rollout_id: str


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


def make_app(runner: agl.Runner) -> FastAPI:
    """Make the service; it opens the runner when it starts and closes it when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
        async with embed.open_asyncio(runner) as r:
            yield {"runner": r}

    app = FastAPI(lifespan=lifespan)

    @app.post("/label")
    async def label(review: Review, request: Request) -> Label:
        r: embed.AsyncioRunner = request.state.runner
        try:
            done = await while_connected(request, r.step(review.text))
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        except (asyncio.CancelledError, agl.RunnerClosed):
            # The client has disconnected, or uvicorn's grace period is over: the rollout is recorded as cancelled.
            raise HTTPException(503, "cancelled") from None
        return Label(label="positive" if done.final_reward else "negative", rollout_id=done.rollout.rollout_id)

    @app.get("/statistics")
    async def statistics() -> dict[str, int]:
        return attrs.asdict(runner.statistics())

    return app


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await the work, and cancel it when the client disconnects: uvicorn reports it, but does not stop the handler."""

    async def wait_disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, disconnected = asyncio.create_task(work), asyncio.create_task(wait_disconnected())
    try:
        await asyncio.wait([working, disconnected], return_when=asyncio.FIRST_COMPLETED)
    finally:
        disconnected.cancel()
        if not working.done():
            working.cancel()
            # Returns when the rollout is recorded.
            await asyncio.wait([working])
    return working.result()


def main() -> None:
    """Serve until Ctrl-C or SIGTERM, after which running requests have a second to end."""
    parser = argparse.ArgumentParser(description="Label reviews over HTTP, a rollout for each request.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--seconds", type=float, default=0.1, help="how long the agent sleeps (default 0.1)")
    arguments = parser.parse_args()
    app = make_app(make_runner(arguments.seconds))
    uvicorn.run(app, port=arguments.port, timeout_graceful_shutdown=1, access_log=False)


if __name__ == "__main__":
    main()
