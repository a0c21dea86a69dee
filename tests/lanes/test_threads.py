"""The thread lane: plain functions, the loops they start themselves, and abandoned threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from programs import run_program

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event for threads to block on, set at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


def limit(seconds: float = 0.1) -> RolloutConfig:
    return RolloutConfig(timeout_seconds=seconds)


async def wait_until(condition: object, seconds: float = 5.0) -> None:
    """Wait for an effect of a thread, for which there is no Trio event."""
    assert callable(condition)
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)


async def test_a_plain_function_runs_in_a_worker_thread() -> None:
    threads: list[threading.Thread] = []

    def agent(task: int) -> float:
        threads.append(threading.current_thread())
        return task * 2.0

    result = await Runner(agent).fit([2])

    assert threads[0] is not threading.main_thread()
    assert result.mean_reward["train"] == 4.0


async def test_plain_functions_run_at_the_same_time_up_to_max_concurrency() -> None:
    """Trio's own limiter would allow 40."""
    barrier = threading.Barrier(60, timeout=20)

    def agent(task: int) -> None:
        barrier.wait()

    result = await Runner(agent, max_concurrency=60).fit(range(60))

    assert result.counts["succeeded"] == 60


async def test_a_blocking_agent_does_not_hold_native_work_up(gate: threading.Event) -> None:
    def agent(task: int) -> None:
        gate.wait(10)

    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 1)
        with trio.fail_after(5):
            await trio.sleep(0.05)
        gate.set()


async def test_emits_in_the_thread_reach_its_rollout() -> None:
    def agent(task: int) -> None:
        agl.emit_message(f"task {task}")
        agl.emit_reward(float(task))

    async with Runner(agent) as runner:
        done = await runner.step(7)

    assert agl.get_message_value(done.spans[1]) == "task 7"
    assert done.final_reward == 7.0


async def test_context_variables_of_the_caller_reach_the_thread() -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    seen: list[str] = []

    def agent(task: int) -> None:
        seen.append(who.get())

    async with Runner(agent) as runner:
        who.set("me")
        await runner.step(1)

    assert seen == ["me"]


async def test_asyncio_run_works_inside_a_plain_agent() -> None:
    async def inner(task: int) -> float:
        async def child(number: int) -> None:
            await asyncio.sleep(0.001)
            agl.emit_message(str(number))

        await asyncio.gather(child(1), child(2))
        return task / 2

    def agent(task: int) -> float:
        return asyncio.run(inner(task))

    async with Runner(agent) as runner:
        done = await runner.step(3)

    assert done.final_reward == 1.5
    assert sorted(agl.get_message_value(span) or "" for span in done.spans[1:3]) == ["1", "2"]


async def test_trio_run_works_inside_a_plain_agent() -> None:
    async def inner(task: int) -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(emit, "child")
        return task / 2

    async def emit(text: str) -> None:
        await trio.sleep(0.001)
        agl.emit_message(text)

    def agent(task: int) -> float:
        return trio.run(inner, task)

    async with Runner(agent) as runner:
        done = await runner.step(3)

    assert done.final_reward == 1.5
    assert agl.get_message_value(done.spans[1]) == "child"


async def test_to_thread_inside_a_native_agent_belongs_to_its_rollout() -> None:
    async def agent(task: int) -> None:
        await trio.to_thread.run_sync(agl.emit_message, "from a thread")

    async with Runner(agent) as runner:
        done = await runner.step(1)

    assert agl.get_message_value(done.spans[1]) == "from a thread"


async def test_calling_back_into_trio_from_the_thread_belongs_to_its_rollout() -> None:
    async def emit() -> None:
        agl.emit_message("back in Trio")

    def agent(task: int) -> None:
        trio.from_thread.run(emit)

    async with Runner(agent) as runner:
        done = await runner.step(1)

    assert agl.get_message_value(done.spans[1]) == "back in Trio"


async def test_carried_context_reaches_bare_threads_and_pools() -> None:
    def agent(task: int) -> None:
        thread = threading.Thread(target=agl.carry_context(agl.emit_message), args=("thread",))
        thread.start()
        thread.join()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            pool.submit(agl.carry_context(agl.emit_message), "pool").result()

    async with Runner(agent) as runner:
        done = await runner.step(1)

    assert [agl.get_message_value(span) for span in done.spans[1:]] == ["thread", "pool"]


async def test_a_bare_thread_without_its_context_gets_an_error_that_shows_how_to_pass_it() -> None:
    errors: list[BaseException] = []

    def emit() -> None:
        try:
            agl.emit_message("lost")
        except agl.NoActiveRollout as exc:
            errors.append(exc)

    def agent(task: int) -> None:
        thread = threading.Thread(target=emit)
        thread.start()
        thread.join()

    async with Runner(agent) as runner:
        await runner.step(1)

    assert "threading.Thread(target=agl.carry_context(fn))" in str(errors[0])


