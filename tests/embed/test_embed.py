"""Runners inside asyncio programs and blocking code: `embed.open_asyncio`, `embed.open_blocking`."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from programs import interrupt_program, run_program

import lightning_trio as agl
from lightning_trio import Runner, embed

CALLER = contextvars.ContextVar("CALLER", default="nobody")


async def double(task: float) -> float:
    return task * 2


async def forever(task: object) -> None:
    await trio.sleep_forever()


class Gate:
    """An agent that signals its start and then waits until it is stopped."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.stopped = 0

    async def agent(self, task: object) -> None:
        self.started.set()
        try:
            await trio.sleep_forever()
        finally:
            self.stopped += 1

    async def wait_started(self) -> None:
        await asyncio.to_thread(self.started.wait, 10)


def statuses(runner: Runner) -> list[str]:
    return [rollout.status for rollout in trio.run(runner.store.query_rollouts)]


def host_threads() -> list[threading.Thread]:
    # But for the one that lives as long as the process, if another test has used it.
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("lightning_trio")]
    return [thread for thread in ours if thread.name != "lightning_trio-shared-host"]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves a thread of ours behind."""
    yield
    assert not host_threads()


def in_asyncio(main: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(seconds):
            return await main()

    return asyncio.run(limited())


# step, from asyncio.


def test_step_returns_the_outcome_of_the_task() -> None:
    runner = Runner(double)

    async def main() -> agl.CompletedRollout:
        async with embed.open_asyncio(runner) as r:
            return await r.step(3, mode="val")

    done = in_asyncio(main)

    assert done.final_reward == 6.0
    assert done.rollout.mode == "val"
    assert statuses(runner) == ["succeeded"]


def test_step_takes_resources() -> None:
    async def agent(task: str, prompt_template: agl.PromptTemplate) -> float:
        return float(len(prompt_template.format(word=task)))

    async def main() -> float | None:
        async with embed.open_asyncio(Runner(agent)) as r:
            template = agl.PromptTemplate("{word}!", engine="f-string")
            return (await r.step("tea", resources={"prompt_template": template})).final_reward

    assert in_asyncio(main) == 4.0


def test_500_steps_at_once_are_all_answered_and_all_in_the_store() -> None:
    async def agent(task: int) -> float:
        await trio.sleep(0.001)
        return float(task)

    runner = Runner(agent, max_concurrency=50)

    async def main() -> list[agl.CompletedRollout]:
        async with embed.open_asyncio(runner) as r:
            return await asyncio.gather(*(r.step(number) for number in range(500)))

    rewards = [done.final_reward for done in in_asyncio(main)]

    assert rewards == [float(number) for number in range(500)]
    assert statuses(runner) == ["succeeded"] * 500


def test_step_raises_the_agents_own_exception_after_it_is_recorded() -> None:
    error = KeyError("room")

    async def agent(task: int) -> None:
        raise error

    runner = Runner(agent)

    async def main() -> None:
        async with embed.open_asyncio(runner) as r:
            with pytest.raises(KeyError) as caught:
                await r.step(1)
            assert caught.value is error
            assert "In rollout ro-" in error.__notes__[0]
            assert r.statistics().failed == 1

    in_asyncio(main)

    assert statuses(runner) == ["failed"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
def test_what_would_end_the_loop_is_an_agent_error_of_one_call(error: BaseException) -> None:
    async def agent(task: float) -> float:
        if task == 1:
            raise error
        return task

    async def main() -> float | None:
        async with embed.open_asyncio(Runner(agent)) as r:
            with pytest.raises(agl.AgentError, match=f"the agent raised {type(error).__name__}") as caught:
                await r.step(1)
            assert caught.value.__cause__ is error
            return (await r.step(2)).final_reward

    assert in_asyncio(main) == 2.0


def test_a_deadline_reaches_the_caller_as_a_timeout_error() -> None:
    runner = Runner(forever, config=agl.RolloutConfig(timeout_seconds=0.05))

    async def main() -> None:
        async with embed.open_asyncio(runner) as r:
            with pytest.raises(TimeoutError, match="stopped at its deadline"):
                await r.step(1)

    in_asyncio(main)

    assert statuses(runner) == ["failed"]


@pytest.mark.parametrize("lane", ["trio", "thread", "asyncio"])
def test_the_callers_context_variables_reach_the_agent(lane: Any) -> None:
    seen: list[str] = []

    @agl.rollout(runs_in="thread")
    def in_thread(task: int) -> None:
        seen.append(CALLER.get())

    @agl.rollout(runs_in=lane if lane != "thread" else "trio")
    async def in_loop(task: int) -> None:
        seen.append(CALLER.get())
        CALLER.set("agent")

    agent = in_thread if lane == "thread" else in_loop

    async def request(r: embed.AsyncioRunner, name: str) -> str:
        CALLER.set(name)
        await r.step(1)
        return CALLER.get()

    async def main() -> list[str]:
        async with embed.open_asyncio(Runner(agent)) as r:
            return await asyncio.gather(request(r, "ann"), request(r, "bob"))

    assert in_asyncio(main) == ["ann", "bob"]
    assert sorted(seen) == ["ann", "bob"]


def test_a_rollout_in_a_hosts_span_is_its_own_trace_with_a_link_to_it() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("host")

    async def request(r: embed.AsyncioRunner) -> tuple[trace.SpanContext, agl.CompletedRollout]:
        with tracer.start_as_current_span("POST /label") as span:
            return span.get_span_context(), await r.step(1)

    async def main() -> list[tuple[trace.SpanContext, agl.CompletedRollout]]:
        async with embed.open_asyncio(Runner(double)) as r:
            return await asyncio.gather(*(request(r) for _ in range(20)))

    for host, done in in_asyncio(main):
        root = next(span for span in done.spans if span.parent_id is None)
        [link] = root.links
        assert (link.context.trace_id, link.context.span_id) == (f"{host.trace_id:032x}", f"{host.span_id:016x}")
        assert {span.trace_id for span in done.spans} == {root.trace_id}
        assert root.trace_id != link.context.trace_id


def test_an_agent_that_detects_the_async_library_finds_trio() -> None:
    """AnyIO keeps the name of the event loop in a context variable, and the caller's is asyncio."""

    async def agent(task: int) -> float:
        await anyio.lowlevel.checkpoint()
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
        return 1.0

    async def main() -> float | None:
        async with embed.open_asyncio(Runner(agent)) as r:
            return (await r.step(1)).final_reward

    assert anyio.run(main, backend="asyncio") == 1.0


