"""A fifth lane: two classes and one registration, and runners run agents in it as in the others."""

from __future__ import annotations

import typing
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import lightning_trio as agl
from lightning_trio import AgentError, RolloutConfig, Runner, RunningTask, UnsupportedLane
from lightning_trio._agents import _decorators
from lightning_trio.lanes import (
    BoundAgent,
    Call,
    Lane,
    LaneOptions,
    OpenLane,
    is_async_function,
    register_lane,
    registered_lane,
)


class FakeLane(Lane):
    """Call plain functions in the attempt's own task, and sleep for the seconds that they return."""

    name = "fake"

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.places = 2
        self.start_seconds = 0.0
        """How long a call waits until it can begin."""
        self.refuses_calls = False
        self.refuses_agents = False
        self.gives_up = False
        """Whether calls cannot be stopped."""
        self.abandoned: list[FakeCall] = []
        self.prepared: list[object] = []

    def check(self, agent: str, fn: Callable[..., Any]) -> None:
        if is_async_function(fn):
            raise UnsupportedLane(f"the agent {agent} is async and runs_in='fake' takes plain functions; write def")

    def capacity(self, wanted: int, options: LaneOptions) -> int:
        return min(wanted, self.places)

    def prepare(self, bound: BoundAgent, resources: agl.NamedResources) -> object:
        if self.refuses_agents:
            raise UnsupportedLane(f"the agent {bound.name} cannot be sent; write another")
        return f"parcel with {bound.name}"

    @asynccontextmanager
    async def open(self, options: LaneOptions) -> AsyncGenerator[OpenLane]:
        self.journal.append("open")
        try:
            yield OpenFakeLane(self)
        finally:
            self.journal.append("close")


@attrs.define(eq=False)
class FakeCall:
    """A call that is given up."""

    kind: ClassVar[str] = "fake"
    end: Callable[[], None] | None = None

    def when_ended(self, fn: Callable[[], None]) -> None:
        self.end = fn


class OpenFakeLane(OpenLane):
    has_workers = True

    def __init__(self, lane: FakeLane) -> None:
        self._lane = lane

    async def get_ready(self, call: Call) -> None:
        self._lane.journal.append("get ready")
        await trio.sleep(self._lane.start_seconds)
        if self._lane.refuses_calls:
            raise AgentError("there is no place for it")

    async def run(self, call: Call) -> float:
        lane = self._lane
        lane.journal.append("run")
        lane.prepared.append(call.bound.prepared)
        call.state = "running"
        try:
            seconds: float = call.bound.fn(call.recorder.rollout.input, **call.arguments())
            await trio.sleep(seconds)
        except trio.Cancelled:
            lane.journal.append("cancelled")
            if lane.gives_up:
                lane.abandoned.append(FakeCall())
                call.abandoned = lane.abandoned[-1]
            raise
        return seconds

    def release(self, call: Call) -> None:
        self._lane.journal.append("release")

    def locate(self, call: Call, loop_thread: int) -> RunningTask | None:
        return None if call.state is None else RunningTask("fake", call.bound.fn.__name__, "far/away.py", 7, "sleep")


@pytest.fixture
def lane() -> Iterator[FakeLane]:
    lane = FakeLane()
    with registered_lane(lane):
        yield lane


@pytest.fixture
def agent(lane: FakeLane) -> agl.LitAgent[float]:
    @agl.rollout(runs_in="fake")
    def sleep(task: float, emitter: agl.Emitter) -> float:
        emitter.emit_message(f"sleeping for {task:g} s")
        if task < 0:
            raise ValueError(f"{task:g} s")
        return task

    return sleep


ONE_CALL = ["open", "get ready", "run", "release", "close"]


async def test_step_runs_an_agent_in_it(lane: FakeLane, agent: Any, autojump_clock: MockClock) -> None:
    async with Runner(agent) as runner:
        done = await runner.step(3.0)

    assert (done.status, done.final_reward) == ("succeeded", 3.0)
    assert [agl.get_message_value(span) for span in done.spans] == [None, "sleeping for 3 s", None]
    assert lane.journal == ONE_CALL


async def test_fit_runs_an_agent_in_it(lane: FakeLane, agent: Any, autojump_clock: MockClock) -> None:
    result = await Runner(agent).fit([1.0, 2.0, 3.0])

    assert result.counts["succeeded"] == 3
    assert result.mean_reward["train"] == 2.0
    assert (lane.journal.count("open"), lane.journal.count("close")) == (1, 1)


