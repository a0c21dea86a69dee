"""Agents of other frameworks, written as in their documentation, run unchanged beside native and threaded ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import openai
import pytest
import trio

import lightning_trio as agl
from lightning_trio import Runner, Span
from lightning_trio.testing import Reply, ToolCall, open_scripted_llm

pytest.importorskip("opentelemetry.instrumentation.genai.openai")

CITIES = ["Oslo", "Kyoto", "Lima", "Perth", "Quito"]


def answer(request: Mapping[str, Any]) -> Reply:
    """Play a model: ask for the weather of the city that the user names, then return the tool's answer."""
    last = request["messages"][-1]
    if last["role"] == "tool":
        return Reply(f"It is {last['content']}.")
    return Reply(tool_calls=[ToolCall("get_weather", {"city": last["content"].split()[-1]})])


def weather_in(city: str) -> str:
    agl.emit_object({"looked up": city})
    return f"sunny in {city}"


async def langgraph_agent(task: str, llm: agl.LLM) -> float:
    # As in LangGraph's documentation of StateGraph, tools and conditional edges.
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from langgraph.graph import START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode, tools_condition

    @tool
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        return weather_in(city)

    # A client of its own, which is closed; see below for the one that langchain-openai keeps.
    async with openai.DefaultAsyncHttpxClient() as client:
        chat = ChatOpenAI(model=llm.model, base_url=llm.endpoint, api_key="any", http_async_client=client)
        model = chat.bind_tools([get_weather])

        async def call_model(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        graph = StateGraph(MessagesState)
        graph.add_node("agent", call_model)
        graph.add_node("tools", ToolNode([get_weather]))
        graph.add_edge(START, "agent")
        graph.add_conditional_edges("agent", tools_condition)
        graph.add_edge("tools", "agent")
        state = await graph.compile().ainvoke({"messages": [("user", f"What is the weather in {task}")]})
    return float(state["messages"][-1].content == f"It is sunny in {task}.")


async def agents_sdk_agent(task: str, llm: agl.LLM) -> float:
    # As in the documentation of the OpenAI Agents SDK, with a function tool.
    from agents import Agent, OpenAIChatCompletionsModel, function_tool, set_tracing_disabled
    from agents import Runner as AgentsRunner

    set_tracing_disabled(True)

    @function_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        return weather_in(city)

    async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="any") as client:
        agent = Agent(
            name="Forecaster",
            instructions="Answer with the weather.",
            model=OpenAIChatCompletionsModel(llm.model, client),
            tools=[get_weather],
        )
        result = await AgentsRunner.run(agent, f"What is the weather in {task}")
    return float(result.final_output == f"It is sunny in {task}.")


def messages(task: str) -> list[Any]:
    return [{"role": "user", "content": f"What is the weather in {task}"}]


def next_messages(task: str, completion: Any) -> list[Any]:
    [call] = completion.choices[0].message.tool_calls
    content = weather_in(json.loads(call.function.arguments)["city"])
    said = {"role": "assistant", "tool_calls": [call.model_dump()]}
    return [*messages(task), said, {"role": "tool", "tool_call_id": call.id, "content": content}]


async def native_agent(task: str, llm: agl.LLM) -> float:
    async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="any") as client:
        first = await client.chat.completions.create(model=llm.model, messages=messages(task))
        last = await client.chat.completions.create(model=llm.model, messages=next_messages(task, first))
    return float(last.choices[0].message.content == f"It is sunny in {task}.")


def threaded_agent(task: str, llm: agl.LLM) -> float:
    with openai.OpenAI(base_url=llm.endpoint, api_key="any") as client:
        first = client.chat.completions.create(model=llm.model, messages=messages(task))
        last = client.chat.completions.create(model=llm.model, messages=next_messages(task, first))
    return float(last.choices[0].message.content == f"It is sunny in {task}.")


def check(spans: list[Span], city: str) -> None:
    """Check that an attempt has its own two model calls and its own tool call, all in one trace."""
    by_id = {span.span_id: span for span in spans}
    root = spans[0]
    calls = [span for span in spans if span.name == "chat scripted"]
    assert len(calls) == 2
    assert all(city in span.attributes["gen_ai.input.messages"] for span in calls)
    assert not any(other in str(span.attributes) for span in spans for other in CITIES if other != city)
    assert [agl.get_object_value(span) for span in spans if span.name == "agentlightning.object"] == [
        {"looked up": city}
    ]
    assert {span.trace_id for span in spans} == {root.trace_id}
    assert all(span.parent_id in by_id for span in spans[1:])


