"""A run whose process is killed again and again finishes: nothing is lost, and nothing is counted twice."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from lightning_trio import EnqueueRolloutRequest, SqliteLightningStore, audit

pytestmark = [pytest.mark.heavy, pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")]

TASKS = 1000

PROGRAM = """
import sys, trio
import lightning_trio as agl

@agl.rollout(config=agl.RolloutConfig(max_attempts=3, retry_condition=["failed"], backoff_seconds=0.01,
                                      max_lost_attempts=1000))
async def agent(task):
    agl.emit_message(f"task {task}")
    await trio.sleep(0.01)
    if task % 50 == 7 and agl.current_rollout().attempt.sequence_id == 1:
        raise ValueError("fails at first")
    return float(task)

async def main():
    store = agl.SqliteLightningStore(sys.argv[1], synchronous="normal")
    runner = agl.Runner(agent, store=store, max_concurrency=10)
    print("begins", flush=True)
    result = await runner.fit(range(int(sys.argv[2])), resume=True)
    print("ends", result.counts["succeeded"], result.mean_reward["train"], flush=True)

trio.run(main)
"""


def run_for(path: Path, seconds: float) -> str:
    """Run the program and kill it `seconds` after its start, unless it has ended; return its output."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), str(TASKS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        said, error = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), error
    return said


@pytest.mark.parametrize("seed", range(2))
async def test_a_run_killed_at_many_points_comes_to_its_end(seed: int, tmp_path: Path) -> None:
    moments = random.Random(seed)
    path = tmp_path / "runs.db"

    kills = 0
    while not (said := run_for(path, moments.uniform(0.0, 0.25) if kills < 8 else 60.0)):
        kills += 1
        # The file is intact after each kill.
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    assert said == f"ends {TASKS} {(TASKS - 1) / 2}\n"
    assert kills > 3
    async with SqliteLightningStore(path) as store:
        found = await audit(store)
        rollouts = await store.query_rollouts()
        ends = Counter[str]()
        for rollout in rollouts:
            ends.update(
                rollout.rollout_id
                for attempt in await store.query_attempts(rollout.rollout_id)
                if attempt.status == "succeeded"
            )
        [run] = await store.query_runs()
    assert found.clean, found.problems
    assert sorted(rollout.input for rollout in rollouts) == list(range(TASKS))
    assert set(ends.values()) == {1}
    assert run.status == "finished"


RUNNER = """
import sys, trio
import lightning_trio as agl

@agl.rollout
async def agent(task):
    await trio.sleep(0.1)
    return float(task)

async def main():
    async with agl.SqliteLightningStore(sys.argv[1]) as store:
        async with agl.Runner(agent, store=store, max_concurrency=10, lease_seconds=1.0) as runner:
            print("begins", flush=True)
            await runner.serve()

trio.run(main)
"""


@contextmanager
def runners(path: Path, number: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start runner processes on the queue of one file, and kill them at the end of the block."""
    command = [sys.executable, "-c", RUNNER, str(path)]
    with ExitStack() as stack:
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(number)]
        for process in processes:
            stack.callback(process.communicate)
            stack.callback(process.kill)
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield processes


async def test_several_runners_on_one_file_survive_the_death_of_one(tmp_path: Path) -> None:
    """The rollouts of a killed runner go to the others when its lease ends."""
    async with SqliteLightningStore(tmp_path / "queue.db") as store:
        with runners(store.path, 3) as [victim, *_]:
            requests = [EnqueueRolloutRequest(task) for task in range(300)]
            ids = [rollout.rollout_id for rollout in await store.enqueue_many_rollouts(requests)]
            await store.wait_finished(ids, count=60)
            victim.kill()
            rollouts = await store.wait_for_rollouts(ids, timeout=60)

        found = await audit(store)
        attempts = [attempt for each in ids for attempt in await store.query_attempts(each)]
    statuses = Counter(attempt.status for attempt in attempts)
    assert [rollout.status for rollout in rollouts] == ["succeeded"] * 300
    assert found.clean, found.problems
    assert statuses["succeeded"] == 300
    assert statuses["unresponsive"] > 0
    assert len({attempt.worker_id for attempt in attempts}) == 3
