"""Tasks that outlive their agent: a rollout's own work is cancelled, what a library keeps for all its calls goes on."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest
import trio
from aiohttp.abc import AbstractResolver, ResolveResult

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner

pytestmark = pytest.mark.filterwarnings("error")

GOES_ON = "left behind goes on"

LIBRARY = """
import asyncio, contextvars

class LogWorker:
    '''What LiteLLM's LoggingWorker is: one task for all calls of the process.'''

    def __init__(self):
        self.queue = self.task = None
        self.written = []

    def log(self, coroutine):
        if self.task is None or self.task.done():
            self.queue = self.queue or asyncio.Queue()
            self.task = asyncio.create_task(self._work())
        self.queue.put_nowait((coroutine, contextvars.copy_context()))

    async def _work(self):
        while True:
            coroutine, context = await self.queue.get()
            entry = context.run(asyncio.create_task, coroutine)
            try:
                self.written.append(await asyncio.wait_for(entry, timeout=20))
            except Exception as exc:
                self.written.append(exc)

def start(coroutine):
    return asyncio.create_task(coroutine)
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An installed library with a worker for all its calls."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "loglibrary.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(str(folder))
    import loglibrary  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

    yield loglibrary
    del sys.modules["loglibrary"]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_trio.lanes._asyncio._background._MOMENT_SECONDS", 0.05)


async def wait_until(is_true: Callable[[], object]) -> None:
    """Wait until something in the loop's thread has happened."""
    with trio.fail_after(10):
        while not is_true():
            await trio.sleep(0.01)


def stop(task: asyncio.Task[Any]) -> None:
    """Cancel a task of the loop, so that it does not outlive its test."""
    task.get_loop().call_soon_threadsafe(task.cancel)


# A task that serves many rollouts.


async def test_a_worker_that_a_module_keeps_serves_all_rollouts_and_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    written: list[int] = []
    kept: list[Any] = []

    async def write(queue: asyncio.Queue[int]) -> None:
        while True:
            entry = await queue.get()
            await asyncio.sleep(0.01)
            written.append(entry)

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        await asyncio.sleep(0.01)
        if not kept or kept[1].done():
            kept[:] = [asyncio.Queue(), None]
            kept[1] = asyncio.create_task(write(kept[0]))
        kept[0].put_nowait(task)

    for _ in range(2):
        await Runner(agent, max_concurrency=4).fit(range(12))
    await wait_until(lambda: len(written) == 24)
    await wait_until(lambda: GOES_ON in caplog.text)

    assert sorted(written) == sorted([*range(12), *range(12)])
    assert len(caplog.messages) == 1
    assert "write) goes on" not in caplog.text
    assert ".write); it is taken for a library's own" in caplog.text
    stop(kept[1])


async def test_tasks_of_one_function_are_named_once_and_those_that_end_soon_not_at_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def brief() -> None:
        await asyncio.sleep(0.001)

    async def long() -> None:
        await asyncio.sleep(60)

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        asyncio.create_task(brief())  # noqa: RUF006
        tasks.append(asyncio.create_task(long()))

    await Runner(agent).fit(range(5))
    await wait_until(lambda: caplog.messages)
    await trio.sleep(0.1)

    assert [GOES_ON in message and ".long)" in message for message in caplog.messages] == [True]
    for each in tasks:
        stop(each)


async def test_an_attempt_does_not_wait_for_tasks_that_go_on() -> None:
    tasks: list[asyncio.Task[None]] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(60)))

    async with Runner(agent) as runner:
        with trio.fail_after(5):
            done = await runner.step(1)

    assert done.attempt.duration is not None
    assert done.attempt.duration < 1
    assert not tasks[0].done()
    stop(tasks[0])


async def test_an_agent_that_fails_leaves_the_worker_it_started_to_the_others() -> None:
    kept: list[asyncio.Task[None]] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        if not kept:
            kept.append(asyncio.create_task(asyncio.sleep(60)))
            raise ValueError("no answer")
        await asyncio.sleep(0)
        return float(not kept[0].done())

    result = await Runner(agent, max_concurrency=1).fit([0, 1])

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 1}
    assert result.mean_reward["train"] == 1.0
    stop(kept[0])


