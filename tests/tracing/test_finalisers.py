"""Finalisers, generators that are dropped, and callbacks: what they emit is in no neighbour's trace."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from typing import Any, TypeAlias

import pytest
import trio.testing
from opentelemetry.trace import get_current_span

import lightning_trio as agl

Make: TypeAlias = Callable[[], object]
"""Makes an object that only the collector frees, and whose finaliser emits."""


@pytest.fixture(scope="module", autouse=True)
def freeze() -> Iterator[None]:
    """Leave to the collector what the tests make, and no more, which is quicker."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """Let the collector run where a test calls it, and nowhere else."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Cyclic:
    """An object that only the collector frees."""

    def __init__(self, finalise: Callable[[], object] = lambda: None) -> None:
        self.me = self
        self.finalise = finalise

    def __del__(self) -> None:
        self.finalise()


def refused(emit: Callable[[], object], message: str = "garbage collector") -> Callable[[], None]:
    """Return a finaliser that emits, and expects an error, which Python would print."""

    def finalise() -> None:
        with pytest.raises(agl.NoActiveRollout, match=message):
            emit()

    return finalise


emits = refused(lambda: agl.emit_message("late"))


def with_callback() -> None:
    cyclic = Cyclic()
    weakref.finalize(cyclic, emits)


def with_generator() -> None:
    def generate() -> Generator[None]:
        try:
            yield
        finally:
            emits()

    generator = generate()
    next(generator)
    cycle: list[object] = [generator]
    cycle.append(cycle)


async def run_two(make: Make, *, runs_in: Any = "trio") -> tuple[list[agl.CompletedRollout], int]:
    """Return a rollout that calls `make`, one in which the collector runs, and the number of late spans."""

    async def agent(task: str) -> None:
        if task == "makes":
            made = make()
            if isinstance(made, Awaitable):
                await made
            del made
        else:
            gc.collect()
            if runs_in == "asyncio":
                await asyncio.sleep(0.01)
            else:
                await trio.testing.wait_all_tasks_blocked()
            agl.emit_message("its own")

    async with agl.Runner(agl.rollout(runs_in=runs_in)(agent)) as runner:
        done = [await runner.step("makes"), await runner.step("collects")]
        return done, runner.tracer.statistics().late_spans


def messages(done: agl.CompletedRollout) -> list[str | None]:
    return [agl.get_message_value(span) for span in done.spans[1:]]


@pytest.mark.parametrize("make", [lambda: Cyclic(emits), with_callback, with_generator])
async def test_what_a_finaliser_emits_in_a_neighbours_code_is_refused_and_counted(make: Make) -> None:
    (maker, neighbour), late = await run_two(make)

    assert [messages(maker), messages(neighbour)] == [[], ["its own"]]
    assert late == 1


async def test_a_thread_in_which_the_collector_runs_records_nothing_of_others() -> None:
    def agent(task: str) -> None:
        Cyclic(emits)
        gc.collect()
        agl.emit_message("its own")

    async with agl.Runner(agent) as runner:
        done = await runner.step("task")
        assert runner.tracer.statistics().late_spans == 1
    assert messages(done) == ["its own"]


@pytest.mark.parametrize("read", [agl.current_rollout, agl.current_resources, agl.current_emitter])
async def test_a_finaliser_has_no_current_rollout(read: Callable[[], object]) -> None:
    _, late = await run_two(lambda: Cyclic(refused(read)))

    assert late == 0


async def test_a_librarys_span_that_a_finaliser_starts_is_counted_and_in_no_trace() -> None:
    tracer = agl.Tracer()
    library = tracer.provider.get_tracer("library")

    async def agent(task: str) -> None:
        Cyclic(lambda: library.start_span("late").end())
        gc.collect()

    async with agl.Runner(agent, tracer=tracer) as runner:
        assert len((await runner.step("task")).spans) == 1
    assert tracer.statistics().late_spans == 1


async def test_an_operation_in_a_generator_that_the_collector_closes_is_its_own_rollouts() -> None:
    @agl.operation
    def generate() -> Generator[None]:
        yield

    def make() -> None:
        generator = generate()
        next(generator)
        cycle: list[object] = [generator]
        cycle.append(cycle)

    (maker, neighbour), late = await run_two(make)

    assert [span.name for span in maker.spans[1:]] == ["agentlightning.operation"]
    assert [messages(neighbour), late] == [["its own"], 0]


