"""Records that cannot be read: each fails its own rollout, and no claim, query, runner or resume of others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from postgres_server import postgres

import lightning_trio as agl
from lightning_trio import (
    EnqueueRolloutRequest,
    InMemoryLightningStore,
    LightningStore,
    PostgresLightningStore,
    SqliteLightningStore,
    audit,
)
from lightning_trio.store import Unreadable

__all__ = ["postgres"]

STORES = ["memory", "sqlite", "postgres"]


class Room(tuple[str, ...]):
    """A class whose objects can be hashed until it changes."""

    __slots__ = ()
    error: BaseException | None = None

    def __hash__(self) -> int:
        if Room.error is not None:
            raise Room.error
        return 1


@pytest.fixture
def change_class() -> Iterator[Callable[[BaseException], None]]:
    yield lambda error: setattr(Room, "error", error)
    Room.error = None


schemas = itertools.count()


@pytest.fixture
def open_store(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], LightningStore]:
    def make(kind: str) -> LightningStore:
        if kind == "postgres":
            return PostgresLightningStore(request.getfixturevalue("postgres").dsn, schema=f"unreadable_{next(schemas)}")
        return InMemoryLightningStore() if kind == "memory" else SqliteLightningStore(tmp_path / "run.db")

    return make


async def agent(task: Any) -> float:
    return 1.0


Change = Callable[[BaseException], None]


@pytest.mark.parametrize("kind", STORES[1:])
@pytest.mark.parametrize("error", [TypeError("unhashable"), SystemExit(3), KeyboardInterrupt()], ids=repr)
async def test_a_claim_fails_what_it_cannot_read_and_takes_the_others(
    kind: str, error: BaseException, open_store: Callable[[str], LightningStore], change_class: Change
) -> None:
    async with open_store(kind) as store:
        ids = await store.enqueue([EnqueueRolloutRequest(each) for each in (1, {Room("a")}, {Room("b")}, 4)])
        change_class(error)

        claimed = await store.claim(2)

        assert [each.input for each in claimed] == [1, 4]
        [bad, *_] = await store.query_rollouts(rollout_id_in=ids[1:3])
        assert isinstance(bad, agl.AttemptedRollout)
        assert (bad.status, bad.attempt.status) == ("failed", "failed")
        assert bad.attempt.error is not None
        assert bad.attempt.error.type == "StoreFormatError"
        assert f"rollout {bad.rollout_id} cannot be read ({type(error).__name__}" in bad.attempt.error.message
        assert await store.claim(1) == []
        assert (await store.summarize()).counts == {"preparing": 2, "failed": 2}


async def test_a_run_with_a_task_that_cannot_be_read_ends_and_is_resumed_and_audited(
    tmp_path: Path, change_class: Change
) -> None:
    store = SqliteLightningStore(tmp_path / "run.db")
    async with store:
        await store.enqueue([EnqueueRolloutRequest(each) for each in (1, {Room("a")}, 3)])
        change_class(TypeError("unhashable"))

        async with agl.Runner(agent, store=store) as runner, trio.open_nursery() as nursery:
            nursery.start_soon(runner.serve)
            with trio.fail_after(30):
                await store.wait_for_rollouts(rollout_ids=[each.rollout_id for each in await store.query_rollouts()])
            nursery.cancel_scope.cancel()

        assert (await store.summarize()).counts == {"succeeded": 2, "failed": 1}
        found = await audit(store)
        assert len(found.problems) == 1
        assert "cannot be read (TypeError: unhashable)" in found.problems[0]


async def test_resume_goes_on_with_the_others(tmp_path: Path, change_class: Change) -> None:
    begun = trio.Event()
    tasks = [1, {"of": {Room("a")}}, 3]

    async def hesitant(task: Any) -> float:
        begun.set()
        await trio.sleep_forever()
        return 1.0

    async with trio.open_nursery() as nursery:
        store = SqliteLightningStore(tmp_path / "run.db")
        nursery.start_soon(agl.Runner(agl.rollout(name="agent")(hesitant), store=store, max_concurrency=1).fit, tasks)
        await begun.wait()
        nursery.cancel_scope.cancel()
    change_class(TypeError("unhashable"))
    runner = agl.Runner(agent, store=SqliteLightningStore(tmp_path / "run.db"))
    result = await runner.fit([1, 2, 3], resume=True, force_resume=True)

    # The task that has taken its place has run as well.
    assert result.counts == {"succeeded": 3, "failed": 1, "cancelled": 0}


async def test_a_run_whose_state_cannot_be_read_stops_no_other_resume(
    tmp_path: Path, change_class: Change, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.db"
    async with SqliteLightningStore(path) as store:
        await store.put([agl.Run("run-1", agent="agent", algorithm="Baseline", state={Room("a")})])
    change_class(TypeError("unhashable"))

    result = await agl.Runner(agent, store=SqliteLightningStore(path)).fit([1], resume=True)

    assert result.counts["succeeded"] == 1
    assert "run-1 cannot be read (TypeError: unhashable); it is not resumed" in caplog.text
    with pytest.raises(agl.ResumeError, match=r"run-1 cannot be read .*, so that it cannot be resumed"):
        await agl.Runner(agent, store=SqliteLightningStore(path)).fit([1], resume="run-1")


@attrs.frozen
class Shelf(agl.Resource, resource_type="unreadable_test_shelf"):
    rooms: Any


async def test_resources_that_cannot_be_read_fail_their_own_rollouts(tmp_path: Path, change_class: Change) -> None:
    @agl.rollout
    async def needy(task: int, shelf: Any) -> float:
        return 1.0

    async with SqliteLightningStore(tmp_path / "run.db") as store:
        bad = await store.add_resources({"shelf": Shelf({Room("a")})})
        good = await store.add_resources({"shelf": Shelf(1)})
        ids = await store.enqueue([EnqueueRolloutRequest(1, resources_id=each.resources_id) for each in (bad, good)])
        change_class(TypeError("unhashable"))

        async with agl.Runner(needy, store=store) as runner, trio.open_nursery() as nursery:
            nursery.start_soon(runner.serve)
            with trio.fail_after(30):
                await store.wait_for_rollouts(rollout_ids=ids)
            nursery.cancel_scope.cancel()

        failed, succeeded = await store.query_rollouts(rollout_id_in=ids)

    assert (failed.status, succeeded.status) == ("failed", "succeeded")
    assert isinstance(failed, agl.AttemptedRollout)
    assert failed.attempt.error is not None
    assert f"the resources {bad.resources_id} cannot be read" in failed.attempt.error.message


async def test_what_stands_in_place_of_an_unreadable_value_is_not_stored_over_it(tmp_path: Path) -> None:
    async with SqliteLightningStore(tmp_path / "run.db") as store:
        with pytest.raises(agl.NotStorable, match="Unreadable cannot be stored"):
            await store.enqueue_rollout({"a": Unreadable("so")})


class Faulty(Sequence[EnqueueRolloutRequest]):
    """Requests of which one cannot be had."""

    def __getitem__(self, index: Any) -> Any:
        if index == 7:
            raise OSError("the dataset's server is away")
        return EnqueueRolloutRequest(index)

    def __len__(self) -> int:
        return 9


class Hidden:
    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)


class Unspeakable:
    def __repr__(self) -> str:
        raise SystemExit

    def __eq__(self, other: object) -> bool:
        raise SystemExit

    def __hash__(self) -> int:
        return 1


def seventh_is_bad(task: Any) -> list[EnqueueRolloutRequest]:
    return [EnqueueRolloutRequest(task if number == 7 else number) for number in range(9)]


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize(
    ("requests", "error"),
    [
        (Faulty, OSError),
        (lambda: iter(Faulty()), OSError),
        (lambda: [*seventh_is_bad(1), EnqueueRolloutRequest(1, resources_id="rs-unknown")], agl.UnknownId),
    ],
    ids=["sequence", "iterator", "resources"],
)
async def test_an_enqueue_that_raises_has_changed_nothing(
    kind: str, requests: Callable[[], Any], error: type[Exception], open_store: Callable[[str], LightningStore]
) -> None:
    async with open_store(kind) as store:
        before = await store.summarize()

        with pytest.raises(error):
            await store.enqueue_many_rollouts(requests())
        with pytest.raises(error):
            await store.enqueue(requests())

        assert await store.summarize() == before
        assert await store.claim(1) == []


@pytest.mark.parametrize("kind", STORES[1:])
async def test_a_batch_with_a_task_that_cannot_be_stored_changes_nothing(
    kind: str, open_store: Callable[[str], LightningStore]
) -> None:
    async with open_store(kind) as store:
        with pytest.raises(agl.NotStorable, match="task"):
            await store.enqueue(seventh_is_bad(Hidden()))

        assert await store.claim(1) == []
        assert (await store.summarize()).counts == {}


async def test_a_run_in_memory_keeps_tasks_that_cannot_be_shown_or_compared() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    tasks = [1, Unspeakable(), {Room("a"): 1}, deep, 7**20_000, Hidden()]
    runner = agl.Runner(agent, store=InMemoryLightningStore())

    async with runner:
        result = await runner.fit(tasks)
        again = await runner.fit(tasks, resume=True)

    assert result.counts == again.counts == {"succeeded": 6, "failed": 0, "cancelled": 0}


async def test_a_key_that_cannot_be_hashed_any_more_stops_no_claim_in_memory(change_class: Change) -> None:
    async with InMemoryLightningStore() as store:
        await store.enqueue([EnqueueRolloutRequest({Room("a"): 1}), EnqueueRolloutRequest(2)])
        change_class(SystemExit(1))

        first, second = await store.claim(2)

    assert (list(first.input), second.input) == ([("a",)], 2)


async def test_requests_that_were_refused_do_not_count_towards_the_limit(tmp_path: Path) -> None:
    class Careless(agl.Algorithm):
        async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
            with pytest.raises(agl.NotStorable):
                await self.session.store.enqueue([EnqueueRolloutRequest(object())])
            await self.session.work_off(train_dataset)

    runner = agl.Runner(agent, store=SqliteLightningStore(tmp_path / "run.db"), algorithm=Careless(), max_rollouts=2)

    assert (await runner.fit([1, 2])).counts["succeeded"] == 2
