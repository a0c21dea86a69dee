"""Emitters: the spans that each records, in a rollout and outside of one, and the readers of these spans."""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import datetime
import enum
import functools
import gc
import logging
import threading
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import attrs
import numpy as np
import pydantic
import pytest
import trio
import trio.testing
from openai.types.chat import ChatCompletionMessage

import lightning_trio as agl
from lightning_trio._spans import message_attributes
from lightning_trio.semconv import LightningSpanAttributes as Keys

EMITTERS: dict[str, Callable[[], object]] = {
    "emit_reward()": lambda: agl.emit_reward(1.0),
    "emit_annotation()": lambda: agl.emit_annotation({"a": 1}),
    "emit_message()": lambda: agl.emit_message("hello"),
    "emit_object()": lambda: agl.emit_object({"a": 1}),
    "emit_exception()": lambda: agl.emit_exception(ValueError("bad")),
    "operation()": lambda: agl.operation(name="step").__enter__(),
}


async def run(agent: Callable[..., Any], **options: Any) -> agl.CompletedRollout:
    """Run an agent once and return its rollout, even if it failed."""
    async with agl.Runner(agent, **options) as runner, runner.stream(["task"]) as results:
        return await anext(results)


def below_root(done: agl.CompletedRollout) -> list[agl.Span]:
    return list(done.spans[1:])


# The spans of each emitter.


async def test_emit_reward_records_an_annotation_with_status_ok() -> None:
    async def agent(task: str) -> None:
        agl.emit_reward(0.5, attributes={"judge": {"name": "exact"}})

    [span] = below_root(await run(agent))

    assert (span.name, span.status.status_code) == ("agentlightning.annotation", "OK")
    assert span.attributes == {
        "judge.name": "exact",
        "agentlightning.reward.0.name": "primary",
        "agentlightning.reward.0.value": 0.5,
    }


async def test_the_last_reward_emitted_is_the_final_one() -> None:
    async def agent(task: str) -> None:
        agl.emit_reward(0.1)
        agl.emit_reward({"correct": 1, "short": 0.5}, primary_key="short")

    assert (await run(agent)).final_reward == 0.5


async def test_a_returned_reward_is_among_the_spans_and_final() -> None:
    """Agent-lightning 0.3 added it after its hooks and its log line had read the rewards."""

    async def agent(task: str) -> float:
        agl.emit_reward(0.25)
        return 0.75

    done = await run(agent)

    assert [agl.get_reward_value(span) for span in below_root(done)] == [0.25, 0.75]
    assert done.final_reward == 0.75


async def test_attributes_cannot_change_the_reward() -> None:
    async def agent(task: str) -> None:
        agl.emit_reward(0.5, attributes={"agentlightning.reward.0.value": 9.0})

    assert (await run(agent)).final_reward == 0.5


async def test_a_reward_that_is_not_finite_fails_its_attempt_and_is_not_recorded() -> None:
    async def agent(task: str) -> None:
        agl.emit_reward(float("nan"))

    done = await run(agent)

    assert done.error is not None
    assert done.error.type == "InvalidReward"
    assert below_root(done) == []


async def test_emit_annotation_records_flat_attributes() -> None:
    async def agent(task: str) -> None:
        agl.emit_annotation({"a": {"b": 1}, "names": ["x", "y"], **agl.make_tag_attributes(["draft"])})

    [span] = below_root(await run(agent))

    assert span.name == "agentlightning.annotation"
    assert span.attributes == {"a.b": 1, "names": ["x", "y"], "agentlightning.tag.0": "draft"}


@pytest.mark.parametrize("value", [None, b"x", object()])
def test_emit_annotation_refuses_other_values(value: object) -> None:
    with pytest.raises(ValueError, match="attribute 'a' has the value"):
        agl.emit_annotation({"a": value}, propagate=False)


def test_emit_annotation_refuses_what_is_no_mapping() -> None:
    with pytest.raises(TypeError, match="an annotation is a mapping of attributes, not str"):
        agl.emit_annotation("draft", propagate=False)  # type: ignore[arg-type]  # bad input


async def test_emit_message_records_the_text_with_status_unset() -> None:
    async def agent(task: str) -> None:
        agl.emit_message("searching", {"step": {"n": 1}})

    [span] = below_root(await run(agent))

    assert (span.name, span.status.status_code) == ("agentlightning.message", "UNSET")
    assert span.attributes == {"step.n": 1, "agentlightning.message.body": "searching"}


def test_emit_message_refuses_what_is_no_string_and_names_the_emitter_that_takes_it() -> None:
    with pytest.raises(TypeError, match="a message is a string, not dict; emit_object takes any object"):
        agl.emit_message({"a": 1}, propagate=False)  # type: ignore[arg-type]  # bad input


def test_the_name_of_an_operation_is_a_string() -> None:
    with pytest.raises(TypeError, match="takes a string, not int; its attributes take any object"):
        agl.operation(name=5)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("value", "kind", "literal"),
    [
        ("text", "str", "text"),
        ("", "str", ""),
        (3, "int", "3"),
        (0.5, "float", "0.5"),
        (True, "bool", "True"),
        (b"\x00\xff", "bytes", base64.b64encode(b"\x00\xff").decode()),
    ],
)
def test_emit_object_writes_primitives_and_bytes_as_literals(value: object, kind: str, literal: str) -> None:
    core = agl.emit_object(value, propagate=False)

    assert core.attributes == {Keys.OBJECT_TYPE: kind, Keys.OBJECT_LITERAL: literal}
    assert agl.get_object_value(core) == value


HALF = "half \ud835"


class Answer(pydantic.BaseModel):
    text: str
    sources: list[Any] | None = None


class Level(enum.StrEnum):
    EASY = "easy"


class Rank(enum.IntEnum):
    FIRST = 1


