"""What an asyncio rollout started and others wait for outlives it, and its end is not their failure."""

from __future__ import annotations

import asyncio
import contextvars
import re
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import trio

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner


async def wait_until(is_true: Callable[[], object]) -> None:
    """Wait until something in the loop's thread has happened."""
    with trio.fail_after(10):
        while not is_true():
            await trio.sleep(0.01)


class Loader:
    """One load for all rollouts, which the first of them starts."""

    def __init__(self) -> None:
        self.waiting = 0
        self.may_end = threading.Event()
        self.started = False
        self.task: asyncio.Task[None] | None = None
        self.waits: Any = None

    async def get(self) -> float:
        self.waiting += 1
        if not self.started:
            self.started = True
            await self.start()
        return await self.wait()

    async def start(self) -> None:
        raise NotImplementedError

    async def wait(self) -> float:
        return await asyncio.shield(self.waits)

    async def work(self) -> None:
        while not self.may_end.is_set():
            await asyncio.sleep(0.01)


class Callback(Loader):
    """As `async_lru` does it."""

    async def start(self) -> None:
        waits = self.waits = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self.work())
        self.task.add_done_callback(lambda task: waits.cancel() if task.cancelled() else waits.set_result(1.0))


class Variable(Loader):
    async def start(self) -> None:
        waits = self.waits = asyncio.get_running_loop().create_future()

        async def load() -> None:
            try:
                await self.work()
            except asyncio.CancelledError:
                waits.set_exception(OSError("not loaded"))
                raise
            waits.set_result(1.0)

        self.task = asyncio.create_task(load())


class Event(Loader):
    async def start(self) -> None:
        self.waits = asyncio.Event()
        self.task = asyncio.create_task(self.load())

    async def load(self) -> None:
        await self.work()
        self.waits.set()

    async def wait(self) -> float:
        async with asyncio.timeout(10):
            await self.waits.wait()
        return 1.0


class Keyed(Event):
    async def start(self) -> None:
        self.waits = {"key": asyncio.Event()}
        self.task = asyncio.create_task(self.load())

    async def load(self) -> None:
        await self.work()
        self.waits["key"].set()

    async def wait(self) -> float:
        async with asyncio.timeout(10):
            await self.waits["key"].wait()
        return 1.0


class Condition(Event):
    is_loaded = False

    async def start(self) -> None:
        self.waits = asyncio.Condition()
        self.task = asyncio.create_task(self.load())

    async def load(self) -> None:
        await self.work()
        async with self.waits:
            self.is_loaded = True
            self.waits.notify_all()

    async def wait(self) -> float:
        async with asyncio.timeout(10), self.waits:
            # Since Python 3.13 a waiter that is cancelled wakes another one.
            await self.waits.wait_for(lambda: self.is_loaded)
        return 1.0


class BusyCondition(Condition):
    """Its lock is held while the first waiter's rollout ends, so that the one it wakes cannot wait again yet."""

    async def wait(self) -> float:
        is_first = self.waiting == 1
        try:
            return await super().wait()
        finally:
            if is_first:
                await self.waits.acquire()
                asyncio.get_running_loop().call_later(0.05, self.waits.release)


class Queue(Event):
    async def start(self) -> None:
        self.waits = asyncio.Queue()
        self.task = asyncio.create_task(self.load())

    async def load(self) -> None:
        await self.work()
        for _ in range(self.waiting):
            self.waits.put_nowait(1.0)

    async def wait(self) -> float:
        async with asyncio.timeout(10):
            return await self.waits.get()


async def step_until_cancelled(runner: Runner, task: int, scope: trio.CancelScope, done: list[float | None]) -> None:
    """Add the reward of a step, unless it is cancelled."""
    with scope:
        done.append((await runner.step(task)).final_reward)


@pytest.mark.parametrize("kind", [Callback, Variable, Event, Keyed, Condition, BusyCondition, Queue])
async def test_a_task_whose_result_others_wait_for_by_other_means_goes_on_too(kind: type[Loader]) -> None:
    loader = kind()

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        return await loader.get()

    rewards: list[float | None] = []
    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        first = trio.CancelScope()
        nursery.start_soon(step_until_cancelled, runner, 0, first, rewards)
        await wait_until(lambda: loader.waiting == 1)
        nursery.start_soon(step_until_cancelled, runner, 1, trio.CancelScope(), rewards)
        await wait_until(lambda: loader.waiting == 2)
        await trio.sleep(0.05)
        first.cancel()
        await wait_until(lambda: runner.statistics().running == 1)
        loader.may_end.set()

    assert rewards == [1.0]