# Cancellation.


@pytest.mark.parametrize("lane", ["trio", "asyncio"])
def test_a_cancelled_request_has_its_rollout_recorded_as_cancelled_before_it_returns(lane: Any) -> None:
    started = threading.Event()
    cleaned_up: list[bool] = []

    @agl.rollout(runs_in=lane)
    async def agent(task: int) -> None:
        sleep = trio.sleep if lane == "trio" else asyncio.sleep
        started.set()
        try:
            await sleep(60)
        finally:
            with trio.CancelScope(shield=True) if lane == "trio" else nullcontext():
                await sleep(0.05)
            cleaned_up.append(True)

    runner = Runner(agent)

    async def main() -> None:
        async with embed.open_asyncio(runner) as r:
            request = asyncio.create_task(r.step(1))
            await asyncio.to_thread(started.wait, 10)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            assert cleaned_up
            assert r.statistics().cancelled == 1

    in_asyncio(main)

    assert statuses(runner) == ["cancelled"]


def test_asyncio_timeout_around_a_step_is_a_timeout() -> None:
    gate = Gate()
    runner = Runner(gate.agent)

    async def main() -> None:
        async with embed.open_asyncio(runner) as r:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await r.step(1)
            assert gate.stopped == 1

    in_asyncio(main)

    assert statuses(runner) == ["cancelled"]


