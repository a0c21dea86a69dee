"""Copies of agents that are classes: what a method sets on ``self`` belongs to its attempt."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel

import lightning_trio as agl
from lightning_trio import LitAgent, Runner, embed


class Native(LitAgent[int]):
    async def rollout_async(self, task: int) -> float:
        self.current = task
        await trio.sleep(0.01)
        return float(self.current == task)


class InThread(LitAgent[int]):
    def rollout(self, task: int) -> float:
        self.current = task
        time.sleep(0.01)
        return float(self.current == task)


class InAsyncio(LitAgent[int]):
    runs_in = "asyncio"

    async def rollout_async(self, task: int) -> float:
        self.current = task
        await asyncio.sleep(0.01)
        return float(self.current == task)


LANES = [Native, InThread, InAsyncio]


# Attempts that run at the same time.


@pytest.mark.parametrize("kind", LANES)
async def test_concurrent_rollouts_of_a_fit_keep_their_own_attributes(kind: type[LitAgent[int]]) -> None:
    result = await Runner(kind(), max_concurrency=8).fit(list(range(32)), list(range(32)))

    assert result.mean_reward == {"train": 1.0, "val": 1.0}


@pytest.mark.parametrize("kind", LANES)
async def test_concurrent_rollouts_of_a_stream_keep_their_own_attributes(kind: type[LitAgent[int]]) -> None:
    async with Runner(kind(), max_concurrency=8) as runner, runner.stream(range(32)) as results:
        rewards = [done.final_reward async for done in results]

    assert rewards == [1.0] * 32


@pytest.mark.parametrize("kind", LANES)
async def test_concurrent_steps_keep_their_own_attributes(kind: type[LitAgent[int]]) -> None:
    rewards: list[float | None] = []

    async def step(runner: Runner, task: int) -> None:
        rewards.append((await runner.step(task)).final_reward)

    async with Runner(kind(), max_concurrency=8) as runner, trio.open_nursery() as nursery:
        for task in range(16):
            nursery.start_soon(step, runner, task)

    assert rewards == [1.0] * 16


async def test_concurrent_rollouts_of_a_served_queue_keep_their_own_attributes() -> None:
    store = agl.InMemoryLightningStore()
    async with Runner(Native(), store=store, max_concurrency=8) as runner, trio.open_nursery() as nursery:
        queued = [await store.enqueue_rollout(task) for task in range(16)]
        await nursery.start(runner.serve)
        await store.wait_for_rollouts(rollout_ids=[each.rollout_id for each in queued], timeout=10)
        rewards = [done.attempt.final_reward for done in await store.query_rollouts() if done.attempt is not None]
        nursery.cancel_scope.cancel()

    assert rewards == [1.0] * 16


def test_concurrent_rollouts_from_blocking_code_keep_their_own_attributes() -> None:
    with embed.BlockingRunner(Runner(Native(), max_concurrency=8)) as runner:
        result = runner.fit(list(range(16)))

    assert result.mean_reward["train"] == 1.0


async def test_a_retry_has_a_copy_to_itself() -> None:
    class Flaky(LitAgent[int]):
        config = agl.RolloutConfig(max_attempts=2, retry_condition=("failed",), backoff_seconds=0.001)

        async def rollout_async(self, task: int, rollout: agl.AttemptedRollout) -> float:
            self.current = task
            await trio.sleep(0.005)
            if rollout.attempt.sequence_id == 1:
                raise ValueError("again")
            return float(self.current == task)

    result = await Runner(Flaky(), max_concurrency=8).fit(list(range(16)))

    assert result.mean_reward["train"] == 1.0


async def test_a_client_on_self_calls_the_endpoint_of_its_own_rollout() -> None:
    class Calls(LitAgent[int]):
        async def rollout_async(self, task: int, llm: agl.ProxyLLM, rollout: agl.AttemptedRollout) -> float:
            self.endpoint = llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
            await trio.sleep(0.01)
            return float(rollout.rollout_id in self.endpoint)

    llm = agl.ProxyLLM(endpoint="http://proxy/v1", model="any")
    result = await Runner(Calls(), resources={"llm": llm}, max_concurrency=8).fit(list(range(48)))

    assert result.mean_reward["train"] == 1.0


async def test_there_are_no_more_copies_than_attempts_at_a_time() -> None:
    used: set[int] = set()

    class Counts(LitAgent[int]):
        async def rollout_async(self, task: int) -> None:
            used.add(id(self))
            await trio.lowlevel.checkpoint()

    await Runner(Counts(), max_concurrency=5).fit(list(range(100)))

    assert len(used) <= 5


async def test_hooks_get_the_copy_of_their_attempt() -> None:
    class Sets(agl.Hook):
        async def on_rollout_start(self, *, agent: Any, runner: Runner, rollout: agl.AttemptedRollout) -> None:
            agent.expected = rollout.input

    class Reads(LitAgent[int]):
        expected = -1

        async def rollout_async(self, task: int) -> float:
            await trio.sleep(0.01)
            return float(self.expected == task)

    result = await Runner(Reads(), hooks=Sets(), max_concurrency=8).fit(list(range(16)))

    assert result.mean_reward["train"] == 1.0


# State.


class Counter(LitAgent[int]):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.seen: list[int] = []

    async def rollout_async(self, task: int) -> float:
        self.count += 1
        self.seen.append(task)
        await trio.sleep(0.001)
        return float(self.count)


async def test_rollouts_one_after_another_use_the_agent_itself() -> None:
    agent = Counter()

    await Runner(agent, max_concurrency=1).fit([1, 2, 3])

    assert (agent.count, agent.seen) == (3, [1, 2, 3])


async def test_steps_one_after_another_use_the_agent_itself() -> None:
    agent = Counter()
    async with Runner(agent, max_concurrency=8) as runner:
        for task in range(3):
            await runner.step(task)

    assert agent.count == 3


async def test_a_copy_keeps_its_state_from_rollout_to_rollout() -> None:
    async with Runner(Counter(), max_concurrency=2) as runner, runner.stream(range(10)) as results:
        counts = [done.final_reward or 0.0 async for done in results]

    assert counts.count(1.0) == 2
    assert max(counts) >= 5.0


async def test_what_init_made_is_shared() -> None:
    agent = Counter()

    await Runner(agent, max_concurrency=8).fit(list(range(16)))

    assert sorted(agent.seen) == list(range(16))


async def test_copies_begin_with_the_state_before_the_first_attempt() -> None:
    """Though the agent itself has run a rollout when they are made."""
    counts: list[int] = []

    class Late(LitAgent[int]):
        count = 0

        async def rollout_async(self, task: int) -> None:
            self.count += 1
            counts.append(self.count)
            if task == 0:
                await trio.sleep(0.05)

    async with Runner(Late(), max_concurrency=2) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 0)
        await trio.sleep(0.01)
        await runner.step(1)

    assert counts == [1, 1]


async def test_an_attribute_changed_between_rollouts_reaches_all_copies() -> None:
    class Scales(LitAgent[int]):
        factor = 1.0
        last = -1

        async def rollout_async(self, task: int) -> float:
            self.last = task
            await trio.sleep(0.005)
            return self.factor

    agent = Scales()
    async with Runner(agent, max_concurrency=4) as runner:
        await runner.fit(list(range(8)))
        agent.factor = 3.0
        result = await runner.fit(list(range(8)))

    assert result.mean_reward["train"] == 3.0


async def test_an_attribute_deleted_between_rollouts_is_gone_from_all_copies() -> None:
    class Scales(LitAgent[int]):
        factor = 1.0

        async def rollout_async(self, task: int) -> float:
            await trio.sleep(0.005)
            return self.factor

    agent = Scales()
    agent.factor = 2.0
    async with Runner(agent, max_concurrency=4) as runner:
        await runner.fit(list(range(8)))
        del agent.factor
        result = await runner.fit(list(range(8)))

    assert result.mean_reward["train"] == 1.0


async def test_two_open_runners_of_one_agent_do_not_share_it() -> None:
    agent = Native()
    rewards: list[float | None] = []

    async def step(runner: Runner, task: int) -> None:
        rewards.append((await runner.step(task)).final_reward)

    async with Runner(agent) as first, Runner(agent) as second, trio.open_nursery() as nursery:
        nursery.start_soon(step, first, 1)
        nursery.start_soon(step, second, 2)

    assert rewards == [1.0, 1.0]


async def test_a_later_runner_uses_the_agent_itself_again() -> None:
    agent = Counter()

    await Runner(agent, max_concurrency=1).fit([1])
    await Runner(agent, max_concurrency=1).fit([2])

    assert agent.count == 2


async def test_an_abandoned_thread_keeps_its_copy_until_it_ends() -> None:
    gate = threading.Event()
    found: list[int] = []

    class Hangs(LitAgent[int]):
        def rollout(self, task: int) -> None:
            self.current = task
            if task == 0:
                gate.wait(10)
                found.append(self.current)

    config = agl.RolloutConfig(timeout_seconds=0.05)
    async with Runner(Hangs(), max_concurrency=2, config=config) as runner:
        with pytest.raises(agl.AttemptTimedOut):
            await runner.step(0)
        for task in range(1, 5):
            await runner.step(task)
        gate.set()
        with trio.fail_after(5):
            while not found:
                await trio.sleep(0.01)

    assert found == [0]


async def test_the_agent_itself_is_used_again_once_its_abandoned_thread_has_ended() -> None:
    gate = threading.Event()

    class Hangs(LitAgent[int]):
        count = 0

        def rollout(self, task: int) -> None:
            self.count += 1
            if task == 0:
                gate.wait(10)

    agent = Hangs()
    async with Runner(agent, max_concurrency=1, config=agl.RolloutConfig(timeout_seconds=0.05)) as runner:
        with pytest.raises(agl.AttemptTimedOut):
            await runner.step(0)
        gate.set()
        await runner.step(1)

    assert agent.count == 2


# Kinds of classes.


@attrs.define
class Attrs(LitAgent[int]):
    client: object
    current: int = -1

    async def rollout_async(self, task: int) -> float:
        self.current = task
        await trio.sleep(0.005)
        return float(self.current == task)


class Slotted(Native):
    __slots__ = ("__secret", "current")

    def __init__(self) -> None:
        super().__init__()
        self.__secret = threading.Lock()

    async def rollout_async(self, task: int) -> float:
        return await super().rollout_async(task) if self.__secret is not None else -1.0


class WithLock(Native):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class WithState(Native):
    """Leaves its client out of what is pickled, as the process lane asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.client = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    async def rollout_async(self, task: int) -> float:
        assert self.client is not None
        return await super().rollout_async(task)


