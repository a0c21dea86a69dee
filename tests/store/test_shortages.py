"""A full disk, and a process without file descriptors: calls wait, and nothing is lost or done twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from open_stores import OpenToSee

from lightning_trio import Runner, SqliteLightningStore, StoreFull, StoreUnavailable, emit_message
from lightning_trio.store._sqlite import _store
from lightning_trio.store._sqlite._connection import SqliteConnection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.db"


async def test_a_run_waits_for_room_on_a_full_disk_and_runs_no_agent_twice(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    store = OpenToSee(path)

    async def agent(task: int) -> float:
        calls.append(task)
        emit_message("x" * 100_000)
        if task == 3:
            store.writer.run("PRAGMA max_page_count = 1")
        return float(task)

    async def make_room() -> None:
        while "there is no room left" not in caplog.text:
            await trio.sleep(0.01)
        store.writer._connection.execute("PRAGMA max_page_count = 1000000")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make_room)
        result = await Runner(agent, store=store, max_concurrency=2).fit(range(10))

    assert (result.counts["succeeded"], sorted(calls)) == (10, list(range(10)))
    assert "the store works again" in caplog.text


async def test_a_run_that_ended_for_want_of_room_is_resumed_at_once(path: Path) -> None:
    store = OpenToSee(path, patience_seconds=0)

    async def agent(task: int) -> float:
        if task == 3 and not done:
            store.writer.run("PRAGMA max_page_count = 1")
        emit_message("x" * 100_000)
        return float(task)

    done = False
    with pytest.raises(StoreFull):
        await Runner(agent, store=store, max_concurrency=2).fit(range(10))
    done = True
    result = await Runner(agent, store=store).fit(range(10), resume=True)

    assert result.counts["succeeded"] == 10


PROGRAM = """
import os, resource, sys, time, trio
import lightning_trio as agl

def eat():
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return taken

def hungry(task):
    if task == 2:
        idle, kept = store._readers._idle, []
        taken = eat()
        # A query then needs a new connection.
        for _ in range(50):
            while idle:
                kept.append(idle.pop())
            time.sleep(0.02)
        for each in taken:
            os.close(each)
    return float(task)

store = agl.SqliteLightningStore(sys.argv[1])

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    async with store, trio.open_nursery() as nursery:
        async def read():
            while True:
                await store.summarize()
                await trio.sleep(0.02)
        nursery.start_soon(read)
        result = await agl.Runner(hungry, store=store, max_concurrency=4).fit(range(10))
        nursery.cancel_scope.cancel()
    print(result.counts["succeeded"])

trio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of open files")
def test_a_moment_without_file_descriptors_ends_nothing_and_is_named(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout == "10\n", done.stderr
    assert f"no file descriptors left to open {path}" in done.stderr


@contextmanager
def no_descriptors() -> Generator[None]:
    taken: list[int] = []
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, limits[1]), limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of open files")
async def test_waiting_for_other_processes_needs_no_new_file_descriptor(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        await store.summarize()
        with no_descriptors(), trio.move_on_after(0.2) as scope:
            await store.wait_claimable()

        assert scope.cancelled_caught


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of open files")
async def test_a_store_that_cannot_be_opened_without_file_descriptors_says_so(path: Path) -> None:
    async with SqliteLightningStore(path):
        pass

    with no_descriptors(), pytest.raises(StoreUnavailable, match=r"no file descriptors left to open .*ulimit -n"):
        async with SqliteLightningStore(path, patience_seconds=0):
            pass


@pytest.mark.parametrize("step", ["_connect", "_prepare", "_changed"])
@pytest.mark.parametrize("kind", ["disk", "no_descriptors"])
async def test_opening_waits_for_what_is_missing_and_keeps_nothing_of_a_failed_try(
    path: Path, step: str, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, closed, connected, failures = getattr(SqliteLightningStore, step), list[Any](), list[Any](), [1, 2]
    error = StoreFull.disk(path, "full") if kind == "disk" else StoreUnavailable.no_descriptors(str(path), "none")

    def fail_at_first(self: SqliteLightningStore, *args: Any) -> Any:
        if failures:
            failures.pop()
            raise error
        return real(self, *args)

    class Seen(SqliteConnection):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            connected.append(self)

        def close(self) -> None:
            super().close()
            closed.append(self)

    monkeypatch.setattr(_store, "SqliteConnection", Seen)
    monkeypatch.setattr(SqliteLightningStore, step, fail_at_first)
    async with SqliteLightningStore(path) as store:
        assert len(connected) - len(set(closed)) == 2
        await store.enqueue_rollout("task")

    assert "the store works again" in caplog.text


async def test_a_cancelled_opening_does_not_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: SqliteLightningStore, connection: SqliteConnection) -> None:
        raise StoreFull.disk(path, "full")

    monkeypatch.setattr(SqliteLightningStore, "_prepare", fail)
    with trio.move_on_after(0.1) as scope:
        await SqliteLightningStore(path, patience_seconds=3600).__aenter__()

    assert scope.cancelled_caught


async def test_queries_wait_for_a_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, refusals = trio.to_thread.run_sync, [1, 2]

    async def refuse_at_first(*args: Any, **options: Any) -> Any:
        if refusals:
            refusals.pop()
            raise RuntimeError("can't start new thread")
        return await real(*args, **options)

    async with SqliteLightningStore(path) as store:
        monkeypatch.setattr(trio.to_thread, "run_sync", refuse_at_first)
        summary = await store.summarize()

    assert (refusals, dict(summary.counts)) == ([], {})
