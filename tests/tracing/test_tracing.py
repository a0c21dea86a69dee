"""Tracing: libraries' spans are recorded through OpenTelemetry, finished attempts are exported."""

from __future__ import annotations

import contextvars
import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, ProxyTracerProvider, SpanContext, TraceFlags, set_span_in_context

import lightning_trio as agl
from lightning_trio.tracing import _export


@pytest.fixture
def tracer() -> agl.Tracer:
    return agl.Tracer(instrument_openai=False)


@pytest.fixture
def library(tracer: agl.Tracer) -> otel_trace.Tracer:
    """A tracer as an instrumented library uses it."""
    return tracer.provider.get_tracer("lib")


async def run(agent: Callable[..., Any], tracer: agl.Tracer, **options: Any) -> agl.CompletedRollout:
    """Run an agent once and return its rollout, even if it failed."""
    async with agl.Runner(agent, tracer=tracer, **options) as runner, runner.stream(["task"]) as results:
        return await anext(results)


def tree(spans: Sequence[agl.Span]) -> dict[str, str | None]:
    """Return the name of each span (a message's text, an operation's name) and of its parent."""
    labels = {span.span_id: label(span) for span in spans}
    return {label(span): None if span.parent_id is None else labels[span.parent_id] for span in spans}


def label(span: agl.Span) -> str:
    name: object = agl.get_message_value(span) or span.attributes.get("agentlightning.operation.name") or span.name
    return "root" if span.parent_id is None else str(name)


def check_whole(done: agl.CompletedRollout) -> None:
    """Assert one trace, one root, every parent inside, and sequence ids in order of start."""
    ids = {span.span_id for span in done.spans}
    assert len(ids) == len(done.spans)
    assert len({span.trace_id for span in done.spans}) == 1
    assert [span.parent_id for span in done.spans].count(None) == 1
    assert all(span.parent_id in ids for span in done.spans[1:])
    assert [span.sequence_id for span in done.spans] == list(range(1, len(ids) + 1))
    assert {span.rollout_id for span in done.spans} == {done.rollout.rollout_id}
    assert {span.attempt_id for span in done.spans} == {done.attempt.attempt_id}


# Spans of libraries.


async def test_library_spans_and_ours_nest_in_each_other(tracer: agl.Tracer, library: otel_trace.Tracer) -> None:
    async def agent(task: str) -> None:
        with library.start_as_current_span("http"):
            agl.emit_message("below http")
            with agl.operation(name="parse"), library.start_as_current_span("json"):
                agl.emit_message("below json")
        agl.emit_message("below root")

    done = await run(agent, tracer)

    check_whole(done)
    assert tree(done.spans) == {
        "root": None,
        "http": "root",
        "below http": "http",
        "parse": "http",
        "json": "parse",
        "below json": "json",
        "below root": "root",
    }
    assert list(tree(done.spans)) == ["root", "http", "below http", "parse", "json", "below json", "below root"]


