"""A store bound to a run: its rollouts belong to the run, and its resources fit the run's agent."""

from __future__ import annotations

import pytest

from lightning_trio import (
    UNSET,
    AgentSignatureError,
    EnqueueRolloutRequest,
    InMemoryLightningStore,
    NamedResources,
    PromptTemplate,
    RolloutMode,
    UnknownId,
)
from lightning_trio._records import Unset
from lightning_trio.store import RunStore

TEMPLATE = {"prompt_template": PromptTemplate("Label {text}", engine="f-string")}


class NeedsTemplate:
    """A check that rejects resources without a prompt template, as a run's agent would, and records its calls."""

    def __init__(self) -> None:
        self.asked: list[tuple[RolloutMode | None | Unset, set[str]]] = []

    def __call__(self, mode: RolloutMode | None | Unset, resources: NamedResources) -> None:
        self.asked.append((mode, set(resources)))
        if "prompt_template" not in resources:
            raise AgentSignatureError("the agent needs prompt_template")


def anything_goes(mode: RolloutMode | None | Unset, resources: NamedResources) -> None:
    return


def tasks(number: int, resources_id: str | None = None) -> list[EnqueueRolloutRequest]:
    return [EnqueueRolloutRequest(task, "train", resources_id) for task in range(number)]


async def test_what_is_enqueued_belongs_to_the_run() -> None:
    store = InMemoryLightningStore()
    [rollout_id] = await RunStore(store, "run-1", anything_goes).enqueue(tasks(1), run_id="run-2")
    rollout = await store.get_rollout_by_id(rollout_id)

    assert rollout is not None
    assert rollout.run_id == "run-1"


async def test_familiar_calls_belong_to_the_run() -> None:
    store = InMemoryLightningStore()
    run = RunStore(store, "run-1", anything_goes)
    enqueued = await run.enqueue_rollout("a")
    started = await run.start_rollout("b")

    assert {enqueued.run_id, started.run_id} == {"run-1"}


async def test_only_the_runs_rollouts_are_claimed_and_counted() -> None:
    store = InMemoryLightningStore()
    await store.enqueue(tasks(3), run_id="run-2")
    run = RunStore(store, "run-1", anything_goes)
    ids = await run.enqueue(tasks(2))

    assert sum((await run.summarize()).counts.values()) == 2
    assert [rollout.rollout_id for rollout in await run.claim(9)] == ids


async def test_beyond_max_rollouts_they_are_recorded_as_cancelled() -> None:
    run = RunStore(InMemoryLightningStore(), "run-1", anything_goes, max_rollouts=3)
    ids = await run.enqueue(tasks(2)) + await run.enqueue(tasks(3))

    rollouts = await run.query_rollouts()
    assert [rollout.rollout_id for rollout in rollouts] == ids
    assert [rollout.status for rollout in rollouts] == ["queuing"] * 3 + ["cancelled"] * 2


async def test_cancelled_ones_do_not_use_up_max_rollouts() -> None:
    run = RunStore(InMemoryLightningStore(), "run-1", anything_goes, max_rollouts=1)
    await run.enqueue(tasks(2), status="cancelled")
    await run.enqueue(tasks(1))

    assert (await run.summarize()).counts == {"cancelled": 2, "queuing": 1}


async def test_an_unknown_resources_id_is_named_and_uses_up_nothing() -> None:
    run = RunStore(InMemoryLightningStore(), "run-1", NeedsTemplate(), max_rollouts=1)
    with pytest.raises(UnknownId, match="Resources rs-nowhere not found"):
        await run.enqueue(tasks(3, "rs-nowhere"))
    await run.add_resources(TEMPLATE)
    await run.enqueue(tasks(1))

    assert (await run.summarize()).counts == {"queuing": 1}


async def test_resources_the_agent_cannot_run_with_are_not_published() -> None:
    store = InMemoryLightningStore()
    with pytest.raises(AgentSignatureError, match="needs prompt_template"):
        await RunStore(store, "run-1", NeedsTemplate()).add_resources({})

    assert await store.get_latest_resources() is None


async def test_published_resources_are_checked_for_every_mode_of_the_run() -> None:
    check = NeedsTemplate()
    await RunStore(InMemoryLightningStore(), "run-1", check).add_resources(TEMPLATE)

    assert check.asked == [(UNSET, {"prompt_template"})]


async def test_a_refused_snapshot_is_refused_again() -> None:
    store = InMemoryLightningStore()
    snapshot = await store.add_resources({})
    run = RunStore(store, "run-1", NeedsTemplate())
    for _ in range(2):
        with pytest.raises(AgentSignatureError):
            await run.enqueue(tasks(1, snapshot.resources_id))

    assert (await run.summarize()).counts == {}


async def test_a_snapshot_is_checked_once_for_each_mode() -> None:
    store = InMemoryLightningStore()
    snapshot = await store.add_resources(TEMPLATE)
    check = NeedsTemplate()
    run = RunStore(store, "run-1", check)
    for mode in ("train", "train", "val"):
        await run.enqueue([EnqueueRolloutRequest("task", mode, snapshot.resources_id)] * 2)

    assert [mode for mode, _ in check.asked] == ["train", "val"]


async def test_a_new_version_of_a_snapshot_is_checked_again() -> None:
    store = InMemoryLightningStore()
    check = NeedsTemplate()
    run = RunStore(store, "run-1", check)
    snapshot = await run.add_resources(TEMPLATE)
    await run.enqueue(tasks(1, snapshot.resources_id))
    await run.update_resources(snapshot.resources_id, TEMPLATE)
    await run.enqueue(tasks(1, snapshot.resources_id))

    assert [mode for mode, _ in check.asked] == [UNSET, "train", UNSET, "train"]


async def test_statistics_are_those_of_the_whole_store() -> None:
    store = InMemoryLightningStore()
    await store.enqueue(tasks(2), run_id="run-2")

    assert await RunStore(store, "run-1", anything_goes).statistics() == await store.statistics()