class WithCopy(Native):
    made = 0

    def __copy__(self) -> WithCopy:
        WithCopy.made += 1
        return type(self)()


class WithDeepCopy(Native):
    def __deepcopy__(self, memo: object) -> WithDeepCopy:
        raise AssertionError("a shallow copy is enough")


@dataclasses.dataclass(frozen=True)
class Frozen(LitAgent[int]):
    name_of_model: str = "any"

    async def rollout_async(self, task: int) -> float:
        object.__setattr__(self, "current", task)
        await trio.sleep(0.005)
        return float(vars(self)["current"] == task)


class Mapped(Native, dict[str, int]):
    """With a base class that is written in C."""


class Singleton(Native):
    def __new__(cls, name: str) -> Singleton:
        return super().__new__(cls)

    def __init__(self, name: str) -> None:
        super().__init__()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Attrs(threading.Lock()),
        Slotted,
        WithLock,
        WithState,
        WithCopy,
        WithDeepCopy,
        Frozen,
        Mapped,
        lambda: Singleton("name"),
    ],
    ids=["attrs", "slots", "lock", "getstate", "copy", "deepcopy", "frozen", "dict", "arguments"],
)
async def test_classes_of_all_kinds_are_copied(make: Callable[[], LitAgent[int]]) -> None:
    result = await Runner(make(), max_concurrency=4).fit(list(range(16)))

    assert result.mean_reward["train"] == 1.0


