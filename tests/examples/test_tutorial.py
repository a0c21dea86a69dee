"""The agents of a "Writing Agents" tutorial run after changing only the import: ``import lightning_trio as agl``."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypedDict, cast

import pytest
import trio
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageFunctionToolCall

import lightning_trio as agl
from lightning_trio.testing import Reply, Script, ScriptedLLM, ToolCall, open_scripted_llm


@contextmanager
def llm_in_thread(script: Script) -> Iterator[ScriptedLLM]:
    """Run a scripted LLM in a thread, for the blocking `Trainer.fit`."""
    opened: list[ScriptedLLM] = []
    ready = threading.Event()
    stop: list[Callable[[], None]] = []

    async def serve() -> None:
        async with open_scripted_llm(script) as llm, trio.open_nursery() as nursery:
            token = trio.lowlevel.current_trio_token()
            stop.append(lambda: token.run_sync_soon(nursery.cancel_scope.cancel))
            opened.append(llm)
            nursery.start_soon(trio.sleep_forever)
            ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert ready.wait(10)
    try:
        yield opened[0]
    finally:
        stop[0]()
        thread.join()


@pytest.fixture(autouse=True)
def _openai_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")


def spans_of(trainer: agl.Trainer) -> list[agl.Span]:
    """Return all spans of the trainer's only rollout."""

    async def read() -> list[agl.Span]:
        [rollout] = await trainer.store.query_rollouts()
        return list(await trainer.store.query_spans(rollout.rollout_id))

    return trio.run(read)


# The room selector: a plain function, a prompt template, a tool, a grade.


class RoomTask(TypedDict):
    date: str
    attendees: int
    expected_choice: str


TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_rooms_and_availability",
            "description": "List the meeting rooms that are free on a date.",
            "parameters": {"type": "object", "properties": {"date": {"type": "string"}}, "required": ["date"]},
        },
    }
]


def get_rooms_and_availability(date: str) -> list[dict[str, Any]]:
    return [{"id": "A103", "capacity": 8, "free": True}, {"id": "Lily", "capacity": 2, "free": True}]


@agl.rollout
def room_selector(task: RoomTask, prompt_template: agl.PromptTemplate) -> float:
    client = OpenAI()
    messages: list[Any] = [
        {"role": "user", "content": prompt_template.format(date=task["date"], attendees=task["attendees"])}
    ]
    response = client.chat.completions.create(model="gpt-5-nano", messages=messages, tools=TOOLS)
    message = response.choices[0].message
    messages.append(message.model_dump())
    for call in cast("list[ChatCompletionMessageFunctionToolCall]", message.tool_calls or []):
        output = get_rooms_and_availability(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(output)})
    response = client.chat.completions.create(model="gpt-5-nano", messages=messages)
    choice = response.choices[0].message.content or ""
    client.close()
    return 1.0 if task["expected_choice"] in choice else 0.0


def choose_a_room(request: Mapping[str, Any]) -> Reply:
    if request["messages"][-1]["role"] == "user":
        return Reply(tool_calls=[ToolCall("get_rooms_and_availability", {"date": "2026-05-04"})])
    return Reply("Room A103 is free.")


ROOM_TASK: RoomTask = {"date": "2026-05-04", "attendees": 4, "expected_choice": "A103"}
ROOM_PROMPT = agl.PromptTemplate("Find a room on {date} for {attendees} people.", engine="f-string")


def test_the_room_selector_runs_under_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    with llm_in_thread(choose_a_room) as llm:
        monkeypatch.setenv("OPENAI_BASE_URL", llm.base_url)
        trainer = agl.Trainer(n_runners=1, initial_resources={"prompt_template": ROOM_PROMPT})
        result = trainer.fit(agent=room_selector, train_dataset=[ROOM_TASK])

    first, second = llm.requests
    assert result.mean_reward["train"] == 1.0
    assert first.body["messages"][0]["content"] == "Find a room on 2026-05-04 for 4 people."
    assert json.loads(second.body["messages"][-1]["content"])[0]["id"] == "A103"
    assert [span.name for span in spans_of(trainer) if span.kind == "CLIENT"] == ["chat gpt-5-nano"] * 2


async def test_the_room_selector_runs_many_at_a_time_inside_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_scripted_llm(choose_a_room) as llm:
        monkeypatch.setenv("OPENAI_BASE_URL", llm.base_url)
        runner = agl.Runner(room_selector, resources={"prompt_template": ROOM_PROMPT}, max_concurrency=8)
        wrong: RoomTask = {**ROOM_TASK, "expected_choice": "Lily"}
        result = await runner.fit([ROOM_TASK] * 12, [wrong] * 4)

    assert result.counts["succeeded"] == 16
    assert result.mean_reward == {"train": 1.0, "val": 0.0}


