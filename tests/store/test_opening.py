"""Stores are opened by their hooks, or by their own `__aenter__` and `__aexit__`."""

from __future__ import annotations

from typing import Any, Self

import pytest
import trio
from dict_store import DictStore

from lightning_trio import Runner, SqliteLightningStore, StoreClosed


class Opening(DictStore):
    """A store that records its opening and closing, and raises while it is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    async def enqueue(self, *args: Any, **options: Any) -> list[str]:
        assert self.noted[-1:] == ["opened"], "used before it was opened"
        return await super().enqueue(*args, **options)


class ByHooks(Opening):
    async def on_open(self) -> None:
        self.noted.append("opened")

    async def on_close(self) -> None:
        self.noted.append("closed")


class ByMethodsThatCallOn(Opening):
    async def __aenter__(self) -> Self:  # type: ignore[misc]  # as written before there were hooks
        await super().__aenter__()
        self.noted.append("opened")
        return self

    async def __aexit__(self, *error: Any) -> None:  # type: ignore[misc]  # as written before there were hooks
        self.noted.append("closed")
        await super().__aexit__(*error)


class ByMethodsOfItsOwn(Opening):
    async def __aenter__(self) -> Self:  # type: ignore[misc]  # as written before there were hooks
        self.noted.append("opened")
        return self

    async def __aexit__(self, *error: Any) -> None:  # type: ignore[misc]  # as written before there were hooks
        self.noted.append("closed")


STORES = [ByHooks, ByMethodsThatCallOn, ByMethodsOfItsOwn]


async def agent(task: float) -> float:
    await trio.lowlevel.checkpoint()
    return task


@pytest.mark.parametrize("make", STORES)
async def test_a_runner_opens_a_store_and_closes_it(make: type[Opening]) -> None:
    store = make()
    result = await Runner(agent, store=store).fit([0.5, 1.0])

    assert result.counts["succeeded"] == 2
    assert store.noted == ["opened", "closed"]
    assert not store.is_open


@pytest.mark.parametrize("make", STORES)
async def test_a_runner_leaves_a_store_alone_that_its_caller_has_opened(make: type[Opening]) -> None:
    async with make() as store:
        await Runner(agent, store=store).fit([0.5])
        assert store.is_open
        assert store.noted == ["opened"]

    assert store.noted == ["opened", "closed"]
    assert not store.is_open


async def test_a_store_that_needs_no_opening_works_without() -> None:
    store = DictStore()
    rollout = await store.enqueue_rollout("task")

    assert not store.is_open
    assert (await store.query_rollouts())[0].rollout_id == rollout.rollout_id


class Broken(DictStore):
    async def on_open(self) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError("no such disk")


async def test_a_store_that_could_not_be_opened_is_not_open() -> None:
    store = Broken()

    with pytest.raises(OSError, match="no such disk"):
        async with store:
            raise AssertionError("not reached")

    assert not store.is_open


class BrokenAfterwards(ByHooks):
    """A store that raises when the one it derives from is open already."""

    is_broken = True

    async def __aenter__(self) -> Self:  # type: ignore[misc]  # as written before there were hooks
        await super().__aenter__()
        if self.is_broken:
            raise OSError("no such disk")
        return self


class BrokenTwice(BrokenAfterwards):
    async def __aenter__(self) -> Self:  # type: ignore[misc]  # as written before there were hooks
        return await super().__aenter__()


class ClosesItself(ByHooks):
    async def __aenter__(self) -> Self:  # type: ignore[misc]  # as written before there were hooks
        await super().__aenter__()
        await super().__aexit__(None, None, None)
        raise OSError("no such disk")


@pytest.mark.parametrize("make", [BrokenAfterwards, BrokenTwice, ClosesItself])
async def test_what_a_store_had_opened_when_its_opening_failed_is_closed(make: type[Opening]) -> None:
    store = make()

    with pytest.raises(OSError, match="no such disk"):
        await store.__aenter__()

    assert not store.is_open
    assert store.noted == ["opened", "closed"]


class BrokenOnTop(ByMethodsThatCallOn):
    async def __aenter__(self) -> Self:  # type: ignore[misc]  # as written before there were hooks
        await super().__aenter__()
        raise OSError("no such disk")


async def test_it_is_closed_by_the_methods_of_the_class_that_had_opened_it() -> None:
    store = BrokenOnTop()

    with pytest.raises(OSError, match="no such disk"):
        await store.__aenter__()

    assert not store.is_open
    assert store.noted == ["opened", "closed"]


async def test_a_store_whose_opening_failed_can_be_opened_again() -> None:
    store = BrokenAfterwards()
    with pytest.raises(OSError, match="no such disk"):
        await Runner(agent, store=store).fit([0.5])
    store.is_broken = False

    result = await Runner(agent, store=store).fit([0.5])

    assert result.counts["succeeded"] == 1
    assert store.noted == ["opened", "closed"] * 2


async def test_a_store_that_is_opened_twice_stays_open(tmp_path: Any) -> None:
    async with SqliteLightningStore(tmp_path / "run.db") as store:
        with pytest.raises(StoreClosed, match="is open already"):
            await store.__aenter__()

        assert store.is_open
