"""The process's one host, which runs calls from Trio, asyncio and blocking code."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

from lightning_trio import UsageError
from lightning_trio.embed import HostedManager, block_in_host, call_in_host

word = contextvars.ContextVar("word", default="")


async def thread_and_word() -> tuple[int, str]:
    """Return where this runs, and the caller's word."""
    await trio.lowlevel.checkpoint()
    return threading.get_ident(), word.get()


async def test_all_callers_share_one_thread_and_keep_their_context() -> None:
    word.set("tea")

    from_trio = await call_in_host(thread_and_word)
    from_asyncio = await trio.to_thread.run_sync(lambda: asyncio.run(call_in_host(thread_and_word)))
    blocking = await trio.to_thread.run_sync(block_in_host, thread_and_word)

    assert from_trio == from_asyncio == blocking
    assert from_trio[0] != threading.get_ident()
    assert from_trio[1] == "tea"


async def test_a_call_from_the_host_runs_in_the_same_task() -> None:
    async def nested() -> bool:
        task = trio.lowlevel.current_task()

        async def inner() -> trio.lowlevel.Task:
            await trio.lowlevel.checkpoint()
            return trio.lowlevel.current_task()

        return await call_in_host(inner) is task

    assert await call_in_host(nested)


async def test_a_cancelled_call_ends_in_the_host_before_the_caller_goes_on() -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("cancelled")

    with trio.move_on_after(0.05):
        await call_in_host(wait)

    assert ended == ["cancelled"]


async def test_the_result_of_a_call_that_succeeds_nevertheless_is_not_lost() -> None:
    async def claim() -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.1)
        return "claimed"

    with trio.move_on_after(0.02) as scope:
        result = await call_in_host(claim)

    assert result == "claimed"
    assert not scope.cancelled_caught


def test_an_error_is_raised_to_blocking_code() -> None:
    async def fail() -> None:
        raise KeyError("tea")

    with pytest.raises(KeyError, match="tea"):
        block_in_host(fail)


def test_outside_of_any_loop_the_error_says_what_to_write() -> None:
    with pytest.raises(UsageError, match=r"write: asyncio\.run\(main\(\)\), or trio\.run\(main\)"):
        call_in_host(thread_and_word).__await__().send(None)


def test_a_forked_child_has_a_host_of_its_own() -> None:
    block_in_host(thread_and_word)

    pid = os.fork()
    if not pid:
        os._exit(0 if block_in_host(thread_and_word)[0] != 0 else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


class Opening:
    """An async context manager that records what happens to it."""

    def __init__(self) -> None:
        self.events: list[str] = []

    async def __aenter__(self) -> None:
        self.events.append("open")

    async def __aexit__(self, *error: object) -> None:
        self.events.append("closed")


def test_a_manager_is_open_until_it_is_closed() -> None:
    hosted = HostedManager(Opening())

    asyncio.run(hosted.call(trio.lowlevel.checkpoint))
    assert hosted.manager.events == ["open"]
    hosted.close()

    assert hosted.manager.events == ["open", "closed"]


def test_a_manager_that_cannot_be_opened_raises_its_error() -> None:
    @asynccontextmanager
    async def failing() -> AsyncGenerator[None]:
        raise OSError("no such server")
        yield

    with pytest.raises(OSError, match="no such server"):
        HostedManager(failing())
