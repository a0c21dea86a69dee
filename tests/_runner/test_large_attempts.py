"""Attempts with many spans, long texts or thousands of notes are ended outside of Trio's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

import lightning_trio as agl
from lightning_trio import Runner
from lightning_trio._resources import token_for_key
from lightning_trio._runner import _attempt, _closing
from lightning_trio._spans import LARGE, MANY

KEY = "sk-large-0123456789abcdef"


@pytest.fixture
def closing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each trace was closed in Trio's thread."""
    where: list[bool] = []
    main, close = threading.get_ident(), _closing.close_trace

    def watched(*args: Any) -> Any:
        where.append(threading.get_ident() == main)
        return close(*args)

    monkeypatch.setattr(_closing, "close_trace", watched)
    monkeypatch.setattr(_attempt, "close_trace", watched)
    return where


def emit_many(number: int) -> float:
    """Record as many messages as the task says."""
    for index in range(number):
        agl.emit_message(f"step {index}")
    return 1.0


async def emit_many_in_trio(number: int) -> float:
    """Record as many messages as the task says, in Trio."""
    return emit_many(number)


@pytest.mark.parametrize(("number", "in_trio"), [(3, True), (2 * MANY, False)])
async def test_only_a_large_trace_is_closed_in_another_thread(closing: list[bool], number: int, in_trio: bool) -> None:
    async with Runner(emit_many_in_trio) as runner:
        done = await runner.step(number)

    assert closing == [in_trio]
    assert (done.final_reward, len(done.spans)) == (1.0, number + 2)


async def test_a_cancelled_large_attempt_keeps_its_spans(closing: list[bool]) -> None:
    store = agl.InMemoryLightningStore()
    with trio.CancelScope() as scope:

        async def agent(number: int) -> None:
            emit_many(number)
            scope.cancel()
            await trio.sleep_forever()

        async with Runner(agent, store=store) as runner:
            await runner.step(2 * MANY)

    async with store:
        [rollout] = await store.query_rollouts()
        spans = await store.query_spans(rollout.rollout_id)
    assert (rollout.status, len(spans), closing) == ("cancelled", 2 * MANY + 1, [False])


async def test_nothing_is_recorded_while_a_trace_is_closed() -> None:
    refused: list[type] = []

    async def emit_later(opened: Callable[[], None]) -> None:
        opened()
        while not refused:
            await trio.lowlevel.checkpoint()
            try:
                agl.emit_message("late")
            except agl.NoActiveRollout as exc:
                refused.append(type(exc))

    async with trio.open_nursery() as nursery:

        async def agent(number: int) -> float:
            begun = trio.Event()
            nursery.start_soon(emit_later, begun.set)
            await begun.wait()
            return emit_many(number)

        async with Runner(agent) as runner:
            done = await runner.step(2 * MANY)

    assert refused == [agl.NoActiveRollout]
    assert done.final_reward == 1.0


@pytest.mark.parametrize("at", [0, LARGE - 5, LARGE - len(KEY), LARGE, 2 * LARGE - 1], ids=str)
async def test_a_key_in_a_long_text_is_found_wherever_it_is(at: int) -> None:
    token_for_key(KEY)
    before, after = "x" * at, "y" * 3 * LARGE

    async def agent(task: int) -> None:
        agl.emit_message(before + KEY + after)

    async with Runner(agent) as runner:
        done = await runner.step(1)

    assert agl.get_message_value(done.spans[1]) == f"{before}[api key]{after}"


async def test_an_error_of_many_notes_is_recorded_in_another_thread() -> None:
    threads: set[int] = set()

    class Noted(Exception):
        def __str__(self) -> str:
            threads.add(threading.get_ident())
            return "noted"

    async def agent(task: int) -> None:
        exc = Noted()
        for number in range(2 * MANY):
            exc.add_note(f"note {number}")
        raise exc

    store = agl.InMemoryLightningStore()
    async with Runner(agent, store=store) as runner:
        with pytest.raises(Noted):
            await runner.step(1)
        [rollout] = await store.query_rollouts()
        [attempt] = await store.query_attempts(rollout.rollout_id)

    assert attempt.error is not None
    assert f"note {2 * MANY - 1}" in attempt.error.traceback
    assert threading.get_ident() not in threads


@agl.rollout(runs_in="process")
def many_in_a_process(number: int) -> float:
    """Record messages, and a long one."""
    emit_many(number)
    agl.emit_message("ä" * 2 * LARGE)
    return 1.0


@agl.rollout(runs_in="process")
def many_without_end(path: str) -> None:
    """Record messages and a long one, say so, and go on for ever."""
    emit_many(3 * MANY)
    agl.emit_message("ä" * 2 * LARGE)
    Path(path).touch()
    while True:
        pass


async def test_a_large_attempt_comes_back_from_its_worker_process() -> None:
    async with Runner(many_in_a_process, max_processes=1) as runner:
        small = await runner.step(1)
        large = await runner.step(3 * MANY)
        again = await runner.step(1)

    assert [len(done.spans) for done in (small, large, again)] == [4, 3 * MANY + 3, 4]
    assert agl.get_message_value(large.spans[-2]) == "ä" * 2 * LARGE


async def test_a_large_attempt_that_is_killed_keeps_its_spans(tmp_path: Path) -> None:
    store = agl.InMemoryLightningStore()
    path = tmp_path / "recorded"
    async with Runner(many_without_end, max_processes=1, store=store) as runner:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(runner.step, str(path)))
                while not path.exists():
                    await trio.sleep(0.01)
                scope.cancel()
        [rollout] = await store.query_rollouts()
        spans = await store.query_spans(rollout.rollout_id)

    assert (rollout.status, len(spans)) == ("cancelled", 3 * MANY + 2)
