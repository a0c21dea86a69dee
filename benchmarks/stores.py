"""The cost of keeping everything in a SQLite file.

- No-op rollouts through `Runner.fit` on a `SqliteLightningStore` with ``synchronous="full"``, concurrency 1,000, beside
  the same on the store in memory. Floor: bare `sqlite3`, one row per rollout and one per attempt with the text of two
  spans, a commit every hundred rollouts.
- Single spans from 128 tasks, each waiting for its span's commit.
- Claims of batches by 8 processes on one file, each rollout exactly once.
- Growth: rollouts in one file, the cost of the last 10,000 beside that of the first 10,000, and memory.

For the growth to a million rollouts run ``python -m benchmarks.stores 1000000``.
"""

from __future__ import annotations

import multiprocessing
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from time import perf_counter, time
from typing import NamedTuple

import trio

import lightning_trio as agl

from ._measurement import Measurement, Target
from ._memory import in_fresh_process, resident_bytes
from ._timing import Times, interleave
from .noop import CONCURRENCY, TIMEOUT_SECONDS, agent

SPANNING_TASKS = 128
CLAIMING_PROCESSES = 8
CLAIMED_AT_ONCE = 64
STRETCH = 10_000
"""The number of rollouts in one stretch of growth."""


def run_noop(count: int, open_store: Callable[[], agl.LightningStore]) -> None:
    """Run `count` no-op rollouts, opening and closing the store included."""
    config = agl.RolloutConfig(timeout_seconds=TIMEOUT_SECONDS)
    runner = agl.Runner(agent, store=open_store(), max_concurrency=CONCURRENCY, config=config)
    result = trio.run(runner.fit, range(count))
    assert result.counts["succeeded"] == count, result


def run_noop_in_file(count: int) -> None:
    """Run them on a new file."""
    with tempfile.TemporaryDirectory() as folder:
        run_noop(count, partial(agl.SqliteLightningStore, f"{folder}/run.db"))


def run_bare_sqlite(count: int) -> None:
    """Insert as many rows of about the same size, with a commit every hundred rollouts."""
    spans = '[[1,"' + "a" * 32 + '","' + "b" * 16 + '",null,"invoke_agent","OK",{"a":1},1.5,2.5]' * 2 + "]"
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(f"{folder}/bare.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE rollouts (number INTEGER PRIMARY KEY, run_id, status, start, task)")
        connection.execute("CREATE TABLE attempts (number INTEGER PRIMARY KEY, id, status, start, end, reward, spans)")
        for first in range(0, count, 100):
            numbers = range(first, min(first + 100, count))
            connection.execute("BEGIN")
            connection.executemany(
                "INSERT INTO rollouts VALUES (?, ?, ?, ?, ?)", [(n, "run-0", "succeeded", 1.5, "1") for n in numbers]
            )
            connection.executemany(
                "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(n, "at-0", "succeeded", 1.5, 2.5, 1.0, spans) for n in numbers],
            )
            connection.execute("COMMIT")
        connection.close()