async def test_a_class_runs_in_it(lane: FakeLane, autojump_clock: MockClock) -> None:
    class Sleeper(agl.LitAgent[float]):
        runs_in = "fake"

        def rollout(self, task: float, resources: agl.NamedResources, rollout: agl.AttemptedRollout) -> float:
            return task

    result = await Runner(Sleeper()).fit([2.0])

    assert result.mean_reward["train"] == 2.0


async def test_a_deadline_cancels_its_calls(lane: FakeLane, agent: Any, autojump_clock: MockClock) -> None:
    async with Runner(agent, config=RolloutConfig(timeout_seconds=5)) as runner:
        with pytest.raises(agl.AttemptTimedOut, match="stopped at its deadline after 5 s"):
            await runner.step(100.0)

    assert trio.current_time() == pytest.approx(5)
    assert lane.journal == ["open", "get ready", "run", "cancelled", "release", "close"]


async def test_getting_ready_is_not_the_agents_time(lane: FakeLane, agent: Any, autojump_clock: MockClock) -> None:
    lane.start_seconds = 60.0
    async with Runner(agent, config=RolloutConfig(timeout_seconds=5)) as runner:
        done = await runner.step(1.0)

    assert done.duration == pytest.approx(1)


async def test_an_error_is_the_attempts(lane: FakeLane, agent: Any, autojump_clock: MockClock) -> None:
    async with Runner(agent) as runner:
        with pytest.raises(ValueError, match="-1 s"):
            await runner.step(-1.0)
        done = await runner.step(1.0)

    assert done.status == "succeeded"
    assert lane.journal.count("get ready") == lane.journal.count("release") == 2


async def test_a_call_that_cannot_begin_fails_its_attempt(
    lane: FakeLane, agent: Any, autojump_clock: MockClock
) -> None:
    lane.refuses_calls = True
    async with Runner(agent) as runner:
        with pytest.raises(AgentError, match="there is no place for it"):
            await runner.step(1.0)

    assert lane.journal == ["open", "get ready", "release", "close"]


async def test_a_call_that_is_cancelled_before_it_can_begin_is_released(
    lane: FakeLane, agent: Any, autojump_clock: MockClock
) -> None:
    lane.start_seconds, lane.places = 60.0, 1
    async with Runner(agent) as runner:
        with trio.move_on_after(1):
            await runner.step(1.0)
        lane.start_seconds = 0.0
        done = await runner.step(1.0)

    assert done.status == "succeeded"
    assert lane.journal == ["open", "get ready", "release", "get ready", "run", "release", "close"]


async def test_a_rollout_that_must_not_begin_needs_no_getting_ready(
    lane: FakeLane, agent: Any, autojump_clock: MockClock
) -> None:
    lane.start_seconds = 60.0
    config = RolloutConfig(total_timeout_seconds=5, max_attempts=3, retry_condition=["failed"])
    async with Runner(agent, config=config) as runner:
        with pytest.raises((ValueError, agl.AttemptTimedOut)):
            await runner.step(-1.0)

    assert lane.journal.count("get ready") == lane.journal.count("release") == 1


async def test_as_many_run_at_a_time_as_it_has_places_for(
    lane: FakeLane, agent: Any, autojump_clock: MockClock
) -> None:
    runner = Runner(agent, max_concurrency=10)

    await runner.fit([1.0] * 6)

    assert runner.max_concurrency == 2
    assert trio.current_time() == pytest.approx(3)


async def test_its_calls_get_what_it_prepared(lane: FakeLane, agent: Any, autojump_clock: MockClock) -> None:
    await Runner(agent).fit([1.0])

    assert lane.prepared == ["parcel with sleep"]


async def test_an_agent_that_it_cannot_prepare_is_an_error_before_the_first_rollout(
    lane: FakeLane, agent: Any, autojump_clock: MockClock
) -> None:
    lane.refuses_agents = True
    async with Runner(agent) as runner:
        with pytest.raises(UnsupportedLane, match="the agent sleep cannot be sent; write another"):
            await runner.fit([1.0])
        with pytest.raises(UnsupportedLane, match="cannot be sent"):
            await runner.step(1.0)
        rollouts = await runner.store.query_rollouts()

    assert not rollouts
    assert lane.journal == ["open", "close"]