@attrs.frozen
class Room:
    name: str


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        ({"a": [1, None]}, "dict", {"a": [1, None]}),
        ([1, "x"], "list", [1, "x"]),
        (None, "NoneType", None),
        ((1, 2), "tuple", [1, 2]),
        (Room("Turing"), "test_emitter.Room", {"name": "Turing"}),
        (datetime.date(2026, 1, 2), "datetime.date", "2026-01-02"),
        (uuid.UUID(int=1), "uuid.UUID", "00000000-0000-0000-0000-000000000001"),
        (np.float64(0.5), "numpy.float64", 0.5),
        (np.int64(2), "numpy.int64", 2),
        ({"score": np.float32(0.5)}, "dict", {"score": 0.5}),
    ],
    ids=repr,
)
def test_emit_object_writes_anything_else_as_json(value: object, kind: str, read: object) -> None:
    core = agl.emit_object(value, propagate=False)

    assert core.attributes[Keys.OBJECT_TYPE] == kind
    assert agl.get_object_value(core) == read


@pytest.mark.parametrize("value", [object(), {"a": object()}, (each for each in ()), len])
def test_emit_object_refuses_what_json_cannot_say(value: object) -> None:
    with pytest.raises(RuntimeError, match=r"Object must be JSON serializable, and this \w+ is not"):
        agl.emit_object(value, propagate=False)


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        (Answer(text="42"), "test_emitter.Answer", {"text": "42", "sources": None}),
        ({"ok": np.bool_(True)}, "dict", {"ok": True}),
        ({"at": Path("/x")}, "dict", {"at": "/x"}),
        ({"text": HALF}, "dict", {"text": HALF}),
        ({HALF: 1}, "dict", {HALF: 1}),
        (np.array([[1, 2]]), "numpy.ndarray", [[1, 2]]),
        (Level.EASY, "test_emitter.Level", "easy"),
        (collections.deque([1]), "collections.deque", [1]),
        (range(2), "range", [0, 1]),
        (bytearray(b"raw"), "bytes", b"raw"),
        (HALF, "str", HALF),
        ({Level.EASY: 2**80}, "dict", {"easy": 2**80}),
    ],
    ids=ascii,
)
def test_emit_object_writes_users_objects_as_their_natural_json(value: object, kind: str, read: object) -> None:
    core = agl.emit_object(value, propagate=False)

    assert core.attributes[Keys.OBJECT_TYPE] == kind
    assert agl.get_object_value(core) == read


def test_emit_object_writes_a_clients_message_with_its_fields() -> None:
    core = agl.emit_object(ChatCompletionMessage(role="assistant", content="hi"), propagate=False)

    read = agl.get_object_value(core)
    assert (read["role"], read["content"]) == ("assistant", "hi")