def test_anyios_scopes_cancel_again_and_again_and_the_record_still_comes_first() -> None:
    begun = threading.Event()

    async def agent(task: int) -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)

    runner = Runner(agent)

    async def cancel_when_begun(scope: anyio.CancelScope) -> None:
        await anyio.to_thread.run_sync(begun.wait, 60)
        scope.cancel()

    async def main() -> None:
        async with embed.open_asyncio(runner) as r, anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                tasks.start_soon(cancel_when_begun, scope)
                await r.step(1)
            assert scope.cancelled_caught
            assert r.statistics().cancelled == 1

    anyio.run(main)

    assert statuses(runner) == ["cancelled"]


def test_cancelling_one_request_leaves_its_neighbours_alone() -> None:
    begun: list[float] = []
    may_end = threading.Event()

    async def agent(task: float) -> float:
        begun.append(task)
        while not may_end.is_set():
            await trio.sleep(0.01)
        return task

    runner = Runner(agent, max_concurrency=100)

    async def main() -> list[Any]:
        async with embed.open_asyncio(runner) as r:
            requests = [asyncio.create_task(r.step(number)) for number in range(100)]
            while len(begun) < 100:
                await asyncio.sleep(0.01)
            for request in requests[::2]:
                request.cancel()
            await asyncio.wait(requests[::2])
            may_end.set()
            return await asyncio.gather(*requests, return_exceptions=True)

    results = in_asyncio(main)

    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert [done.final_reward for done in results[1::2]] == [float(number) for number in range(1, 100, 2)]
    assert sorted(statuses(runner)) == ["cancelled"] * 50 + ["succeeded"] * 50


def test_a_request_that_waits_for_a_slot_is_cancelled_without_a_rollout() -> None:
    gate = Gate()
    runner = Runner(gate.agent, max_concurrency=1)

    async def main() -> None:
        async with embed.open_asyncio(runner) as r:
            first = asyncio.create_task(r.step(1))
            await gate.wait_started()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await r.step(2)
            first.cancel()
            await asyncio.wait([first])

    in_asyncio(main)

    assert statuses(runner) == ["cancelled"]


def test_an_agent_that_does_not_stop_is_not_waited_for_forever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from lightning_trio.embed import _loop

    monkeypatch.setattr(_loop, "CANCEL_SECONDS", 0.05)

    begun, may_end = threading.Event(), threading.Event()

    async def agent(task: int) -> None:
        begun.set()
        with trio.CancelScope(shield=True):
            while not may_end.is_set():
                await trio.sleep(0.01)

    async def main() -> None:
        async with embed.open_asyncio(Runner(agent)) as r:
            request = asyncio.create_task(r.step(1))
            await asyncio.to_thread(begun.wait, 60)
            request.cancel()
            await asyncio.wait([request])
            assert request.cancelled()
            assert r.statistics().running == 1
            may_end.set()

    in_asyncio(main)

    assert "a cancelled rollout still runs after 0.05 s" in caplog.text


# Opening and closing.


def test_leaving_the_block_cancels_running_rollouts_and_wakes_waiting_callers() -> None:
    gate = Gate()
    runner = Runner(gate.agent)

    async def main() -> list[Any]:
        async with embed.open_asyncio(runner) as r:
            requests = [asyncio.create_task(r.step(number)) for number in range(20)]
            await gate.wait_started()
        assert not host_threads()
        return await asyncio.gather(*requests, return_exceptions=True)

    results = in_asyncio(main)

    assert {type(result) for result in results} == {agl.RunnerClosed}
    assert set(statuses(runner)) == {"cancelled"}


def test_an_error_in_the_block_closes_it_and_comes_out_as_it_is() -> None:
    gate = Gate()

    async def main() -> None:
        async with embed.open_asyncio(Runner(gate.agent)) as r:
            request = asyncio.create_task(r.step(1))
            await gate.wait_started()
            asyncio.get_running_loop().call_soon(request.cancel)
            raise ValueError("in the service")

    with pytest.raises(ValueError, match="in the service"):
        in_asyncio(main)
    assert gate.stopped == 1


