"""Calls that wait for a slot while all slots are held by attempts that wait for them: a warning says who waits."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import InMemoryLightningStore, Runner
from lightning_trio._records import AttemptOutcome, RolloutStatus
from lightning_trio._runner import _slot_watch


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "has had no free slot" in record.getMessage()]


def one_slot(agent: Callable[..., Any]) -> Runner:
    return Runner(agent, max_concurrency=1, store=InMemoryLightningStore())


class Service:
    """A task of the program, which calls a runner for agents that ask it to, and for which they wait."""

    def __init__(self, call: Callable[[Runner], Awaitable[Any]]) -> None:
        self.call = call
        self._send, self._receive = trio.open_memory_channel[trio.Event](0)

    async def __call__(self, task: str) -> float:
        if task == "outer":
            answered = trio.Event()
            await self._send.send(answered)
            await answered.wait()
        return 1.0

    async def run(self, runner: Runner) -> None:
        async for answered in self._receive:
            await self.call(runner)
            answered.set()


async def step(runner: Runner) -> None:
    await runner.step("inner")


async def stream(runner: Runner) -> None:
    async with runner.stream(["inner"]) as results:
        async for _ in results:
            pass


async def fit(runner: Runner) -> None:
    await runner.fit(["inner"])


async def wait_in_the_store(runner: Runner) -> None:
    rollout = await runner.store.enqueue_rollout("inner")
    await runner.store.wait_for_rollouts(rollout_ids=[rollout.rollout_id])


async def run_for(seconds: float, service: Service, start: Callable[[Runner], Awaitable[Any]]) -> None:
    """Open a runner with one slot, and run the service and `start` for some seconds."""
    with trio.move_on_after(seconds):
        async with (
            one_slot(service.__call__) as runner,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(service.run, runner)
            nursery.start_soon(start, runner)
            await trio.sleep_forever()


async def step_outer(runner: Runner) -> None:
    await runner.step("outer")


@pytest.mark.parametrize("call", [step, stream, fit])
async def test_a_call_for_which_the_attempts_wait_is_named_once_with_them(
    call: Callable[[Runner], Awaitable[None]], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    began = trio.current_time()
    await run_for(100, Service(call), step_outer)

    first, *others = warnings_of(caplog)
    assert "for 10 s, and no attempt has ended" in first
    assert f"test_slot_watch.Service.run, in {call.__name__} at" in first
    assert "in __call__ at" in first
    assert "await answered.wait()" in first
    assert "max_concurrency" in first
    assert len(others) <= 1
    assert trio.current_time() - began == 100


async def test_a_queue_for_whose_rollouts_its_own_attempts_wait_is_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def serve(runner: Runner) -> None:
        await runner.store.enqueue_rollout("outer")
        await runner.serve()

    await run_for(700, Service(wait_in_the_store), serve)

    [warning] = warnings_of(caplog)
    assert "in serve at" in warning


async def test_attempts_of_one_fit_that_wait_for_more_of_them_than_there_are_slots_are_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    arrived, all_there = [0], trio.Event()

    async def agent(task: int) -> float:
        arrived[0] += 1
        if arrived[0] == 3:
            all_there.set()
        await all_there.wait()
        return 1.0

    with trio.move_on_after(700):
        await Runner(agent, max_concurrency=2, store=InMemoryLightningStore()).fit([0, 1, 2])

    [warning] = warnings_of(caplog)
    assert warning.count("await all_there.wait()") == 2


async def fit_five(runner: Runner) -> None:
    await runner.fit(list(range(5)))


async def stream_five(runner: Runner) -> None:
    async with runner.stream(list(range(5))) as results:
        async for _ in results:
            pass


async def serve_five(runner: Runner) -> None:
    for task in range(5):
        await runner.store.enqueue_rollout(task)
    with trio.move_on_after(800):
        await runner.serve()


@pytest.mark.parametrize("call", [fit_five, stream_five, serve_five])
async def test_agents_that_wait_for_an_approval_are_no_reason_for_a_warning_within_ten_minutes(
    call: Callable[[Runner], Awaitable[None]], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    approved = trio.Event()

    async def agent(task: int) -> None:
        await approved.wait()

    async with (
        Runner(agent, max_concurrency=2, store=InMemoryLightningStore()) as runner,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(call, runner)
        await trio.sleep(500)
        approved.set()

    assert not warnings_of(caplog)


async def test_warnings_of_one_runner_become_rare(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    await run_for(1000, Service(step), step_outer)

    assert [warning.split(" for ")[1].split(",")[0] for warning in warnings_of(caplog)] == [
        "10 s",
        "50 s",
        "210 s",
        "850 s",
    ]


async def test_after_long_stillness_there_are_no_more_warnings(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that hangs by a virtual clock fills no log."""
    monkeypatch.setattr(_slot_watch, "_GIVE_UP_SECONDS", 100)

    await run_for(2000, Service(step), step_outer)

    assert len(warnings_of(caplog)) == 2