def measure_rollouts(quick: bool) -> list[Measurement]:
    """Compare medians of interleaved rounds."""
    count, rounds = (2_000, 3) if quick else (20_000, 3)
    run_noop_in_file(count // 10)
    in_file, in_memory, bare = interleave(
        rounds,
        partial(run_noop_in_file, count),
        partial(run_noop, count, agl.InMemoryLightningStore),
        partial(run_bare_sqlite, count),
    )
    note = f"median of {rounds} × {count:,}, {count / in_file.median:,.0f}/s"
    return [
        Measurement(
            "no-op rollout, SQLite, durable",
            in_file.median / count * 1e6,
            "µs",
            in_memory.median / count * 1e6,
            Target(1 / 0.4, "ratio"),
            f"{note}; floor: the store in memory",
        ),
        Measurement(
            "no-op rollout, SQLite, durable",
            in_file.median / count * 1e6,
            "µs",
            bare.median / count * 1e6,
            Target(1e6 / 8_000),
            f"{note}; floor: bare sqlite3, two rows, a commit every hundred",
        ),
    ]


# Spans.


async def _spans_a_second(path: str, each: int) -> float:
    async with agl.SqliteLightningStore(path) as store:
        started = await store.start([agl.EnqueueRolloutRequest(task) for task in range(SPANNING_TASKS)])
        spans = [[_span(rollout) for _ in range(each)] for rollout in started]
        began = perf_counter()
        async with trio.open_nursery() as nursery:
            for own in spans:
                nursery.start_soon(_add_each, store, own)
        seconds = perf_counter() - began
        assert (await store.statistics()).total_spans == SPANNING_TASKS * each
    return SPANNING_TASKS * each / seconds


async def _add_each(store: agl.LightningStore, spans: Sequence[agl.Span]) -> None:
    for span in spans:
        await store.add_span(span)


def _span(rollout: agl.AttemptedRollout) -> agl.Span:
    return agl.Span.from_attributes(
        rollout_id=rollout.rollout_id,
        attempt_id=rollout.attempt.attempt_id,
        name="step",
        attributes={"step": 1, "text": "what was done"},
        start_time=1.5,
        end_time=2.5,
    )


def measure_spans(quick: bool) -> list[Measurement]:
    """Measure the median over several files."""
    each, rounds = (10, 3) if quick else (200, 5)
    rates: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            rates.append(trio.run(_spans_a_second, f"{folder}/run.db", each))
    times = Times([1 / rate for rate in rates])
    return [
        Measurement(
            "single span, SQLite, 128 tasks",
            times.median * 1e6,
            "µs",
            target=Target(1e6 / 30_000),
            note=f"median of {rounds} × {SPANNING_TASKS * each:,}, {1 / times.median:,.0f}/s; each awaits its commit",
        )
    ]


# Claims.


class _Claims(NamedTuple):
    """The claims of one process, and the times of the first and the last."""

    rollout_ids: list[str]
    began: float
    ended: float


def claim_all(path: str, name: str, ready: Queue[None], go: Event, done: Queue[_Claims]) -> None:
    """Claim until nothing is left; runs in a separate process."""

    async def main() -> _Claims:
        claimed: list[str] = []
        async with agl.SqliteLightningStore(path) as store:
            ready.put(None)
            await trio.to_thread.run_sync(go.wait)
            began = time()
            while batch := await store.claim(CLAIMED_AT_ONCE, worker_id=name):
                claimed += [rollout.rollout_id for rollout in batch]
            return _Claims(claimed, began, time())

    done.put(trio.run(main))


async def _fill(path: str, count: int) -> None:
    async with agl.SqliteLightningStore(path) as store:
        for first in range(0, count, 2_000):
            await store.enqueue([agl.EnqueueRolloutRequest(n) for n in range(first, min(first + 2_000, count))])


def measure_claims(quick: bool) -> list[Measurement]:
    """Start several processes together and measure the time from the first claim to the last."""
    count = 4_000 if quick else 40_000
    context = multiprocessing.get_context("spawn")
    ready: Queue[None] = context.Queue()
    done: Queue[_Claims] = context.Queue()
    go = context.Event()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/run.db"
        trio.run(_fill, path, count)
        processes = [
            context.Process(target=claim_all, args=(path, f"worker-{number}", ready, go, done))
            for number in range(CLAIMING_PROCESSES)
        ]
        for process in processes:
            process.start()
        for _ in processes:
            ready.get()
        go.set()
        claims = [done.get() for _ in processes]
        for process in processes:
            process.join()
    rollout_ids = [rollout_id for each in claims for rollout_id in each.rollout_ids]
    assert len(rollout_ids) == len(set(rollout_ids)) == count, "each rollout is claimed exactly once"
    seconds = max(each.ended for each in claims) - min(each.began for each in claims)
    return [
        Measurement(
            "claim, SQLite, 8 processes",
            seconds / count * 1e6,
            "µs",
            target=Target(1e6 / 10_000),
            note=f"{count:,} in batches of {CLAIMED_AT_ONCE}, {count / seconds:,.0f}/s, each claimed exactly once",
        )
    ]


# Growth.


class _Growth(NamedTuple):
    """Seconds of each stretch, bytes in memory after the first and the last, bytes of the file."""

    stretches: list[float]
    memory: list[int]
    file_bytes: int


def grow(count: int) -> _Growth:
    """Run `count` rollouts in one fit and record the time and memory of each stretch."""
    ended: list[float] = []
    memory: list[int] = []
    done = 0

    async def counting(task: int) -> float:
        nonlocal done
        done += 1
        if done % STRETCH == 0:
            ended.append(perf_counter())
            memory.append(resident_bytes())
        return 1.0

    with tempfile.TemporaryDirectory() as folder:
        store = agl.SqliteLightningStore(f"{folder}/run.db")
        began = perf_counter()
        runner = agl.Runner(counting, store=store, max_concurrency=CONCURRENCY)
        result = trio.run(runner.fit, range(count))
        assert result.counts["succeeded"] == count, result
        size = store.path.stat().st_size
    return _Growth([end - start for start, end in zip([began, *ended], ended, strict=False)], memory, size)


def measure_growth(quick: bool, count: int | None = None) -> list[Measurement]:
    """Compare the last tenth of the stretches with the first stretch, in a separate process."""
    count = count or (2 * STRETCH if quick else 10 * STRETCH)
    growth = in_fresh_process(grow, count)
    tail = max(1, len(growth.stretches) // 10)
    last = sorted(growth.stretches[-tail:])[tail // 2]
    return [
        Measurement(
            f"rollout at {count:,} in one file",
            last / STRETCH * 1e6,
            "µs",
            growth.stretches[0] / STRETCH * 1e6,
            Target(1.2, "ratio"),
            f"median of the last {tail} × {STRETCH:,}; floor: the first {STRETCH:,}; "
            f"{growth.file_bytes / count:,.0f} bytes a rollout",
        ),
        Measurement(
            f"memory at {count:,} in one file",
            growth.memory[-1] / 1e6,
            "MB",
            growth.memory[0] / 1e6,
            Target(1.2, "ratio"),
            f"floor: after the first {STRETCH:,}; the most was {max(growth.memory) / 1e6:.0f} MB",
        ),
    ]


def measure(quick: bool) -> list[Measurement]:
    """Measure everything."""
    return [*measure_rollouts(quick), *measure_spans(quick), *measure_claims(quick), *measure_growth(quick)]


if __name__ == "__main__":
    for row in measure_growth(quick=False, count=int(sys.argv[1])):
        print(row)