async def test_a_library_span_keeps_its_attributes_events_kind_and_status(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    async def agent(task: str) -> None:
        with library.start_as_current_span("call", kind=otel_trace.SpanKind.CLIENT, attributes={"n": 1}) as span:
            span.add_event("token", {"i": 0})
            span.set_status(otel_trace.StatusCode.ERROR, "refused")

    [_, span] = (await run(agent, tracer)).spans

    assert (span.kind, span.status, span.attributes) == ("CLIENT", agl.TraceStatus("ERROR", "refused"), {"n": 1})
    assert [(event.name, event.attributes) for event in span.events] == [("token", {"i": 0})]


async def test_library_spans_of_child_tasks_and_threads_have_the_right_parents(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    def in_thread(name: str) -> None:
        with library.start_as_current_span(name):
            agl.emit_message(f"below {name}")

    async def child() -> None:
        with library.start_as_current_span("child"):
            await trio.to_thread.run_sync(in_thread, "thread")

    async def agent(task: str) -> None:
        with agl.operation(name="fan out"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
            bare = threading.Thread(target=agl.carry_context(in_thread), args=["carried"])
            bare.start()
            bare.join()

    done = await run(agent, tracer)

    check_whole(done)
    assert tree(done.spans) == {
        "root": None,
        "fan out": "root",
        "child": "fan out",
        "thread": "child",
        "below thread": "thread",
        "carried": "fan out",
        "below carried": "carried",
    }


async def test_a_thread_that_carries_only_opentelemetrys_context_is_in_the_rollout(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    """OpenTelemetry's threading instrumentation starts threads like this."""

    def agent(task: str) -> None:
        context = otel_context.get_current()

        def work() -> None:
            otel_context.attach(context)
            with library.start_as_current_span("call"):
                agl.emit_message("below call")

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    done = await run(agent, tracer)

    assert tree(done.spans) == {"root": None, "call": "root", "below call": "call"}


async def test_outside_of_rollouts_library_spans_are_recorded_nowhere(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    async def agent(task: str) -> None:
        pass

    with library.start_as_current_span("before"):
        pass
    done = await run(agent, tracer)

    assert tree(done.spans) == {"root": None}
    assert tracer.statistics().late_spans == 0


async def test_a_span_with_an_explicit_empty_context_is_moved_below_the_root(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    originals: list[int] = []

    async def agent(task: str) -> None:
        span = library.start_span("own trace", context=Context())
        originals.append(span.get_span_context().trace_id)
        with library.start_as_current_span("its child", context=set_span_in_context(span)):
            pass
        span.end()

    done = await run(agent, tracer)

    check_whole(done)
    assert tree(done.spans) == {"root": None, "own trace": "root", "its child": "own trace"}
    assert [span.attributes for span in done.spans[1:]] == [
        {"agentlightning.original.trace_id": f"{originals[0]:032x}"}
    ] * 2


async def test_a_span_with_a_foreign_parent_keeps_the_ids_it_named(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    remote = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1)))

    async def agent(task: str) -> None:
        library.start_span("from afar", context=set_span_in_context(remote, Context())).end()

    done = await run(agent, tracer)

    assert tree(done.spans) == {"root": None, "from afar": "root"}
    assert done.spans[1].attributes == {
        "agentlightning.original.trace_id": f"{0xABC:032x}",
        "agentlightning.original.parent_id": f"{0xDEF:016x}",
    }


async def test_every_span_has_the_root_as_ancestor_whatever_is_current(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    async def agent(task: str) -> None:
        with library.start_as_current_span("own trace", context=Context()):
            agl.emit_message("inside")
            with agl.operation(name="step"), library.start_as_current_span("library"):
                agl.emit_message("deeper")

    done = await run(agent, tracer)

    check_whole(done)
    assert list(tree(done.spans)) == ["root", "own trace", "inside", "step", "library", "deeper"]


async def test_more_than_128_attributes_survive(tracer: agl.Tracer, library: otel_trace.Tracer) -> None:
    """OpenTelemetry's default limit drops the oldest."""
    many = {f"key.{index}": index for index in range(1000)}

    async def agent(task: str) -> None:
        library.start_span("big", attributes=many).end()
        agl.emit_annotation(many)

    done = await run(agent, tracer)

    assert [span.attributes for span in done.spans[1:]] == [many, many]


async def test_get_last_trace_gives_the_spans_so_far_of_the_calling_rollout(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    seen: list[list[str]] = []

    async def agent(task: str) -> None:
        agl.emit_message("first")
        with library.start_as_current_span("open"):
            agl.emit_message("second")
            seen.append([label(span) for span in tracer.get_last_trace()])

    await run(agent, tracer)

    assert seen == [["first", "second"]]
    assert tracer.get_last_trace() == []


# The end of an attempt.


async def test_a_library_span_open_at_the_end_is_closed_with_an_error_and_counted(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    async def agent(task: str) -> float:
        library.start_span("left open", attributes={"n": 1})
        return 1.0

    done = await run(agent, tracer)

    span = done.spans[1]
    check_whole(done)
    assert done.status == "succeeded"
    assert span.status == agl.TraceStatus("ERROR", "still open when the attempt ended (succeeded)")
    assert span.attributes == {"n": 1}
    assert span.end_time is not None
    assert tracer.statistics().late_spans == 1


async def test_open_spans_of_a_timed_out_attempt_say_so(
    tracer: agl.Tracer, library: otel_trace.Tracer, autojump_clock: trio.testing.MockClock
) -> None:
    async def agent(task: str) -> None:
        library.start_span("waiting")
        await trio.sleep_forever()

    done = await run(agent, tracer, config=agl.RolloutConfig(timeout_seconds=1))

    assert done.attempt.status == "timeout"
    assert done.spans[1].status == agl.TraceStatus("ERROR", "still open when the attempt ended (timeout)")
    assert done.spans[0].status.status_code == "ERROR"


async def test_a_span_that_ends_after_its_attempt_lands_in_no_other(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    left_open: list[otel_trace.Span] = []

    async def agent(task: str) -> None:
        while left_open:
            left_open.pop().end()
        left_open.append(library.start_span(f"of {task}"))

    async with agl.Runner(agent, tracer=tracer) as runner:
        trees = [tree((await runner.step(task)).spans) for task in ("first", "second")]

    assert trees == [{"root": None, "of first": "root"}, {"root": None, "of second": "root"}]


async def test_a_span_that_starts_after_its_attempt_is_counted_and_lands_in_no_other(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    contexts: list[contextvars.Context] = []

    async def agent(task: str) -> None:
        if contexts:
            contexts[0].run(lambda: library.start_span("late").end())
        contexts.append(contextvars.copy_context())

    async with agl.Runner(agent, tracer=tracer) as runner:
        spans = [*(await runner.step("first")).spans, *(await runner.step("second")).spans]

    assert [span.name for span in spans] == ["invoke_agent agent"] * 2
    assert tracer.statistics().late_spans == 1


async def test_an_operation_that_ends_after_its_attempt_is_counted_and_lands_in_no_other(tracer: agl.Tracer) -> None:
    stacks: list[ExitStack] = []

    async def agent(task: str) -> None:
        for stack in stacks:
            stack.close()
        stacks[:] = [ExitStack()]
        context = contextvars.copy_context()
        stacks[0].callback(context.run, context.run(_entered, task))

    async with agl.Runner(agent, tracer=tracer) as runner:
        trees = [tree((await runner.step(task)).spans) for task in ("first", "second")]

    assert trees == [{"root": None, "first": "root"}, {"root": None, "second": "root"}]
    assert tracer.statistics().late_spans == 1


def _entered(name: str) -> Callable[[], None]:
    operation = agl.operation(name=name)
    operation.__enter__()
    return lambda: operation.__exit__(None, None, None)


# Errors stay out of agents.


async def test_a_span_that_cannot_be_read_is_logged_and_the_agent_continues(
    tracer: agl.Tracer, library: otel_trace.Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(task: str) -> float:
        span = library.start_span("broken")
        vars(span)["_status"] = None
        span.end()
        return 1.0

    done = await run(agent, tracer)

    assert (done.status, done.final_reward) == ("succeeded", 1.0)
    assert "a span of another library could not be read" in caplog.text


@pytest.mark.parametrize("ends", [True, False])
async def test_a_span_of_no_known_kind_is_recorded_as_internal(
    tracer: agl.Tracer, library: otel_trace.Tracer, ends: bool
) -> None:
    async def agent(task: str) -> None:
        span = library.start_span("odd", kind="client")  # type: ignore[arg-type]  # what a library may do
        if ends:
            span.end()

    done = await run(agent, tracer)

    assert [span.kind for span in done.spans] == ["INTERNAL", "INTERNAL"]


# Hosts.


async def test_inside_a_hosts_span_the_root_is_a_new_trace_with_a_link_to_it(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    host = TracerProvider(shutdown_on_exit=False).get_tracer("web")

    async def agent(task: str) -> None:
        library.start_span("call").end()

    with host.start_as_current_span("GET /") as request:
        done = await run(agent, tracer)

        assert otel_trace.get_current_span() is request

    ids = request.get_span_context()
    check_whole(done)
    assert [link.context for link in done.spans[0].links] == [
        agl.SpanContext(f"{ids.trace_id:032x}", f"{ids.span_id:016x}")
    ]
    assert done.spans[0].trace_id != f"{ids.trace_id:032x}"


async def test_without_a_host_the_root_has_no_link(tracer: agl.Tracer) -> None:
    async def agent(task: str) -> None:
        pass

    assert list((await run(agent, tracer)).spans[0].links) == []


async def test_a_host_that_samples_nothing_does_not_lose_the_rollout(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    host = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("web")

    async def agent(task: str) -> None:
        with library.start_as_current_span("call"):
            agl.emit_message("below call")

    with host.start_as_current_span("GET /"):
        done = await run(agent, tracer)

    assert tree(done.spans) == {"root": None, "call": "root", "below call": "call"}


async def test_fit_inside_a_hosts_span_links_every_attempt() -> None:
    host = TracerProvider(shutdown_on_exit=False).get_tracer("web")

    async def agent(task: str) -> float:
        return 1.0

    with host.start_as_current_span("job") as job:
        runner = agl.Runner(agent)
        result = await runner.fit([1, 2])

    rollouts = await runner.store.query_rollouts()
    roots = [(await runner.store.query_spans(rollout.rollout_id))[0] for rollout in rollouts]
    assert result.counts["succeeded"] == 2
    assert {link.context.span_id for root in roots for link in root.links} == {f"{job.get_span_context().span_id:016x}"}


# Providers.


async def test_the_process_wide_provider_is_never_set(tracer: agl.Tracer, library: otel_trace.Tracer) -> None:
    async def agent(task: str) -> None:
        library.start_span("call").end()

    await run(agent, tracer)

    assert isinstance(otel_trace.get_tracer_provider(), ProxyTracerProvider)


async def test_an_existing_provider_can_be_joined_and_keeps_its_own_processors() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    library = provider.get_tracer("lib")

    async def agent(task: str) -> None:
        with agl.operation(name="step"), library.start_as_current_span("call"):
            agl.emit_message("below call")

    done = await run(agent, agl.Tracer(provider))

    assert tree(done.spans) == {"root": None, "step": "root", "call": "step", "below call": "call"}
    assert [span.name for span in exporter.get_finished_spans()] == ["call"]


async def test_tracers_that_join_the_same_provider_record_their_own_runners_only() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    library = provider.get_tracer("lib")

    async def agent(task: str) -> None:
        library.start_span(f"call {task}").end()

    async with (
        agl.Runner(agent, tracer=agl.Tracer(provider)) as one,
        agl.Runner(agent, tracer=agl.Tracer(provider)) as two,
    ):
        spans = [(await one.step("one")).spans, (await two.step("two")).spans]

    assert [[span.name for span in each[1:]] for each in spans] == [["call one"], ["call two"]]


async def test_a_provider_that_many_tracers_join_gets_one_processor() -> None:
    """A tracer per request of a service must leave nothing behind in the service's provider."""
    provider = TracerProvider(shutdown_on_exit=False)
    added: list[object] = []
    provider.add_span_processor = added.append  # type: ignore[method-assign]

    for _ in range(3):
        agl.Tracer(provider)

    assert len(added) == 1


async def test_a_backend_that_a_joined_provider_and_the_tracer_send_to_gets_each_span_once_and_the_tree_whole() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    library = provider.get_tracer("lib")
    tracer = agl.Tracer(provider)
    tracer.add_exporter(exporter)

    async def agent(task: str) -> None:
        with agl.operation(name="step"), library.start_as_current_span("call"):
            agl.emit_message("below call")

    done = await run(agent, tracer)

    exported = {span.context.span_id: span for span in exporter.get_finished_spans() if span.context is not None}
    assert len(exported) == len(exporter.get_finished_spans()) == len(done.spans) == 4
    assert {f"{span_id:016x}" for span_id in exported} == {span.span_id for span in done.spans}
    assert all(span.parent is None or span.parent.span_id in exported for span in exported.values())


async def test_an_exporter_may_ask_for_the_spans_of_the_joined_provider_too() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    library = provider.get_tracer("lib")
    tracer = agl.Tracer(provider)
    tracer.add_exporter(exporter, joined_spans=True)

    async def agent(task: str) -> None:
        library.start_span("call").end()

    await run(agent, tracer)

    assert [span.name for span in exporter.get_finished_spans()] == ["invoke_agent agent", "call"]


def test_what_is_no_sdk_provider_cannot_be_joined() -> None:
    with pytest.raises(
        agl.UsageError, match="got a ProxyTracerProvider, which does not accept span processors; pass a Tracer"
    ):
        agl.Tracer(ProxyTracerProvider())  # type: ignore[arg-type]  # bad input


@pytest.mark.parametrize("joined", [True, False])
async def test_agents_that_seed_random_alike_do_not_mix(joined: bool) -> None:
    """OpenTelemetry draws ids from `random`; with equal seeds one rollout's span was recorded in another."""
    tracer = agl.Tracer(TracerProvider(shutdown_on_exit=False)) if joined else agl.Tracer()
    library = tracer.provider.get_tracer("lib")
    both_open = trio.Event()
    first_ended = trio.Event()

    async def agent(task: str) -> None:
        random.seed(0)
        span = library.start_span(task)
        agl.emit_message(task)
        if task == "first":
            await both_open.wait()
        else:
            both_open.set()
            await first_ended.wait()
        span.end()
        first_ended.set()

    async with agl.Runner(agent, tracer=tracer) as runner, runner.stream(["first", "second"]) as results:
        done = [each async for each in results]

    for each in done:
        check_whole(each)
        assert [span.name for span in each.spans[1:]].count(each.rollout.input) == 1
        assert {span.status.status_code for span in each.spans} <= {"OK", "UNSET"}


async def test_seeding_random_repeats_no_ids(tracer: agl.Tracer, library: otel_trace.Tracer) -> None:
    async def agent(task: int) -> None:
        random.seed(0)
        agl.emit_message("native")
        library.start_span("library").end()

    async with agl.Runner(agent, tracer=tracer) as runner:
        done = [await runner.step(task) for task in range(3)]

    span_ids = [span.span_id for each in done for span in each.spans]
    assert len(set(span_ids)) == len(span_ids) == 9
    assert len({each.spans[0].trace_id for each in done}) == 3
    assert len({each.rollout.rollout_id for each in done}) == 3


async def test_hundreds_of_concurrent_rollouts_native_and_threaded_do_not_mix(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    def work(task: int) -> None:
        with library.start_as_current_span(f"{task}"), agl.operation(name=f"{task}"):
            agl.emit_message(f"{task}")

    async def native(task: int) -> None:
        async def child(depth: int) -> None:
            await trio.sleep(0.001 * (task % 5))
            work(task)
            if depth:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(child, depth - 1)

        await child(2)

    def threaded(task: int) -> None:
        for _ in range(3):
            work(task)

    async def all_of(agent: Callable[..., Any], tasks: range, done: list[agl.CompletedRollout]) -> None:
        async with agl.Runner(agent, tracer=tracer) as runner, runner.stream(tasks) as results:
            done.extend([each async for each in results])

    done: list[agl.CompletedRollout] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(all_of, native, range(150), done)
        nursery.start_soon(all_of, threaded, range(150, 300), done)

    assert len(done) == 300
    for each in done:
        check_whole(each)
        assert len(each.spans) == 10
        assert {label(span) for span in each.spans[1:]} == {f"{each.rollout.input}"}


# Exporters.


@attrs.define
class Gate(SpanExporter):
    """An exporter that waits before each export until it is opened."""

    opened: threading.Event = attrs.field(factory=threading.Event)
    entered: threading.Event = attrs.field(factory=threading.Event)
    names: list[str] = attrs.field(factory=list[str])
    threads: set[int] = attrs.field(factory=set[int])

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        self.threads.add(threading.get_ident())
        self.opened.wait(10)
        self.names += [span.name for span in spans]
        return SpanExportResult.SUCCESS


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    # A thread that is still waiting ends with the test.
    gate.opened.set()


@attrs.define
class Refusing(SpanExporter):
    """An exporter that returns, or raises, failure."""

    raises: bool

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.raises:
            raise ConnectionError("nobody listens")
        return SpanExportResult.FAILURE


async def say(task: object) -> None:
    agl.emit_message(str(task))


async def exported(
    agent: Callable[..., Any], tracer: agl.Tracer
) -> tuple[agl.CompletedRollout, tuple[ReadableSpan, ...]]:
    exporter = InMemorySpanExporter()
    tracer.add_exporter(exporter)
    host = TracerProvider(shutdown_on_exit=False).get_tracer("web")
    with host.start_as_current_span("GET /"):
        done = await run(agent, tracer)
    return done, exporter.get_finished_spans()


def as_record(done: agl.CompletedRollout, span: ReadableSpan) -> agl.Span:
    """Return an exported span as a record."""
    assert span.attributes is not None
    place = span.attributes["agentlightning.span_sequence_id"]
    assert isinstance(place, int)
    record = agl.Span.from_opentelemetry(
        span, rollout_id=done.rollout.rollout_id, attempt_id=done.attempt.attempt_id, sequence_id=place
    )
    return comparable(record)


def comparable(span: agl.Span) -> agl.Span:
    """Return a span without attributes, resource and times, which are converted to nanoseconds."""
    return attrs.evolve(
        span,
        attributes={},
        resource=agl.OtelResource(),
        start_time=None,
        end_time=None,
        events=[attrs.evolve(event, timestamp=None) for event in span.events],
        links=list(span.links),
    )


async def test_exporters_get_readable_spans_with_ids_parents_events_and_links(
    tracer: agl.Tracer, library: otel_trace.Tracer
) -> None:
    async def agent(task: str) -> None:
        with library.start_as_current_span("call", kind=otel_trace.SpanKind.CLIENT), agl.operation(name="step"):
            raise ValueError("bad")

    done, spans = await exported(agent, tracer)

    assert [len(span.events) for span in done.spans] == [0, 1, 1]
    assert [as_record(done, span) for span in spans] == [comparable(span) for span in done.spans]


async def test_exported_times_are_in_nanoseconds(tracer: agl.Tracer) -> None:
    done, spans = await exported(say, tracer)

    start_times = [span.start_time for span in done.spans]
    assert [(span.start_time or 0) / 1e9 for span in spans] == pytest.approx(start_times, abs=1e-6, rel=0)


async def test_exported_spans_have_their_attributes_and_the_ids_of_their_attempt(tracer: agl.Tracer) -> None:
    async def agent(task: str) -> None:
        agl.emit_annotation({"names": ["a", "b"], "n": 1})

    done, spans = await exported(agent, tracer)

    assert spans[1].attributes == {
        "names": ["a", "b"],
        "n": 1,
        "agentlightning.rollout_id": done.rollout.rollout_id,
        "agentlightning.attempt_id": done.attempt.attempt_id,
        "agentlightning.span_sequence_id": 2,
    }


async def test_exporters_get_text_that_utf8_can_encode_and_integers_of_64_bits(tracer: agl.Tracer) -> None:
    """OTLP has no others, and an exporter loses the whole batch with one of them."""
    half, escaped = "half \ud835", "half \\ud835"

    async def agent(task: str) -> None:
        with agl.operation(name=half):
            agl.emit_annotation({half: [half], "n": 2**80, "ns": [1, 2**80]})
            raise ValueError(half)

    done, (root, operation, annotation) = await exported(agent, tracer)

    assert annotation.attributes is not None
    assert annotation.attributes[escaped] == [escaped]
    assert (annotation.attributes["n"], annotation.attributes["ns"]) == (str(2**80), [1, str(2**80)])
    assert root.status.description == operation.status.description == f"ValueError: {escaped}"
    assert (operation.events[0].attributes or {})["exception.message"] == escaped
    # What the store keeps is the text itself.
    assert done.spans[0].status.description == f"ValueError: {half}"


async def test_a_slow_exporter_holds_no_rollout_up(tracer: agl.Tracer, gate: Gate) -> None:
    tracer.add_exporter(gate)

    async with agl.Runner(say, tracer=tracer) as runner:
        await runner.step("first")
        await trio.to_thread.run_sync(gate.entered.wait, 5)
        done = await runner.step("second")

        assert done.status == "succeeded"
        assert gate.names == []
        assert tracer.statistics().exporters["Gate"] == agl.ExporterStatistics(0, 4, 0, 0)
        gate.opened.set()

    assert len(gate.names) == 4
    assert threading.get_ident() not in gate.threads


async def test_leaving_the_runner_exports_what_is_queued(tracer: agl.Tracer) -> None:
    exporter = InMemorySpanExporter()
    tracer.add_exporter(exporter)

    async with agl.Runner(say, tracer=tracer) as runner, runner.stream(range(700)) as results:
        async for _ in results:
            pass

    assert len(exporter.get_finished_spans()) == 1400
    assert tracer.statistics().exporters == {"InMemorySpanExporter": agl.ExporterStatistics(1400, 0, 0, 0)}


async def test_attempts_that_find_the_queue_full_are_dropped_whole_counted_and_logged_once(
    tracer: agl.Tracer, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    tracer.add_exporter(gate, max_queued_spans=5)

    async with agl.Runner(say, tracer=tracer) as runner:
        for task in range(4):
            await runner.step(task)
        gate.opened.set()

    assert len(gate.names) == 4
    assert tracer.statistics().exporters["Gate"] == agl.ExporterStatistics(4, 0, 4, 0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Gate is too slow: 4 spans are waiting" in caplog.text


@pytest.mark.parametrize("raises", [True, False])
async def test_what_an_exporter_refuses_is_counted_and_fails_no_rollout(
    tracer: agl.Tracer, raises: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    kept = InMemorySpanExporter()
    tracer.add_exporter(Refusing(raises))
    tracer.add_exporter(kept)

    done = await run(say, tracer)

    statistics = tracer.statistics().exporters
    assert done.status == "succeeded"
    assert statistics["Refusing"] == agl.ExporterStatistics(0, 0, 0, 2)
    assert statistics["InMemorySpanExporter"] == agl.ExporterStatistics(2, 0, 0, 0)


@pytest.mark.parametrize(
    "raised",
    [SystemExit(2), KeyboardInterrupt(), GeneratorExit(), BaseExceptionGroup("one", [SystemExit(2)])],
    ids=repr,
)
async def test_what_an_exporter_raises_ends_no_more_than_its_batch(
    tracer: agl.Tracer, raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Exits(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            raise raised

    tracer.add_exporter(Exits())

    done = await run(say, tracer)

    assert done.status == "succeeded"
    assert "Exits failed; 2 spans were not exported" in caplog.text
    assert tracer.statistics().exporters["Exits"].failed == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"span_id": "f" * 40},
        {"span_id": "no digits"},
        {"kind": "ODD"},
    ],
    ids=repr,
)
async def test_a_span_that_cannot_be_exported_is_lost_alone(
    tracer: agl.Tracer, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    span = attrs.evolve(agl.Span.from_attributes(name="returned", attributes={}), **fields)

    done, spans = await exported(lambda task: [span], tracer)

    assert len(done.spans) == 2
    assert [each.name for each in spans] == ["invoke_agent <lambda>"]
    assert "cannot be exported (" in caplog.text
    assert tracer.statistics().exporters["InMemorySpanExporter"] == agl.ExporterStatistics(1, 0, 0, 1)


async def test_values_that_no_exporter_can_encode_are_text_and_times_out_of_range_are_left_out(
    tracer: agl.Tracer,
) -> None:
    span = agl.Span.from_attributes(
        attributes={"path": Path("a"), "nested": {"path": Path("b")}, "bytes": b"c"}, start_time=-1.0, end_time=1e30
    )

    _, (_, readable) = await exported(lambda task: [span], tracer)

    assert readable.attributes is not None
    assert (readable.attributes["path"], readable.attributes["nested"]) == ('"a"', {"path": '"b"'})
    assert isinstance(readable.attributes["bytes"], str)
    assert (readable.start_time, readable.end_time) == (None, None)


async def test_an_exporter_that_fails_again_and_again_is_logged_once(
    tracer: agl.Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    tracer.add_exporter(Refusing(raises=True))

    for _ in range(3):
        await run(say, tracer)

    [record] = [record for record in caplog.records if record.name == "lightning_trio.tracing"]
    assert record.exc_info is not None
    assert record.getMessage() == (
        "Refusing failed; 2 spans were not exported. Further failures are only counted, in tracer.statistics()"
    )
    assert tracer.statistics().exporters["Refusing"].failed == 6


async def test_an_exporter_that_hangs_when_the_runner_closes_is_abandoned(
    tracer: agl.Tracer, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_export, "_FLUSH_SECONDS", 0.05)
    tracer.add_exporter(gate)

    with trio.fail_after(5):
        async with agl.Runner(say, tracer=tracer) as runner:
            await runner.step("with the exporter")
            await trio.to_thread.run_sync(gate.entered.wait, 5)
            await runner.step("waiting")

    assert tracer.statistics().exporters["Gate"] == agl.ExporterStatistics(0, 0, 4, 0)


async def test_a_cancelled_runner_still_exports_what_finished(tracer: agl.Tracer) -> None:
    exporter = InMemorySpanExporter()
    tracer.add_exporter(exporter)

    with trio.CancelScope() as scope:
        async with agl.Runner(say, tracer=tracer) as runner:
            await runner.step("task")
            scope.cancel()

    assert len(exporter.get_finished_spans()) == 2


async def test_an_exporter_may_be_added_while_the_runner_is_open(tracer: agl.Tracer) -> None:
    exporter = InMemorySpanExporter()

    async with agl.Runner(say, tracer=tracer) as runner:
        await runner.step("before")
        tracer.add_exporter(exporter)
        await runner.step("after")

    assert len(exporter.get_finished_spans()) == 2


async def test_an_exporter_added_at_the_last_moment_does_not_hold_the_runner_open(tracer: agl.Tracer) -> None:
    with trio.fail_after(5):
        async with tracer.open():
            tracer.add_exporter(InMemorySpanExporter())


async def test_runners_that_share_a_tracer_export_both_and_both_close(tracer: agl.Tracer) -> None:
    exporter = InMemorySpanExporter()
    tracer.add_exporter(exporter)

    with trio.fail_after(5):
        async with agl.Runner(say, tracer=tracer) as outer:
            async with agl.Runner(say, tracer=tracer) as inner:
                await inner.step("inner")
            assert len(exporter.get_finished_spans()) == 2
            await outer.step("outer")

    assert len(exporter.get_finished_spans()) == 4


async def test_a_tracer_serves_one_runner_after_another(tracer: agl.Tracer) -> None:
    exporter = InMemorySpanExporter()
    tracer.add_exporter(exporter)

    for task in range(3):
        await run(say, tracer)
        assert len(exporter.get_finished_spans()) == 2 * (task + 1)


def test_a_second_exporter_of_its_class_is_marked_in_the_statistics(tracer: agl.Tracer) -> None:
    for _ in range(3):
        tracer.add_exporter(InMemorySpanExporter())

    assert list(tracer.statistics().exporters) == [
        "InMemorySpanExporter",
        "InMemorySpanExporter#2",
        "InMemorySpanExporter#3",
    ]


def test_what_is_no_exporter_is_refused(tracer: agl.Tracer) -> None:
    with pytest.raises(agl.UsageError, match="add_exporter takes an OpenTelemetry SpanExporter, not 'console'"):
        tracer.add_exporter("console")  # type: ignore[arg-type]  # bad input


def test_a_queue_for_no_spans_is_refused(tracer: agl.Tracer) -> None:
    with pytest.raises(ValueError, match="max_queued_spans=0 is too small; write a number of at least 1"):
        tracer.add_exporter(InMemorySpanExporter(), max_queued_spans=0)
