"""Large tasks and resources: handled outside of Trio's thread or in slices, and in SQL stores kept in parts."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

import lightning_trio as agl
from lightning_trio import (
    EnqueueRolloutRequest,
    InMemoryLightningStore,
    PromptTemplate,
    SqliteLightningStore,
    StoreFormatError,
    audit,
)
from lightning_trio._spans import LARGE
from lightning_trio.algorithms import Datasets, digest_of_resources, is_other_task, keys_of_other_task
from lightning_trio.algorithms._datasets import encoded_task
from lightning_trio.store import RolloutRemoval, Unreadable

LONG = "x" * 3 * LARGE
LONGER = "y" * 5 * LARGE


class Watched(Mapping[str, Any]):
    """A mapping that records in which threads it is read."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def __getitem__(self, key: str) -> int:
        self.threads.add(threading.get_ident())
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter("a")

    def __len__(self) -> int:
        return 1


def parts_in(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count


@pytest.mark.parametrize(("text", "in_trio"), [("x", True), (LONG, False)], ids=["small", "large"])
@pytest.mark.parametrize("call", ["enqueue", "start", "update"])
async def test_only_large_tasks_are_encoded_in_another_thread(
    tmp_path: Path, text: str, in_trio: bool, call: str
) -> None:
    watched = Watched()
    task = {"text": text, "watched": watched}
    async with SqliteLightningStore(tmp_path / "s.db") as store:
        if call == "enqueue":
            await store.enqueue_rollout(task)
        elif call == "start":
            await store.start_rollout(task)
        else:
            await store.update_rollout((await store.enqueue_rollout(1)).rollout_id, input=task)

    assert len(watched.threads) == 1
    assert (threading.get_ident() in watched.threads) == in_trio


@pytest.mark.parametrize("call", ["enqueue", "start", "claim"])
async def test_other_tasks_run_while_a_large_task_is_copied_in_memory(call: str) -> None:
    beats = 0
    task = [{"numbers": list(range(10_000))} for _ in range(100)]
    store = InMemoryLightningStore()

    async def beat() -> None:
        nonlocal beats
        while True:
            await trio.lowlevel.checkpoint()
            beats += 1

    if call == "claim":
        await store.enqueue_rollout(task)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat)
        if call == "enqueue":
            await store.enqueue([EnqueueRolloutRequest(task)])
        else:
            [rollout] = await (store.start([EnqueueRolloutRequest(task)]) if call == "start" else store.claim(1))
            assert rollout.input == task
        nursery.cancel_scope.cancel()

    assert beats > 5


async def test_a_claim_that_is_cancelled_while_it_copies_a_task_returns_it() -> None:
    store = InMemoryLightningStore()
    await store.enqueue_rollout([list(range(1000))] * 200)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancelling, scope)
            claimed = await store.claim(1)

    assert scope.cancel_called
    assert len(claimed) == 1


async def cancelling(scope: trio.CancelScope) -> None:
    await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_a_large_task_is_kept_in_parts_until_it_is_replaced_or_removed(tmp_path: Path) -> None:
    async with SqliteLightningStore(tmp_path / "s.db") as store:
        rollout = await store.start_rollout([LONG])
        assert parts_in(tmp_path / "s.db", "payload_parts") == 3
        await store.update_rollout(rollout.rollout_id, input=[LONGER])
        assert parts_in(tmp_path / "s.db", "payload_parts") == 5
        await store.update_rollout(rollout.rollout_id, input="small")
        assert parts_in(tmp_path / "s.db", "payload_parts") == 0
        await store.update_rollout(rollout.rollout_id, input=[LONG], status="cancelled")

        await store.update([RolloutRemoval(rollout.rollout_id)])

        assert (await audit(store)).clean
    assert parts_in(tmp_path / "s.db", "payload_parts") == 0


async def test_a_large_snapshot_has_one_mapping_until_it_is_replaced(tmp_path: Path) -> None:
    async with SqliteLightningStore(tmp_path / "s.db") as store:
        update = await store.add_resources({"prompt": PromptTemplate(LONG)})
        first, second = [await store.get_resources_by_id(update.resources_id) for _ in range(2)]
        await store.update_resources(update.resources_id, {"prompt": PromptTemplate(LONG[1:] + "z")})

        third = await store.get_latest_resources()

    assert first is not None
    assert second is not None
    assert third is not None
    assert first.resources is second.resources
    assert third.resources == {"prompt": PromptTemplate(LONG[1:] + "z")}
    assert parts_in(tmp_path / "s.db", "resource_parts") == 3