class Shared:
    """A task that two agents await without a shield, so that asyncio cancels it with either of them."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.waiting = 0

    async def wait(self) -> None:
        self.waiting += 1
        await self.tasks[0]

    async def first(self, task: int) -> None:
        self.tasks.append(asyncio.create_task(asyncio.sleep(60)))
        await self.wait()

    async def run(self, agent: Any, call: Callable[[Runner], Awaitable[Any]]) -> Any:
        """Call a runner of the agent, and stop the first agent once both wait."""
        first = agl.rollout(runs_in="asyncio")(self.first)
        async with Runner(first) as other, Runner(agent) as runner, trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(step_until_cancelled, other, 0, scope, [])
            await wait_until(lambda: self.waiting)
            nursery.start_soon(self.stop, scope)
            return await call(runner)

    async def stop(self, scope: trio.CancelScope) -> None:
        await wait_until(lambda: self.waiting == 2)
        await trio.sleep(0.05)
        scope.cancel()


@pytest.mark.parametrize("raised", [asyncio.CancelledError, OSError])
async def test_a_rollout_whose_task_was_cancelled_with_another_one_is_run_again(
    raised: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    shared = Shared()

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        try:
            if not shared.tasks[0].cancelled():
                await shared.wait()
        except asyncio.CancelledError:
            raise raised from None
        return 1.0

    result = await shared.run(agent, lambda runner: runner.fit([1]))

    assert result.counts["succeeded"] == 1
    assert "runs again: it failed because rollout" in caplog.text


async def test_a_step_that_is_run_again_for_this_reason_does_not_count_the_attempt() -> None:
    shared = Shared()

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        if not shared.tasks[0].cancelled():
            await shared.wait()
        return 1.0

    async def step(runner: Runner) -> list[str]:
        rollout_id = (await runner.step(1)).rollout.rollout_id
        return [attempt.status for attempt in await runner.store.query_attempts(rollout_id)]

    assert await shared.run(agent, step) == ["cancelled", "succeeded"]


async def test_a_rollout_is_not_disturbed_by_others_without_end() -> None:
    shared = Shared()

    @agl.rollout(runs_in="asyncio", config=RolloutConfig(max_lost_attempts=1))
    async def agent(task: int) -> None:
        await shared.wait()

    with pytest.raises(agl.AgentError, match=r"cancelled with rollout ro-\w+ \(first\), which was stopped"):
        await shared.run(agent, lambda runner: runner.step(1))


class Flight:
    """One load for all rollouts, which the first of them does itself; the others wait for it."""

    def __init__(self) -> None:
        self.waiting = 0
        self.is_stopped = False
        self.waits: Any = None

    async def get(self) -> float:
        self.waiting += 1
        if self.is_stopped:
            return 1.0
        if self.waiting > 1:
            return await self.follow()
        self.waits = self.make()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as exc:
            self.is_stopped = True
            await self.give_up(exc)
            raise
        return 1.0

    def make(self) -> Any:
        return asyncio.get_running_loop().create_future()

    async def give_up(self, exc: BaseException) -> None:
        raise NotImplementedError

    async def follow(self) -> float:
        return await self.waits


class CancelsFuture(Flight):
    async def give_up(self, exc: BaseException) -> None:
        self.waits.cancel()


class PassesItsCancellationOn(Flight):
    async def give_up(self, exc: BaseException) -> None:
        self.waits.set_exception(exc)

    async def follow(self) -> float:
        return await asyncio.shield(self.waits)


class SetsAnError(Flight):
    async def give_up(self, exc: BaseException) -> None:
        await asyncio.sleep(0.01)
        self.waits.set_exception(OSError("not loaded"))

    async def follow(self) -> float:
        try:
            return await self.waits
        except OSError as exc:
            await asyncio.sleep(0.05)
            raise LookupError("no value") from exc


class SetsAnErrorForATaskOfNobody(SetsAnError):
    async def follow(self) -> float:
        return await asyncio.create_task(self.wait(), context=contextvars.Context())

    async def wait(self) -> float:
        return await self.waits


class FarAway(Flight):
    def make(self) -> Any:
        return SimpleNamespace(cache={"key": super().make()})

    async def give_up(self, exc: BaseException) -> None:
        self.waits.cache["key"].set_exception(OSError("not loaded"))

    async def follow(self) -> float:
        return await self.waits.cache["key"]


class SetsAnEvent(Flight):
    def make(self) -> Any:
        return asyncio.Event()

    async def give_up(self, exc: BaseException) -> None:
        self.waits.set()

    async def follow(self) -> float:
        await asyncio.wait_for(self.waits.wait(), 10)
        raise LookupError("no value")


class Notifies(Flight):
    def make(self) -> Any:
        return asyncio.Condition()

    async def give_up(self, exc: BaseException) -> None:
        async with self.waits:
            self.waits.notify_all()

    async def follow(self) -> float:
        async with self.waits:
            await self.waits.wait()
        raise LookupError("no value")


class PutsNothing(Flight):
    def make(self) -> Any:
        return asyncio.Queue()

    async def give_up(self, exc: BaseException) -> None:
        self.waits.put_nowait(None)

    async def follow(self) -> float:
        async with asyncio.TaskGroup() as group:
            value = group.create_task(self.waits.get())
        return value.result() + 1.0


class ShutsDown(PutsNothing):
    async def give_up(self, exc: BaseException) -> None:
        self.waits.shutdown(immediate=True)


FLIGHTS = [
    CancelsFuture,
    PassesItsCancellationOn,
    SetsAnError,
    SetsAnErrorForATaskOfNobody,
    FarAway,
    SetsAnEvent,
    Notifies,
    PutsNothing,
    pytest.param(
        ShutsDown, marks=pytest.mark.skipif(sys.version_info < (3, 13), reason="since Python 3.13 queues shut down")
    ),
]


async def stop(flight: Flight, scope: trio.CancelScope) -> None:
    """Stop the first rollout once a second one waits for what it loads."""
    await wait_until(lambda: flight.waiting == 2)
    await trio.sleep(0.05)
    scope.cancel()


async def run_and_stop_another(flight: Flight, function: Any) -> list[agl.Attempt]:
    """Return the attempts of a rollout that waits for what another one loads, which is stopped meanwhile."""

    @agl.rollout(runs_in="asyncio")
    async def first(task: int) -> float:
        return await flight.get()

    agent = agl.rollout(runs_in="asyncio")(function)
    async with Runner(first) as other, Runner(agent) as runner, trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(step_until_cancelled, other, 0, scope, [])
        await wait_until(lambda: flight.waits)
        nursery.start_soon(stop, flight, scope)
        await runner.fit([1])
        rollouts = await runner.store.query_rollouts()
        return list(await runner.store.query_attempts(rollouts[0].rollout_id))


@pytest.mark.parametrize("kind", FLIGHTS)
async def test_a_rollout_that_fails_because_another_was_stopped_that_loaded_for_both_is_run_again(
    kind: type[Flight],
) -> None:
    flight = kind()

    async def agent(task: int) -> float:
        return await flight.get()

    attempts = await run_and_stop_another(flight, agent)

    assert [attempt.status for attempt in attempts] == ["cancelled", "succeeded"]


async def test_an_error_that_stems_from_another_rollouts_end_names_it() -> None:
    flight = SetsAnError()

    async def agent(task: int) -> float:
        return await flight.get()

    attempts = await run_and_stop_another(flight, agent)

    assert attempts[0].error is not None
    assert attempts[0].error.type == "LookupError"
    assert re.search(r"It stems from the end of rollout ro-\w+ \(first\)", attempts[0].error.traceback)


async def test_an_error_of_an_agents_own_after_another_rollout_has_woken_it_counts() -> None:
    flight = SetsAnEvent()

    async def agent(task: int) -> float:
        with suppress(LookupError):
            await flight.get()
        await asyncio.sleep(0.05)
        raise ValueError("its own")

    attempts = await run_and_stop_another(flight, agent)

    assert [attempt.error and attempt.error.type for attempt in attempts] == ["ValueError"]


async def test_tasks_that_others_wait_for_are_no_victims_of_the_limit_of_forgotten_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lightning_trio.lanes._asyncio._background._MOST_OF_A_KIND", 1)
    monkeypatch.setattr("lightning_trio.lanes._asyncio._background._MOMENT_SECONDS", 0.01)
    tasks: list[asyncio.Task[None]] = []
    may_end = threading.Event()

    async def load() -> None:
        while not may_end.is_set():
            await asyncio.sleep(0.01)

    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> None:
        if task == "forget":
            tasks.append(asyncio.create_task(load()))
        else:
            await asyncio.shield(tasks[0])

    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        await runner.step("forget")
        nursery.start_soon(runner.step, "wait")
        await wait_until(lambda: getattr(tasks[0], "_callbacks", None))
        for _ in range(2):
            await runner.step("forget")
        await wait_until(lambda: tasks[1].cancelled())
        may_end.set()

    assert not tasks[0].cancelled()


async def stop_beside_another(hold: Callable[[], object]) -> list[str]:
    """Stop an agent that holds an object while another one runs; return what its clean-up did until it ended."""
    done: list[str] = []
    waiting: list[str] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> None:
        held = hold() if task == "stopped" else None
        waiting.append(task)
        try:
            await asyncio.sleep(60)
        finally:
            done.append(task)
            del held

    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, "healthy")
        await wait_until(lambda: waiting)
        scope = trio.CancelScope()
        nursery.start_soon(wait_and_cancel, lambda: len(waiting) == 2, scope)
        with trio.fail_after(5), scope:
            await runner.step("stopped")
        done_by_then = list(done)
        nursery.cancel_scope.cancel()
    return done_by_then


async def wait_and_cancel(is_true: Callable[[], object], scope: trio.CancelScope) -> None:
    await wait_until(is_true)
    scope.cancel()


async def test_a_lazy_proxy_that_a_stopped_agent_holds_makes_nothing() -> None:
    made: list[type] = []

    class Lazy:
        @property
        def __class__(self) -> type:
            made.append(str)
            return str

    assert await stop_beside_another(Lazy) == ["stopped"]
    assert made == []


@pytest.mark.parametrize("raised", [ValueError, SystemExit])
async def test_an_agent_is_cancelled_also_where_what_it_holds_raises(
    raised: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(asyncio.Event):
        def __getattribute__(self, name: str) -> object:
            raise raised(name)

    assert await stop_beside_another(lambda: Odd.__new__(Odd)) == ["stopped"]
    assert f"looking at what its agent holds raised {raised.__name__}" in caplog.text


async def test_a_future_without_a_hash_that_agents_share_keeps_none_from_being_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd(asyncio.Future[None]):
        __hash__ = None  # type: ignore[assignment]

    shared: list[asyncio.Future[None]] = []
    done: list[str] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> None:
        futures = shared
        if task == "healthy":
            futures.append(Odd(loop=asyncio.get_running_loop()))
            await futures[0]
        try:
            await asyncio.sleep(60)
        finally:
            done.append(task)

    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, "healthy")
        await wait_until(lambda: shared)
        with trio.fail_after(5), trio.move_on_after(0.2):
            await runner.step("stopped")
        nursery.cancel_scope.cancel()

    assert done == ["stopped"]
    assert "raised" not in caplog.text


async def test_stopped_rollouts_leave_nothing_on_what_others_wait_for() -> None:
    shared: list[asyncio.Future[None]] = []

    @agl.rollout(runs_in="asyncio", config=RolloutConfig(timeout_seconds=None))
    async def agent(task: str) -> None:
        futures = shared
        if task == "healthy":
            futures.append(asyncio.get_running_loop().create_future())
            await futures[0]
        await asyncio.sleep(60)

    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, "healthy")
        await wait_until(lambda: shared)
        for _ in range(3):
            with trio.move_on_after(0.1):
                await runner.step("stopped")
        # One is the agent's own task, which it wakes.
        await wait_until(lambda: len(getattr(shared[0], "_callbacks", ())) == 1)
        nursery.cancel_scope.cancel()


async def test_what_others_do_after_a_rollout_was_abandoned_is_not_its_clean_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lightning_trio.lanes._asyncio._lane._CLEAN_UP_SECONDS", 0.1)
    monkeypatch.setattr("lightning_trio.lanes._asyncio._call._LAST_SECONDS", 0.0)
    shared: list[asyncio.Future[None]] = []
    may_end = threading.Event()

    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> None:
        futures = shared
        if task == "waits":
            futures.append(asyncio.get_running_loop().create_future())
            await futures[0]
            raise ValueError("its own")
        if task == "answers":
            futures[0].set_result(None)
        while task == "ignores" and not may_end.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    async def wait(runner: Runner) -> None:
        with pytest.raises(ValueError, match="its own"):
            await runner.step("waits")

    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(wait, runner)
        await wait_until(lambda: shared)
        with trio.move_on_after(0.1):
            await runner.step("ignores")
        assert runner.statistics().abandoned_threads == 1
        await wait_until(lambda: len(getattr(shared[0], "_callbacks", ())) == 1)
        await runner.step("answers")
        await wait_until(lambda: runner.statistics().failed)
        may_end.set()

    assert len(shared) == 1