def test_a_cancelled_service_closes_its_runner() -> None:
    gate = Gate()

    async def service() -> None:
        async with embed.open_asyncio(Runner(gate.agent)) as r:
            await r.step(1)

    async def main() -> None:
        task = asyncio.create_task(service())
        await gate.wait_started()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not host_threads()

    in_asyncio(main)

    assert gate.stopped == 1


class BrokenStore(agl.InMemoryLightningStore):
    """A store that fails when it is opened or when it commits."""

    def __init__(self, fails_at: str) -> None:
        super().__init__()
        self.fails_at = fails_at

    async def on_open(self) -> None:
        if self.fails_at == "open":
            raise OSError("no such disk")
        await super().on_open()

    async def finish(self, outcomes: Any) -> Any:
        if self.fails_at == "commit":
            raise OSError("disk full")
        return await super().finish(outcomes)


def test_what_the_runner_cannot_be_opened_for_is_raised_at_the_block() -> None:
    async def main() -> None:
        async with embed.open_asyncio(Runner(double, store=BrokenStore("open"))):
            raise AssertionError("not reached")

    with pytest.raises(OSError, match="no such disk"):
        in_asyncio(main)
    with pytest.raises(OSError, match="no such disk"), embed.open_blocking(Runner(double, store=BrokenStore("open"))):
        raise AssertionError("not reached")


def test_a_store_that_fails_meanwhile_is_raised_at_the_end_of_the_block_and_no_caller_hangs() -> None:
    async def main() -> None:
        async with embed.open_asyncio(Runner(double, store=BrokenStore("commit"))) as r:
            with pytest.raises(agl.RunnerClosed):
                await r.step(1)
            with pytest.raises(agl.RunnerClosed, match="the runner has been closed"):
                for _ in range(100):
                    await r.step(2)
                    await asyncio.sleep(0.01)

    with pytest.raises(OSError, match="disk full"):
        in_asyncio(main)


def test_opening_that_is_cancelled_is_abandoned() -> None:
    class SlowStore(agl.InMemoryLightningStore):
        async def on_open(self) -> None:
            await trio.sleep_forever()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), embed.open_asyncio(Runner(double, store=SlowStore())):
                raise AssertionError("not reached")
        assert not host_threads()

    in_asyncio(main)


def test_one_runner_can_be_opened_again() -> None:
    runner = Runner(double)

    async def main() -> None:
        handle = embed.open_asyncio(runner)
        for _ in range(2):
            async with handle as r:
                await r.step(1)

    in_asyncio(main)
    with embed.open_blocking(runner) as r:
        r.step(1)

    assert statuses(runner) == ["succeeded"] * 3


