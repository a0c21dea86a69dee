"""A thousand rollouts at once, in all lanes: no span in a wrong one, one trace per attempt, every parent inside it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import random
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence

import process_agents
import pytest
import trio
from opentelemetry.sdk.trace import TracerProvider
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import Runner, Span

ROLLOUTS = 1000
MARK = "task"


def emit(task: int, what: str) -> None:
    agl.emit_annotation({MARK: task, "what": what})


class Work:
    """The work of this module's agents; marks on its spans show which task each belongs to."""

    def __init__(self) -> None:
        self.tracer = agl.Tracer()
        self.library = self.tracer.provider.get_tracer("a.library")

    # Native: nested nurseries, child tasks, steps and library spans around them.

    async def native(self, task: int) -> float:
        emit(task, "begin")
        async with trio.open_nursery() as outer:
            outer.start_soon(self.child, task, 2)
            with agl.operation(name="inner", **{MARK: task}):
                async with trio.open_nursery() as inner:
                    inner.start_soon(self.child, task, 0)
                    inner.start_soon(self.child, task, 0)
                await trio.to_thread.run_sync(emit, task, "worker thread")
        return float(task)

    async def child(self, task: int, children: int) -> None:
        await trio.sleep(random.random() * 0.01)
        with self.library.start_as_current_span("library", attributes={MARK: task}):
            await trio.sleep(random.random() * 0.01)
            emit(task, "in a library's span")
            async with trio.open_nursery() as nursery:
                for _ in range(children):
                    nursery.start_soon(self.child, task, 0)

    # In asyncio: gathers, task groups, timeouts, threads.

    async def asynchronous(self, task: int) -> float:
        emit(task, "begin")
        with agl.operation(name="inner", **{MARK: task}):
            await asyncio.gather(*(self.coroutine(task) for _ in range(2)))
            async with asyncio.TaskGroup() as group:
                group.create_task(self.coroutine(task))
            async with asyncio.timeout(60):
                await self.coroutine(task)
        await asyncio.to_thread(self.step, task)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, agl.carry_context(emit), task, "carried")
        emit(task, "end")
        return float(task)

    async def coroutine(self, task: int) -> None:
        await asyncio.sleep(random.random() * 0.01)
        with self.library.start_as_current_span("library", attributes={MARK: task}):
            await asyncio.sleep(random.random() * 0.01)
            emit(task, "in a library's span")

    # In a thread: more threads, with their context carried.

    def threaded(self, task: int) -> float:
        emit(task, "begin")
        with agl.operation(name="inner", **{MARK: task}):
            threads = [threading.Thread(target=agl.carry_context(self.step), args=(task,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                carried = agl.carry_context(self.step)
                list(pool.map(carried, [task] * 3))
            for thread in threads:
                thread.join()
        emit(task, "end")
        emit(task, "very end")
        return float(task)

    def step(self, task: int) -> None:
        with self.library.start_as_current_span("library", attributes={MARK: task}):
            emit(task, "in a library's span")


def check(spans: Sequence[Span], task: int) -> None:
    """Check one attempt's spans: all but the root and the returned reward carry the task's mark."""
    by_id = {span.span_id: span for span in spans}
    [root] = [span for span in spans if span.parent_id is None]
    assert len(by_id) == len(spans)
    assert {span.attributes.get(MARK, task) for span in spans} == {task}
    assert len({(span.trace_id, span.rollout_id, span.attempt_id) for span in spans}) == 1
    assert all(span.parent_id in by_id for span in spans if span is not root)
    assert all(_climbs_to(root, span, by_id) for span in spans)
    assert [span.sequence_id for span in spans] == sorted({span.sequence_id for span in spans})
    assert root.name.startswith("invoke_agent ")
    for span in spans:
        if span.attributes.get("what") == "in a library's span":
            assert by_id[span.parent_id or ""].name == "library"


def _climbs_to(root: Span, span: Span, by_id: Mapping[str, Span]) -> bool:
    for _ in range(len(by_id)):
        if span is root:
            return True
        span = by_id[span.parent_id or ""]
    return False


def expected_names(spans: Sequence[Span]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for span in spans:
        counts[span.name.split()[0]] += 1
    return dict(counts)


ASYNCHRONOUS = {"invoke_agent": 1, "agentlightning.annotation": 9, "agentlightning.operation": 1, "library": 5}
IN_PROCESS = {"invoke_agent": 1, "agentlightning.annotation": 4, "agentlightning.operation": 1, "library": 2}
NATIVE = {"invoke_agent": 1, "agentlightning.annotation": 8, "agentlightning.operation": 1, "library": 5}
THREADED = {"invoke_agent": 1, "agentlightning.annotation": 9, "agentlightning.operation": 1, "library": 5}


@pytest.mark.heavy
async def test_through_fit_no_span_is_lost_or_in_a_wrong_rollout() -> None:
    """Four runners, one per lane, share a store, a Trio program and a tracer, each with a quarter of the rollouts."""
    pytest.importorskip("trio_parallel")
    work, store, quarter = Work(), agl.InMemoryLightningStore(), ROLLOUTS // 4
    expected = [NATIVE, THREADED, ASYNCHRONOUS, IN_PROCESS]
    agents = [work.native, work.threaded, agl.rollout(runs_in="asyncio")(work.asynchronous), process_agents.traced]
    async with trio.open_nursery() as nursery:
        for number, agent in enumerate(agents):
            runner = Runner(agent, store=store, tracer=work.tracer, max_concurrency=quarter)
            nursery.start_soon(runner.fit, range(number * quarter, (number + 1) * quarter))

    rollouts = await store.query_rollouts()
    traces: set[str] = set()
    for rollout in rollouts:
        spans = await store.query_spans(rollout.rollout_id)
        check(spans, rollout.input)
        traces.add(spans[0].trace_id)
        assert expected_names(spans) == expected[rollout.input // quarter]
    assert [rollout.status for rollout in rollouts] == ["succeeded"] * ROLLOUTS
    assert len(traces) == ROLLOUTS
    assert work.tracer.statistics().late_spans == 0


@pytest.mark.heavy
async def test_through_streams_no_span_is_lost_or_in_a_wrong_rollout() -> None:
    work, half = Work(), ROLLOUTS // 2
    collected: list[agl.CompletedRollout] = []

    async def collect(runner: Runner, tasks: range) -> None:
        async with runner, runner.stream(tasks) as results:
            collected.extend([done async for done in results])

    native = Runner(work.native, tracer=work.tracer, max_concurrency=half)
    threaded = Runner(work.threaded, tracer=work.tracer, max_concurrency=half)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, native, range(half))
        nursery.start_soon(collect, threaded, range(half, 2 * half))

    for done in collected:
        check(done.spans, done.rollout.input)
        assert done.final_reward == done.rollout.input
    assert len({done.spans[0].trace_id for done in collected}) == 2 * half


async def test_rollouts_that_fail_and_time_out_among_others_keep_their_spans_apart() -> None:
    async def agent(task: int) -> float:
        with agl.operation(name="work", **{MARK: task}):
            emit(task, "begin")
            await trio.sleep(random.random() * 0.02)
            if task % 3 == 1:
                raise ValueError(task)
            if task % 3 == 2:
                await trio.sleep_forever()
            emit(task, "end")
        return float(task)

    runner = Runner(agent, max_concurrency=300, config=agl.RolloutConfig(timeout_seconds=0.3))
    async with runner, runner.stream(range(300)) as results:
        collected = [done async for done in results]

    for done in collected:
        check(done.spans, done.rollout.input)
    assert {done.attempt.status for done in collected} == {"succeeded", "failed", "timeout"}


@pytest.mark.parametrize("joined", [False, True], ids=["private", "joined"])
async def test_library_spans_outside_of_rollouts_go_to_none(joined: bool) -> None:
    provider = TracerProvider() if joined else None
    tracer = agl.Tracer(provider=provider)
    library = tracer.provider.get_tracer("a.library")

    async def agent(task: int) -> None:
        await trio.sleep(0.01)

    async with Runner(agent, tracer=tracer) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 1)
        with library.start_as_current_span("outside"):
            await trio.sleep(0.02)

    [rollout] = await runner.store.query_rollouts()
    assert [span.name for span in await runner.store.query_spans(rollout.rollout_id)] == ["invoke_agent agent"]
    if provider is not None:
        provider.shutdown()


async def test_a_rollout_inside_a_hosts_span_is_a_trace_of_its_own_with_a_link() -> None:
    provider = TracerProvider()
    host = provider.get_tracer("host")

    async def agent(task: int) -> None: ...

    async with Runner(agent) as runner:
        with host.start_as_current_span("request") as request:
            done = await runner.step(1)

    context = request.get_span_context()
    [root] = done.spans
    assert root.parent_id is None
    assert root.trace_id != f"{context.trace_id:032x}"
    assert [link.context.span_id for link in root.links] == [f"{context.span_id:016x}"]
    provider.shutdown()


async def test_spans_of_a_task_that_outlives_its_rollout_reach_no_other(autojump_clock: MockClock) -> None:
    heard: list[BaseException] = []

    async with leaky_runner(heard) as runner:
        first = await runner.step(1)
        second = await runner.step(2)
        await trio.sleep(10)

        assert [len(done.spans) for done in (first, second)] == [1, 1]
        assert "has ended, and this code still runs in its context" in str(heard[0])


def leaky_runner(heard: list[BaseException]) -> Runner:
    async def leak() -> None:
        await trio.sleep(1)
        try:
            agl.emit_message("late")
        except agl.NoActiveRollout as exc:
            heard.append(exc)

    async def agent(task: int) -> None:
        trio.lowlevel.spawn_system_task(leak, context=contextvars.copy_context())

    return Runner(agent)