@pytest.mark.parametrize("binds", ["emitter", "carry_context"])
async def test_a_finaliser_that_keeps_its_rollout_records_there(binds: str) -> None:
    async def agent(task: str, emitter: agl.Emitter) -> None:
        if task == "first":
            if binds == "emitter":
                Cyclic(lambda: emitter.emit_message("first's"))
            else:
                weakref.finalize(Cyclic(), agl.carry_context(agl.emit_message), "first's")
            made.set()
            await collected.wait()
        else:
            await made.wait()
            gc.collect()
            collected.set()

    made, collected = trio.Event(), trio.Event()
    done: dict[str, agl.CompletedRollout] = {}
    async with agl.Runner(agent) as runner, runner.stream(["first", "second"]) as results:
        async for each in results:
            done[each.rollout.input] = each

    assert [messages(done["first"]), messages(done["second"])] == [["first's"], []]


async def test_code_that_the_collector_interrupts_keeps_its_context() -> None:
    variable = contextvars.ContextVar[str]("variable")
    seen: list[object] = []

    async def agent(task: str) -> None:
        variable.set("its own")
        with agl.operation():
            Cyclic(lambda: seen.append(variable.get("none")))
            before = get_current_span()
            gc.collect()
            seen.extend([variable.get(), get_current_span() is before])

    async with agl.Runner(agent) as runner:
        await runner.step("task")

    assert seen == ["none", "its own", True]


async def test_the_collector_may_interrupt_the_setting_of_a_context_variable() -> None:
    variables = [contextvars.ContextVar[object](str(number)) for number in range(50)]

    async def agent(task: str) -> float:
        threshold = gc.get_threshold()
        gc.set_threshold(7)
        gc.enable()
        for number in range(100):
            for variable in variables:
                variable.set([number])
        gc.disable()
        gc.set_threshold(*threshold)
        return float(all(variable.get() == [99] for variable in variables))

    async with agl.Runner(agent) as runner:
        assert (await runner.step("task")).final_reward == 1.0


async def test_callbacks_of_the_collector_are_there_while_a_runner_is_open() -> None:
    async def agent(task: str) -> None: ...

    before = list(gc.callbacks)
    async with agl.Runner(agent):
        async with agl.Runner(agent):
            pass
        assert len(gc.callbacks) == len(before) + 1
    assert gc.callbacks == before


# Async generators.


async def generate_with(emit: Callable[[], object]) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        emit()


def make_async_generator() -> Awaitable[None]:
    async def make() -> None:
        generator = generate_with(emits)
        await anext(generator)
        cycle: list[object] = [generator]
        cycle.append(cycle)

    return make()


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@pytest.mark.parametrize("runs_in", ["trio", "asyncio"])
async def test_an_async_generator_that_the_collector_closes_records_into_no_neighbour(runs_in: str) -> None:
    (maker, neighbour), late = await run_two(make_async_generator, runs_in=runs_in)

    assert [messages(maker), messages(neighbour)] == [[], ["its own"]]
    assert late == 1


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
async def test_an_async_generator_that_an_agent_in_trio_drops_is_refused_and_counted() -> None:
    async def agent(task: str) -> None:
        async for _ in generate_with(emits):
            break
        await trio.testing.wait_all_tasks_blocked()

    async with agl.Runner(agent) as runner:
        assert len((await runner.step("task")).spans) == 1
        assert runner.tracer.statistics().late_spans == 1


async def test_an_async_generator_that_an_agent_in_asyncio_drops_records_into_its_rollout() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> None:
        async for _ in generate_with(lambda: agl.emit_message("dropped")):
            break
        await asyncio.sleep(0.01)

    async with agl.Runner(agent) as runner:
        assert messages(await runner.step("task")) == ["dropped"]


# asyncio.


async def test_a_task_that_a_finaliser_creates_is_no_task_of_the_rollout_that_it_interrupts() -> None:
    ended: list[bool] = []

    async def close() -> None:
        await asyncio.sleep(0.01)
        emits()
        ended.append(True)

    tasks: list[asyncio.Task[None]] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> None:
        if task == "interrupted":
            Cyclic(lambda: tasks.append(asyncio.get_running_loop().create_task(close())))
            gc.collect()
        else:
            await tasks.pop()

    async with agl.Runner(agent) as runner:
        done = await runner.step("interrupted")
        await runner.step("waits")
        assert runner.tracer.statistics().late_spans == 1
    assert [messages(done), ended] == [[], [True]]


async def test_a_callback_of_a_connection_that_an_ended_rollout_opened_is_refused_and_counted() -> None:
    class Client(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            refused(lambda: agl.emit_message("received"), "has ended")()
            received.set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1))
        writer.close()

    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> None:
        if task == "opens":
            loop = asyncio.get_running_loop()
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            kept.append(server)
            kept.append((await loop.create_connection(Client, *server.sockets[0].getsockname()[:2]))[0])
        else:
            kept[1].write(b"x")
            await received.wait()
            kept[1].close()
            kept[0].close()

    kept: list[Any] = []
    received = asyncio.Event()
    async with agl.Runner(agent) as runner:
        await runner.step("opens")
        assert messages(await runner.step("uses")) == []
        assert runner.tracer.statistics().late_spans == 1
