"""A store that forwards everything to another store."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio

import lightning_trio as agl
from lightning_trio.store import ForwardingStore, LightningStore
from lightning_trio.store._primitives import StorePrimitives

OPENING = {"__init_subclass__", "__aenter__", "__aexit__", "on_open", "on_close", "is_open"}
NAMES = sorted(
    name
    for name, member in vars(StorePrimitives).items()
    if (inspect.isfunction(member) or isinstance(member, property)) and name not in OPENING
)
"""The primitives, and the methods with a default."""


class Recording:
    """A store that records every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answer = object()

    def __getattr__(self, name: str) -> Any:
        member = inspect.getattr_static(LightningStore, name)
        if isinstance(member, property):
            self.calls.append((name, {}))
            return self.answer
        signature = inspect.signature(member)

        def note(*args: Any, **options: Any) -> Any:
            bound = signature.bind(self, *args, **options)
            self.calls.append((name, {key: value for key, value in bound.arguments.items() if key != "self"}))
            return self.answer

        async def note_async(*args: Any, **options: Any) -> Any:
            return note(*args, **options)

        return note_async if inspect.iscoroutinefunction(member) else note


@pytest.mark.parametrize("name", NAMES)
async def test_every_primitive_and_whatever_a_store_may_do_better_is_forwarded(name: str) -> None:
    recording: Any = Recording()
    store = ForwardingStore(recording)
    member = inspect.getattr_static(LightningStore, name)
    parameters = [] if isinstance(member, property) else list(inspect.signature(member).parameters.values())[1:]
    given = {parameter.name: object() for parameter in parameters}
    positional = [given[each.name] for each in parameters if each.kind is not each.KEYWORD_ONLY]
    options = {each.name: given[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}

    found = getattr(store, name)
    if not isinstance(member, property):
        found = found(*positional, **options)
    if inspect.iscoroutine(found):
        found = await found

    assert recording.calls == [(name, given)]
    # Methods that return None have no result to forward.
    assert found is recording.answer or found is None


def test_the_names_are_those_of_the_contract() -> None:
    primitives = {name for name in NAMES if getattr(getattr(LightningStore, name), "__isabstractmethod__", False)}

    assert len(primitives) == 12
    assert set(NAMES) - primitives == {
        "find_faults",
        "get_latest_resources",
        "holding",
        "max_payload_bytes",
        "persistent",
        "queued_nowait",
        "statistics",
        "vacuum",
    }


class Counting(ForwardingStore):
    """A store that counts enqueued tasks."""

    tasks = 0

    async def enqueue(self, requests: Sequence[agl.EnqueueRolloutRequest], **options: Any) -> list[str]:
        self.tasks += len(requests)
        return await super().enqueue(requests, **options)


async def test_the_familiar_calls_go_through_what_a_subclass_overrides() -> None:
    store = Counting(agl.InMemoryLightningStore())

    await store.enqueue_rollout("a")
    await store.enqueue_many_rollouts([agl.EnqueueRolloutRequest("b"), agl.EnqueueRolloutRequest("c")])

    assert store.tasks == 3


async def test_it_is_open_while_the_other_store_is() -> None:
    inner = agl.InMemoryLightningStore()
    store = ForwardingStore(inner)
    seen = [store.is_open]

    async with store as opened:
        seen += [store.is_open, inner.is_open, opened is store]
    async with inner:
        seen.append(store.is_open)

    assert seen == [False, True, True, True, True]
    assert not inner.is_open


@pytest.mark.parametrize("make", [agl.InMemoryLightningStore, lambda: agl.SqliteLightningStore("forwarded.db")])
def test_a_runner_opens_the_other_store_through_it(
    make: Callable[[], LightningStore], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Counting(make())

    async def agent(task: float) -> float:
        await trio.lowlevel.checkpoint()
        return task

    result = trio.run(agl.Runner(agent, store=store).fit, [0.5, 1.0])

    assert result.counts == {"cancelled": 0, "failed": 0, "succeeded": 2}
    assert store.tasks == 2
    assert not store.is_open
