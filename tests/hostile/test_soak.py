"""Minutes of kills and signals: whatever stops a run, resuming it to its end loses, doubles and misplaces nothing.

``pytest -m soak -s`` prints the figures. `SOAK_KILLS` and `SOAK_STORMS` are how many there are of each.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import soak_program
import trio
from postgres_server import PostgresServer, postgres

import lightning_trio as agl

__all__ = ["postgres"]

pytestmark = [pytest.mark.soak, pytest.mark.skipif(sys.platform == "win32", reason="sends signals")]

KILLS = int(os.environ.get("SOAK_KILLS", "200"))
STORMS = int(os.environ.get("SOAK_STORMS", "150"))
TASKS = 1000
PROGRAM = Path(soak_program.__file__)


@attrs.define
class Figures:
    """What a soak counts."""

    stops: int = 0
    runs: int = 0
    rollouts: int = 0
    attempts: int = 0
    lost: int = 0
    duplicated: int = 0
    misattributed: int = 0
    problems: int = 0
    seconds: float = 0.0


def kill(process: subprocess.Popen[str], moments: random.Random) -> None:
    """Kill a program at a random moment."""
    wait(process, moments.uniform(0.0, 0.8))
    process.kill()


def storm(process: subprocess.Popen[str], moments: random.Random) -> None:
    """Send a program a storm of signals, which begins at a random moment."""
    wait(process, moments.uniform(0.0, 0.5))
    for _ in range(moments.randint(1, 12)):
        process.send_signal(moments.choice([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR1]))
        wait(process, moments.choice([0.0, 0.001, 0.02, 0.1]))
    # A storm of SIGUSR1 alone stops nothing.
    wait(process, 1.0)
    process.send_signal(signal.SIGINT)


def wait(process: subprocess.Popen[str], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


# Before the runner has its handlers, and after it has given them back, a signal does what it does to any program.
STOPS = {0, 130, 143, -signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM, -signal.SIGUSR1}


def run_once(
    place: tuple[str, str], first: int, stop: Callable[[subprocess.Popen[str], random.Random], None], seed: int
) -> bool:
    """Run the program, stop it, and return whether it had come to its end before."""
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), *place, str(first), str(TASKS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        stop(process, random.Random(seed))
        try:
            said, error = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            said, error = process.communicate()
            raise AssertionError(f"it hangs after its signals: {error[-2000:]}") from None
    assert process.returncode in STOPS, f"exit status {process.returncode}: {error[-2000:]}"
    return said == f"ends {TASKS}\n"


def soak(place: tuple[str, str], stop: Callable[[subprocess.Popen[str], random.Random], None], number: int) -> Figures:
    """Stop runs `number` times, resume each until it has finished, and count."""
    begun = time.monotonic()
    figures = Figures()
    first = 0
    while figures.stops < number:
        if run_once(place, first, stop, seed=figures.stops):
            first += TASKS
        else:
            figures.stops += 1
    while not run_once(place, first, lambda process, _: None, seed=0):
        pass
    trio.run(count, soak_program.open_store(*place), range(first + TASKS), figures)
    figures.seconds = round(time.monotonic() - begun, 1)
    return figures


async def count(store: agl.LightningStore, tasks: range, figures: Figures) -> None:
    """Count what is in the store after all runs have finished."""
    async with store:
        figures.problems = len((await agl.audit(store)).problems)
        figures.runs = len(await store.query_runs())
        done = dict.fromkeys(tasks, 0)
        for rollout in await store.query_rollouts():
            attempts = await store.query_attempts(rollout.rollout_id)
            figures.rollouts += 1
            figures.attempts += len(attempts)
            done[rollout.input] += sum(attempt.status == "succeeded" for attempt in attempts)
            own = {"task": rollout.input, "own": rollout.rollout_id}
            for span in await store.query_spans(rollout.rollout_id):
                marks = {name: span.attributes[name] for name in own if name in span.attributes}
                figures.misattributed += span.rollout_id != rollout.rollout_id or marks not in ({}, own)
    figures.lost = sum(not times for times in done.values())
    figures.duplicated = sum(times > 1 for times in done.values()) + max(0, figures.rollouts - len(tasks))


@pytest.mark.parametrize(("stop", "number"), [(kill, KILLS), (storm, STORMS)], ids=["kills", "storms of signals"])
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_runs_that_are_stopped_and_resumed_lose_nothing(
    kind: str,
    stop: Callable[[subprocess.Popen[str], random.Random], None],
    number: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        server.psql("DROP SCHEMA IF EXISTS soak CASCADE")
        place = (kind, server.dsn)
    else:
        place = (kind, str(tmp_path / "soak.db"))

    # Half of them on each store.
    figures = soak(place, stop, number // 2)

    with capsys.disabled():
        print(f"\nsoak: {stop.__name__} on {kind}: {figures}", flush=True)
    assert (figures.lost, figures.duplicated, figures.misattributed, figures.problems) == (0, 0, 0, 0)
    assert figures.rollouts == figures.runs * TASKS
