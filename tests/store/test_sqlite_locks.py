"""What takes SQLite's locks or files away from an open store, and what the store does about it."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trio

from lightning_trio import SqliteLightningStore, StoreUnavailable

ANOTHER_PROCESS = """
import sys, trio
from lightning_trio import SqliteLightningStore

async def main():
    async with SqliteLightningStore(sys.argv[1]) as store:
        await store.enqueue_rollout("of another process")

trio.run(main)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


async def open_and_close_in_another_process(path: Path) -> None:
    await trio.run_process([sys.executable, "-c", ANOTHER_PROCESS, str(path)])


def copy(path: Path) -> bytes:
    return path.read_bytes()


def exists(path: Path) -> bool:
    return path.exists()


def link(path: Path) -> Path:
    link = path.with_name("link.db")
    link.symlink_to(path)
    return link


def replace(path: Path, replacement: bytes | None) -> None:
    path.rename(path.with_suffix(".moved"))
    if replacement is not None:
        path.write_bytes(replacement)


async def inputs(store: SqliteLightningStore) -> list[str]:
    return sorted({str(rollout.input) for rollout in await store.query_rollouts()})


async def test_a_second_store_in_the_same_process_takes_no_lock_of_the_first_away(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        await store.enqueue_rollout("task")
        log = os.stat(f"{path}-wal").st_ino
        async with SqliteLightningStore(path):
            pass
        await open_and_close_in_another_process(path)

        assert os.stat(f"{path}-wal").st_ino == log


@pytest.mark.parametrize("linked", [False, True])
async def test_a_log_removed_after_a_program_read_the_file_is_an_error_before_anything_is_lost(
    path: Path, linked: bool
) -> None:
    if linked:
        path = link(path)
    async with SqliteLightningStore(path) as store:
        rollout = await store.enqueue_rollout("task")
        copy(path)
        await open_and_close_in_another_process(path)
        with pytest.raises(StoreUnavailable, match="Open the store again"):
            await store.enqueue_rollout("task")
        with pytest.raises(StoreUnavailable, match="was removed while the store was open"):
            await store.query_rollouts()
        with pytest.raises(StoreUnavailable, match="was removed while the store was open"):
            await store.wait_for_rollouts([rollout.rollout_id])
    async with SqliteLightningStore(path) as store:
        assert await inputs(store) == ["of another process", "task"]


@pytest.mark.parametrize("replacement", [None, b""])
async def test_a_file_that_was_removed_or_replaced_is_an_error(path: Path, replacement: bytes | None) -> None:
    async with SqliteLightningStore(path) as store:
        await store.enqueue_rollout("task")
        replace(path, replacement)

        with pytest.raises(StoreUnavailable, match="was removed or replaced while the store was open"):
            await store.enqueue_rollout("task")
        with pytest.raises(StoreUnavailable, match="was removed or replaced"):
            await store.query_rollouts()
        with pytest.raises(StoreUnavailable, match="was removed or replaced"):
            await store.vacuum()
        assert exists(path) == (replacement is not None)


@contextmanager
def connections_closed_all_the_time(path: Path) -> Iterator[None]:
    done = threading.Event()

    def connect() -> None:
        while not done.is_set():
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("SELECT * FROM counters").fetchall()

    threads = [threading.Thread(target=connect) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


async def test_readers_wait_for_connections_that_are_being_closed(path: Path) -> None:
    async with SqliteLightningStore(path) as store:
        await store.enqueue_rollout("task")
        with connections_closed_all_the_time(path):
            for _ in range(40):
                async with SqliteLightningStore(path) as other, trio.open_nursery() as nursery:
                    for _ in range(8):
                        nursery.start_soon(other.query_rollouts)