async def test_an_abandoned_call_keeps_its_slot_until_it_ends(
    lane: FakeLane, agent: Any, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    lane.gives_up, lane.places = True, 1
    async with Runner(agent, config=RolloutConfig(timeout_seconds=5)) as runner:
        with pytest.raises(agl.AttemptTimedOut) as caught:
            await runner.step(100.0)
        with trio.move_on_after(60) as waited:
            await runner.step(1.0)
        numbers = runner.statistics()
        [call] = lane.abandoned
        assert call.end is not None
        call.end()
        done = await runner.step(1.0)

    assert "Its fake could not be stopped and was abandoned." in caught.value.__notes__
    assert "its fake could not be stopped" in caplog.text
    assert waited.cancelled_caught
    assert numbers.abandoned_threads == 1
    assert done.status == "succeeded"


async def test_a_runner_shows_where_its_calls_are(lane: FakeLane, agent: Any, autojump_clock: MockClock) -> None:
    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 5.0)
        await wait_all_tasks_blocked()
        [attempt] = runner.running()
        text = runner.describe()

    assert attempt.lane == "fake"
    assert attempt.task == RunningTask("fake", "sleep", "far/away.py", 7, "sleep")
    assert "away.py:7 in sleep: sleep" in text


async def test_cancelled_rollouts_go_back_to_the_queue(lane: FakeLane, agent: Any, autojump_clock: MockClock) -> None:
    async with Runner(agent) as runner:
        await runner.store.enqueue_rollout(100.0)
        with trio.move_on_after(1):
            await runner.serve()
    [rollout] = await runner.store.query_rollouts()

    assert rollout.status == "requeuing"
    assert lane.journal == ["open", "get ready", "run", "cancelled", "release", "close"]


def test_a_function_that_does_not_fit_is_refused_where_it_is_decorated(lane: FakeLane) -> None:
    with pytest.raises(UnsupportedLane, match="the agent sleep is async and runs_in='fake' takes plain functions"):

        @agl.rollout(runs_in="fake")
        async def sleep(task: float) -> float:
            return task


def test_an_unknown_lane_is_refused_with_all_names(lane: FakeLane) -> None:
    with pytest.raises(UnsupportedLane, match=r"runs_in='fakes'; the lanes are trio, thread, .*, fake$"):

        @agl.rollout(runs_in="fakes")
        def sleep(task: float) -> float:
            return task


@pytest.mark.parametrize("name", ["rollout", "llm_rollout", "prompt_rollout"])
def test_type_checkers_accept_any_name_where_a_function_is_decorated(name: str) -> None:
    # Under the name of the module that defines the overloads.
    decorator: Any = SimpleNamespace(__module__=_decorators.__name__, __qualname__=name)
    _, with_options = typing.get_overloads(decorator)

    assert str in typing.get_args(typing.get_type_hints(with_options)["runs_in"])


@pytest.mark.parametrize("where", [agl.LitAgent, agl.FunctionalLitAgent.__init__, agl.rollout])
def test_type_checkers_accept_any_name_elsewhere(where: Any) -> None:
    assert str in typing.get_args(typing.get_type_hints(where)["runs_in"])


def test_a_class_whose_lane_does_not_exist_is_refused_by_its_runner(lane: FakeLane) -> None:
    class Sleeper(agl.LitAgent[float]):
        runs_in = "fakes"

        def rollout(self, task: float, resources: agl.NamedResources, rollout: agl.AttemptedRollout) -> float:
            return task

    with pytest.raises(UnsupportedLane, match="the agent Sleeper has runs_in='fakes'; the lanes are trio, thread"):
        Runner(Sleeper())


def test_a_name_belongs_to_one_lane(lane: FakeLane) -> None:
    with pytest.raises(ValueError, match="a lane named 'fake' is already registered"):
        register_lane(FakeLane())


def test_a_lane_is_registered_until_its_block_ends() -> None:
    with registered_lane(FakeLane()):
        pass

    with pytest.raises(UnsupportedLane, match=r"runs_in='fake'; the lanes are trio, thread, ") as caught:

        @agl.rollout(runs_in="fake")
        def sleep(task: float) -> float:
            return task

    assert not str(caught.value).endswith("fake")
