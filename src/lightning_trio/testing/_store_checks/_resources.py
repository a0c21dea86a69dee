"""Resources snapshots and workers."""

from __future__ import annotations

import attrs

from ..._errors import ResourceError
from ..._records import Worker, WorkerStatus
from ..._resources import LLM, PromptTemplate
from ...store import LightningStore
from ._steps import Check, Marker, claim_one, expect, expect_equal, refused, requests


async def a_snapshot_comes_back_as_it_was(store: LightningStore) -> None:
    resources = {
        "template": PromptTemplate("Label {text}", engine="f-string"),
        "llm": LLM("http://127.0.0.1:1/v1", "m", sampling_parameters={"temperature": 0.5}, api_key_env="KEY"),
        "marker": Marker(3),
    }
    added = await store.add_resources(resources)

    expect_equal(added.version, 1, "a new snapshot has version 1")
    found = await store.get_resources_by_id(added.resources_id)
    expect_equal(found, added, "a snapshot is found by its id")
    expect_equal(dict(added.resources), resources, "resources come back unchanged, including those of a user's class")


async def a_large_snapshot_comes_back_as_it_was(store: LightningStore) -> None:
    for text in "x" * 600_000, "y" * 600_000, "z":
        resources = {"prompt": PromptTemplate(text)}
        update = await store.update_resources("rs-large", resources)

        kept = await store.get_resources_by_id(update.resources_id)
        expect(kept is not None and kept.resources == resources, "a large snapshot is kept, and replaced by the next")
        latest = await store.get_latest_resources()
        expect(latest is not None and latest.resources == resources, "a large snapshot is the latest")


async def the_latest_snapshot_is_the_one_stored_last(store: LightningStore) -> None:
    expect_equal(await store.get_latest_resources(), None, "an empty store has no latest snapshot")
    first = await store.add_resources({"marker": Marker(1)})
    second = await store.add_resources({"marker": Marker(2)})
    expect(first.resources_id != second.resources_id, "every snapshot has an id of its own")
    expect_equal(await store.get_latest_resources(), second, "the latest snapshot is the one stored last")

    again = await store.update_resources(first.resources_id, {"marker": Marker(3)})
    expect_equal(await store.get_latest_resources(), again, "an updated snapshot becomes the latest")


async def an_update_is_the_next_version(store: LightningStore) -> None:
    first = await store.add_resources({"marker": Marker(1)})
    second = await store.update_resources(first.resources_id, {"other": Marker(2)})

    expect_equal((second.resources_id, second.version), (first.resources_id, 2), "an update is the next version")
    expect_equal(second.create_time, first.create_time, "an update keeps create_time")
    expect_equal(dict(second.resources), {"other": Marker(2)}, "an update replaces the resources")
    expect_equal(dict(first.resources), {"marker": Marker(1)}, "a snapshot handed out never changes")
    expect_equal(await store.get_resources_by_id(first.resources_id), second, "the id finds the latest version")


async def an_update_of_an_unknown_snapshot_creates_it(store: LightningStore) -> None:
    made = await store.update_resources("rs-mine", {"marker": Marker(1)})

    expect_equal((made.resources_id, made.version), ("rs-mine", 1), "an unknown id is created, with version 1")
    expect_equal(await store.get_resources_by_id("rs-mine"), made, "it is found by its id")
    [rollout] = await store.start(requests("a"))
    expect_equal(rollout.resources_id, "rs-mine", "it is the latest")


async def what_is_no_resource_is_refused(store: LightningStore) -> None:
    with refused(ResourceError, "a value that is not a resource is refused"):
        await store.add_resources({"prompt": "Label {text}"})  # type: ignore[dict-item]

    expect_equal(await store.get_latest_resources(), None, "nothing is stored then")


async def snapshots_are_found_by_id(store: LightningStore) -> None:
    for name in ("rs-one", "rs-two", "rs-three"):
        await store.update_resources(name, {"marker": Marker(1)})

    found = await store.query_resources(resources_id_contains="rs-t", sort_by="resources_id")
    expect_equal([each.resources_id for each in found], ["rs-three", "rs-two"], "snapshots are found by part of an id")
    page = await store.query_resources(sort_by="resources_id", sort_order="desc", limit=1, offset=1)
    expect_equal([each.resources_id for each in page], ["rs-three"], "snapshots are sorted and paged")
    expect_equal(page.total, 3, "total counts all that match")