@pytest.mark.heavy
async def test_langgraph_and_the_agents_sdk_run_beside_native_and_threaded_agents() -> None:
    pytest.importorskip("langgraph")
    pytest.importorskip("langchain_openai")
    pytest.importorskip("agents")
    store = agl.InMemoryLightningStore()
    in_asyncio = agl.rollout(runs_in="asyncio")
    agents = [in_asyncio(langgraph_agent), in_asyncio(agents_sdk_agent), native_agent, threaded_agent]

    with trio.fail_after(60):
        async with open_scripted_llm(answer, latency=0.01) as server, trio.open_nursery() as nursery:
            llm = agl.LLM(endpoint=server.base_url, model="scripted")
            for agent in agents:
                nursery.start_soon(Runner(agent, resources={"llm": llm}, store=store).fit, CITIES)

    rollouts = await store.query_rollouts()
    seen: dict[str, int] = {}
    for rollout in rollouts:
        spans = list(await store.query_spans(rollout.rollout_id))
        seen[spans[0].name] = seen.get(spans[0].name, 0) + 1
        assert isinstance(rollout, agl.AttemptedRollout)
        assert rollout.attempt.error is None, rollout.attempt.error.traceback
        assert rollout.attempt.final_reward == 1.0
        check(spans, rollout.input)
    assert seen == {
        "invoke_agent langgraph_agent": 5,
        "invoke_agent agents_sdk_agent": 5,
        "invoke_agent native_agent": 5,
        "invoke_agent threaded_agent": 5,
    }


async def test_the_http_client_that_langchain_keeps_for_all_models_works_in_a_second_runner() -> None:
    langchain_openai = pytest.importorskip("langchain_openai")

    @agl.rollout(runs_in="asyncio")
    async def agent(task: str, llm: agl.LLM) -> float:
        chat = langchain_openai.ChatOpenAI(model=llm.model, base_url=llm.endpoint, api_key="any", max_retries=0)
        if task == "close":
            await chat.root_async_client.close()
            return 1.0
        return float((await chat.ainvoke(task)).content == "yes")

    with trio.fail_after(60):
        async with open_scripted_llm("yes") as server:
            llm = agl.LLM(endpoint=server.base_url, model="scripted")
            results = [await Runner(agent, resources={"llm": llm}).fit(CITIES) for _ in range(2)]
            await Runner(agent, resources={"llm": llm}).fit(["close"])

    assert [result.mean_reward["train"] for result in results] == [1.0, 1.0]


async def test_a_langgraph_agent_is_cancelled_at_its_deadline() -> None:
    pytest.importorskip("langgraph")
    pytest.importorskip("langchain_openai")
    agent = agl.rollout(runs_in="asyncio", config=agl.RolloutConfig(timeout_seconds=1.0))(langgraph_agent)

    with trio.fail_after(30):
        async with open_scripted_llm(answer, latency=20) as server:
            llm = agl.LLM(endpoint=server.base_url, model="scripted")
            async with Runner(agent, resources={"llm": llm}) as runner:
                with pytest.raises(agl.AttemptTimedOut):
                    await runner.step("Oslo")

                assert runner.statistics().abandoned_threads == 0


async def test_aiohttp_and_anyio_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    import anyio

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int, llm: agl.LLM) -> float:
        request = {"model": llm.model, "messages": [{"role": "user", "content": f"weather in {task}"}]}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{llm.endpoint}/chat/completions", json=request) as response,
        ):
            arguments = (await response.json())["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0.01)
        await anyio.to_thread.run_sync(agl.emit_message, arguments)
        return 1.0

    with trio.fail_after(60):
        async with open_scripted_llm(answer, latency=0.01) as server:
            resources = {"llm": agl.LLM(endpoint=server.base_url, model="scripted")}
            async with Runner(agent, resources=resources) as runner, runner.stream(range(50)) as results:
                texts = {done.rollout.input: agl.get_message_value(done.spans[1]) async for done in results}

    assert texts == {task: json.dumps({"city": str(task)}) for task in range(50)}
    assert not [record for record in caplog.records if record.name == "lightning_trio.lanes"]
