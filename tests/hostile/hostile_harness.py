"""Run one row of the table among twenty good tasks, and check what must hold afterwards."""

from __future__ import annotations

import faulthandler
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio
from hostile_agents import AGENTS, HOSTILE, MARK, MEET
from hostile_rows import Row, undo

import lightning_trio as agl

GOOD = 20
SLOTS = 4
PROCESSES = 2
SECONDS = 30.0
"""After this long a row counts as hanging."""


def only_assertions(row: Row, lane: str, check: Callable[[], object]) -> None:
    """Turn whatever `check` raises into an `AssertionError`, since it may be an exception on which pytest would end.

    If Trio's thread itself hangs, end the process, so that pytest-xdist names the test.
    """
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True, file=sys.__stderr__)
    failure: str | None = None
    try:
        check()
    except AssertionError as exc:
        failure = f"{row.name} in the lane {lane}: {exc}"
    except BaseException as exc:
        failure = f"{row.name} in the lane {lane} ended the run: {describe(exc)}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    if failure is not None:
        # Outside of the block, or it would have the exception as its context, which may be more than pytest can show.
        raise AssertionError(failure)


def run_row(row: Row, lane: str, store: agl.LightningStore, folder: Path) -> None:
    """Run one row in a lane, with a store and a runner of its own.

    Raises:
        AssertionError: something does not hold.
    """
    only_assertions(row, lane, lambda: trio.run(_open_and_check, row, lane, store, folder))


class SharedRunner:
    """A runner that stays open for many rows, in a thread of its own, where it takes long to open."""

    def __init__(self, lane: str, store: agl.LightningStore) -> None:
        self._lane = lane
        self._store = store
        self._opened = threading.Event()
        self._died = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._opened.wait(SECONDS)

    def _run(self) -> None:
        try:
            trio.run(self._stay_open)
        except BaseException as exc:
            self._died = f"the runner ended with {describe(exc)}"

    async def _stay_open(self) -> None:
        async with open_runner(self._lane, self._store, None) as self._runner:
            self._token, self._done = trio.lowlevel.current_trio_token(), trio.Event()
            self._opened.set()
            await self._done.wait()

    def run_row(self, row: Row, folder: Path) -> None:
        """Run one row, as the function `run_row` does."""
        only_assertions(row, self._lane, lambda: self._check_from_outside(row, folder))

    def _check_from_outside(self, row: Row, folder: Path) -> None:
        try:
            trio.from_thread.run(self._check, row, folder, trio_token=self._token)
        except agl.RunnerClosed:
            self._thread.join(SECONDS)
            raise AssertionError(self._died) from None

    async def _check(self, row: Row, folder: Path) -> None:
        with trio.fail_after(SECONDS):
            await check_row(self._runner, row, folder)

    def close(self) -> None:
        """Close the runner and its store, unless a row has done that."""
        with suppress(trio.RunFinishedError):
            trio.from_thread.run_sync(self._done.set, trio_token=self._token)
        self._thread.join(SECONDS)


def describe(exc: Any) -> str:
    """Return what an exception says, even if it cannot say it; of a group, what its members say."""
    if type(exc) in (BaseExceptionGroup, ExceptionGroup):
        return " and ".join(describe(each) for each in exc.exceptions[:3])
    try:
        text = str(exc)[:300]
    except BaseException as inner:
        text = f"<unprintable: {type(inner).__name__}>"
    return f"{type(exc).__name__}: {text}"


@asynccontextmanager
async def open_runner(lane: str, store: agl.LightningStore, timeout: float | None) -> AsyncGenerator[agl.Runner[Any]]:
    """Open a store, and a runner on it with the agent of a lane."""
    runner = agl.Runner(
        AGENTS[lane],
        store=store,
        max_concurrency=SLOTS,
        max_processes=PROCESSES,
        config=agl.RolloutConfig(timeout_seconds=timeout),
    )
    async with store, runner:
        yield runner


async def _open_and_check(row: Row, lane: str, store: agl.LightningStore, folder: Path) -> None:
    with trio.fail_after(SECONDS):
        async with open_runner(lane, store, row.timeout) as runner:
            await check_row(runner, row, folder)
    async with store:
        found = await agl.audit(store, finished=row.kind != "tasks")
    assert found.clean, found.problems