async def snapshots_come_in_order_of_creation(store: LightningStore) -> None:
    first = await store.add_resources({"marker": Marker(1)})
    second = await store.add_resources({"marker": Marker(2)})
    await store.update_resources(first.resources_id, {"marker": Marker(3)})

    found = [each.resources_id for each in await store.query_resources()]
    expect_equal(found, [first.resources_id, second.resources_id], "snapshots come in order of creation")


async def a_worker_is_kept_and_replaced(store: LightningStore) -> None:
    worker = Worker("worker-1", "idle", {"cpu": 0.5}, 1.0, 2.0, 3.0, 4.0, "ro-1", "at-1")
    await store.put([worker])
    expect_equal(await store.get_worker_by_id("worker-1"), worker, "a worker is kept unchanged")

    replaced = attrs.evolve(worker, status="busy", heartbeat_stats=None)
    await store.put([replaced])
    expect_equal(list(await store.query_workers()), [replaced], "a worker's record replaces the one before")


async def a_heartbeat_creates_a_worker(store: LightningStore) -> None:
    worker = await store.update_worker("worker-1", {"cpu": 0.5})

    expect_equal((worker.status, worker.heartbeat_stats), ("unknown", {"cpu": 0.5}), "an unknown worker is created")
    expect(worker.last_heartbeat_time is not None, "a heartbeat is noted")
    again = await store.update_worker("worker-1")
    expect_equal(again.heartbeat_stats, {"cpu": 0.5}, "what is not given stays")
    expect_equal(await store.get_worker_by_id("worker-1"), again, "the store keeps the worker that it returned")


async def a_claim_makes_its_worker_busy(store: LightningStore) -> None:
    await store.enqueue(requests("a"))
    [claimed] = await store.claim(1, worker_id="worker-1")

    worker = await store.get_worker_by_id("worker-1")
    seen = None if worker is None else (worker.status, worker.current_rollout_id, worker.current_attempt_id)
    wanted = ("busy", claimed.rollout_id, claimed.attempt.attempt_id)
    expect_equal(seen, wanted, "a worker that claims is recorded as busy with what it claimed")


async def a_worker_whose_attempt_has_ended_is_not_busy_with_it(store: LightningStore) -> None:
    await store.enqueue(requests("a"))
    [claimed] = await store.claim(1, worker_id="worker-1")
    await store.update_attempt(claimed.rollout_id, "latest", status="succeeded")

    worker = await store.get_worker_by_id("worker-1")
    expect_equal(None if worker is None else worker.status, "idle", "a worker whose attempt has ended is idle")


async def workers_are_filtered_and_paged(store: LightningStore) -> None:
    statuses: list[WorkerStatus] = ["idle", "busy", "unknown", "busy"]
    for number, status in enumerate(statuses):
        await store.put([Worker(f"worker-{number}", status)])

    found = await store.query_workers(status_in=["busy"], worker_id_contains="1")
    expect_equal([worker.worker_id for worker in found], ["worker-1"], "filter_logic and: all filters hold")
    found = await store.query_workers(status_in=["idle"], worker_id_contains="1", filter_logic="or")
    expect_equal([worker.worker_id for worker in found], ["worker-0", "worker-1"], "filter_logic or: any filter holds")
    page = await store.query_workers(limit=2, offset=1)
    expect_equal([worker.worker_id for worker in page], ["worker-1", "worker-2"], "workers are paged")
    expect_equal(page.total, 4, "total counts all that match")


async def an_attempts_worker_is_kept(store: LightningStore) -> None:
    claimed = await claim_one(store)
    again = await store.start_attempt(claimed.rollout_id, worker_id="worker-2")

    workers = [attempt.worker_id for attempt in await store.query_attempts(again.rollout_id)]
    expect_equal(workers, [None, "worker-2"], "every attempt keeps the id of its worker")


CHECKS: tuple[Check, ...] = (
    a_snapshot_comes_back_as_it_was,
    a_large_snapshot_comes_back_as_it_was,
    the_latest_snapshot_is_the_one_stored_last,
    an_update_is_the_next_version,
    an_update_of_an_unknown_snapshot_creates_it,
    what_is_no_resource_is_refused,
    snapshots_are_found_by_id,
    snapshots_come_in_order_of_creation,
    a_worker_is_kept_and_replaced,
    a_heartbeat_creates_a_worker,
    a_claim_makes_its_worker_busy,
    a_worker_whose_attempt_has_ended_is_not_busy_with_it,
    workers_are_filtered_and_paged,
    an_attempts_worker_is_kept,
)
