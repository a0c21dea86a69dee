"""Tasks and metadata of any kind, in every store: what an agent gets is what was enqueued."""

from __future__ import annotations

import collections
import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import numpy as np
import pydantic
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from postgres_server import postgres

import lightning_trio as agl
from lightning_trio import InMemoryLightningStore, LightningStore, PostgresLightningStore, SqliteLightningStore

__all__ = ["postgres"]

STORES = ["memory", "sqlite", "postgres"]


class Level(enum.StrEnum):
    EASY = "easy"
    HARD = "hard"


class Rank(enum.IntEnum):
    FIRST = 1


class Answer(pydantic.BaseModel):
    text: str
    scores: Any = None


@attrs.frozen
class Room:
    name: Any


class Point(NamedTuple):
    x: Any
    y: int


TEXT = st.text(st.characters(exclude_categories=()))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary().map(bytearray)
    | st.datetimes()
    | st.sampled_from([Level.EASY, Level.HARD, Rank.FIRST, Path("a/b"), "$tuple"])
    | st.builds(range, st.integers(-5, 5), st.integers(-5, 5))
    | np_st.from_dtype(np.dtype("float32"), allow_nan=False)
    | np_st.from_dtype(np.dtype("int64"))
    | np_st.from_dtype(np.dtype("bool"))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXT | st.sampled_from(Level), inner, max_size=3)
        | st.lists(inner, max_size=3).map(collections.deque)
        | st.dictionaries(TEXT, inner, max_size=3).map(collections.OrderedDict)
        | st.tuples(inner)
        | st.builds(Room, inner)
        | st.builds(Point, inner, st.integers())
        | st.builds(Answer, text=TEXT, scores=inner)
    ),
    max_leaves=8,
)


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal and of the same types at every level."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return same(list(left), list(right)) and same(list(left.values()), list(right.values()))
    if isinstance(left, list | tuple | collections.deque):
        return len(left) == len(right) and all(same(*pair) for pair in zip(left, right, strict=True))
    if isinstance(left, Room | Answer):
        return same(list(fields_of(left)), list(fields_of(right)))
    return bool(left == right)


def fields_of(record: Room | Answer) -> tuple[Any, ...]:
    return (record.name,) if isinstance(record, Room) else (record.text, record.scores)


@pytest.fixture
def open_store(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], LightningStore]:
    def make(kind: str) -> LightningStore:
        if kind == "postgres":
            return PostgresLightningStore(request.getfixturevalue("postgres").dsn)
        return InMemoryLightningStore() if kind == "memory" else SqliteLightningStore(tmp_path / "run.db")

    return make


@pytest.mark.parametrize("kind", STORES)
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(tasks=st.lists(VALUES, min_size=20, max_size=40))
def test_an_agent_gets_the_task_that_was_enqueued(
    kind: str, tasks: list[Any], open_store: Callable[[str], LightningStore]
) -> None:
    async def main() -> list[tuple[Any, Any]]:
        async with open_store(kind) as store:
            for task in tasks:
                await store.enqueue_rollout(task, metadata={"task": task})
            claimed = [await store.dequeue_rollout() for _ in tasks]
            return [(each.input, each.metadata) for each in claimed if each is not None]

    claimed = trio.run(main)

    assert all(same(task, got) for task, (got, _) in zip(tasks, claimed, strict=True)), (tasks, claimed)
    assert all(same({"task": task}, metadata) for task, (_, metadata) in zip(tasks, claimed, strict=True))


@attrs.frozen
class Weights(agl.Resource, resource_type="store_values_test_weights"):
    values: Any


@pytest.mark.parametrize("kind", STORES)
async def test_an_agent_gets_the_resource_that_was_published(
    kind: str, open_store: Callable[[str], LightningStore]
) -> None:
    weights = Weights({"level": Level.EASY, "history": collections.deque([np.float32(0.5)]), "half": "\ud835"})
    got: list[Weights] = []

    async def agent(task: int, weights: Weights) -> float:
        got.append(weights)
        return 1.0

    runner = agl.Runner(agent, resources={"weights": weights}, store=open_store(kind))
    await runner.fit([1])

    assert same(got[0].values, weights.values)


@pytest.mark.parametrize("kind", STORES)
async def test_lone_surrogates_fail_nothing_anywhere(
    kind: str, open_store: Callable[[str], LightningStore], caplog: pytest.LogCaptureFixture
) -> None:
    half = "half \ud835"

    @agl.rollout(name=half)
    async def agent(task: dict[str, str], prompt: agl.PromptTemplate) -> float:
        agl.emit_message(prompt.format(text=task[half]), {half: half})
        agl.emit_object({half: half})
        agl.emit_annotation({half: [half]})
        agl.emit_reward({half: 1.0}, primary_key=half)
        if "fail" in task:
            raise ValueError(half)
        return 1.0

    prompt = agl.PromptTemplate(f"{half} {{{{ text }}}}", engine="jinja")
    store = open_store(kind)
    async with agl.Runner(agent, resources={"prompt": prompt}, store=store) as runner:
        result = await runner.fit([{half: half}, {half: half, "fail": half}])
        failed = await store.query_rollouts(run_id_in=[result.run_id], status_in=["failed"])
        spans = await store.query_spans(failed[0].rollout_id)

    assert result.counts == {"succeeded": 1, "failed": 1, "cancelled": 0}
    assert [text for span in spans if (text := agl.get_message_value(span))] == [f"{half} {half}"]
    assert {half: half} in [agl.get_object_value(span) for span in spans]
    assert spans[0].status.description == f"ValueError: {half}"
    # A log in a file is in UTF-8.
    assert "the first with ValueError: half \\ud835;" in caplog.text.encode().decode()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_name_with_a_lone_surrogate_is_refused(kind: str, open_store: Callable[[str], LightningStore]) -> None:
    async with open_store(kind) as store:
        with pytest.raises(agl.NotStorable, match=r"the name 'worker-\\ud835' has a lone surrogate"):
            await store.update_worker("worker-\ud835")
        await store.update_worker("worker-1")

        assert "worker-1" in [worker.worker_id for worker in await store.query_workers()]