def test_dev_tries_the_room_selector_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with llm_in_thread(choose_a_room) as llm:
        monkeypatch.setenv("OPENAI_BASE_URL", llm.base_url)
        trainer = agl.Trainer(initial_resources={"prompt_template": ROOM_PROMPT})
        result = trainer.dev(room_selector, [ROOM_TASK], val_dataset=[ROOM_TASK])

    assert result.mean_reward == {"train": 1.0, "val": 1.0}


# The flight assistant: an LLM resource, with the client of the official SDK.


class FlightTask(TypedDict):
    question: str
    expected: str


@agl.rollout
def flight_assistant(task: FlightTask, llm: agl.LLM) -> float:
    client = OpenAI(base_url=llm.endpoint, api_key=llm.api_key)
    response = client.chat.completions.create(
        model=llm.model,
        messages=[{"role": "user", "content": task["question"]}],
        **llm.sampling_parameters,
    )
    client.close()
    return float(task["expected"] in (response.choices[0].message.content or ""))


@agl.llm_rollout
def flight_assistant_by_llm_rollout(task: FlightTask, llm: agl.LLM, rollout: agl.Rollout) -> float:
    client = OpenAI(base_url=llm.get_base_url(rollout.rollout_id, "at-1"), api_key=llm.api_key)
    response = client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": task["question"]}])
    client.close()
    return float(task["expected"] in (response.choices[0].message.content or ""))


@agl.rollout
async def flight_assistant_async(task: FlightTask, llm: agl.LLM) -> float:
    async with AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key) as client:
        response = await client.chat.completions.create(
            model=llm.model, messages=[{"role": "user", "content": task["question"]}]
        )
    return float(task["expected"] in (response.choices[0].message.content or ""))


@agl.rollout(runs_in="asyncio")
async def flight_assistant_asyncio(task: FlightTask, llm: agl.LLM) -> float:
    async with AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key) as client, asyncio.timeout(10):
        [response] = await asyncio.gather(
            client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": task["question"]}])
        )
    return float(task["expected"] in (response.choices[0].message.content or ""))


FLIGHT_TASK: FlightTask = {"question": "Which flight goes to Oslo?", "expected": "SK 4040"}


def flight_llm(llm: ScriptedLLM) -> agl.LLM:
    return agl.LLM(endpoint=llm.base_url, model="qwen", api_key="any", sampling_parameters={"temperature": 0.5})


@pytest.mark.parametrize(
    "agent",
    [flight_assistant, flight_assistant_by_llm_rollout, flight_assistant_async, flight_assistant_asyncio],
    ids=lambda agent: agent.name,
)
def test_the_flight_assistant_runs_however_it_is_written(agent: Any) -> None:
    with llm_in_thread("Take SK 4040.") as llm:
        trainer = agl.Trainer(initial_resources={"main_llm": flight_llm(llm)})
        result = trainer.fit(agent, [FLIGHT_TASK])

    assert result.mean_reward["train"] == 1.0
    root, call = [span for span in spans_of(trainer) if span.name != "agentlightning.annotation"]
    assert call.name == "chat qwen"
    assert call.parent_id == root.span_id
    assert call.attributes["gen_ai.request.model"] == "qwen"


def test_sampling_parameters_and_key_reach_the_server() -> None:
    with llm_in_thread("Take SK 4040.") as llm:
        agl.Trainer(initial_resources={"main_llm": flight_llm(llm)}).fit(flight_assistant, [FLIGHT_TASK])

    [request] = llm.requests
    assert request.body["temperature"] == 0.5
    assert request.headers["authorization"] == "Bearer any"


# A class.


