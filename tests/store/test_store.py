"""Every store keeps the contract: the store in memory, a store bound to a run, and one that a user might write."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from dict_store import DictStore
from trio.testing import MockClock

from lightning_trio import (
    EnqueueRolloutRequest,
    InMemoryLightningStore,
    LightningStore,
    PaginatedResult,
    Rollout,
    Runner,
    Span,
    SqliteLightningStore,
)
from lightning_trio.store import AttemptChange, ForwardingStore, Query, RolloutChange, RolloutRemoval, RunStore
from lightning_trio.testing import check_store, store_checks
from lightning_trio.testing._store_checks._persistence import check_reopened
from lightning_trio.testing._store_checks._steps import Check

OpenStore = Callable[[], AbstractAsyncContextManager[LightningStore]]


@asynccontextmanager
async def open_run_store() -> AsyncGenerator[LightningStore]:
    async with InMemoryLightningStore() as store:
        yield RunStore(store, "run-0", lambda mode, resources: None)


def open_forwarding_store() -> LightningStore:
    return ForwardingStore(InMemoryLightningStore())


STORES: dict[str, OpenStore] = {
    "memory": InMemoryLightningStore,
    "run": open_run_store,
    "dict": DictStore,
    "forwarding": open_forwarding_store,
}

OF_MANY_RUNS = {
    "enqueue_remembers_the_run",
    "start_makes_a_rollout_past_the_queue",
    "claim_takes_one_runs_rollouts",
    "wait_claimable_waits_for_its_run",
    "rollouts_are_found_by_run",
    "counts_are_by_run_and_whole",
    "a_key_belongs_to_its_run",
    "old_rollouts_are_pruned",
}
"""Checks with several runs, which a store bound to one run cannot pass."""


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("check", store_checks(), ids=lambda check: check.__name__)
async def test_store_keeps_the_rule(name: str, check: Check, autojump_clock: MockClock) -> None:
    if name == "run" and check.__name__ in OF_MANY_RUNS:
        pytest.skip("a store bound to a run knows no other")
    with trio.fail_after(60):
        async with STORES[name]() as store:
            await check(store)


@pytest.mark.heavy
def test_the_whole_suite_runs_on_the_real_clock_as_well() -> None:
    trio.run(check_store, DictStore)


def test_checks_have_names_of_their_own() -> None:
    names = [check.__name__ for check in store_checks()]

    assert len(set(names)) == len(names)


class ForgetfulStore(DictStore):
    """A store that breaks one rule: it returns no spans."""

    async def add_spans(self, spans: object) -> list[Span]:
        await trio.lowlevel.checkpoint()
        return []


async def test_a_broken_rule_is_an_assertion_error_that_names_rule_and_check(autojump_clock: MockClock) -> None:
    with pytest.raises(AssertionError, match="results handed out never change: expected") as caught:
        await check_store(ForgetfulStore)

    assert caught.value.__notes__ == ["while check_store ran the check lists_handed_out_never_change"]


class RaisingStore(DictStore):
    """A store that fails at the first call."""

    async def enqueue(self, *args: object, **options: object) -> list[str]:
        await trio.lowlevel.checkpoint()
        raise KeyError("no table")


async def test_an_error_of_the_store_gets_a_note_that_names_the_check() -> None:
    with pytest.raises(KeyError, match="no table") as caught:
        await check_store(RaisingStore)

    assert caught.value.__notes__ == ["while check_store ran the check enqueue_gives_ids_in_the_order_of_the_requests"]


class SleepyStore(DictStore):
    """A store that does not wake waits for a claimable rollout."""

    async def wait_claimable(self, *, run_id: str | None = None) -> None:
        await trio.sleep_forever()


async def test_a_wait_that_never_ends_does_not_hang_the_suite(autojump_clock: MockClock) -> None:
    with pytest.raises(trio.TooSlowError) as caught:
        await check_store(SleepyStore)

    [note] = caught.value.__notes__
    assert "wait_claimable_returns_at_once_if_there_is_something" in note


class LeakyStore(DictStore):
    """A store that changes a rollout that it has returned."""

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | None:
        found = await super().get_rollout_by_id(rollout_id)
        return None if found is None else attrs.evolve(found, input="something else")


async def test_the_first_broken_rule_ends_the_suite(autojump_clock: MockClock) -> None:
    with pytest.raises(AssertionError, match="ids come in the order of the requests"):
        await check_store(LeakyStore)


class ShortLivedStore(InMemoryLightningStore):
    """A store that loses everything when it is closed."""

    async def on_close(self) -> None:
        InMemoryLightningStore.__init__(self)


async def test_a_store_that_forgets_everything_on_closing_is_found_out(autojump_clock: MockClock) -> None:
    with pytest.raises(AssertionError, match="closed and is opened again has everything \\(rollouts\\)") as caught:
        await check_store(ShortLivedStore)

    assert caught.value.__notes__ == ["while check_store ran the check a_store_opened_again_has_everything"]


async def test_a_store_that_only_seems_to_outlive_the_process_is_found_out(autojump_clock: MockClock) -> None:
    with pytest.raises(AssertionError, match="on the place of one that was closed has everything") as caught:
        await check_store(InMemoryLightningStore, reopen=lambda store: InMemoryLightningStore())

    assert caught.value.__notes__ == ["while check_store ran the check a_later_store_has_everything"]


async def test_a_file_opened_by_another_store_has_everything(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with SqliteLightningStore(path) as store:
        await check_reopened(store, lambda store: SqliteLightningStore(path))


async def test_a_runner_works_with_a_store_of_ones_own(autojump_clock: MockClock) -> None:
    async def agent(task: float) -> float:
        await trio.sleep(task)
        return task

    result = await Runner(agent, store=DictStore()).fit([0.5, 1.0], [2.0])

    assert result.counts == {"cancelled": 0, "failed": 0, "succeeded": 3}
    assert result.mean_reward == {"train": 0.75, "val": 2.0}


class CancellingStore(InMemoryLightningStore):
    """A store whose caller is cancelled after a commit, and that then takes `seconds` to answer queries."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.scope = trio.CancelScope()
        self.committed = False
        self.seconds = seconds

    async def enqueue(self, *args: Any, **options: Any) -> list[str]:
        ids = await super().enqueue(*args, **options)
        self.committed = True
        return ids

    async def update(self, changes: Sequence[RolloutChange | AttemptChange | RolloutRemoval]) -> None:
        await super().update(changes)
        self.committed = True

    async def find(self, query: Query) -> PaginatedResult[Any]:
        if self.committed:
            self.scope.cancel()
            await trio.sleep(self.seconds)
        return await super().find(query)