async def test_an_opentelemetry_context_carried_by_hand_reaches_the_rollout() -> None:
    """OpenTelemetry's threading instrumentation carries its own context, and no other variable."""

    def emit(context: Context) -> None:
        token = otel_context.attach(context)
        try:
            agl.emit_message("carried")
        finally:
            otel_context.detach(token)

    def agent(task: int) -> None:
        thread = threading.Thread(target=emit, args=(otel_context.get_current(),))
        thread.start()
        thread.join()

    async with Runner(agent) as runner:
        done = await runner.step(1)

    assert agl.get_message_value(done.spans[1]) == "carried"
    assert done.spans[1].parent_id == done.spans[0].span_id


@pytest.mark.parametrize("runs_in", ["thread", "asyncio"])
async def test_opentelemetrys_threading_instrumentation_carries_the_rollout(runs_in: Any) -> None:
    threading_instrumentation = pytest.importorskip("opentelemetry.instrumentation.threading")
    instrumentor = threading_instrumentation.ThreadingInstrumentor()

    def work() -> None:
        thread = threading.Thread(target=agl.emit_message, args=("thread",))
        thread.start()
        thread.join()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(agl.emit_message, "pool").result()

    def plain(task: int) -> None:
        work()

    async def for_asyncio(task: int) -> None:
        work()
        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            await loop.run_in_executor(pool, agl.emit_message, "executor")
        await loop.run_in_executor(None, agl.emit_message, "default executor")

    instrumentor.instrument()
    try:
        async with Runner(agl.rollout(runs_in=runs_in)(plain if runs_in == "thread" else for_asyncio)) as runner:
            done = await runner.step(1)
    finally:
        instrumentor.uninstrument()

    expected = ["thread", "pool"] if runs_in == "thread" else ["thread", "pool", "executor", "default executor"]
    assert [agl.get_message_value(span) for span in done.spans[1:]] == expected


async def test_a_failure_in_the_thread_is_raised_as_it_is() -> None:
    def agent(task: int) -> None:
        raise KeyError("room")

    async with Runner(agent) as runner:
        with pytest.raises(KeyError, match="room"):
            await runner.step(1)


async def test_at_its_deadline_a_thread_is_abandoned_and_the_error_says_so(gate: threading.Event) -> None:
    def agent(task: int) -> float:
        gate.wait(20)
        return 1.0

    with trio.fail_after(5):
        async with Runner(agent, config=limit()) as runner:
            with pytest.raises(agl.AttemptTimedOut) as caught:
                await runner.step(1)

            assert runner.statistics().abandoned_threads == 1
    assert "Its thread could not be stopped and was abandoned." in caught.value.__notes__


async def test_an_abandoned_thread_keeps_its_slot_until_it_ends(gate: threading.Event) -> None:
    def agent(task: int) -> None:
        if task == 0:
            gate.wait(20)

    async with Runner(agent, config=limit(), max_concurrency=1) as runner:
        with pytest.raises(agl.AttemptTimedOut):
            await runner.step(0)
        with trio.move_on_after(0.2) as blocked:
            await runner.step(1)
        gate.set()
        with trio.fail_after(5):
            done = await runner.step(1)

        assert blocked.cancelled_caught
        assert done.status == "succeeded"
        assert runner.statistics().abandoned_threads == 0
        assert runner.statistics().late_results == 1


async def test_leaving_the_runner_does_not_wait_for_abandoned_threads(gate: threading.Event) -> None:
    ended: list[int] = []

    def agent(task: int) -> None:
        gate.wait()
        ended.append(task)

    with trio.fail_after(60):
        await Runner(agent, config=limit()).fit([1, 2])

    assert ended == []