class RoomAgent(agl.LitAgent[RoomTask]):
    def __init__(self, grade: float = 1.0) -> None:
        super().__init__()
        self.grade = grade

    def training_rollout(self, task: RoomTask, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
        prompt_template = cast("agl.PromptTemplate", resources["prompt_template"])
        llm = cast("agl.LLM", resources["llm"])
        client = OpenAI(base_url=llm.endpoint, api_key=llm.api_key)
        content = prompt_template.format(**task)
        client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": content}])
        client.close()
        return self.grade

    def validation_rollout(self, task: RoomTask, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
        return self.training_rollout(task, resources, rollout) / 2


def test_the_class_based_agent_trains_and_validates() -> None:
    with llm_in_thread("A103") as llm:
        trainer = agl.Trainer(initial_resources={"prompt_template": ROOM_PROMPT, "llm": flight_llm(llm)})
        result = trainer.fit(RoomAgent(), [ROOM_TASK], val_dataset=[ROOM_TASK])

    assert result.mean_reward == {"train": 1.0, "val": 0.5}


# Several steps, with emitters.


@agl.operation
def plan(question: str) -> list[str]:
    agl.emit_message(f"planning {question}")
    return ["search", "answer"]


@agl.operation(category="tool")
def search(step: str) -> dict[str, int]:
    return {"hits": len(step)}


@agl.reward
def judge(hits: int) -> float:
    return hits / 10


@agl.rollout
def multi_step_agent(task: dict[str, str], prompt_template: agl.PromptTemplate) -> None:
    steps = plan(task["question"])
    with agl.operation(name="work", steps=len(steps)) as op:
        op.set_input(steps=steps)
        found = search(steps[0])
        agl.emit_object(found)
        op.set_output(found["hits"])
    try:
        raise LookupError("no second page")
    except LookupError as exc:
        agl.emit_exception(exc)
    agl.emit_annotation({"model": {"name": "none", "tokens": 0}})
    agl.emit_reward(0.1, attributes=agl.make_tag_attributes(["process"]))
    judge(found["hits"])
    agl.emit_reward({"correct": 1.0, "short": 0.5}, primary_key="correct")


def test_the_multi_step_agent_records_its_steps_in_order_and_in_a_tree() -> None:
    trainer = agl.Trainer(initial_resources={"prompt_template": ROOM_PROMPT})
    trainer.fit(multi_step_agent, [{"question": "where?"}])

    spans = spans_of(trainer)
    by_id = {span.span_id: span for span in spans}
    tree = [(span.name.removeprefix("agentlightning."), _name_of_parent(span, by_id)) for span in spans]
    assert tree == [
        ("invoke_agent multi_step_agent", ""),
        ("operation", "invoke_agent multi_step_agent"),
        ("message", "plan"),
        ("operation", "invoke_agent multi_step_agent"),
        ("operation", "work"),
        ("object", "work"),
        ("exception", "invoke_agent multi_step_agent"),
        ("annotation", "invoke_agent multi_step_agent"),
        ("annotation", "invoke_agent multi_step_agent"),
        ("annotation", "invoke_agent multi_step_agent"),
        ("annotation", "invoke_agent multi_step_agent"),
    ]


def _name_of_parent(span: agl.Span, by_id: Mapping[str, agl.Span]) -> str:
    if span.parent_id is None:
        return ""
    parent = by_id[span.parent_id]
    return str(parent.attributes.get("agentlightning.operation.name", parent.name))


def test_the_multi_step_agents_inputs_outputs_and_rewards_can_be_read_back() -> None:
    trainer = agl.Trainer(initial_resources={"prompt_template": ROOM_PROMPT})
    result = trainer.fit(multi_step_agent, [{"question": "where?"}])

    spans = spans_of(trainer)
    planned = spans[1]
    assert result.mean_reward["train"] == 1.0
    assert [agl.get_reward_value(span) for span in agl.find_reward_spans(spans)] == [0.1, 0.6, 1.0]
    assert agl.get_object_value(spans[5]) == {"hits": 6}
    assert planned.attributes["agentlightning.operation.input.question"] == "where?"
    assert planned.attributes["agentlightning.operation.output"] == ["search", "answer"]


# A plain function that starts asyncio itself.


@agl.rollout
def starts_asyncio(task: FlightTask, llm: agl.LLM) -> float:
    async def ask() -> str:
        async with AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key) as client:
            response = await client.chat.completions.create(
                model=llm.model, messages=[{"role": "user", "content": task["question"]}]
            )
            agl.emit_message("asked")
            return response.choices[0].message.content or ""

    return float(task["expected"] in asyncio.run(ask()))


def test_a_plain_agent_that_calls_asyncio_run_works() -> None:
    with llm_in_thread("Take SK 4040.") as llm:
        trainer = agl.Trainer(n_runners=4, initial_resources={"llm": flight_llm(llm)})
        result = trainer.fit(starts_asyncio, [FLIGHT_TASK] * 8)

    assert result.counts["succeeded"] == 8
    assert result.mean_reward["train"] == 1.0


def test_an_asyncio_agent_declared_without_runs_in_gets_the_error_that_shows_what_to_write() -> None:
    @agl.rollout
    async def asyncio_agent(task: str) -> float:
        await asyncio.sleep(0.1)
        return 1.0

    trainer = agl.Trainer()
    with pytest.raises(agl.AsyncioAgentError) as caught:
        trainer.fit(asyncio_agent, ["x"])

    assert '@agl.rollout(runs_in="asyncio")' in str(caught.value)
    assert not trio.run(trainer.store.query_rollouts)