@pytest.mark.parametrize(
    ("value", "attribute"),
    [
        (np.bool_(True), True),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.array(3), 3),
        (np.array([1, 2]), [1, 2]),
        ([np.float64(0.5), np.float64(1)], [0.5, 1.0]),
        (Level.EASY, "easy"),
        (Rank.FIRST, 1),
        (collections.deque(["a", "b"]), ["a", "b"]),
        (range(2), [0, 1]),
        ({3}, [3]),
        (HALF, HALF),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("emit", ["annotation", "message", "operation"])
async def test_an_attribute_is_the_plain_value(value: object, attribute: object, emit: str) -> None:
    async def agent(task: str) -> None:
        if emit == "annotation":
            agl.emit_annotation({"a": value})
        elif emit == "message":
            agl.emit_message("hello", {"a": value})
        else:
            with agl.operation(a=value):
                pass

    [span] = below_root(await run(agent))

    assert span.attributes["a"] == attribute
    assert type(span.attributes["a"]) is type(attribute)


@pytest.mark.parametrize(
    ("value", "attribute"),
    [
        (Path("/x"), "/x"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (bytearray(b"a"), "YQ=="),
        (Answer(text="42"), '{"text":"42","sources":null}'),
        (Room("Turing"), '{"name":"Turing"}'),
    ],
    ids=repr,
)
def test_emit_annotation_writes_text_for_an_object_with_a_form_in_json(value: object, attribute: str) -> None:
    core = agl.emit_annotation({"a": value}, propagate=False)

    assert core.attributes == {"a": attribute}


def test_a_model_may_be_an_annotation() -> None:
    core = agl.emit_annotation(Answer(text="42", sources=[{"page": np.int64(3)}]), propagate=False)  # type: ignore[arg-type]

    assert core.attributes == {"text": "42", "sources.0.page": 3}


def test_an_annotations_fields_that_are_none_are_left_out() -> None:
    assert agl.emit_annotation(Answer(text="42"), propagate=False).attributes == {"text": "42"}  # type: ignore[arg-type]


def test_a_message_is_recorded_as_a_plain_string() -> None:
    assert type(message_attributes(Level.EASY)[Keys.MESSAGE_BODY]) is str


def test_dimensions_of_a_reward_may_be_numpys_and_have_members_of_enums_as_names() -> None:
    reward = {Level.EASY: np.bool_(True), "score": np.array(0.5), "cost": np.float32(0.25)}
    core = agl.emit_reward(reward, primary_key=Level.EASY, propagate=False)  # type: ignore[arg-type]  # NumPy's

    dimensions = agl.get_rewards_from_span(core)
    assert [(each.name, each.value) for each in dimensions] == [("easy", 1.0), ("score", 0.5), ("cost", 0.25)]
    assert {type(value) for value in core.attributes.values()} == {str, float}


def test_an_emitted_model_does_not_show_its_key() -> None:
    core = agl.emit_object({"llm": agl.LLM("http://h", "m", api_key="sk-secret")}, propagate=False)

    assert "sk-secret" not in repr(core)


async def test_emit_exception_records_type_message_and_traceback() -> None:
    async def agent(task: str) -> None:
        try:
            int("seven")
        except ValueError as exc:
            agl.emit_exception(exc, {"tool": "int"})

    [span] = below_root(await run(agent))

    stacktrace = span.attributes["exception.stacktrace"]
    assert (span.name, span.status.status_code) == ("agentlightning.exception", "OK")
    assert 'int("seven")' in stacktrace
    assert {key: value for key, value in span.attributes.items() if value is not stacktrace} == {
        "tool": "int",
        "exception.type": "ValueError",
        "exception.message": "invalid literal for int() with base 10: 'seven'",
        "exception.escaped": True,
    }


def test_emit_exception_refuses_what_is_no_exception() -> None:
    with pytest.raises(TypeError, match="emit_exception takes an exception, not str"):
        agl.emit_exception("bad", propagate=False)  # type: ignore[arg-type]  # bad input


async def test_emitters_return_the_span_with_its_times() -> None:
    returned: list[agl.SpanCoreFields] = []

    async def agent(task: str) -> None:
        returned.append(agl.emit_object({"a": 1}))

    [span] = below_root(await run(agent))

    [core] = returned
    assert (core.name, core.attributes, core.status) == (span.name, span.attributes, span.status)
    assert core.start_time == core.end_time == span.start_time == span.end_time is not None


async def test_changing_a_value_after_it_was_emitted_changes_no_span() -> None:
    async def agent(task: str) -> None:
        names = ["a"]
        core = agl.emit_annotation({"names": names})
        names.append("b")
        assert isinstance(core.attributes, dict)
        core.attributes["more"] = 1

    [span] = below_root(await run(agent))

    assert span.attributes == {"names": ["a"]}


# Outside of a rollout, and without recording.


@pytest.mark.parametrize("what", EMITTERS)
def test_outside_a_rollout_an_emitter_raises_and_says_how_to_get_one(what: str) -> None:
    with pytest.raises(agl.NoActiveRollout) as caught:
        EMITTERS[what]()

    message = str(caught.value)
    assert message.startswith(f"{what} was called outside a rollout. Call it from an agent")
    assert "agl.carry_context(fn)" in message
    assert "propagate=False" in message
    assert isinstance(caught.value, RuntimeError)


async def test_after_a_rollout_the_context_has_none() -> None:
    async def agent(task: str) -> float:
        return 1.0

    await run(agent)

    with pytest.raises(agl.NoActiveRollout):
        agl.emit_message("late")


@pytest.mark.parametrize(
    "build",
    [
        functools.partial(agl.emit_reward, 1.0),
        functools.partial(agl.emit_annotation, {"a": 1}),
        functools.partial(agl.emit_object, {"a": 1}),
    ],
)
async def test_without_propagation_a_span_is_built_and_not_recorded(build: Callable[..., agl.SpanCoreFields]) -> None:
    built: list[agl.SpanCoreFields] = []

    async def agent(task: str) -> None:
        built.append(build(propagate=False))

    done = await run(agent)

    assert below_root(done) == []
    assert built == [build(propagate=False)]


def test_messages_and_exceptions_without_propagation_need_no_rollout() -> None:
    agl.emit_message("m", propagate=False)
    agl.emit_exception(ValueError("bad"), propagate=False)


# The contexts from which an agent may emit.


def all_emitters() -> None:
    for emit in (value for key, value in EMITTERS.items() if key != "operation()"):
        emit()


ALL_NAMES = [
    "agentlightning.annotation",
    "agentlightning.annotation",
    "agentlightning.message",
    "agentlightning.object",
    "agentlightning.exception",
]


async def in_its_own_task(task: str) -> None:
    all_emitters()


async def in_a_child_task(task: str) -> None:
    async def child() -> None:
        all_emitters()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)


async def in_a_nested_nursery(task: str) -> None:
    async def child() -> None:
        await in_a_child_task(task)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)


async def in_a_trio_worker_thread(task: str) -> None:
    await trio.to_thread.run_sync(all_emitters)


def in_a_thread_agent(task: str) -> None:
    all_emitters()


def in_a_thread_it_starts_with_its_context(task: str) -> None:
    thread = threading.Thread(target=agl.carry_context(all_emitters))
    thread.start()
    thread.join()


def in_a_pool_with_its_context(task: str) -> None:
    with ThreadPoolExecutor() as pool:
        pool.submit(agl.carry_context(all_emitters)).result()


def in_a_trio_run_of_its_own(task: str) -> None:
    trio.run(in_a_nested_nursery, task)


@pytest.mark.parametrize(
    "agent",
    [
        in_its_own_task,
        in_a_child_task,
        in_a_nested_nursery,
        in_a_trio_worker_thread,
        in_a_thread_agent,
        in_a_thread_it_starts_with_its_context,
        in_a_pool_with_its_context,
        in_a_trio_run_of_its_own,
    ],
)
async def test_every_emitter_works(agent: Callable[[str], Awaitable[None] | None]) -> None:
    done = await run(agent)

    assert done.error is None
    assert [span.name for span in below_root(done)] == ALL_NAMES
    assert {span.parent_id for span in below_root(done)} == {done.spans[0].span_id}


async def test_in_a_bare_thread_an_emitter_raises_and_shows_carry_context() -> None:
    errors: list[BaseException] = []

    def emit() -> None:
        try:
            agl.emit_message("who am I?")
        except BaseException as exc:  # noqa: BLE001  # asserted on below
            errors.append(exc)

    def agent(task: str) -> None:
        thread = threading.Thread(target=emit)
        thread.start()
        thread.join()

    await run(agent)

    [error] = errors
    assert isinstance(error, agl.NoActiveRollout)
    assert "threading.Thread(target=agl.carry_context(fn))" in str(error)