async def test_leaving_the_runner_names_abandoned_threads_in_a_warning(
    gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    def stubborn(task: int) -> None:
        gate.wait(20)

    caplog.set_level(logging.WARNING, "lightning_trio")
    runner = Runner(stubborn, config=limit())
    await runner.fit([1])

    [rollout] = await runner.store.query_rollouts()
    assert any("abandoned" in message and rollout.rollout_id in message for message in caplog.messages)


async def test_an_abandoned_thread_cannot_report_late(gate: threading.Event) -> None:
    ended = threading.Event()

    def agent(task: int) -> float:
        try:
            gate.wait(20)
            return 1.0
        finally:
            ended.set()

    runner = Runner(agent, config=limit())
    await runner.fit([1])
    gate.set()
    await wait_until(ended.is_set)

    [rollout] = await runner.store.query_rollouts()
    attempt = await runner.store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    assert (attempt.status, attempt.final_reward) == ("timeout", None)


async def test_an_emit_in_an_abandoned_thread_ends_it(gate: threading.Event) -> None:
    heard: list[BaseException] = []

    def agent(task: int) -> None:
        gate.wait(20)
        try:
            agl.emit_message("too late")
        except Exception:  # noqa: BLE001  # what an agent that catches everything gets
            agl.emit_message("an agent that retries on every Exception")
        except BaseException as exc:
            heard.append(exc)
            raise

    async with Runner(agent, config=limit()) as runner:
        with pytest.raises(agl.AttemptTimedOut):
            await runner.step(1)
        gate.set()
        await wait_until(lambda: heard)

        [rollout] = await runner.store.query_rollouts()
        assert "was abandoned at its deadline or when it was cancelled; its code must stop" in str(heard[0])
        assert len(await runner.store.query_spans(rollout.rollout_id)) == 1


@pytest.mark.parametrize("emit", ["operation", "reward", "object", "annotation", "exception", "emitter"])
async def test_every_emitter_raises_in_an_abandoned_thread(gate: threading.Event, emit: str) -> None:
    heard: list[BaseException] = []

    def agent(task: int, emitter: agl.Emitter) -> None:
        calls = {
            "operation": lambda: agl.operation(name="x").__enter__(),
            "reward": lambda: agl.emit_reward(1.0),
            "object": lambda: agl.emit_object({}),
            "annotation": lambda: agl.emit_annotation({"a": 1}),
            "exception": lambda: agl.emit_exception(ValueError()),
            "emitter": lambda: emitter.emit_message("x"),
        }
        gate.wait(20)
        try:
            calls[emit]()
        except agl.AttemptAbandoned as exc:
            heard.append(exc)

    async with Runner(agent, config=limit(0.05)) as runner:
        with pytest.raises(agl.AttemptTimedOut):
            await runner.step(1)
        gate.set()
        await wait_until(lambda: heard)


async def test_a_cancelled_step_abandons_its_thread(gate: threading.Event) -> None:
    def agent(task: int) -> None:
        trio.from_thread.run_sync(scope.cancel)
        gate.wait(20)

    async with Runner(agent) as runner:
        with trio.CancelScope() as scope:
            await runner.step(1)

        [rollout] = await runner.store.query_rollouts()
        assert rollout.status == "cancelled"
        assert runner.statistics().abandoned_threads == 1


async def test_a_fit_cancelled_over_blocked_threads_requeues_them(gate: threading.Event) -> None:
    begun: list[int] = []

    def agent(task: int) -> None:
        begun.append(task)
        if len(begun) == 2:
            trio.from_thread.run_sync(scope.cancel)
        gate.wait(20)

    store = agl.InMemoryLightningStore()
    with trio.CancelScope() as scope:
        await Runner(agent, store=store, max_concurrency=2).fit(range(3))

    statuses = [rollout.status for rollout in await store.query_rollouts()]
    assert statuses == ["requeuing", "requeuing", "queuing"]


async def test_a_step_cancelled_before_its_thread_begins_never_runs_the_agent() -> None:
    ran: list[int] = []

    def agent(task: int) -> None:
        ran.append(task)

    class CancelFirst(agl.Hook):
        async def on_trace_start(self, **_: object) -> None:
            scope.cancel()

    async with Runner(agent, hooks=[CancelFirst()], max_concurrency=1) as runner:
        for task in range(3):
            with trio.CancelScope() as scope:
                await runner.step(task)

        assert ran == []
        assert runner.statistics().abandoned_threads == 0
        assert [rollout.status for rollout in await runner.store.query_rollouts()] == ["cancelled"] * 3


def test_an_abandoned_thread_does_not_keep_the_process() -> None:
    ended = run_program(
        """
        import time, trio, lightning_trio as agl

        @agl.rollout(config=agl.RolloutConfig(timeout_seconds=0.1))
        def agent(task):
            time.sleep(3600)

        print(trio.run(agl.Runner(agent).fit, [1, 2, 3]).counts["failed"])
        """
    )

    assert (ended.code, ended.out) == (0, "3\n"), ended.err


@pytest.mark.parametrize("install", [sys.setprofile, sys.settrace])
async def test_a_profile_or_trace_function_that_an_agent_leaves_behind_is_removed_with_it(install: Any) -> None:
    """One that raised later would end the thread before it delivers a result."""

    def fail_later(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise ValueError("of the profiler")

    calls = 0

    @agl.rollout
    def agent(task: int) -> float:
        nonlocal calls
        calls = 0
        found = sys.getprofile() or sys.gettrace()
        install(fail_later)
        return float(found is fail_later)

    before = sys.gettrace(), sys.getprofile()
    with trio.fail_after(10):
        async with Runner(agent, max_concurrency=1) as runner:
            rewards = [(await runner.step(task)).final_reward for task in range(20)]
    assert before == (sys.gettrace(), sys.getprofile())
    assert rewards == [0.0] * 20
