"""An ASGI application served on loopback, with httpx as its client over real sockets."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio

from lightning_trio.server import open_server


async def say(send: Callable[[Any], Any], body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the path, as a plain ASGI application without a lifespan."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await say(send, scope["path"].encode())


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=30, trust_env=False)


async def test_an_application_is_served_on_a_port_of_loopback() -> None:
    async with open_server(echo) as url, client() as http:
        response = await http.get(f"{url}/tea")

    assert url.startswith("http://127.0.0.1:")
    assert response.text == "/tea"


async def test_it_answers_a_hundred_requests_at_once() -> None:
    arrived = 0
    all_are_there = trio.Event()
    answers: set[str] = set()

    async def together(scope: Any, receive: Any, send: Any) -> None:
        nonlocal arrived
        if scope["type"] == "http":
            arrived += 1
            if arrived == 100:
                all_are_there.set()
            await all_are_there.wait()
        await echo(scope, receive, send)

    async def ask(url: str, number: int) -> None:
        answers.add((await http.get(f"{url}/{number}")).text)

    limits = httpx.Limits(max_connections=None)
    async with (
        open_server(together) as url,
        httpx.AsyncClient(timeout=30, trust_env=False, limits=limits) as http,
        trio.open_nursery() as nursery,
    ):
        for number in range(100):
            nursery.start_soon(ask, url, number)

    assert answers == {f"/{number}" for number in range(100)}


async def test_the_lifespan_is_up_before_the_block() -> None:
    happened: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        happened.append((await receive())["type"])
        await send({"type": "lifespan.startup.complete"})
        await trio.sleep_forever()

    async with open_server(app):
        happened.append("block")

    assert happened == ["lifespan.startup", "block"]


async def test_leaving_the_block_cuts_off_requests_and_frees_the_port() -> None:
    has_arrived = trio.Event()
    ended: list[str] = []

    async def never(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        has_arrived.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.append(scope["path"])

    async def ask(url: str) -> None:
        async with client() as http:
            with pytest.raises(httpx.TransportError):
                await http.get(f"{url}/tea")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, open_server(never) as url:
            nursery.start_soon(ask, url)
            await has_arrived.wait()

    assert ended == ["/tea"]
    async with client() as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(url)


async def test_closing_does_not_wait_for_idle_connections() -> None:
    with trio.fail_after(5):
        async with client() as http, open_server(echo) as url:
            await http.get(url)


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    cause = KeyError("cause")

    with pytest.raises(ValueError, match="mine") as caught:
        async with open_server(echo):
            raise ValueError("mine") from cause

    assert caught.value.__cause__ is cause


async def test_errors_of_the_block_that_are_a_group_stay_one() -> None:
    with pytest.raises(ExceptionGroup, match="two") as caught:
        async with open_server(echo):
            raise ExceptionGroup("two", [ValueError("a"), KeyError("b")])

    assert [type(each) for each in caught.value.exceptions] == [ValueError, KeyError]


async def test_a_deadline_around_the_block_closes_the_server() -> None:
    with trio.move_on_after(0.05) as deadline:
        async with open_server(echo):
            await trio.sleep_forever()

    assert deadline.cancelled_caught


async def fail(scope: Any, receive: Any, send: Any) -> None:
    raise ZeroDivisionError("in the application")


async def test_what_the_application_raises_is_logged_and_fails_its_request_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_server(fail) as url, client() as http:
        first, second = await http.get(url), await http.get(url)

    assert (first.status_code, second.status_code) == (500, 500)
    logged = [record for record in caplog.records if record.exc_info]
    assert [(record.name, record.levelno) for record in logged] == [("lightning_trio.server", logging.ERROR)] * 2


async def test_an_application_may_log_its_errors_itself(caplog: pytest.LogCaptureFixture) -> None:
    async with open_server(fail, log=None) as url, client() as http:
        response = await http.get(url)

    assert response.status_code == 500
    assert not [record for record in caplog.records if record.name.startswith(("lightning_trio", "hypercorn"))]


def test_without_the_extra_the_package_imports_and_opening_says_what_to_install() -> None:
    program = """
import sys
sys.modules["hypercorn"] = None
import trio
from lightning_trio.server import open_server

async def main():
    async with open_server(print):
        pass

try:
    trio.run(main)
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "open_server needs Hypercorn" in done.stdout
    assert "pip install 'lightning-trio[testing]'" in done.stdout