async def test_a_large_task_without_its_parts_fails_alone(tmp_path: Path) -> None:
    async with SqliteLightningStore(tmp_path / "s.db") as store:
        await store.enqueue([EnqueueRolloutRequest([LONG]), EnqueueRolloutRequest("small")])
        with closing(sqlite3.connect(tmp_path / "s.db")) as connection, connection:
            connection.execute("DELETE FROM payload_parts WHERE part = 1")

        claimed = await store.claim(2)

        assert [rollout.input for rollout in claimed] == ["small"]
        [failed] = await store.query_rollouts(status_in=["failed"])
    assert isinstance(failed.input, Unreadable)
    assert "part 1 of number 1 is missing in payload_parts" in failed.input.reason


async def test_a_large_snapshot_without_its_parts_is_damaged(tmp_path: Path) -> None:
    async with SqliteLightningStore(tmp_path / "s.db") as store:
        update = await store.add_resources({"prompt": PromptTemplate("w" * 3 * LARGE)})
        with closing(sqlite3.connect(tmp_path / "s.db")) as connection, connection:
            connection.execute("DELETE FROM resource_parts")

        with pytest.raises(StoreFormatError, match="is missing in resource_parts"):
            await store.get_resources_by_id(update.resources_id)


async def test_a_part_without_its_owner_is_a_fault(tmp_path: Path) -> None:
    async with SqliteLightningStore(tmp_path / "s.db") as store:
        with closing(sqlite3.connect(tmp_path / "s.db")) as connection, connection:
            connection.execute("INSERT INTO payload_parts VALUES (7, 0, '[]')")
            connection.execute("INSERT INTO resource_parts VALUES (8, 0, '[]')")

        found = await store.find_faults()

    assert found == [
        "a part of a task (number 7 of payload_parts) without an existing rollout",
        "a part of resources (number 8 of resource_parts) without an existing snapshot",
    ]


@agl.rollout
async def count_rows(task: dict[str, Any]) -> float:
    return len(task["rows"]) / 10_000


async def test_a_run_of_large_tasks_resumes(tmp_path: Path) -> None:
    tasks = [{"rows": [{"text": f"row {number}"} for number in range(20_000)]}, {"rows": []}]
    before = await agl.Runner(count_rows, store=SqliteLightningStore(tmp_path / "s.db")).fit(tasks)

    again = await agl.Runner(count_rows, store=SqliteLightningStore(tmp_path / "s.db")).fit(tasks, resume=True)

    assert again.run_id == before.run_id
    assert again.mean_reward["train"] == 1.0
    assert again.counts == {"cancelled": 0, "failed": 0, "succeeded": 2}


READERS: dict[str, Callable[[dict[str, Any]], Awaitable[object]]] = {
    "a comparison": lambda task: is_other_task(task, dict(task)),
    "a checksum": lambda task: keys_of_other_task("train/-/0/0", task),
    "a fingerprint in memory": lambda task: Datasets([task], None).first_fingerprints(1),
    "a fingerprint": lambda task: Datasets([task], None).fingerprints(),
}


@pytest.mark.parametrize(("text", "in_trio"), [("x", True), (LONG, False)], ids=["small", "large"])
@pytest.mark.parametrize("read", READERS)
async def test_what_a_resumed_run_reads_of_large_tasks_is_encoded_in_another_thread(
    read: str, text: str, in_trio: bool
) -> None:
    watched = Watched()
    await READERS[read]({"text": text, "watched": watched})

    assert watched.threads
    assert (threading.get_ident() in watched.threads) == in_trio


@pytest.mark.parametrize("text", ["x", LONG], ids=["small", "large"])
async def test_tasks_are_compared_also_those_that_cannot_be_stored(text: str) -> None:
    thing = object()

    assert not await is_other_task({"text": text}, {"text": text})
    assert await is_other_task({"text": text}, {"text": text + "y"})
    assert not await is_other_task([text, thing], [text, thing])
    assert await is_other_task([text, thing], [text + "y", thing])


@pytest.mark.parametrize("text", ["x", LONG], ids=["small", "large"])
async def test_the_digest_of_resources_is_that_of_their_encoding(text: str) -> None:
    prompt = PromptTemplate(text, engine="f-string")
    encoded = encoded_task([("prompt", prompt.resource_type, prompt)])

    assert await digest_of_resources({"prompt": prompt}, b"run") == hashlib.sha256(b"run" + encoded).digest()