async def test_the_spans_of_concurrent_rollouts_do_not_mix(autojump_clock: trio.testing.MockClock) -> None:
    async def agent(task: int) -> None:
        async def child(step: int) -> None:
            await trio.sleep(step)
            agl.emit_message(f"{task}")

        async with trio.open_nursery() as nursery:
            for step in range(3):
                nursery.start_soon(child, step)

    async with agl.Runner(agent) as runner, runner.stream(range(50)) as results:
        bodies = {
            done.rollout.input: {agl.get_message_value(span) for span in below_root(done)} async for done in results
        }

    assert bodies == {task: {f"{task}"} for task in range(50)}


# The emitter as an object.


async def test_the_emitter_parameter_records_the_same_as_the_functions() -> None:
    async def agent(task: str, emitter: agl.Emitter) -> None:
        emitter.emit_reward({"a": 1, "b": 0}, primary_key="a")
        emitter.emit_annotation({"a": 1})
        emitter.emit_message("hello")
        emitter.emit_object({"a": 1})
        emitter.emit_exception(ValueError("bad"))

    done = await run(agent)

    assert [span.name for span in below_root(done)] == ALL_NAMES
    assert done.final_reward == 1.0


async def test_an_emitter_records_into_its_rollout_from_a_bare_thread() -> None:
    def agent(task: str, emitter: agl.Emitter) -> None:
        thread = threading.Thread(target=emitter.emit_message, args=["from a thread"])
        thread.start()
        thread.join()

    [span] = below_root(await run(agent))

    assert agl.get_message_value(span) == "from a thread"


async def test_current_emitter_gives_the_emitter_of_the_rollout() -> None:
    async def agent(task: str, emitter: agl.Emitter) -> None:
        current = agl.current_emitter()
        current.emit_message(current.rollout.rollout_id)
        assert current.rollout == emitter.rollout == agl.current_rollout()

    done = await run(agent)

    assert agl.get_message_value(done.spans[1]) == done.rollout.rollout_id


# Operations.


@agl.operation
def add(a: int, b: int = 2, *more: int, **named: int) -> int:
    return a + b + sum(more) + sum(named.values())


@agl.operation(name="fetch", retries=3)
async def afetch(url: str) -> dict[str, Any]:
    """Fetch."""
    await trio.lowlevel.checkpoint()
    return {"url": url, "codes": [200]}


def operations(done: agl.CompletedRollout) -> list[agl.Span]:
    return [span for span in done.spans if span.name == "agentlightning.operation"]


async def test_an_operation_at_module_level_records_arguments_defaults_and_result() -> None:
    """Agent-lightning 0.3 needed an active tracer when the decorator ran, and always used that one."""

    async def agent(task: str) -> None:
        assert add(1, 2, 3, 4, five=5) == 15

    for _ in range(2):
        [span] = operations(await run(agent))

        assert span.status.status_code == "OK"
        assert span.attributes == {
            "agentlightning.operation.name": "add",
            "agentlightning.operation.input.a": 1,
            "agentlightning.operation.input.b": 2,
            "agentlightning.operation.input.more.0": 3,
            "agentlightning.operation.input.more.1": 4,
            "agentlightning.operation.input.named.five": 5,
            "agentlightning.operation.output": 15,
        }


async def test_an_operation_around_an_async_function_has_its_name_attributes_and_duration() -> None:
    async def agent(task: str) -> None:
        await afetch("http://h")

    [span] = operations(await run(agent))

    assert span.attributes == {
        "retries": 3,
        "agentlightning.operation.name": "fetch",
        "agentlightning.operation.input.url": "http://h",
        "agentlightning.operation.output.url": "http://h",
        "agentlightning.operation.output.codes": [200],
    }
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time > span.start_time


def test_an_operation_keeps_the_functions_metadata() -> None:
    assert (afetch.__name__, afetch.__doc__, add.__module__) == ("afetch", "Fetch.", __name__)


def test_a_decorated_function_called_outside_a_rollout_says_so() -> None:
    with pytest.raises(agl.NoActiveRollout, match=r"operation\(\) was called outside a rollout"):
        add(1)


def test_an_operation_without_propagation_runs_anywhere() -> None:
    @agl.operation(propagate=False)
    def double(x: int) -> int:
        return 2 * x

    assert double(2) == 4


async def test_a_call_that_does_not_fit_raises_its_own_error_and_shows_its_arguments() -> None:
    async def agent(task: str) -> None:
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
            add(b=3)  # type: ignore[call-arg]  # bad input

    [span] = operations(await run(agent))

    assert span.attributes["agentlightning.operation.input.kwargs.b"] == 3
    assert span.status.status_code == "ERROR"


@pytest.mark.parametrize(
    "argument", [{1: "int key"}, object(), "\ud800", np.float32(1)], ids=["key", "object", "surrogate", "numpy"]
)
async def test_an_operation_takes_whatever_its_function_takes(argument: object) -> None:
    @agl.operation
    def echo(value: object) -> object:
        return value

    async def agent(task: str) -> None:
        assert echo(argument) is argument

    done = await run(agent)

    assert done.error is None
    assert "agentlightning.operation.input.value" in operations(done)[0].attributes


async def test_the_key_of_a_model_given_to_an_operation_is_not_recorded() -> None:
    @agl.operation
    def ask(llm: agl.LLM) -> None: ...

    async def agent(task: str) -> None:
        ask(agl.LLM("http://h", "m", api_key="sk-secret"))

    assert "sk-secret" not in repr((await run(agent)).spans)