async def check_row(runner: agl.Runner[Any], row: Row, folder: Path) -> None:
    """Run one row among good tasks, resume the run, and run others."""
    task = row.act() if row.kind == "tasks" else HOSTILE + row.name
    dataset = [*range(GOOD // 2), task, *range(GOOD // 2, GOOD)]
    try:
        await _check_fits(runner, row, dataset)
    finally:
        undo()
    # Whatever has been done, the same runner and store serve others.
    later = await runner.fit([100, 101, 102])
    assert later.counts == {"cancelled": 0, "failed": 0, "succeeded": 3}, later.counts
    await _check_slots(runner, folder)


async def _check_fits(runner: agl.Runner[Any], row: Row, dataset: Sequence[Any]) -> None:
    before = await _count(runner)
    try:
        first = await runner.fit(dataset)
    except agl.NotStorable as exc:
        # A task that cannot be stored is refused, and nothing has run.
        is_right = row.right == "refused" or (row.kind, row.right) == ("tasks", "either")
        is_right = is_right and row.error in (None, type(exc).__name__) and await _count(runner) == before
        failure = "" if is_right else describe(exc)
        assert not failure, failure
        return
    assert row.right != "refused", "the task was not refused"
    _check_result(first, row)
    await _check_rollouts(runner.store, first, row)
    again = await runner.fit(dataset, resume=True, retry_failed=True)
    assert again.run_id == first.run_id, "the run was not resumed"
    _check_result(again, row)
    found = await agl.audit(runner.store, run_id=first.run_id)
    assert found.clean, found.problems


async def _count(runner: agl.Runner[Any]) -> int:
    return (await runner.store.statistics()).total_rollouts


def _check_result(result: agl.FitResult, row: Row) -> None:
    counts = result.counts
    expected = {"succeeds": (GOOD + 1,), "fails": (GOOD,), "either": (GOOD, GOOD + 1)}[row.right]
    assert counts["succeeded"] in expected, counts
    assert sum(counts.values()) == GOOD + 1, counts


async def _check_rollouts(store: agl.LightningStore, result: agl.FitResult, row: Row) -> None:
    rollouts = await store.query_rollouts(run_id_in=[result.run_id])
    assert len(rollouts) == GOOD + 1
    for rollout in rollouts:
        spans = await store.query_spans(rollout.rollout_id)
        strays = [span.name for span in spans if span.rollout_id != rollout.rollout_id]
        assert not strays, f"spans of other rollouts in {rollout.rollout_id}: {strays}"
        if type(rollout.input) is int and row.kind != "tasks":
            assert rollout.status == "succeeded", rollout
            marks = [span.attributes[MARK] for span in spans if MARK in span.attributes]
            assert marks == [rollout.input], f"rollout of task {rollout.input} has the marks {marks}"
            continue
        attempt = rollout.attempt
        assert attempt is not None
        assert attempt.sequence_id == 1, "it was run again"
        if rollout.status == "failed" and row.error is not None:
            assert attempt.error is not None, attempt
            assert attempt.error.type == row.error, f"{attempt.error.type}: {attempt.error.message}"[:500]


async def _check_slots(runner: agl.Runner[Any], folder: Path) -> None:
    """Have as many attempts at once as there are slots."""
    await _until(lambda: runner.statistics().running == 0, "what the row started still runs", runner)
    slots = runner.statistics().max_concurrency
    flag = folder / "meet"
    async with trio.open_nursery() as nursery:
        for _ in range(slots):
            nursery.start_soon(runner.step, f"{MEET}{flag}")
        await _until(lambda: runner.statistics().running == slots, f"not all of {slots} slots came back", runner)
        flag.touch()


async def _until(holds: Callable[[], bool], otherwise: str, runner: agl.Runner[Any]) -> None:
    with trio.move_on_after(10):
        while not holds():
            await trio.sleep(0.002)
        return
    raise AssertionError(f"{otherwise}: {runner.statistics()}")
