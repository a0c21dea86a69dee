"""The ASGI application of the scripted LLM, which only waits and sends."""

from __future__ import annotations

import time
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..._chat_format import ChatRequest, ErrorBody, decode_request
from ..._log import Log
from ..._plain_values import from_json
from ._script import Playback, Reply
from ._wire import Answer, Writer, answer_to, encode_json, latency_of

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_log = Log("lightning_trio.testing")


async def _stays_connected(seconds: float, receive: Receive) -> bool:
    """Wait and return whether the client is still connected; return False as soon as it disconnects.

    Only waiting is watched, never sending: a cancelled `send` would leave Hypercorn's connection between two requests.
    """
    is_connected = False
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await trio.sleep(seconds)
        is_connected = True
        nursery.cancel_scope.cancel()
    return is_connected


async def _send_beginning(answer: Answer, receive: Receive, send: Send) -> bool:
    """Send an answer without the last piece of its body, and return whether the client is still connected."""
    headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    for piece in answer.pieces[:-1]:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        if answer.piece_interval and not await _stays_connected(answer.piece_interval, receive):
            return False
    return True


class ChatCompletions:
    """The ASGI application of ``POST /v1/chat/completions``."""

    def __init__(self, playback: Playback, model: str, latency: float) -> None:
        self._playback = playback
        self._model = model
        self._default_latency = latency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The end is sent outside the block, so that a request is counted before its client has the whole answer.
        with self._playback.in_flight():
            end = await self._answer(Request(scope, receive), send)
        if end is not None:
            await send(end)

    async def _answer(self, http_request: Request, send: Send) -> MutableMapping[str, Any] | None:
        """Answer a request up to the last piece of the body and return that piece; None if the client disconnected."""
        try:
            raw = await http_request.body()
        except ClientDisconnect:
            return None
        request = _read_request(raw)
        recorded = self._playback.record(from_json(raw), dict(http_request.headers))
        reply = self._playback.reply_to(recorded)
        latency = latency_of(reply, self._default_latency)
        if latency and not await _stays_connected(latency, http_request.receive):
            return None
        answer = answer_to(Writer(request, recorded.number, self._model, int(time.time())), reply)
        if not await _send_beginning(answer, http_request.receive, send):
            return None
        is_served = isinstance(reply, Reply)
        self._playback.count(
            served=int(is_served), faults=int(not is_served), streams=int(is_served and bool(request.stream))
        )
        # Hypercorn closes the connection if an application returns while there is more of the body.
        return {"type": "http.response.body", "body": answer.pieces[-1], "more_body": answer.is_cut}


def _read_request(raw: bytes) -> ChatRequest:
    """Return the request.

    Raises:
        HTTPException: status 400, with what is wrong.
    """
    try:
        return decode_request(raw)
    except ValueError as error:
        raise HTTPException(400, str(error)) from error


def _error_response(status: int, message: str, headers: Mapping[str, str] | None) -> Response:
    body = encode_json(ErrorBody.of(status, message))
    return Response(body, status, headers, media_type="application/json")


async def _http_error(http_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code in (404, 405):
        # Hypercorn buffers a few pieces of a body that the application does not read, then the connection stalls.
        await http_request.body()
        message = (
            f"The scripted LLM has no {http_request.method} {http_request.url.path}; "
            "it has POST /v1/chat/completions and GET /v1/models"
        )
    return _error_response(error.status_code, message, error.headers)


async def _script_failed(http_request: Request, error: Exception) -> Response:
    message = f"The script raised {type(error).__name__}: {error}"
    _log.error(message, exc_info=error)
    return _error_response(500, message, {"x-should-retry": "false"})


def chat_app(playback: Playback, model: str, latency: float) -> Starlette:
    """Return the ASGI application that plays a script."""

    async def models(http_request: Request) -> Response:
        listed = {"id": model, "object": "model", "created": 0, "owned_by": "lightning_trio"}
        return JSONResponse({"object": "list", "data": [listed]})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", ChatCompletions(playback, model, latency), methods=["POST"]),
            Route("/v1/models", models),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _script_failed},
    )