async def test_of_one_function_only_so_many_tasks_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that forgets a task in each rollout does not fill the memory."""
    monkeypatch.setattr("lightning_trio.lanes._asyncio._background._MOST_OF_A_KIND", 3)
    tasks: list[asyncio.Task[None]] = []

    async def forgotten() -> None:
        await asyncio.sleep(60)

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        tasks.append(asyncio.create_task(forgotten()))

    await Runner(agent, max_concurrency=1).fit(range(8))
    await wait_until(lambda: sum(task.cancelled() for task in tasks) >= 5)

    assert [task.cancelled() for task in tasks] == [True] * 5 + [False] * 3
    for each in tasks:
        stop(each)


# A rollout that is stopped at its deadline.


async def test_at_a_deadline_what_a_library_started_goes_on(
    library: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    worker = library.LogWorker()

    async def entry(task: int) -> int:
        await asyncio.sleep(0.01)
        return task

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        worker.log(entry(task))
        first.append(worker.task)
        if task == 0:
            await asyncio.sleep(60)

    first: list[asyncio.Task[None]] = []
    result = await Runner(agent, max_concurrency=1, config=RolloutConfig(timeout_seconds=0.5)).fit(range(6))
    await wait_until(lambda: len(worker.written) == 6)

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 5}
    assert worker.written == [*range(6)]
    assert not [message for message in caplog.messages if GOES_ON in message]
    assert set(first) == {worker.task}
    stop(worker.task)


async def test_at_a_deadline_what_the_agent_itself_started_is_cancelled(library: ModuleType) -> None:
    tasks: list[asyncio.Task[None]] = []

    @agl.rollout(runs_in="asyncio", config=RolloutConfig(timeout_seconds=0.5))
    async def agent(task: int) -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(60)))
        tasks.append(asyncio.ensure_future(asyncio.sleep(60)))
        await asyncio.sleep(60)

    with pytest.raises(agl.AttemptTimedOut):
        async with Runner(agent) as runner:
            await runner.step(1)

    assert [task.cancelled() for task in tasks] == [True, True]


async def test_what_a_task_starts_as_its_agent_ends_is_the_agents_too() -> None:
    tasks: list[asyncio.Task[None]] = []

    async def record() -> None:
        agl.emit_message("begun")
        await asyncio.sleep(60)

    async def start_another() -> None:
        tasks.append(asyncio.create_task(record()))
        await asyncio.sleep(0)
        await asyncio.sleep(60)

    @agl.rollout(runs_in="asyncio", config=RolloutConfig(timeout_seconds=0.5))
    async def agent(task: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            tasks.append(asyncio.create_task(start_another()))

    with pytest.raises(agl.AttemptTimedOut):
        async with Runner(agent) as runner:
            await runner.step(1)

    assert [task.cancelled() for task in tasks] == [True, True]


async def test_at_a_deadline_what_recorded_something_is_cancelled_whoever_started_it(library: ModuleType) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def think() -> None:
        await asyncio.to_thread(agl.emit_message, "thinking")
        await asyncio.sleep(60)

    async def delegate() -> None:
        await think()

    @agl.rollout(runs_in="asyncio", config=RolloutConfig(timeout_seconds=0.5))
    async def agent(task: int) -> None:
        tasks.append(library.start(delegate()))
        await asyncio.sleep(60)

    with pytest.raises(agl.AttemptTimedOut):
        async with Runner(agent) as runner:
            await runner.step(1)

    assert tasks[0].cancelled()


async def test_a_task_that_another_rollout_waits_for_is_not_cancelled_with_the_one_that_started_it() -> None:
    shared: list[asyncio.Task[float]] = []
    waiting: list[int] = []
    may_end = threading.Event()

    async def load() -> float:
        agl.emit_message("loading")
        while not may_end.is_set():
            await asyncio.sleep(0.01)
        return 1.0

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        if not shared:
            shared.append(asyncio.create_task(load()))
        waiting.append(task)
        return await asyncio.shield(shared[0])

    rewards: list[float | None] = []
    async with Runner(agent) as runner, trio.open_nursery() as nursery:

        async def request(task: int, scope: trio.CancelScope) -> None:
            with scope:
                rewards.append((await runner.step(task)).final_reward)

        first = trio.CancelScope()
        nursery.start_soon(request, 0, first)
        await wait_until(lambda: waiting)
        nursery.start_soon(request, 1, trio.CancelScope())
        await wait_until(lambda: len(waiting) == 2)
        first.cancel()
        await wait_until(lambda: runner.statistics().running == 1)
        may_end.set()

    assert rewards == [1.0]


async def test_a_lookup_that_an_aiohttp_session_makes_for_many_requests_serves_all_of_them(empty_port: int) -> None:
    begun: list[int] = []
    may_end = threading.Event()

    class SlowResolver(AbstractResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
            while not may_end.is_set():
                await asyncio.sleep(0.01)
            return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=2, proto=0, flags=0)]

        async def close(self) -> None: ...

    sessions: list[aiohttp.ClientSession] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        if not sessions:
            sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=SlowResolver())))
        begun.append(task)
        async with sessions[0].get(f"http://api.example:{empty_port}/") as response:
            return float(response.status == 204)

    @agl.rollout(runs_in="asyncio")
    async def close(task: int) -> None:
        await sessions[0].close()

    rewards: list[float | None] = []
    async with Runner(agent) as runner, trio.open_nursery() as nursery:

        async def request(task: int, scope: trio.CancelScope) -> None:
            with scope:
                rewards.append((await runner.step(task)).final_reward)

        first = trio.CancelScope()
        nursery.start_soon(request, 0, first)
        await wait_until(lambda: begun)
        for task in range(1, 10):
            nursery.start_soon(request, task, trio.CancelScope())
        await wait_until(lambda: len(begun) == 10)
        first.cancel()
        await wait_until(lambda: runner.statistics().running == 9)
        may_end.set()
    await Runner(close).fit([0])

    assert rewards == [1.0] * 9


# What they record.


async def test_what_goes_on_records_nothing_into_other_rollouts() -> None:
    heard: list[BaseException] = []
    kept: list[asyncio.Task[None]] = []

    async def meddle() -> None:
        while len(heard) < 3:
            await asyncio.sleep(0.02)
            try:
                agl.emit_message("from the first rollout")
            except agl.NoActiveRollout as exc:
                heard.append(exc)

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        if not kept:
            kept.append(asyncio.create_task(meddle()))
            return
        while len(heard) < 3:
            await asyncio.sleep(0.01)

    async with Runner(agent) as runner:
        first = await runner.step(0)
        second = await runner.step(1)
        late = runner.tracer.statistics().late_spans

    assert [len(first.spans), len(second.spans)] == [1, 1]
    assert late == 3
    assert f"rollout {first.rollout.rollout_id}" in str(heard[0])


async def test_what_a_stopped_rollout_left_behind_is_cancelled_when_it_works_for_it_again(
    library: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    tasks: list[asyncio.Task[None]] = []
    go_on = threading.Event()

    async def run_on() -> None:
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        agl.emit_message("calling the model", propagate=False)
        for _ in range(2):
            try:
                agl.emit_message("calling the model")
            except agl.NoActiveRollout:
                await asyncio.sleep(20)

    @agl.rollout(runs_in="asyncio", config=RolloutConfig(timeout_seconds=0.5))
    async def agent(task: int) -> None:
        tasks.append(library.start(run_on()))
        await asyncio.sleep(60)

    async with Runner(agent) as runner:
        with pytest.raises(agl.AttemptTimedOut):
            await runner.step(1)
        was_running = not tasks[0].done()
        go_on.set()
        await wait_until(lambda: tasks[0].done())

    assert was_running
    assert tasks[0].cancelled()
    assert "a task that a stopped rollout left behind still records for it, and is cancelled" in caplog.text


async def test_an_entry_that_a_librarys_worker_waits_for_goes_on_though_it_records(library: ModuleType) -> None:
    """Its cancellation would end the worker."""
    worker = library.LogWorker()

    async def entry(task: int) -> int:
        agl.emit_message(f"entry {task}")
        await asyncio.sleep(0.05)
        return task

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        worker.log(entry(task))
        await asyncio.sleep(0.02)

    async with Runner(agent) as runner:
        await runner.step(0)
        await runner.step(1)
        await wait_until(lambda: len(worker.written) == 2)

    assert worker.written[0] == 0
    assert not worker.task.done()
    stop(worker.task)


async def test_a_task_in_a_context_of_its_own_is_no_rollouts(caplog: pytest.LogCaptureFixture) -> None:
    kept: list[asyncio.Task[None]] = []

    @agl.rollout(runs_in="asyncio", config=RolloutConfig(timeout_seconds=0.5))
    async def agent(task: int) -> None:
        kept.append(asyncio.create_task(asyncio.sleep(60), context=contextvars.Context()))
        await asyncio.sleep(60)

    with pytest.raises(agl.AttemptTimedOut):
        async with Runner(agent) as runner:
            await runner.step(1)

    assert not kept[0].done()
    assert not caplog.messages
    stop(kept[0])


async def test_cancelled_work_of_many_rollouts_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    async def judge() -> None:
        agl.emit_message("begun")
        await asyncio.sleep(3600)

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        asyncio.create_task(judge())  # noqa: RUF006
        await asyncio.sleep(0)

    await Runner(agent).fit(range(12))

    assert [message.count("judge") for message in caplog.messages if "left tasks behind" in message] == [1]