async def test_an_operation_as_a_block_records_input_output_and_attributes() -> None:
    async def agent(task: str) -> None:
        with agl.operation(name="search", conversation_id="c-1") as op:
            op.set_input("rooms", {"seats": 4}, limit=3)
            op.set_output(["Turing"])

    [span] = operations(await run(agent))

    assert span.attributes == {
        "conversation_id": "c-1",
        "agentlightning.operation.name": "search",
        "agentlightning.operation.input.args.0": "rooms",
        "agentlightning.operation.input.args.1.seats": 4,
        "agentlightning.operation.input.limit": 3,
        "agentlightning.operation.output": ["Turing"],
    }


async def test_spans_inside_an_operation_are_its_children_in_order_of_start() -> None:
    async def agent(task: str) -> None:
        with agl.operation(name="outer"):
            agl.emit_message("in outer")
            with agl.operation(name="inner"):
                agl.emit_message("in inner")
            agl.emit_message("in outer again")
        agl.emit_message("outside")

    root, outer, first, inner, second, third, outside = (await run(agent)).spans

    assert [span.parent_id for span in (outer, outside)] == [root.span_id] * 2
    assert [span.parent_id for span in (first, inner, third)] == [outer.span_id] * 3
    assert second.parent_id == inner.span_id
    assert [span.sequence_id for span in (root, outer, first, inner, second, third, outside)] == [1, 2, 3, 4, 5, 6, 7]


async def test_operations_of_sibling_tasks_do_not_nest_in_each_other(autojump_clock: trio.testing.MockClock) -> None:
    async def agent(task: str) -> None:
        async def child(name: str) -> None:
            with agl.operation(name=name):
                await trio.sleep(1)
                agl.emit_message(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, "a")
            nursery.start_soon(child, "b")

    done = await run(agent)

    names = {span.span_id: span.attributes.get("agentlightning.operation.name") for span in done.spans}
    messages = [span for span in done.spans if span.name == "agentlightning.message"]
    assert {names[span.parent_id or ""]: agl.get_message_value(span) for span in messages} == {"a": "a", "b": "b"}
    assert {span.parent_id for span in operations(done)} == {done.spans[0].span_id}


