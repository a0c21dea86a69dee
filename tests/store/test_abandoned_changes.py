"""The code of an abandoned attempt changes nothing in any store; runners and hooks go on."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pytest
import trio
from dict_store import DictStore
from postgres_server import PostgresServer, postgres

import lightning_trio as agl
from lightning_trio.store import (
    AttemptChange,
    AttemptOutcome,
    ForwardingStore,
    Query,
    RolloutChange,
    RolloutRemoval,
    RolloutReopening,
)

__all__ = ["postgres"]

Call = Callable[[agl.LightningStore, agl.AttemptedRollout], Awaitable[object]]

PROMPT = {"prompt": agl.PromptTemplate("late", engine="f-string")}

CHANGES: dict[str, Call] = {
    "enqueue_rollout": lambda store, own: store.enqueue_rollout("late"),
    "start_rollout": lambda store, own: store.start_rollout("late"),
    "start_attempt": lambda store, own: store.start_attempt(own.rollout_id),
    "dequeue_rollout": lambda store, own: store.dequeue_rollout(),
    "add_span": lambda store, own: store.add_span(late_span(own)),
    "update_rollout": lambda store, own: store.update_rollout(own.rollout_id, metadata={"late": True}),
    "update_attempt": lambda store, own: store.update_attempt(own.rollout_id, "latest", metadata={"late": True}),
    "add_resources": lambda store, own: store.add_resources(PROMPT),
    "update_resources": lambda store, own: store.update_resources("rs-known", PROMPT),
    "update_worker": lambda store, own: store.update_worker("worker-late"),
    "prune": lambda store, own: store.prune(),
    "enqueue": lambda store, own: store.enqueue([agl.EnqueueRolloutRequest("late")]),
    "start": lambda store, own: store.start([own.rollout_id]),
    "claim": lambda store, own: store.claim(1),
    "add_spans": lambda store, own: store.add_spans([late_span(own)]),
    "finish": lambda store, own: store.finish(
        [AttemptOutcome(own.rollout_id, own.attempt.attempt_id, "succeeded", 1.0)]
    ),
    "update": lambda store, own: store.update([RolloutChange(own.rollout_id, input="late")]),
    "change an attempt": lambda store, own: store.update(
        [AttemptChange(own.rollout_id, own.attempt.attempt_id, worker_id="late")]
    ),
    "remove": lambda store, own: store.update([RolloutRemoval(own.rollout_id)]),
    "reopen": lambda store, own: store.update([RolloutReopening(own.rollout_id)]),
    "expire": lambda store, own: store.expire(),
    "put": lambda store, own: store.put([agl.Worker("worker-late")]),
}


def late_span(own: agl.AttemptedRollout) -> agl.Span:
    return agl.Span.from_attributes(
        rollout_id=own.rollout_id, attempt_id=own.attempt.attempt_id, sequence_id=9, attributes={}
    )


async def records_of(store: agl.LightningStore) -> list[Sequence[Any]]:
    return [await store.find(Query(table)) for table in ("rollouts", "attempts", "spans", "resources", "runs")]


class Abandoned:
    """An agent in `lane` that is abandoned while it waits, and then makes calls of a store."""

    def __init__(self, lane: str) -> None:
        self.scope = trio.CancelScope()
        self.go_on = threading.Event()
        self.ended = threading.Event()
        self.calls: dict[str, Callable[[agl.AttemptedRollout], Awaitable[object]]] = {}
        self.refused: set[str] = set()
        """The calls that raised `AttemptAbandoned`."""
        self._token = trio.lowlevel.current_trio_token()
        bodies = {"thread": self._block, "asyncio": self._block_the_loop, "trio": self._wait_for_a_thread}
        # Only a deadline makes a runner give up a native agent.
        config = agl.RolloutConfig(timeout_seconds=0.05 if lane == "trio" else None)
        self.agent = agl.rollout(config=config, runs_in=None if lane == "thread" else lane)(bodies[lane])

    def _block(self, task: str) -> None:
        own = agl.current_rollout()
        trio.from_thread.run_sync(self.scope.cancel, trio_token=self._token)
        self.go_on.wait(20)
        for name in self.calls:
            trio.from_thread.run(self._call, name, own, trio_token=self._token)
        self.ended.set()

    async def _block_the_loop(self, task: str) -> None:
        self._block(task)

    async def _wait_for_a_thread(self, task: str) -> None:
        with suppress(trio.Cancelled):
            await trio.to_thread.run_sync(self.go_on.wait, 20)
        with trio.CancelScope(shield=True):
            for name in self.calls:
                await self._call(name, agl.current_rollout())
        self.ended.set()

    async def _call(self, name: str, own: agl.AttemptedRollout) -> None:
        with suppress(agl.LightningTrioError):
            try:
                await self.calls[name](own)
            except agl.AttemptAbandoned:
                self.refused.add(name)

    async def finish(self) -> None:
        """Let the abandoned code go on to its end."""
        self.go_on.set()
        with trio.fail_after(20):
            await trio.to_thread.run_sync(self.ended.wait, abandon_on_cancel=True)


@asynccontextmanager
async def abandoned(store: agl.LightningStore, lane: str = "thread") -> AsyncGenerator[Abandoned]:
    """Yield an agent that was abandoned while it ran a rollout of the store."""
    code = Abandoned(lane)
    async with agl.Runner(code.agent, store=store) as runner:
        with code.scope, suppress(agl.AttemptTimedOut):
            await runner.step("task")
        yield code
        await code.finish()


def open_store(kind: str, request: pytest.FixtureRequest, folder: Path) -> agl.LightningStore:
    if kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        return agl.PostgresLightningStore(server.dsn, schema="abandoned", connections=1)
    if kind == "sqlite":
        return agl.SqliteLightningStore(folder / "runs.db")
    return {
        "memory": agl.InMemoryLightningStore,
        "forwarding": lambda: ForwardingStore(agl.InMemoryLightningStore()),
        "of a user": DictStore,
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "lane"),
    [
        ("memory", "thread"),
        ("memory", "asyncio"),
        ("memory", "trio"),
        ("sqlite", "thread"),
        ("sqlite", "asyncio"),
        ("postgres", "thread"),
        ("forwarding", "thread"),
        ("of a user", "thread"),
    ],
)
async def test_an_abandoned_call_changes_nothing_in_a_store(
    kind: str, lane: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with open_store(kind, request, tmp_path) as store:
        await store.update_resources("rs-known", PROMPT)
        await store.enqueue_rollout("waiting")
        async with abandoned(store, lane) as code:
            code.calls = {name: partial(change, store) for name, change in CHANGES.items()}
            before = await records_of(store)
            await code.finish()
            after = await records_of(store)

    assert code.refused == CHANGES.keys()
    assert after == before


async def test_an_abandoned_call_changes_nothing_by_a_method_that_a_store_has_from_another_class() -> None:
    class Noting:
        noted = 0

        async def enqueue(self, requests: Sequence[Any], **options: Any) -> list[str]:
            self.noted += 1
            return await super().enqueue(requests, **options)  # type: ignore[misc,no-any-return]

    class Store(Noting, agl.InMemoryLightningStore):
        pass

    async with Store() as store, abandoned(store) as code:
        code.calls = {"enqueue": lambda own: store.enqueue([agl.EnqueueRolloutRequest("late")])}
        await code.finish()

    assert code.refused == {"enqueue"}
    assert store.noted == 0


class Base(agl.InMemoryLightningStore):
    noted = 0

    async def _note(self, by: int, requests: Sequence[Any], **options: Any) -> list[str]:
        self.noted += by
        return await super().enqueue(requests, **options)


class Partial(Base):
    enqueue = partialmethod(Base._note, 1)  # type: ignore[assignment]


class Property(Base):
    @property
    def enqueue(self) -> Any:
        return partial(self._note, 1)


class Static(Base):
    @staticmethod
    async def enqueue(requests: Sequence[Any], **options: Any) -> list[str]:  # type: ignore[override]
        return ["static"]


class CallableObject:
    async def __call__(self, requests: Sequence[Any], **options: Any) -> list[str]:
        return ["object"]


class Object(Base):
    enqueue = CallableObject()  # type: ignore[assignment]


class Missing(Base):
    enqueue = None  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [Partial, Property])
async def test_a_store_may_have_a_method_that_is_no_function(kind: type[Base]) -> None:
    async with kind() as store, abandoned(store) as code:
        await store.enqueue_rollout("task")
        code.calls = {"enqueue": lambda own: store.enqueue([agl.EnqueueRolloutRequest("late")])}
        await code.finish()

    assert code.refused == {"enqueue"}
    assert store.noted == 1


async def test_a_method_that_is_not_bound_to_a_store_is_called_without_it() -> None:
    assert await Static().enqueue([]) == ["static"]
    assert await Object().enqueue([]) == ["object"]


def test_an_attribute_of_a_store_that_cannot_be_called_is_left_alone() -> None:
    assert Missing().enqueue is None


async def test_a_store_may_be_opened_by_a_method_that_is_no_function() -> None:
    class Opening(agl.InMemoryLightningStore):
        async def _open(self, label: str) -> Any:
            self.label = label
            return self

        __aenter__ = partialmethod(_open, "opened")  # type: ignore[assignment,misc]

    async with Opening() as store:
        assert (store.is_open, store.label) == (True, "opened")


def test_a_store_with_an_abstract_property_for_a_method_is_abstract() -> None:
    class Abstract(agl.InMemoryLightningStore):
        @property
        @abstractmethod
        def enqueue(self) -> Any:
            """Return the method."""

    with pytest.raises(TypeError, match="the store Abstract lacks enqueue"):
        Abstract()
