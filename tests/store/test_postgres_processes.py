"""Several runner processes on one PostgreSQL queue: one dies, stalls or is cut off, and the books balance."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio
from postgres_server import PostgresServer, make_server, postgres, remove_server

import lightning_trio as agl
from lightning_trio import EnqueueRolloutRequest, PostgresLightningStore

__all__ = ["postgres"]

pytestmark = pytest.mark.heavy

TASKS = 300
LEASE_SECONDS = 1.5

RUNNER = """
    import os, trio
    import lightning_trio as agl

    async def agent(task: int, rollout: agl.AttemptedRollout) -> float:
        # One line per call, written atomically by any number of processes.
        os.write(journal, f"{rollout.attempt.attempt_id}\\n".encode())
        await trio.sleep(0.05)
        return float(task)

    async def main() -> None:
        store = agl.PostgresLightningStore(DSN, connections=2)
        async with agl.Runner(agent, store=store, max_concurrency=6, lease_seconds=LEASE_SECONDS) as runner:
            await runner.serve()

    journal = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    trio.run(main)
"""


@contextmanager
def runner_process(dsn: str, journal: Path, *run_in: str, host: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a runner until the block ends; `host` is the name of another machine that it takes itself to be on."""
    head = f"DSN, JOURNAL, LEASE_SECONDS = {dsn!r}, {str(journal)!r}, {LEASE_SECONDS!r}\n"
    if host is not None:
        head += f"import socket\nsocket.gethostname = lambda: {host!r}\n"
    process = subprocess.Popen([*run_in, sys.executable, "-c", head + textwrap.dedent(RUNNER)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def enqueue_for(store: PostgresLightningStore, runners: int) -> list[str]:
    """Fill the queue once all runners have started, so that each gets a share."""
    while len(await store.query_workers()) < runners:
        await trio.sleep(0.02)
    return await store.enqueue([EnqueueRolloutRequest(number) for number in range(TASKS)])


async def wait_counted(store: PostgresLightningStore, succeeded: int) -> None:
    while (await store.summarize()).counts.get("succeeded", 0) < succeeded:
        await trio.sleep(0.02)


def lines(*journals: Path) -> list[str]:
    return [line for journal in journals if journal.exists() for line in journal.read_text().splitlines()]


async def check_books(store: PostgresLightningStore, *journals: Path) -> Counter[str]:
    """Check that every rollout succeeded once and every attempt ran at most once; return attempts by status."""
    summary = await store.summarize()
    assert summary.counts == {"succeeded": TASKS}
    assert summary.mean_reward(None) == pytest.approx((TASKS - 1) / 2)
    assert await agl.audit(store) == agl.Audit(TASKS, [])
    attempts = [
        attempt
        for rollout in await store.query_rollouts()
        for attempt in await store.query_attempts(rollout.rollout_id)
    ]
    ran = Counter(lines(*journals))
    assert set(ran.values()) == {1}
    assert ran.keys() <= {attempt.attempt_id for attempt in attempts}
    ended_well = [attempt for attempt in attempts if attempt.status == "succeeded"]
    assert len(ended_well) == TASKS
    assert {attempt.attempt_id for attempt in ended_well} <= ran.keys()
    return Counter(attempt.status for attempt in attempts)


async def test_a_runner_is_killed_and_the_others_finish_its_work(postgres: PostgresServer, tmp_path: Path) -> None:
    postgres.psql("DROP SCHEMA IF EXISTS lightning_trio CASCADE")
    journal = tmp_path / "journal"
    with trio.fail_after(120):
        async with PostgresLightningStore(postgres.dsn) as store:
            with ExitStack() as stack:
                runners = [stack.enter_context(runner_process(postgres.dsn, journal)) for _ in range(3)]
                ids = await enqueue_for(store, 3)
                await wait_counted(store, TASKS // 4)
                runners[0].kill()
                assert await store.wait_finished(ids) == []
            statuses = await check_books(store, journal)

    # 0 if the runner was killed between two claims.
    assert statuses["unresponsive"] <= 6


async def test_what_a_stalled_runner_reports_late_counts_for_nothing(postgres: PostgresServer, tmp_path: Path) -> None:
    postgres.psql("DROP SCHEMA IF EXISTS lightning_trio CASCADE")
    journal = tmp_path / "journal"
    with trio.fail_after(120):
        async with PostgresLightningStore(postgres.dsn) as store:
            with ExitStack() as stack:
                # On one machine, the others would leave a stopped process its attempts.
                runners = [
                    stack.enter_context(runner_process(postgres.dsn, journal, host=host)) for host in ("one", "two")
                ]
                ids = await enqueue_for(store, 2)
                await wait_counted(store, TASKS // 4)
                runners[0].send_signal(signal.SIGSTOP)
                assert await store.wait_finished(ids) == []
                runners[0].send_signal(signal.SIGCONT)
                [again] = await store.enqueue([EnqueueRolloutRequest(0)])
                await store.wait_finished([again])
                await store.update([agl.RolloutRemoval(again)])
                await trio.sleep(0.5)
            summary = await store.summarize()
            found = await agl.audit(store)

    assert summary.counts == {"succeeded": TASKS + 1}
    assert found == agl.Audit(TASKS, [])


async def test_the_server_crashes_under_several_runners(tmp_path: Path) -> None:
    server = make_server()
    journal = tmp_path / "journal"
    try:
        server.start()
        with trio.fail_after(120):
            async with PostgresLightningStore(server.dsn) as store:
                with ExitStack() as stack:
                    for _ in range(3):
                        stack.enter_context(runner_process(server.dsn, journal))
                    ids = await enqueue_for(store, 3)
                    for part in (5, 3):
                        await wait_counted(store, TASKS // part)
                        server.stop(signal.SIGQUIT)
                        server.start()
                    assert await store.wait_finished(ids) == []
                await check_books(store, journal)
    finally:
        remove_server(server)


# Two machines, simulated by network namespaces.


class TwoMachines:
    """Two network namespaces, joined by a virtual cable; the server runs in the first."""

    ADDRESS = "10.231.77.1"

    def __init__(self, name: str) -> None:
        self.names = (f"{name}a", f"{name}b")
        self.server: PostgresServer | None = None

    def make(self) -> None:
        first, second = self.names
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "cable0", "netns", first, "type", "veth", "peer", "name", "cable1", "netns", second)
        for number, (name, end) in enumerate(zip(self.names, ("cable0", "cable1"), strict=True), 1):
            ip("-n", name, "address", "add", f"10.231.77.{number}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")

    def set_cable(self, state: str) -> None:
        ip("-n", self.names[1], "link", "set", "cable1", state)

    def within(self, machine: int) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.names[machine])

    def remove(self) -> None:
        if self.server is not None:
            remove_server(self.server)
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@pytest.fixture
def machines() -> Iterator[TwoMachines]:
    if shutil.which("ip") is None:
        pytest.skip("needs network namespaces: there is no `ip` (iproute2)")
    two = TwoMachines(f"lt{os.getpid()}")
    try:
        try:
            two.make()
        except OSError as exc:
            pytest.skip(f"needs network namespaces, which cannot be made here: {exc}")
        two.server = make_server(run_in=two.within(0))
        two.server.let_in_all()
        two.server.start(listen=TwoMachines.ADDRESS)
        yield two
    finally:
        two.remove()


@pytest.mark.parametrize("fate", ["killed", "cut off"])
async def test_two_machines_work_off_one_queue_and_one_is_lost(
    machines: TwoMachines, tmp_path: Path, fate: str
) -> None:
    server = machines.server
    assert server is not None
    dsn = f"host={TwoMachines.ADDRESS} port={server.port} user=postgres dbname=postgres"
    journal, far_journal = tmp_path / "journal", tmp_path / "far_journal"
    with trio.fail_after(120):
        # Sockets in the file system work across namespaces.
        async with PostgresLightningStore(server.dsn) as store:
            with ExitStack() as stack:
                stack.enter_context(runner_process(dsn, journal, *machines.within(0), host="near"))
                far = stack.enter_context(runner_process(dsn, far_journal, *machines.within(1), host="far"))
                ids = await enqueue_for(store, 2)
                while len(lines(far_journal)) < 20:
                    await trio.sleep(0.02)
                if fate == "killed":
                    far.kill()
                else:
                    machines.set_cable("down")
                assert await store.wait_finished(ids) == []
                if fate == "cut off":
                    machines.set_cable("up")
                    await trio.sleep(3)
            statuses = await check_books(store, journal, far_journal)

    assert statuses["unresponsive"] >= 1