FAMILIAR: dict[str, Callable[[LightningStore, str], Awaitable[Any]]] = {
    "enqueue_rollout": lambda store, _: store.enqueue_rollout("b"),
    "enqueue_many_rollouts": lambda store, _: store.enqueue_many_rollouts([EnqueueRolloutRequest("b")]),
    "update_rollout": lambda store, rollout_id: store.update_rollout(rollout_id, metadata={"n": 1}),
    "update_attempt": lambda store, rollout_id: store.update_attempt(rollout_id, "latest", metadata={"n": 1}),
}


@pytest.mark.parametrize("name", FAMILIAR)
async def test_a_caller_cancelled_after_the_commit_still_gets_its_result(name: str) -> None:
    store = CancellingStore()
    rollout = await store.start_rollout("a")
    told: list[Any] = []

    with store.scope:
        told.append(await FAMILIAR[name](store, rollout.rollout_id))
        # The cancellation is not lost: it is raised now.
        await trio.lowlevel.checkpoint()
        told.append("not cancelled")

    assert len(told) == 1


async def test_a_cancelled_caller_does_not_wait_for_a_store_that_hangs(autojump_clock: MockClock) -> None:
    store = CancellingStore(seconds=float("inf"))

    with store.scope:
        await store.enqueue_rollout("a")

    assert store.scope.cancelled_caught
    assert trio.current_time() < 60
