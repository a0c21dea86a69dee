"""The scripted LLM as a server on loopback."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs

from ..._public import public_in
from ..._repr import counted, one_line
from ...server import open_server
from ._script import Playback, RecordedRequest, Script, ScriptedLLMStatistics


@public_in("lightning_trio.testing")
@attrs.frozen(eq=False)
class ScriptedLLM:
    """A running scripted LLM; `open_scripted_llm` makes it.

    Attributes:
        base_url: its address, ``http://127.0.0.1:{port}/v1``, in the form that the ``openai`` SDK takes.
        model: the name that ``GET /v1/models`` lists. Requests may name any model; replies repeat the name.
        requests: the chat completion requests so far, oldest first, without malformed ones.
    """

    base_url: str
    model: str
    requests: list[RecordedRequest]
    _playback: Playback

    @one_line
    def __repr__(self) -> str:
        numbers = f"{counted(len(self.requests), 'request')}, {self.statistics().in_flight:,} in flight"
        return f"<ScriptedLLM {self.model} at {self.base_url}: {numbers}>"

    def statistics(self) -> ScriptedLLMStatistics:
        """Return the current counts."""
        return self._playback.statistics


@public_in("lightning_trio.testing")
@asynccontextmanager
async def open_scripted_llm(
    script: Script, *, model: str = "scripted", latency: float = 0.0
) -> AsyncGenerator[ScriptedLLM]:
    """Open an HTTP server with OpenAI's Chat Completions API that answers from a script.

    Test an agent with its real client, over real sockets, and control every answer: the model's text, its tool
    calls, delays, errors and broken connections. The server runs in the calling Trio program, on a free port of the
    loopback interface, and answers clients in it, in threads and elsewhere.

    It has ``POST /v1/chat/completions``, whole and streamed (with ``stream_options.include_usage``), and
    ``GET /v1/models``; ``n`` and the sampling parameters are ignored, any API key is accepted. A malformed
    request gets status 400, another path 404, both in OpenAI's error format; neither uses up a reply.

    Leaving the block closes the server immediately: requests in flight are cut off. An error in the block propagates
    unchanged, not in an exception group. Only a client that has stopped reading a reply too large for the socket's
    buffers (about 100 kB) can delay closing, until it closes its connection.

    Args:
        script: a sequence of replies, sent in the order in which requests arrive, with status 500 after the last;
            or a callable from the JSON body of a request to its reply; or one reply for all requests. A reply is a
            `Reply`, a ``str`` (short for ``Reply(content=...)``), or a fault: `RateLimited`, `ErrorStatus`,
            `CutConnection`, `BadJSON`. An exception of the callable becomes a status 500 that names it, and its
            traceback is logged to ``lightning_trio.testing``.
        model: the name under which the model is listed.
        latency: seconds before the first byte of each answer, on Trio's clock; a reply's own has precedence.

    Returns:
        An asynchronous context manager that yields a `ScriptedLLM`.

    Raises:
        ImportError: if Starlette or Hypercorn is missing; they come with ``lightning-trio[testing]``.
        TypeError: if the script, or one of its replies, is of another type.
        ValueError: if ``latency`` is negative or not finite.

    Example::

        async def test_a_rate_limit_is_survived() -> None:
            async with (
                open_scripted_llm([RateLimited(retry_after=0.1), "42"]) as llm_server,
                AsyncOpenAI(base_url=llm_server.base_url, api_key="any") as client,
            ):
                answer = await client.chat.completions.create(
                    model="scripted", messages=[{"role": "user", "content": "What is 6 times 7?"}]
                )

            assert answer.choices[0].message.content == "42"
            assert len(llm_server.requests) == 2
    """
    try:
        # Optional: the extra `testing`; scripts can be written without it.
        from ._app import chat_app
    except ImportError as error:
        raise ImportError(
            f"open_scripted_llm needs Starlette ({error}); run: pip install 'lightning-trio[testing]'"
        ) from error
    if not 0 <= latency < float("inf"):
        raise ValueError(f"latency={latency!r} is not a duration; write seconds, finite and at least 0")
    playback = Playback(script)
    # log=None because the application itself logs the errors of a script.
    async with open_server(chat_app(playback, model, latency), log=None) as url:
        yield ScriptedLLM(f"{url}/v1", model, playback.requests, playback)
