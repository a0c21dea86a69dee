"""Notes on errors that another lane would avoid."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from typing import Any

import process_agents as agents
import pytest
import trio
import trio.lowlevel
from programs import run_program

import lightning_trio as agl
from lightning_trio import Runner
from lightning_trio.lanes import explain

CLOSED_LOOP = asyncio.new_event_loop()
CLOSED_LOOP.close()


async def notes_of(agent: Any) -> str:
    """Return the notes on the error of an agent's only rollout."""
    async with Runner(agent) as runner:
        with pytest.raises(BaseException) as caught:  # noqa: PT011  # of any kind
            await runner.step(1)
    return "\n".join(getattr(caught.value, "__notes__", ()))


def in_a_thread(task: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@agl.rollout(runs_in="asyncio")
async def in_asyncio(task: int) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGALRM, print)


@pytest.mark.parametrize("agent", [in_a_thread, in_asyncio], ids=["thread", "asyncio"])
async def test_a_signal_in_another_thread_than_the_main_one(agent: Any) -> None:
    assert 'runs_in="process"' in await notes_of(agent)


async def test_signals_work_in_a_worker_process() -> None:
    runner = Runner(agl.rollout(runs_in="process")(agents.sets_an_alarm))

    assert (await runner.fit([1])).mean_reward["train"] == 1.0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="it does not refuse there")
def test_a_fork_that_filelock_refuses_beside_another_thread() -> None:
    """Refused by its audit hook, which stays for good: in a program of its own."""
    ended = run_program(
        """
        import multiprocessing, os, threading
        import trio, lightning_trio as agl

        forks, may_go_on = threading.Event(), threading.Event()

        def hold():
            if not forks.is_set():
                forks.set()
                may_go_on.wait(10)

        os.register_at_fork(before=hold)
        import filelock

        @agl.rollout
        def agent(task):
            if task == "second":
                forks.wait(10)
            process = multiprocessing.get_context("fork").Process(target=print)
            try:
                process.start()
            finally:
                may_go_on.set()
            process.join()

        async def main():
            async with agl.Runner(agent) as runner, trio.open_nursery() as nursery:
                nursery.start_soon(runner.step, "first")
                try:
                    await runner.step("second")
                except RuntimeError as exc:
                    print(*exc.__notes__)

        trio.run(main)
        """
    )

    assert 'get_context("forkserver")' in ended.out, ended.err


def uses_a_closed_loop(task: int) -> None:
    CLOSED_LOOP.call_soon(print)


def uses_a_queue_of_another_loop(task: int) -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def wait() -> None:
        await asyncio.wait_for(queue.get(), 0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(wait())
    asyncio.run(wait())


def awaits_a_future_of_another_loop(task: int) -> None:
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    loop.close()

    async def wait() -> None:
        await future

    asyncio.run(wait())


def loses_its_connection(task: int) -> None:
    try:
        uses_a_closed_loop(task)
    except RuntimeError as exc:
        raise agents.LibraryError("no connection") from exc


@pytest.mark.parametrize(
    "agent",
    [uses_a_closed_loop, uses_a_queue_of_another_loop, awaits_a_future_of_another_loop, loses_its_connection],
)
async def test_an_object_of_another_event_loop_in_a_thread(agent: Callable[[int], None]) -> None:
    assert 'async def agent with runs_in="asyncio", which has one loop' in await notes_of(agent)


async def test_an_object_of_another_event_loop_in_asyncio() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        uses_a_closed_loop(task)

    assert "that is the lane's loop" in await notes_of(agent)


async def test_a_library_that_calls_asyncio_in_trio() -> None:
    assert 'written for asyncio. Write runs_in="asyncio"' in await notes_of(agents.calls_asyncio_in_a_library)


async def test_a_library_that_calls_asyncio_in_trio_in_a_worker_process() -> None:
    agent = agl.rollout(runs_in="process")(agents.calls_asyncio_in_a_library)

    assert 'written for asyncio. Write runs_in="asyncio"' in await notes_of(agent)


async def test_a_library_that_calls_trio_in_asyncio() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        try:
            await trio.lowlevel.checkpoint()
        except RuntimeError as exc:
            raise agents.LibraryError("no connection") from exc

    assert "Leave runs_in out" in await notes_of(agent)


async def test_an_error_of_a_nursery_is_explained() -> None:
    async def agent(task: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agents.calls_asyncio_in_a_library, task)

    assert 'Write runs_in="asyncio"' in await notes_of(agent)


async def test_an_error_is_explained_once_although_it_is_raised_again() -> None:
    error = RuntimeError("Event loop is closed")

    def agent(task: int) -> None:
        raise error

    await Runner(agent).fit([1, 2, 3])

    assert len(error.__notes__) == 1


async def test_the_note_is_in_the_stored_traceback() -> None:
    store = agl.InMemoryLightningStore()
    async with store:
        await Runner(uses_a_closed_loop, store=store).fit([1])
        [rollout] = await store.query_rollouts()

    assert isinstance(rollout, agl.AttemptedRollout)
    assert rollout.attempt.error is not None
    assert 'runs_in="asyncio"' in rollout.attempt.error.traceback


class Frozen(RuntimeError):
    def add_note(self, note: str) -> None:
        raise TypeError("frozen")


async def test_an_error_that_takes_no_notes_is_recorded_as_it_is() -> None:
    def agent(task: int) -> None:
        try:
            uses_a_closed_loop(task)
        except RuntimeError as exc:
            raise Frozen("no connection") from exc

    async with Runner(agent) as runner:
        with pytest.raises(Frozen, match="no connection"):
            await runner.step(1)


async def test_other_errors_have_no_explanation() -> None:
    def agent(task: int) -> None:
        raise RuntimeError("its own")

    assert (await notes_of(agent)).startswith("In rollout")


class Unprintable:
    def __str__(self) -> str:
        raise SystemExit(3)


def test_an_error_whose_text_is_an_object_is_not_printed() -> None:
    error = RuntimeError(Unprintable())

    explain(error, "asyncio")

    assert not hasattr(error, "__notes__")


class Falsy(Exception):
    def __bool__(self) -> bool:
        raise TypeError("neither true nor false")


def test_a_cause_is_not_asked_for_its_truth() -> None:
    error = KeyError("its own")
    error.__cause__ = Falsy()

    explain(error, "thread")

    assert not hasattr(error, "__notes__")


@agl.rollout(runs_in="asyncio")
async def runs_a_second_loop(task: int) -> None:
    coroutine = asyncio.sleep(0)
    with contextlib.closing(coroutine):
        asyncio.run(coroutine)


async def test_a_second_loop_in_the_thread_of_the_lanes_loop() -> None:
    assert "Await the coroutine instead" in await notes_of(runs_a_second_loop)
