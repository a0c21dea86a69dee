"""The messages that the tables of mistakes in docs/ quote are those that users get."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import trio
import trio.lowlevel

import lightning_trio as agl

DOCS = Path(__file__).resolve().parents[2] / "docs"
LLM = agl.LLM(endpoint="http://127.0.0.1/v1", model="m")


def quoted(document: str) -> dict[str, str]:
    """Return the rows of a document's table of mistakes: the mistake and the quoted message."""
    _, _, section = (DOCS / document).read_text(encoding="utf-8").partition("## Mistakes\n")
    rows = [line.strip("| ").split(" | ", 1) for line in section.splitlines() if line.startswith("| ")]
    return {mistake: message for mistake, message in rows if mistake != "Mistake"}


def fits(quote: str, error: BaseException) -> bool:
    """Whether a row quotes an error; an ellipsis in the row matches any text."""
    match = re.match("`([^`]*)`", quote)
    assert match is not None, quote
    pattern = ".*".join(map(re.escape, match[1].split("…")))
    return re.fullmatch(pattern, f"{type(error).__name__}: {error}", re.DOTALL) is not None


async def one(task: object) -> float:
    return 1.0


def step(agent: Any, **options: Any) -> None:
    async def main() -> None:
        async with agl.Runner(agent, **options) as runner:
            await runner.step("task")

    trio.run(main)


async def step_in_another_trio() -> None:
    async with agl.Runner(one) as runner:
        await trio.to_thread.run_sync(trio.run, runner.step, 1)


async def read_stream_without_entering() -> None:
    async with agl.Runner(one) as runner:
        async for _ in runner.stream([1]):  # type: ignore[attr-defined, unused-ignore]
            pass


async def change_finished() -> None:
    store = agl.InMemoryLightningStore()
    async with agl.Runner(one, store=store) as runner:
        done = await runner.step(1)
        await store.update_rollout(done.rollout.rollout_id, status="failed")


async def fit_inside_trio() -> None:
    agl.Trainer().fit(one, [1])


class Late(agl.Hook):
    def on_rollout_end(self, **_: object) -> None:  # type: ignore[override]
        pass


async def native_aio(task: str) -> None:
    await asyncio.sleep(0)


class NativeAio(agl.LitAgent[str]):
    async def rollout_async(self, task: str, resources: agl.NamedResources, rollout: agl.Rollout) -> None:
        await asyncio.sleep(0)


class Unique(agl.LitAgent[str]):
    def __copy__(self) -> object:
        raise TypeError("there is only one")

    async def rollout_async(self, task: str) -> float:
        return 1.0


@agl.rollout(runs_in="asyncio")
async def native(task: str) -> None:
    await trio.lowlevel.checkpoint()


async def inner(task: str) -> float:
    return 1.0


def plain(task: str) -> object:
    return inner(task)


@agl.algo
async def search(session: agl.Session) -> None:
    await asyncio.sleep(0)


def shout(task: str, prompt_template: agl.PromptTemplate) -> None: ...
def two(task: str, model: agl.LLM) -> None: ...
def bad(task: str) -> object:
    return {"a": 1}


def generator(task: str) -> Any:
    yield task


class Counter(agl.LitAgent[str]):
    pass


def run_in_process() -> None:
    def main() -> None:
        def crunch(task: int) -> None: ...

        crunch.__qualname__ = "main.<locals>.crunch"
        trio.run(agl.Runner(agl.rollout(runs_in="process")(crunch)).fit, [1])

    main()


def emit_late() -> None:
    emitters: list[agl.Emitter] = []

    def agent(task: str, emitter: agl.Emitter) -> None:
        emitters.append(emitter)

    step(agent)
    emitters[0].emit_message("late")


def emit_in_finaliser() -> None:
    caught: list[BaseException] = []

    class Cyclic:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            try:
                agl.emit_message("late")
            except agl.NoActiveRollout as exc:
                caught.append(exc)

    def agent(task: str) -> None:
        Cyclic()
        gc.collect()

    step(agent)
    raise caught[0]