async def test_slow_attempts_in_turn_are_no_reason_for_a_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    events = [trio.Event() for _ in range(6)]

    async def agent(task: int) -> None:
        await events[task].wait()

    async with (
        one_slot(agent) as runner,
        trio.open_nursery() as nursery,
    ):
        for task in range(6):
            nursery.start_soon(runner.step, task)
            await trio.testing.wait_all_tasks_blocked()
        for event in events:
            await trio.sleep(8)
            event.set()

    assert not warnings_of(caplog)


@pytest.mark.parametrize(("records", "number"), [(True, 0), (False, 1)])
async def test_attempts_that_go_on_by_themselves_have_a_minute_in_which_they_record_something(
    records: bool, number: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(task: int) -> None:
        for _ in range(30):
            await trio.sleep(5)
            if records:
                agl.emit_message("still there")

    async with (
        one_slot(agent) as runner,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(runner.step, 0)
        nursery.start_soon(runner.step, 1)

    assert len(warnings_of(caplog)) == number


async def test_attempts_whose_outcomes_are_being_stored_hold_slots_as_well(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class SlowStore(InMemoryLightningStore):
        async def finish(self, outcomes: Sequence[AttemptOutcome]) -> list[RolloutStatus | None]:
            await trio.sleep(80)
            return await super().finish(outcomes)

    async def agent(task: int) -> None:
        await trio.lowlevel.checkpoint()

    async with Runner(agent, max_concurrency=1, store=SlowStore()) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 0)
        nursery.start_soon(runner.step, 1)

    [warning] = warnings_of(caplog)
    assert "for 60 s" in warning
    assert "Holding the slots: 1 whose outcomes are being stored" in warning


@pytest.mark.parametrize("own", [True, False])
async def test_a_fit_with_slow_agents_is_no_reason_for_a_warning(
    own: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither if they sleep, nor if they wait for slow agents of another runner."""

    async def slow(task: int) -> None:
        await trio.sleep(100)

    async with Runner(slow, store=InMemoryLightningStore()) as other:

        async def agent(task: int) -> None:
            await (slow(task) if own else other.step(task))

        await Runner(agent, max_concurrency=2, store=InMemoryLightningStore()).fit([0, 1, 2, 3, 4])

    assert not warnings_of(caplog)


async def test_a_call_that_an_attempt_makes_of_a_full_runner_is_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    release = trio.Event()

    async def hold(task: int) -> None:
        await release.wait()

    async with one_slot(hold) as full:

        async def agent(task: int) -> None:
            await full.step(1)
            release.set()

        with trio.move_on_after(100):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(full.step, 0)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(Runner(agent, store=InMemoryLightningStore()).fit, [0])

    warning = warnings_of(caplog)[0]
    assert "in agent at" in warning
    assert "await full.step(1)" in warning


async def test_a_cancelled_call_leaves_nothing_to_watch(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    release = trio.Event()

    async def agent(task: int) -> None:
        await release.wait()

    async with (
        one_slot(agent) as runner,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(runner.step, 0)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(7):
            await runner.step(1)
        await trio.sleep(1000)
        release.set()

    assert not warnings_of(caplog)


def test_a_thread_whose_rollout_is_not_known_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_slot_watch, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(_slot_watch, "_STILL_SECONDS", 0.04)
    monkeypatch.setattr(_slot_watch, "_SLOW_SECONDS", 0.06)

    async def main() -> None:
        token = trio.lowlevel.current_trio_token()

        def agent(task: str) -> None:
            if task == "outer":
                with concurrent.futures.ThreadPoolExecutor(1) as pool:
                    call = pool.submit(trio.from_thread.run, runner.step, "inner", trio_token=token)
                    for _ in range(500):
                        if warnings_of(caplog):
                            break
                        time.sleep(0.02)
                    trio.from_thread.run_sync(scope.cancel)
                    concurrent.futures.wait([call])

        with trio.CancelScope() as scope:
            async with one_slot(agent) as runner:
                await runner.step("outer")

    trio.run(main)

    [warning, *_] = warnings_of(caplog)
    assert "Runner.step, called from another thread or by a system task" in warning
    assert "if warnings_of(caplog)" in warning or "time.sleep(0.02)" in warning
    assert "agl.carry_context(fn)" in warning


async def nest(nurseries: int, event: trio.Event) -> None:
    """Wait for an event below so many nested nurseries."""
    if nurseries == 0:
        await event.wait()
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nest, nurseries - 1, event)


@pytest.mark.parametrize("nurseries", [300, 900])
async def test_nurseries_nested_deeper_than_python_recurses_end_no_run(
    nurseries: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    event = trio.Event()

    async def agent(task: int) -> None:
        await nest(nurseries, event)

    async with (
        one_slot(agent) as runner,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(runner.step, 0)
        nursery.start_soon(runner.step, 1)
        await trio.sleep(100)
        event.set()

    assert warnings_of(caplog)


async def test_a_look_that_fails_is_logged_once_and_ends_no_run(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(_slot_watch, "waits_for_tasks", fail)

    async def agent(task: int) -> None:
        await trio.sleep(100)

    async with one_slot(agent) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 0)
        nursery.start_soon(runner.step, 1)

    failures = [each for each in caplog.messages if "looking at the calls that wait for a slot failed" in each]
    assert len(failures) == 1