async def test_a_child_task_started_in_an_operation_belongs_below_it() -> None:
    async def agent(task: str) -> None:
        async def child() -> None:
            agl.emit_message("child")

        with agl.operation(name="fan out"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
            await trio.to_thread.run_sync(agl.emit_message, "thread")

    root, fan_out, child, thread = (await run(agent)).spans

    assert child.parent_id == thread.parent_id == fan_out.span_id
    assert fan_out.parent_id == root.span_id


# Operations in generators, which run in their callers' context.


async def chunks() -> AsyncGenerator[int]:
    with agl.operation(name="stream"):
        for number in range(5):
            agl.emit_message(f"making {number}")
            yield number


def plain_chunks() -> Generator[int]:
    with agl.operation(name="stream"):
        for number in range(5):
            agl.emit_message(f"making {number}")
            yield number


@contextlib.contextmanager
def step() -> Generator[None]:
    with agl.operation(name="step"):
        yield


@contextlib.asynccontextmanager
async def async_step() -> AsyncGenerator[None]:
    with step():
        yield


async def leave_early(task: str) -> None:
    async for number in chunks():
        agl.emit_message(f"got {number}")
        if number == 1:
            break
    agl.emit_message("after")


def leave_early_in_a_thread(task: str) -> None:
    asyncio.run(leave_early(task))


def children(done: agl.CompletedRollout) -> dict[str, list[str]]:
    """Return the texts of the messages below each operation and the root."""
    names = {span.span_id: str(span.attributes.get("agentlightning.operation.name", "root")) for span in done.spans}
    found: dict[str, list[str]] = {}
    for span in done.spans:
        if (text := agl.get_message_value(span)) is not None:
            found.setdefault(names[span.parent_id or ""], []).append(text)
    return found


left_early = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
"""What Trio says of a generator that is collected before its end."""


@pytest.fixture
def log_of_opentelemetry(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    yield caplog.records
    gc.collect()
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []


@left_early
@pytest.mark.parametrize(
    "agent",
    [leave_early, agl.rollout(runs_in="asyncio")(leave_early), leave_early_in_a_thread],
    ids=["trio", "asyncio", "thread"],
)
@pytest.mark.usefixtures("log_of_opentelemetry")
async def test_an_operation_in_a_generator_that_is_left_early_is_around_what_the_generator_records(agent: Any) -> None:
    tracer = agl.Tracer()
    done = await run(agent, tracer=tracer)
    gc.collect()
    await trio.testing.wait_all_tasks_blocked()

    assert children(done) == {"stream": ["making 0", "making 1"], "root": ["got 0", "got 1", "after"]}
    assert tracer.statistics().late_spans == 0


@left_early
@pytest.mark.usefixtures("log_of_opentelemetry")
async def test_a_generator_left_early_is_no_failure() -> None:
    [span] = operations(await run(leave_early))

    assert span.status == agl.TraceStatus("OK")
    assert span.events == ()


@pytest.mark.usefixtures("log_of_opentelemetry")
async def test_a_generator_may_end_inside_a_later_operation() -> None:
    async def agent(task: str) -> None:
        numbers = plain_chunks()
        next(numbers)
        with agl.operation(name="next"):
            agl.emit_message("before")
            numbers.close()
            agl.emit_message("behind")
        agl.emit_message("after")

    done = await run(agent)

    assert children(done) == {"stream": ["making 0"], "next": ["before", "behind"], "root": ["after"]}
    assert {span.parent_id for span in operations(done)} == {done.spans[0].span_id}


@pytest.mark.usefixtures("log_of_opentelemetry")
async def test_a_generator_may_be_collected_in_another_thread() -> None:
    class Holder:
        """A holder of itself, which only the collector frees."""

    def agent(task: str) -> None:
        holder: Any = Holder()
        holder.itself = holder
        holder.numbers = plain_chunks()
        next(holder.numbers)
        del holder
        collecting = threading.Thread(target=gc.collect)
        collecting.start()
        collecting.join()
        agl.emit_message("after")

    done = await run(agent)

    assert children(done) == {"stream": ["making 0"], "root": ["after"]}
    assert operations(done)[0].status == agl.TraceStatus("OK")


@agl.operation(name="stream")
async def decorated_chunks(count: int) -> AsyncGenerator[str, str]:
    said = "nothing"
    for _ in range(count):
        agl.emit_message(f"heard {said}")
        said = yield said


@agl.operation(name="stream")
def decorated_plain_chunks(count: int) -> Generator[str, str, str]:
    said = "nothing"
    for _ in range(count):
        agl.emit_message(f"heard {said}")
        said = yield said
    return "over"


async def test_a_decorated_async_generator_is_an_operation_until_it_is_left() -> None:
    async def agent(task: str) -> None:
        async with contextlib.aclosing(decorated_chunks(3)) as steps:
            assert await anext(steps) == "nothing"
            agl.emit_message("between")
            assert await steps.asend("hello") == "hello"
        agl.emit_message("after")
        assert [step async for step in decorated_chunks(1)] == ["nothing"]

    done = await run(agent)

    assert done.error is None
    assert children(done) == {"stream": ["heard nothing", "heard hello", "heard nothing"], "root": ["between", "after"]}
    assert operations(done)[0].attributes["agentlightning.operation.input.count"] == 3


async def test_a_decorated_generator_is_an_operation_until_its_end() -> None:
    async def agent(task: str) -> None:
        def delegating() -> Generator[str, str]:
            assert (yield from decorated_plain_chunks(1)) == "over"

        assert list(delegating()) == ["nothing"]
        steps = decorated_plain_chunks(2)
        next(steps)
        with pytest.raises(ValueError, match="bad"):
            steps.throw(ValueError("bad"))

    first, second = operations(done := await run(agent))

    assert done.error is None
    assert first.status == agl.TraceStatus("OK")
    assert second.status == agl.TraceStatus("ERROR", "ValueError: bad")


async def test_an_operation_in_a_context_manager_is_around_the_block() -> None:
    async def agent(task: str) -> None:
        with step():
            agl.emit_message("in the block")
        async with async_step():
            agl.emit_message("in the async block")
        agl.emit_message("after")

    done = await run(agent)

    assert children(done) == {"step": ["in the block", "in the async block"], "root": ["after"]}


async def test_a_context_manager_in_a_generator_is_around_what_the_generator_records() -> None:
    async def numbers() -> AsyncGenerator[int]:
        async with async_step():
            agl.emit_message("making")
            yield 1
            yield 2

    async def agent(task: str) -> None:
        async with contextlib.aclosing(numbers()) as found:
            async for _ in found:
                agl.emit_message("got")
                break
        agl.emit_message("after")

    assert children(await run(agent)) == {"step": ["making"], "root": ["got", "after"]}


async def test_what_a_generator_starts_belongs_below_its_operation() -> None:
    async def numbers() -> AsyncGenerator[int]:
        async def child() -> None:
            agl.emit_message("child")

        with agl.operation(name="stream"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
            await trio.to_thread.run_sync(agl.emit_message, "thread")
            yield 1

    async def agent(task: str) -> None:
        async for _ in numbers():
            agl.emit_message("got")

    assert children(await run(agent)) == {"stream": ["child", "thread"], "root": ["got"]}


async def start_in_trio(task: str) -> None:
    async def child(text: str) -> None:
        agl.emit_message(text)

    async with trio.open_nursery() as nursery:
        for number in plain_chunks():
            nursery.start_soon(child, f"task {number}")
            if number == 1:
                break
    async for _ in chunks():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, "inner task")
        await trio.to_thread.run_sync(agl.emit_message, "thread")
        break


@agl.rollout(runs_in="asyncio")
async def start_in_asyncio(task: str) -> None:
    async def child(text: str) -> None:
        agl.emit_message(text)

    for number in plain_chunks():
        await asyncio.create_task(child(f"task {number}"))
        if number == 1:
            break
    async for _ in chunks():
        await asyncio.gather(child("inner task"))
        await asyncio.to_thread(agl.emit_message, "thread")
        break


def start_in_a_thread(task: str) -> None:
    async def child(text: str) -> None:
        agl.emit_message(text)

    for number in plain_chunks():
        asyncio.run(child(f"task {number}"))
        if number == 1:
            break
    for _ in plain_chunks():
        thread = threading.Thread(target=agl.carry_context(agl.emit_message), args=["inner task"])
        thread.start()
        thread.join()
        agl.emit_message("thread")
        break


@left_early
@pytest.mark.parametrize("agent", [start_in_trio, start_in_asyncio, start_in_a_thread])
async def test_what_is_started_between_the_steps_of_a_generator_is_its_callers(agent: Any) -> None:
    done = await run(agent)

    assert children(done)["stream"] == ["making 0", "making 1", "making 0"]
    assert sorted(children(done)["root"]) == ["inner task", "task 0", "task 1", "thread"]


def gather_in_asyncio() -> AsyncGenerator[int]:
    async def numbers() -> AsyncGenerator[int]:
        async def child(text: str) -> None:
            await asyncio.sleep(0)
            agl.emit_message(text)

        with agl.operation(name="stream"):
            await asyncio.gather(child("task"))
            await asyncio.to_thread(agl.emit_message, "thread")
            yield 1

    return numbers()


def join_a_thread() -> Generator[int]:
    with agl.operation(name="stream"):
        for text in ("task", "thread"):
            thread = threading.Thread(target=agl.carry_context(agl.emit_message), args=[text])
            thread.start()
            thread.join()
        yield 1


@agl.rollout(runs_in="asyncio")
async def gathers_in_asyncio(task: str) -> None:
    async for _ in gather_in_asyncio():
        agl.emit_message("got")


async def joins_in_trio(task: str) -> None:
    for _ in join_a_thread():
        agl.emit_message("got")


def joins_in_a_thread(task: str) -> None:
    for _ in join_a_thread():
        agl.emit_message("got")


@pytest.mark.parametrize("agent", [gathers_in_asyncio, joins_in_trio, joins_in_a_thread])
async def test_what_a_generator_starts_and_waits_for_belongs_below_its_operation(agent: Any) -> None:
    assert children(await run(agent)) == {"stream": ["task", "thread"], "root": ["got"]}


async def test_a_librarys_span_in_the_loop_of_a_generator_is_its_callers() -> None:
    tracer = agl.Tracer(instrument_openai=False)
    library = tracer.provider.get_tracer("library")

    async def agent(task: str) -> None:
        for number in plain_chunks():
            with library.start_as_current_span(f"call {number}"):
                agl.emit_message(f"got {number}")
            if number == 1:
                break

    done = await run(agent, tracer=tracer)

    calls = [span for span in done.spans if span.name.startswith("call")]
    assert [span.parent_id for span in calls] == [done.spans[0].span_id] * 2


async def test_an_exception_in_an_operation_is_recorded_once_and_propagates() -> None:
    """Agent-lightning 0.3 recorded two events."""

    async def agent(task: str) -> None:
        with pytest.raises(ValueError, match="bad"), agl.operation(name="risky"):
            raise ValueError("bad")

    [span] = operations(await run(agent))

    [event] = span.events
    assert (span.status.status_code, span.status.description) == ("ERROR", "ValueError: bad")
    assert (event.name, event.attributes["exception.type"]) == ("exception", "ValueError")
    assert 'raise ValueError("bad")' in event.attributes["exception.stacktrace"]


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_exception_in_a_decorated_function_is_recorded_and_propagates(is_async: bool) -> None:
    @agl.operation
    def sync_risky() -> None:
        raise KeyError("k")

    @agl.operation
    async def async_risky() -> None:
        raise KeyError("k")

    async def agent(task: str) -> None:
        if is_async:
            await async_risky()
        sync_risky()

    done = await run(agent)

    [span] = operations(done)
    assert done.error is not None
    assert (done.error.type, span.status.description) == ("KeyError", "KeyError: 'k'")
    assert "agentlightning.operation.output" not in span.attributes


async def test_a_cancelled_operation_ends_with_an_error_and_one_event(autojump_clock: trio.testing.MockClock) -> None:
    """In Agent-lightning 0.3 it ended UNSET and without an event."""

    async def agent(task: str) -> None:
        with trio.move_on_after(1), agl.operation(name="slow"):
            await trio.sleep_forever()

    [span] = operations(await run(agent))

    assert (span.status.status_code, span.status.description) == ("ERROR", "Cancelled")
    assert [event.attributes["exception.type"] for event in span.events] == ["Cancelled"]


async def test_a_failed_attempts_operation_is_closed_with_the_error(autojump_clock: trio.testing.MockClock) -> None:
    async def agent(task: str) -> None:
        with agl.operation(name="slow"):
            await trio.sleep_forever()

    done = await run(agent, config=agl.RolloutConfig(timeout_seconds=2))

    assert done.attempt.status == "timeout"
    assert [span.status for span in operations(done)] == [agl.TraceStatus("ERROR", "Cancelled")]


async def test_an_operation_never_left_is_closed_when_the_attempt_ends() -> None:
    async def agent(task: str) -> float:
        agl.operation(name="left open").__enter__()
        return 1.0

    done = await run(agent)

    [span] = operations(done)
    assert done.status == "succeeded"
    assert span.status == agl.TraceStatus("ERROR", "still open when the attempt ended (succeeded)")
    assert span.parent_id == done.spans[0].span_id


async def test_a_group_of_one_shows_its_only_member() -> None:
    async def agent(task: str) -> None:
        async def child() -> None:
            raise ValueError("bad")

        with agl.operation(name="fan out"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)

    [span] = operations(await run(agent))

    assert span.status.description == "ValueError: bad"


async def test_span_gives_the_finished_span_after_the_block() -> None:
    operation: list[agl.Operation] = []

    async def agent(task: str) -> None:
        with agl.operation(name="search") as op:
            op.set_output(1)
        operation.append(op)

    [span] = operations(await run(agent))

    core = operation[0].span()
    assert (core.name, core.attributes, core.start_time, core.end_time) == (
        span.name,
        span.attributes,
        span.start_time,
        span.end_time,
    )


def test_span_before_the_end_of_the_block_says_it_is_not_ready() -> None:
    with (
        agl.operation(name="search", propagate=False) as op,
        pytest.raises(RuntimeError, match="Span is not ready yet: call span"),
    ):
        op.span()


def set_input(op: agl.Operation) -> None:
    op.set_input(1)


def set_output(op: agl.Operation) -> None:
    op.set_output(1)


@pytest.mark.parametrize("note", [set_input, set_output])
def test_input_and_output_outside_the_block_are_refused(note: Callable[[agl.Operation], None]) -> None:
    op = agl.operation(propagate=False)
    with pytest.raises(RuntimeError, match="are set inside its block"):
        note(op)
    with op:
        note(op)

    with pytest.raises(RuntimeError, match="are set inside its block"):
        note(op)


def test_an_operation_is_entered_once() -> None:
    with agl.operation(propagate=False) as op:
        pass

    with pytest.raises(RuntimeError, match="already entered; make a new one"):
        op.__enter__()


def test_a_positional_name_is_refused_with_the_right_form() -> None:
    with pytest.raises(ValueError, match=r"operation\('search'\): .*; write operation\(name='search'\)"):
        agl.operation("search")  # type: ignore[call-overload]  # bad input


def test_two_names_are_refused() -> None:
    attributes: dict[str, Any] = {"agentlightning.operation.name": "b"}

    with pytest.raises(ValueError, match="Cannot specify both name='a' and the attribute"):
        agl.operation(None, name="a", **attributes)


def test_an_operation_without_a_name_has_no_name_attribute() -> None:
    with agl.operation(propagate=False, stage="plan") as op:
        pass

    assert op.span().attributes == {"stage": "plan"}


# The reward decorator.


async def test_the_reward_decorator_emits_what_its_function_returns_and_returns_it() -> None:
    @agl.reward
    def exact(answer: str) -> float:
        """Grade."""
        return float(answer == "yes")

    @agl.reward(primary_key="a", attributes={"judge": "llm"})
    async def judge() -> Mapping[str, float]:
        await trio.lowlevel.checkpoint()
        return {"b": 0.5, "a": 0.25}

    async def agent(task: str) -> None:
        assert exact("yes") == 1.0
        assert await judge() == {"b": 0.5, "a": 0.25}

    done = await run(agent)

    assert [agl.get_reward_value(span) for span in below_root(done)] == [1.0, 0.25]
    assert done.spans[2].attributes["judge"] == "llm"
    assert (exact.__name__, exact.__doc__) == ("exact", "Grade.")


async def test_a_reward_function_that_returns_no_number_fails_its_attempt() -> None:
    @agl.reward
    def grade() -> str:
        return "good"

    async def agent(task: str) -> None:
        grade()

    done = await run(agent)

    assert done.error is not None
    assert done.error.message == "Reward must be a number, not 'good' of type str"


# Readers.


def span_with(attributes: Mapping[str, Any]) -> agl.Span:
    return agl.Span.from_attributes(attributes=attributes, name="agentlightning.object")


def test_get_message_value_gives_the_body_or_none() -> None:
    assert agl.get_message_value(span_with({Keys.MESSAGE_BODY: "hello"})) == "hello"
    assert agl.get_message_value(span_with({"a": 1})) is None


def test_get_message_value_refuses_a_body_that_is_no_string() -> None:
    with pytest.raises(TypeError, match=r"agentlightning.message.body is 3 of type int; a message is a string"):
        agl.get_message_value(span_with({Keys.MESSAGE_BODY: 3}))


@pytest.mark.parametrize(("literal", "value"), [("true", True), ("TRUE", True), ("False", False), ("yes", False)])
def test_a_bool_literal_is_read_case_insensitively(literal: str, value: bool) -> None:
    assert agl.get_object_value(span_with({Keys.OBJECT_TYPE: "bool", Keys.OBJECT_LITERAL: literal})) is value


def test_a_literal_without_a_type_is_a_string() -> None:
    assert agl.get_object_value(span_with({Keys.OBJECT_LITERAL: "3"})) == "3"


def test_json_wins_over_a_literal() -> None:
    assert agl.get_object_value(span_with({Keys.OBJECT_JSON: "[1]", Keys.OBJECT_LITERAL: "x"})) == [1]


def test_a_span_without_an_object_has_none() -> None:
    assert agl.get_object_value(span_with({})) is None


@pytest.mark.parametrize("encoded", ["{", 3])
def test_bad_json_is_named_with_its_span(encoded: object) -> None:
    with pytest.raises(
        RuntimeError, match=r"agentlightning.object.json of the span 'agentlightning.object' is not JSON"
    ):
        agl.get_object_value(span_with({Keys.OBJECT_JSON: encoded}))


def test_an_unknown_literal_type_is_named_with_those_there_are() -> None:
    with pytest.raises(
        RuntimeError, match=r"agentlightning.object.type is 'complex'; the types of literals are \['bool'"
    ):
        agl.get_object_value(span_with({Keys.OBJECT_TYPE: "complex", Keys.OBJECT_LITERAL: "1j"}))


def test_an_api_key_is_in_no_span() -> None:
    llm = agl.LLM(endpoint="http://127.0.0.1/v1", model="m", api_key="sk-secret")
    with agl.operation(propagate=False) as op:
        op.set_input(llm, llms={"first": llm})
        op.set_output([llm])

    written = [
        op.span(),
        agl.emit_object({"llm": llm}, propagate=False),
        agl.emit_reward(1, attributes={"llm": llm}, propagate=False),
    ]
    assert "sk-secret" not in repr(written)


def test_the_readers_of_rewards_are_in_the_module_of_the_emitters_too() -> None:
    from lightning_trio import emitter

    for name in (
        "find_final_reward",
        "find_reward_spans",
        "get_reward_value",
        "get_rewards_from_span",
        "is_reward_span",
    ):
        assert getattr(emitter, name) is getattr(agl, name)


def test_public_modules_list_all_that_is_public_in_them() -> None:
    from lightning_trio import emitter, semconv

    for module in (emitter, semconv):
        assert all(hasattr(module, name) for name in module.__all__)
        own = [
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", "") == module.__name__ and not isinstance(value, TypeVar | ParamSpec)
        ]
        assert not [name for name in own if not name.startswith("_") and name not in module.__all__]
    assert not [name for name in vars(semconv) if name.isupper() and name not in semconv.__all__]


async def test_the_current_emitter_equals_the_one_in_a_parameter() -> None:
    emitters: list[agl.Emitter] = []

    async def agent(task: str, emitter: agl.Emitter) -> None:
        emitters.append(emitter)
        assert agl.current_emitter() == emitter
        assert hash(agl.current_emitter()) == hash(emitter)

    async with agl.Runner(agent) as runner:
        await runner.step("tea")
        await runner.step("milk")

    assert emitters[0] != emitters[1]
    assert emitters[0] != "emitter"