def test_a_thread_that_cannot_be_stopped_holds_up_neither_its_request_nor_the_end() -> None:
    started, release = threading.Event(), threading.Event()

    def agent(task: int) -> None:
        started.set()
        release.wait(30)

    runner = Runner(agent)

    async def main() -> None:
        async with embed.open_asyncio(runner) as r:
            request = asyncio.create_task(r.step(1))
            await asyncio.to_thread(started.wait, 10)
            request.cancel()
            await asyncio.wait([request])
            assert r.statistics().abandoned_threads == 1

    in_asyncio(main, seconds=10)

    assert not release.is_set()
    release.set()
    assert statuses(runner) == ["cancelled"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_opening_and_closing_again_and_again_leaves_no_descriptors_behind() -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def main() -> int:
        # Collecting the garbage of earlier tests closes descriptors, too.
        gc.collect()
        before = count()
        for _ in range(20):
            async with embed.open_asyncio(Runner(double)) as r:
                await r.step(1)
        return count() - before

    assert in_asyncio(main) == 0


# Mistakes.


def test_a_step_outside_the_block_shows_what_to_write() -> None:
    expected = r"write: async with embed.open_asyncio\(runner\) as r: await r.step\(task\)"

    async def main() -> None:
        handle = embed.open_asyncio(Runner(double))
        with pytest.raises(agl.RunnerClosed, match=expected):
            await handle.step(1)
        async with handle as r:
            pass
        with pytest.raises(agl.RunnerClosed, match=expected):
            await r.step(1)
        with pytest.raises(agl.RunnerClosed, match=r"async with r.stream\(tasks\)"):
            r.stream([1])
        with pytest.raises(agl.RunnerClosed, match=r"await r.fit"):
            await r.fit([1])

    in_asyncio(main)


def test_another_event_loop_is_refused_with_what_to_use_there() -> None:
    async def main() -> None:
        async with embed.open_asyncio(Runner(double)) as r:
            with pytest.raises(agl.UsageError, match=r"opened on another event loop.*run_coroutine_threadsafe"):
                await asyncio.to_thread(asyncio.run, r.step(1))

    in_asyncio(main)


async def test_both_refuse_to_be_opened_inside_trio_and_show_the_plain_way() -> None:
    with pytest.raises(agl.UsageError, match="async with runner"):
        await embed.open_asyncio(Runner(double)).__aenter__()
    with pytest.raises(agl.NestedTrioRun, match=r"async with runner: await runner.step\(task\)"):
        embed.open_blocking(Runner(double)).__enter__()


@pytest.mark.parametrize("opener", [embed.open_asyncio, embed.open_blocking])
def test_only_runners_are_opened(opener: Any) -> None:
    with pytest.raises(agl.UsageError, match=rf"takes a Runner, not .*write: embed.{opener.__name__}\(agl.Runner"):
        opener(double)


def test_opening_twice_is_refused() -> None:
    async def main() -> None:
        async with embed.open_asyncio(Runner(double)) as r:
            with pytest.raises(agl.UsageError, match="open already"):
                await r.__aenter__()
            with pytest.raises(agl.UsageError, match="open already"):
                async with embed.open_asyncio(r._runner):
                    pass

    in_asyncio(main)
    with embed.open_blocking(Runner(double)) as b, pytest.raises(agl.UsageError, match="open already"):
        b.__enter__()


# stream and fit, from asyncio.


def test_a_stream_gives_results_and_failures_of_a_plain_iterable() -> None:
    async def agent(task: float) -> float:
        if task == 3:
            raise ValueError("three")
        return task

    async def main() -> list[tuple[str, Any]]:
        async with embed.open_asyncio(Runner(agent)) as r, r.stream(range(5), mode="train") as results:
            return sorted([(done.status, done.rollout.input) async for done in results])

    assert in_asyncio(main) == [("failed", 3), *(("succeeded", number) for number in (0, 1, 2, 4))]


def test_async_tasks_are_read_on_the_callers_loop() -> None:
    where: set[object] = set()

    async def tasks() -> AsyncGenerator[int]:
        for number in range(10):
            await asyncio.sleep(0)
            where.add(asyncio.get_running_loop())
            yield number

    async def main() -> int:
        async with embed.open_asyncio(Runner(double, max_concurrency=3)) as r, r.stream(tasks()) as results:
            count = len([done async for done in results])
        assert where == {asyncio.get_running_loop()}
        return count

    assert in_asyncio(main) == 10


def test_reading_slowly_holds_the_source_back() -> None:
    read: list[int] = []

    def endless() -> Iterator[int]:
        for number in range(10_000):
            read.append(number)
            yield number

    runner = Runner(double, max_concurrency=4)

    async def main() -> None:
        async with embed.open_asyncio(runner) as r, r.stream(endless()) as results:
            await anext(results)
            await asyncio.sleep(0.2)
            assert len(read) <= 6

    in_asyncio(main)

    assert set(statuses(runner)) == {"succeeded"}


def test_leaving_a_stream_early_cancels_running_rollouts() -> None:
    begun: list[float] = []

    async def agent(task: float) -> float:
        begun.append(task)
        # The first is done when the others have started.
        while task != 0 or len(begun) < 5:
            await trio.sleep(0.01)
        return 1.0

    runner = Runner(agent, max_concurrency=5)

    async def main() -> None:
        async with embed.open_asyncio(runner) as r:
            async with r.stream(range(5)) as results:
                async for _ in results:
                    break
            assert r.statistics().running == 0

    in_asyncio(main)

    assert "succeeded" in statuses(runner)
    assert set(statuses(runner)) == {"succeeded", "cancelled"}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_error_of_the_source_comes_out_of_the_stream(kind: str) -> None:
    def tasks() -> Iterator[int]:
        yield 1
        raise LookupError("no more rows")

    async def async_tasks() -> AsyncGenerator[int]:
        yield 1
        raise LookupError("no more rows")

    async def main() -> None:
        async with embed.open_asyncio(Runner(double)) as r:
            stream = r.stream(tasks() if kind == "sync" else async_tasks())
            async with stream as results:
                async for _ in results:
                    pass

    with pytest.raises(LookupError, match="no more rows"):
        in_asyncio(main)


def test_a_source_that_waits_is_cancelled_when_the_stream_is_left() -> None:
    cancelled: list[bool] = []

    async def tasks() -> AsyncGenerator[int]:
        yield 1
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.append(True)

    async def main() -> None:
        async with embed.open_asyncio(Runner(double)) as r, r.stream(tasks()) as results:
            await anext(results)

    in_asyncio(main)

    assert cancelled


def test_a_source_that_is_cancelled_by_its_own_does_not_hang_the_stream() -> None:
    async def tasks() -> AsyncGenerator[int]:
        yield 1
        raise asyncio.CancelledError

    async def main() -> None:
        async with embed.open_asyncio(Runner(double)) as r, r.stream(tasks()) as results:
            async for _ in results:
                pass

    with pytest.raises(agl.UsageError, match="reading a stream's tasks was cancelled"):
        in_asyncio(main)


def test_a_stream_that_outlives_its_runner_says_so() -> None:
    async def main() -> None:
        async with embed.open_asyncio(Runner(double)) as r:
            results = await r.stream([1, 2]).__aenter__()
            await anext(results)
        with pytest.raises(agl.RunnerClosed, match="the runner has been closed"):
            await anext(results)
        await results.__aexit__(None, None, None)

    in_asyncio(main)
    with embed.open_blocking(Runner(double)) as b:
        stream = b.stream([1, 2])
        next(stream)
    with pytest.raises(agl.RunnerClosed, match="the runner has been closed"):
        next(stream)


def test_a_result_is_not_lost_to_a_timeout_while_reading() -> None:
    async def agent(task: float) -> float:
        await trio.sleep(0.02)
        return task

    async def main() -> list[Any]:
        seen: list[Any] = []
        async with embed.open_asyncio(Runner(agent, max_concurrency=3)) as r, r.stream(range(30)) as results:
            while len(seen) < 30:
                try:
                    async with asyncio.timeout(0.01):
                        seen.append((await anext(results)).rollout.input)
                except TimeoutError:
                    pass
        return sorted(seen)

    assert in_asyncio(main) == list(range(30))


def test_an_agent_without_its_resources_fails_the_stream_where_it_is_entered() -> None:
    async def agent(task: int, prompt_template: agl.PromptTemplate) -> None: ...

    async def main() -> None:
        async with embed.open_asyncio(Runner(agent)) as r:
            with pytest.raises(agl.AgentSignatureError, match="prompt_template"):
                async with r.stream([1]):
                    raise AssertionError("not reached")
            with pytest.raises(agl.AgentSignatureError, match="prompt_template"):
                await r.step(1)

    in_asyncio(main)


def test_a_stream_needs_tasks_and_its_block() -> None:
    async def main() -> None:
        async with embed.open_asyncio(Runner(double)) as r:
            with pytest.raises(agl.DatasetError, match="takes an iterable or async iterable of tasks, not 3"):
                r.stream(3)  # type: ignore[arg-type]
            with pytest.raises(agl.UsageError, match=r"without being entered; write: async with r.stream"):
                await anext(r.stream([1]))
            async with r.stream([]) as results:
                assert [done async for done in results] == []
            with pytest.raises(agl.UsageError, match="entered only once"):
                await results.__aenter__()

    in_asyncio(main)


def test_fit_runs_a_whole_dataset() -> None:
    async def main() -> agl.FitResult:
        async with embed.open_asyncio(Runner(double)) as r:
            with pytest.raises(agl.DatasetError, match="empty"):
                await r.fit([])
            return await r.fit([1, 2], [3])

    result = in_asyncio(main)

    assert result.mean_reward == {"train": 3.0, "val": 6.0}


def test_a_cancelled_fit_puts_its_rollouts_back_into_the_queue() -> None:
    gate = Gate()
    runner = Runner(gate.agent)

    async def main() -> None:
        async with embed.open_asyncio(runner) as r:
            fit = asyncio.create_task(r.fit([1, 2]))
            await gate.wait_started()
            fit.cancel()
            await asyncio.wait([fit])

    in_asyncio(main)

    assert set(statuses(runner)) <= {"requeuing", "queuing"}


# Blocking code.


def test_blocking_step_returns_the_outcome_of_the_task() -> None:
    runner = Runner(double)

    with embed.open_blocking(runner) as r:
        done = r.step(4, mode="test")
        running = r.statistics()

    assert done.final_reward == 8.0
    assert running.succeeded == 1
    assert statuses(runner) == ["succeeded"]


def test_blocking_step_raises_the_agents_own_exception_and_stays_usable() -> None:
    async def agent(task: float) -> float:
        if task == 0:
            raise ZeroDivisionError
        return 1 / task

    with embed.open_blocking(Runner(agent)) as r:
        with pytest.raises(ZeroDivisionError):
            r.step(0)
        assert r.step(2).final_reward == 0.5


def test_many_threads_share_one_blocking_runner() -> None:
    async def agent(task: int) -> float:
        await trio.sleep(0.001)
        return float(task)

    runner = Runner(agent)

    with embed.open_blocking(runner) as r, ThreadPoolExecutor(20) as pool:
        rewards = [done.final_reward for done in pool.map(r.step, range(500))]

    assert rewards == [float(number) for number in range(500)]
    assert statuses(runner) == ["succeeded"] * 500


def test_context_variables_reach_the_agent_from_blocking_code() -> None:
    async def agent(task: int) -> None:
        agl.emit_message(CALLER.get())

    with embed.open_blocking(Runner(agent)) as r:
        CALLER.set("script")
        done = r.step(1)

    assert [agl.get_message_value(span) for span in done.spans if span.name == "agentlightning.message"] == ["script"]


def test_a_blocking_runner_works_in_a_notebooks_loop() -> None:
    async def cell() -> float | None:
        with embed.open_blocking(Runner(double)) as r:
            return r.step(1).final_reward

    assert asyncio.run(cell()) == 2.0


def test_leaving_the_blocking_block_wakes_waiting_threads() -> None:
    gate = Gate()
    runner = Runner(gate.agent)

    with ThreadPoolExecutor() as pool:
        with embed.open_blocking(runner) as r:
            waiting = pool.submit(r.step, 1)
            gate.started.wait(10)
        with pytest.raises(agl.RunnerClosed, match="the runner was closed during this call"):
            waiting.result(10)

    assert statuses(runner) == ["cancelled"]


def test_a_forgotten_with_shows_what_to_write() -> None:
    r = embed.open_blocking(Runner(double))

    with pytest.raises(agl.RunnerClosed, match=r"write: with embed.open_blocking\(runner\) as r: r.step\(task\)"):
        r.step(1)
    with pytest.raises(agl.RunnerClosed, match=r"for done in r.stream\(tasks\)"):
        r.stream([1])
    with pytest.raises(agl.RunnerClosed, match=r"r.fit\(train_dataset\)"):
        r.fit([1])


def test_a_blocking_step_inside_trio_is_refused() -> None:
    with embed.open_blocking(Runner(double)) as r:

        async def main() -> None:
            r.step(1)

        with pytest.raises(agl.NestedTrioRun, match="async with runner"):
            trio.run(main)


def test_a_blocking_stream_reads_its_tasks_in_the_readers_thread() -> None:
    where: set[int] = set()

    def tasks() -> Iterator[float]:
        for number in range(10):
            where.add(threading.get_ident())
            yield number

    with embed.open_blocking(Runner(double, max_concurrency=3)) as r:
        rewards = sorted(done.final_reward or 0 for done in r.stream(tasks()))

    assert rewards == [number * 2.0 for number in range(10)]
    assert where == {threading.get_ident()}


def test_leaving_a_blocking_stream_early_cancels_running_rollouts() -> None:
    begun: list[float] = []

    async def agent(task: float) -> float:
        begun.append(task)
        # The first is done when the others have started.
        while task != 0 or len(begun) < 5:
            await trio.sleep(0.01)
        return 1.0

    runner = Runner(agent, max_concurrency=5)

    with embed.open_blocking(runner) as r:
        for _ in r.stream(range(5)):
            break
        assert r.statistics().running == 0

    assert set(statuses(runner)) == {"succeeded", "cancelled"}


def test_a_blocking_stream_raises_what_its_source_raises() -> None:
    def tasks() -> Iterator[int]:
        yield 1
        raise LookupError("no more rows")

    with embed.open_blocking(Runner(double)) as r:
        with pytest.raises(LookupError, match="no more rows"):
            list(r.stream(tasks()))
        with pytest.raises(agl.DatasetError, match="takes an iterable of tasks, not 3"):
            r.stream(3)  # type: ignore[arg-type]
        assert list(r.stream([])) == []


def test_a_blocking_fit_runs_a_whole_dataset() -> None:
    with embed.open_blocking(Runner(double)) as r:
        assert r.fit([1, 2]).mean_reward["train"] == 3.0


SCRIPT = """
import sys, trio, lightning_trio as agl
from lightning_trio import embed

async def agent(task):
    print("ready", flush=True)
    try:
        await trio.sleep_forever()
    finally:
        print("stopped", flush=True)

runner = agl.Runner(agent)
try:
    with embed.open_blocking(runner) as r:
        try:
            {call}
        finally:
            print(r.statistics().running, flush=True)
except KeyboardInterrupt:
    print([rollout.status for rollout in trio.run(runner.store.query_rollouts)])
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("call", "status"),
    [("r.step(1)", "cancelled"), ("list(r.stream([1]))", "cancelled"), ("r.fit([1])", "requeuing")],
    ids=["step", "stream", "fit"],
)
def test_ctrl_c_while_a_script_waits_stops_its_rollout_first(call: str, status: str) -> None:
    ended = interrupt_program(SCRIPT.format(call=call))

    assert ended.out == f"stopped\n0\n['{status}']\n", ended.err
    assert ended.code == 130
    assert ended.err == ""


def test_ctrl_c_in_an_asyncio_program_closes_the_runner() -> None:
    ended = interrupt_program(
        """
        import asyncio, sys, trio, lightning_trio as agl
        from lightning_trio import embed

        async def agent(task):
            print("ready", flush=True)
            await trio.sleep_forever()

        runner = agl.Runner(agent)

        async def main():
            async with embed.open_asyncio(runner) as r:
                await r.step(1)

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print([rollout.status for rollout in trio.run(runner.store.query_rollouts)])
            sys.exit(130)
        """
    )

    assert (ended.out, ended.err, ended.code) == ("['cancelled']\n", "", 130)


def test_a_process_that_exits_in_the_middle_is_not_held_up() -> None:
    ended = run_program(
        """
        import sys, trio, lightning_trio as agl
        from lightning_trio import embed

        async def agent(task):
            return 1.0

        r = embed.open_blocking(agl.Runner(agent)).__enter__()
        print(r.step(1).final_reward)
        """
    )

    assert (ended.out, ended.err, ended.code) == ("1.0\n", "", 0)