async def test_a_class_with_its_own_copy_makes_the_copies() -> None:
    WithCopy.made = 0

    await Runner(WithCopy(), max_concurrency=4).fit(list(range(16)))

    assert WithCopy.made > 0


@pytest.mark.parametrize("kind", [Native, WithCopy])
async def test_a_copy_knows_its_runner_and_its_trainer(kind: type[LitAgent[int]]) -> None:
    known: list[object] = []

    class Asks(kind):  # type: ignore[valid-type, misc]
        async def rollout_async(self, task: int) -> None:
            known.extend((self.get_runner(), self.trainer))
            await trio.sleep(0.005)

    agent, trainer = Asks(), agl.Trainer()
    agent.set_trainer(trainer)
    runner = Runner(agent, max_concurrency=4)
    await runner.fit(list(range(8)))

    assert set(map(id, known)) == {id(runner), id(trainer)}


async def test_a_finaliser_does_not_close_what_the_copies_share() -> None:
    closed: list[bool] = []

    class Closes(Native):
        def __del__(self) -> None:
            closed.append(True)

    agent = Closes()
    await Runner(agent, max_concurrency=4).fit(list(range(8)))
    gc.collect()

    assert closed == []


async def test_a_shared_class_is_one_object() -> None:
    used: set[int] = set()

    class Shared(LitAgent[int]):
        shared = True

        async def rollout_async(self, task: int) -> None:
            used.add(id(self))
            await trio.sleep(0.005)

    agent = Shared()
    await Runner(agent, max_concurrency=8).fit(list(range(16)))

    assert used == {id(agent)}


