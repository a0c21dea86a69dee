"""What a Trio task waits for: other tasks, or something that comes by itself."""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable, Generator
from types import coroutine
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from lightning_trio import InMemoryLightningStore, RolloutConfig, Runner
from lightning_trio._concurrency import await_stack
from lightning_trio.lanes import _trio, runs_now, waits_for_tasks


async def nursery_of(*functions: Callable[[], Awaitable[object]]) -> None:
    async with trio.open_nursery() as nursery:
        for function in functions:
            nursery.start_soon(function)


async def an_event() -> None:
    await trio.Event().wait()


async def an_event_with_a_limit(seconds: float) -> None:
    with trio.move_on_after(seconds):
        await trio.Event().wait()


async def a_nap() -> None:
    await trio.sleep(5)


async def a_channel() -> None:
    _send, receive = trio.open_memory_channel[int](0)
    await receive.receive()


async def a_lock() -> None:
    lock = trio.Lock()
    async with lock, trio.open_nursery() as nursery:
        nursery.start_soon(lock.acquire)


async def a_socket() -> None:
    ours, other = socket.socketpair()
    with ours, other:
        ours.setblocking(False)
        await trio.lowlevel.wait_readable(ours)


async def a_thread() -> None:
    done = threading.Event()
    try:
        await trio.to_thread.run_sync(done.wait, 10, abandon_on_cancel=True)
    finally:
        done.set()


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (an_event, True),
        (a_channel, True),
        (a_lock, True),
        (trio.sleep_forever, True),
        (lambda: an_event_with_a_limit(100), True),
        (lambda: nursery_of(an_event, a_channel), True),
        (lambda: an_event_with_a_limit(5), False),
        (a_nap, False),
        (a_socket, False),
        (a_thread, False),
        (lambda: nursery_of(an_event, a_socket), False),
    ],
    ids=[
        "event",
        "channel",
        "lock",
        "for_ever",
        "late_limit",
        "nursery",
        "early_limit",
        "sleep",
        "socket",
        "thread",
        "nursery_with_socket",
    ],
)
async def test_a_task_waits_for_others_if_nothing_else_can_wake_it(
    wait: Callable[[], Awaitable[object]], expected: bool
) -> None:
    async def run() -> None:
        await wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        [task] = nursery.child_tasks
        found = waits_for_tasks(task, 0, trio.current_time() + 60)
        nursery.cancel_scope.cancel()

    assert found is expected


async def test_of_too_many_tasks_some_may_go_on_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trio, "_MOST_VISITED", 3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(nursery_of, an_event, an_event)
        nursery.start_soon(nursery_of, an_event, an_event, an_event)
        await trio.testing.wait_all_tasks_blocked()
        found = {
            len(task.child_nurseries[0].child_tasks): (waits_for_tasks(task, 0, 0), runs_now(task, 0))
            for task in nursery.child_tasks
        }
        nursery.cancel_scope.cancel()

    assert found == {2: (True, False), 3: (False, False)}


def test_the_frames_of_a_coroutine_that_waits_for_itself_end() -> None:
    @coroutine
    def once() -> Generator[None, Any, None]:
        yield

    async def waits() -> None:
        await once()

    class Round:
        def __init__(self, frame: Any) -> None:
            self.cr_frame = frame
            self.cr_await = self

    running = waits()
    frames = list(await_stack(Round(running.cr_frame)))
    running.close()

    assert {frame.f_code.co_name for frame in frames} == {"waits"}


class Rude:
    """An awaitable that raises when its frame is asked for."""

    def __init__(self, awaited: Any) -> None:
        self.iterator = awaited.__await__()

    def __await__(self) -> Any:
        return self

    __iter__ = __await__

    def __next__(self) -> Any:
        return self.iterator.send(None)

    def send(self, value: Any) -> Any:
        return self.iterator.send(value)

    def throw(self, *exc: Any) -> Any:
        return self.iterator.throw(*exc)

    def __getattr__(self, name: str) -> Any:
        raise SystemExit(3) if name.endswith("_frame") else AttributeError(name)


def test_the_frames_of_a_coroutine_end_at_an_awaitable_that_cannot_be_read() -> None:
    @coroutine
    def once() -> Generator[None, Any, None]:
        yield

    async def waits() -> None:
        await Rude(once_async())

    async def once_async() -> None:
        await once()

    running = waits()
    running.send(None)
    names = [frame.f_code.co_name for frame in await_stack(running)]
    running.close()

    assert names == ["waits"]


def test_an_agent_that_waits_in_such_an_awaitable_beyond_its_deadline_ends_no_run() -> None:
    async def agent(task: int) -> None:
        if task == 1:
            with trio.CancelScope(shield=True):
                await Rude(a_nap())

    runner = Runner(agent, config=RolloutConfig(timeout_seconds=1), store=InMemoryLightningStore())
    result = trio.run(runner.fit, [0, 1, 2], clock=trio.testing.MockClock(autojump_threshold=0))

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}