def emit_abandoned() -> None:
    caught: list[BaseException] = []
    late, told = threading.Event(), threading.Event()

    def agent(task: str) -> None:
        late.wait(10)
        try:
            agl.emit_message("late")
        except BaseException as exc:  # noqa: BLE001  # asserted on below
            caught.append(exc)
        told.set()

    with contextlib.suppress(agl.AttemptTimedOut):
        step(agent, config=agl.RolloutConfig(timeout_seconds=0.01))
    late.set()
    told.wait(10)
    raise caught[0]


MISTAKES: dict[str, dict[str, Callable[[], object]]] = {
    "runner.md": {
        "`trio.run(runner.step, task)` in a thread, of a runner that is open elsewhere": lambda: trio.run(
            step_in_another_trio
        ),
        "`step` on a closed runner": lambda: trio.run(agl.Runner(one).step, 1),
        "a generator as dataset": lambda: trio.run(agl.Runner(one).fit, (task for task in "ab")),
        "a table as dataset": lambda: trio.run(agl.Runner(one).fit, pd.DataFrame({"q": ["a"]})),
        "an empty dataset": lambda: trio.run(agl.Runner(one).fit, []),
        "a stream read without `async with`": lambda: trio.run(read_stream_without_entering),
        "a class as component": lambda: agl.Runner(one, store=agl.InMemoryLightningStore),  # type: ignore[arg-type]
        "a function as algorithm": lambda: agl.Runner(one, algorithm=one),  # type: ignore[arg-type]
        "an algorithm written for asyncio": lambda: trio.run(agl.Runner(one, algorithm=search).fit),
        "a hook that is not async": lambda: agl.Runner(one, hooks=[Late()]),
        "a resource without a name": lambda: agl.Runner(one, resources=[LLM]),  # type: ignore[arg-type]
        '`retry_condition=["boom"]`': lambda: agl.RolloutConfig(retry_condition=["boom"]),  # type: ignore[list-item]
        "`Trainer.fit` inside Trio": lambda: trio.run(fit_inside_trio),
        "a finished rollout changed": lambda: trio.run(change_finished),
    },
    "writing-agents.md": {
        "a resource is missing": lambda: step(shout),
        "two resources of a class, neither with the parameter's name": lambda: step(
            two, resources={"a": LLM, "b": LLM}
        ),
        "an asyncio agent without `runs_in`": lambda: step(native_aio),
        "the same in a class": lambda: step(NativeAio()),
        "a class whose `__copy__` fails": lambda: step(Unique()),
        'Trio under `runs_in="asyncio"`': lambda: step(native),
        "a coroutine returned": lambda: step(plain),
        "a dictionary returned": lambda: step(bad),
        "a reward of NaN": lambda: step(lambda task: math.nan),
        "a placeholder without a value": lambda: agl.PromptTemplate("{a} {b}", engine="f-string").format(a=1),
        "a generator decorated": lambda: agl.rollout(generator),
        "a class passed": lambda: agl.Runner(Counter),
        '`runs_in="process"` on a function inside another one': run_in_process,
    },
    "emitters.md": {
        "a call outside of a rollout": lambda: agl.emit_reward(1),
        "a call after the rollout has ended": emit_late,
        "a call in a [finaliser](lanes.md#finalisers-and-callbacks)": emit_in_finaliser,
        "a call in a thread whose deadline has passed": emit_abandoned,
        "several dimensions without `primary_key`": lambda: agl.emit_reward({"a": 1, "b": 2}),
        "a reward that is not a number": lambda: agl.emit_reward("x"),  # type: ignore[arg-type]
        "an object that cannot be written as JSON": lambda: agl.emit_object(object()),
        '`operation("search")`': lambda: agl.operation("search"),  # type: ignore[call-overload]
    },
}


@pytest.mark.parametrize(
    ("document", "mistake"), [(document, mistake) for document, rows in MISTAKES.items() for mistake in rows]
)
def test_a_quoted_message_is_the_one_users_get(document: str, mistake: str) -> None:
    with pytest.raises(BaseException) as caught:  # noqa: PT011  # AttemptAbandoned is one
        MISTAKES[document][mistake]()

    assert fits(quoted(document)[mistake], caught.value), f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize("document", list(MISTAKES))
def test_every_row_is_checked(document: str) -> None:
    assert quoted(document).keys() == MISTAKES[document].keys()