async def test_an_attribute_named_shared_may_be_something_else() -> None:
    class Board(Native):
        shared = {"seen": [1]}  # type: ignore[assignment]  # noqa: RUF012 - as users write it

    result = await Runner(Board(), max_concurrency=8).fit(list(range(16)))

    assert result.mean_reward["train"] == 1.0


async def test_a_class_that_cannot_be_copied_is_an_error_before_the_first_rollout() -> None:
    class Unique(Native):
        def __copy__(self) -> Unique:
            raise TypeError("there is only one")

    message = r"the agent Unique cannot be copied \(TypeError: there is only one\).* Write shared = True in its class"
    with pytest.raises(agl.AgentSignatureError, match=message):
        await Runner(Unique()).fit([1])


async def test_a_class_that_cannot_be_copied_any_more_fails_its_attempts_only() -> None:
    class Fickle(Native):
        copies = 0

        def __copy__(self) -> Fickle:
            Fickle.copies += 1
            if Fickle.copies > 2:
                raise TypeError("no more")
            return type(self)()

    result = await Runner(Fickle(), max_concurrency=4).fit(list(range(4)))

    assert result.counts == {"cancelled": 0, "failed": 2, "succeeded": 2}


async def test_a_function_is_shared() -> None:
    class Callable:
        async def __call__(self, task: int) -> float:
            return float(id(self))

    function = Callable()
    result = await Runner(function, max_concurrency=4).fit(list(range(8)))

    assert result.mean_reward["train"] == float(id(function))


# References of an agent to itself.


class Tools(LitAgent[int]):
    def __init__(self) -> None:
        super().__init__()
        self.single = self.look
        self.partial = functools.partial(self.look)
        self.listed = [self.look]
        self.named = {"look": self.look}
        self.me = self
        self.table = [{"type": "function", "function": {"call": self.look}}]
        self.applied = functools.partial(Tools.look, self)

        async def look_from_init(*, times: int = 1) -> int:
            return await self.look() * times

        self.defined = look_from_init

    async def look(self) -> int:
        await trio.sleep(0.001)
        return self.current

    async def rollout_async(self, task: int) -> float:
        self.current = task
        await trio.sleep(0.005)
        seen = [await fn() for fn in (self.single, self.partial, self.listed[0], self.named["look"], self.me.look)]
        seen += [await self.table[0]["function"]["call"](), await self.applied(), await self.defined()]  # type: ignore[index]
        return float(seen == [task] * 8)


async def test_methods_among_the_attributes_are_those_of_the_copy() -> None:
    result = await Runner(Tools(), max_concurrency=8).fit(list(range(16)))

    assert result.mean_reward["train"] == 1.0


class Graph:
    def __init__(self, node: object) -> None:
        self.nodes = {"node": lambda: node}


async def test_a_deeper_reference_to_itself_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    class Deep(Native):
        def __init__(self) -> None:
            super().__init__()
            self.method = self.rollout_async
            self.graph = Graph(self.rollout_async)

        async def rollout_async(self, task: int) -> float:
            self.current = task
            return await super().rollout_async(task)

    await Runner(Deep(), max_concurrency=4).fit(list(range(8)))

    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == 1
    assert messages[0].startswith("the agent Deep refers to itself in self.graph")


async def test_a_reference_to_itself_is_fine_where_no_method_changes_it(caplog: pytest.LogCaptureFixture) -> None:
    class Constant(LitAgent[int]):
        def __init__(self) -> None:
            super().__init__()
            self.graph = Graph(self.rollout_async)

        async def rollout_async(self, task: int) -> None:
            await trio.sleep(0.005)

    await Runner(Constant(), max_concurrency=4).fit(list(range(8)))

    assert not caplog.records
