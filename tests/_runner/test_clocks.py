"""Leases and waits under a wall clock that is set, a process that is stopped, and a machine that was restarted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from lightning_trio import RolloutConfig, Runner, SqliteLightningStore, Worker
from lightning_trio._host._wall_clock import WallClock
from lightning_trio.store import AttemptOutcome, Query, RetryIn
from lightning_trio.store._sqlite import _clock
from lightning_trio.store._sqlite._connection import SqliteConnection

HOURS = 3 * 3600.0

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say when they started")

SetClock = Callable[[float], None]


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Set the wall clock by some seconds."""
    real, offset = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + offset)

    def set_by(seconds: float) -> None:
        nonlocal offset
        offset += seconds

    return set_by


@linux
@pytest.mark.parametrize("seconds", [HOURS, -HOURS])
async def test_a_runner_keeps_its_attempts_when_the_clock_is_set(
    tmp_path: Path, set_clock: SetClock, seconds: float
) -> None:
    async def agent(task: int) -> float:
        set_clock(seconds)
        await trio.sleep(0.5)
        return 1.0

    async with SqliteLightningStore(tmp_path / "run.db") as store:
        # The lease of another runner, which has just begun to be silent, makes this one look at all of them.
        await store.put([Worker("other", lease_seconds=0.2)])
        await Runner(agent, store=store, lease_seconds=6.0).fit([1])

        [attempt] = await store.query_attempts((await store.query_rollouts())[0].rollout_id)
        assert attempt.status == "succeeded"


@linux
async def test_a_dead_runner_loses_its_rollouts_in_time_though_the_clock_is_set_back(
    tmp_path: Path, set_clock: SetClock
) -> None:
    async with SqliteLightningStore(tmp_path / "run.db") as store:
        await store.put([Worker("dead", lease_seconds=0.1)])
        rollout = await store.start_rollout(1, worker_id="dead")
        set_clock(-HOURS)
        await trio.sleep(0.2)

        assert (await store.expire()).requeued == [rollout.rollout_id]


@linux
async def test_a_retry_does_not_wait_for_a_clock_that_was_set_back(tmp_path: Path, set_clock: SetClock) -> None:
    async with SqliteLightningStore(tmp_path / "run.db") as store:
        config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
        started = await store.start_rollout(1, config=config)
        await store.finish(
            [AttemptOutcome(started.rollout_id, started.attempt.attempt_id, "failed", time.time(), next=RetryIn(0.1))]
        )
        set_clock(-HOURS)

        with trio.fail_after(30):
            await store.wait_claimable()


@pytest.mark.parametrize("limit", [{"queue_timeout_seconds": 60.0}, {"total_timeout_seconds": 60.0}])
async def test_a_clock_set_forward_lets_no_rollout_wait_too_long(
    tmp_path: Path, set_clock: SetClock, limit: dict[str, float]
) -> None:
    async def agent(task: int) -> float:
        if task == 0 and not calls:
            set_clock(HOURS)
            calls.append(task)
            raise ConnectionError
        return 1.0

    calls: list[int] = []
    config = RolloutConfig(max_attempts=2, retry_condition=["failed"], backoff_seconds=0.01, **limit)  # type: ignore[arg-type]
    store = SqliteLightningStore(tmp_path / "run.db")
    result = await Runner(agent, store=store, max_concurrency=1, config=config).fit(range(3))

    assert result.counts["succeeded"] == 3


def test_how_long_ago_a_moment_was_is_known_although_the_clock_was_set(set_clock: SetClock) -> None:
    clock = WallClock()
    moment = time.time() - 10.0
    for seconds in (HOURS, -HOURS, -5 * HOURS):
        set_clock(seconds)
        clock.note()

    assert clock.since(moment) == pytest.approx(10.0, abs=1.0)
    assert clock.since(time.time()) == pytest.approx(0.0, abs=1.0)


def test_how_long_ago_a_moment_was_is_known_although_the_clock_was_set_back_soon_after(set_clock: SetClock) -> None:
    clock = WallClock()
    set_clock(-HOURS)
    moment = time.time()
    clock.note()
    set_clock(HOURS)

    assert clock.since(moment) == pytest.approx(0.0, abs=1.0)


@linux
async def test_after_a_restart_of_the_machine_leases_and_waits_are_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SqliteLightningStore(tmp_path / "run.db") as store:
        await store.put([Worker("before", lease_seconds=HOURS)])
        rollout = await store.start_rollout(1, worker_id="before")
    monkeypatch.setattr(_clock, "boot_id", lambda: "another")

    async with SqliteLightningStore(tmp_path / "run.db") as store:
        assert (await store.expire()).requeued == [rollout.rollout_id]


async def test_a_clock_of_the_store_that_jumps_ends_no_lease_of_a_living_runner(tmp_path: Path) -> None:
    connections: list[SqliteConnection] = []

    class OpenToSee(SqliteLightningStore):
        def _connect(self) -> SqliteConnection:
            connections.append(super()._connect())
            return connections[-1]

    async def agent(task: int) -> float:
        for connection in connections:
            connection.ahead = HOURS + (connection.ahead or 0.0)
        await trio.sleep(1.0)
        return 1.0

    async with OpenToSee(tmp_path / "run.db") as store:
        await Runner(agent, store=store, lease_seconds=0.9).fit([1])

        [attempt] = await store.query_attempts((await store.query_rollouts())[0].rollout_id)
        assert attempt.status == "succeeded"


async def test_runners_of_a_blocked_process_keep_their_attempts(tmp_path: Path) -> None:
    async def agent(task: int) -> float:
        await trio.sleep(0.2)
        if task == 0:
            time.sleep(0.8)  # noqa: ASYNC251 - it blocks all runners of the process
        await trio.sleep(0.5)
        return 1.0

    async with SqliteLightningStore(tmp_path / "run.db") as store:
        async with trio.open_nursery() as nursery:
            for task in range(4):
                nursery.start_soon(Runner(agent, store=store, lease_seconds=0.3).fit, [task])

        assert len(await store.find(Query("attempts"))) == 4


PROGRAM = """
import sys, trio
import lightning_trio as agl

async def agent(task):
    print("runs", flush=True)
    await trio.sleep(0.5)
    return float(task)

store = agl.SqliteLightningStore(sys.argv[1])
result = trio.run(agl.Runner(agent, store=store, lease_seconds=0.3).fit, [7])
print(result.counts["succeeded"], flush=True)
"""


@linux
def test_a_stopped_process_keeps_its_attempts(tmp_path: Path) -> None:
    async def serve_meanwhile(process: subprocess.Popen[str]) -> int:
        calls = 0

        async def agent(task: int) -> float:
            nonlocal calls
            calls += 1
            return 0.0

        async with SqliteLightningStore(tmp_path / "run.db") as store:
            async with Runner(agent, store=store, lease_seconds=0.3) as runner, trio.open_nursery() as nursery:
                nursery.start_soon(runner.serve)
                await trio.sleep(1.0)
                os.kill(process.pid, signal.SIGCONT)
                assert await trio.to_thread.run_sync(process.stdout.readline) == "1\n"  # type: ignore[union-attr]
                nursery.cancel_scope.cancel()
            [rollout] = await store.query_rollouts()
            assert len(await store.query_attempts(rollout.rollout_id)) == 1
        return calls

    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run.db")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        os.kill(process.pid, signal.SIGSTOP)
        assert trio.run(serve_meanwhile, process) == 0
