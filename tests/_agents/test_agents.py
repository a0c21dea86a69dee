"""Agents: decorators, classes and their dispatch, injection, and lanes."""

from __future__ import annotations

import functools
import gc
import inspect
import logging
from collections.abc import Callable
from typing import Any, Optional

import attrs
import pytest
import sniffio

import lightning_trio as agl
from lightning_trio import LLM, LitAgent, NamedResources, PromptTemplate, ProxyLLM, Resource, Rollout, Runner

LLM_ONE = LLM(endpoint="http://one/v1", model="one")
LLM_TWO = LLM(endpoint="http://two/v1", model="two")
PROMPT = PromptTemplate("Say {x}", engine="f-string")


@attrs.frozen
class Rubric(Resource, resource_type="test_agents_rubric"):
    text: str


async def given_to(agent: Any, resources: NamedResources | None = None, task: object = "task") -> Any:
    """Run an agent that returns its arguments, and return these."""
    caught: list[Any] = []

    @functools.wraps(agent)
    async def catching(*args: Any, **kwargs: Any) -> None:
        caught.append(await agent(*args, **kwargs))

    async with Runner(catching, resources=resources) as runner:
        await runner.step(task)
    return caught[0]


# Decorators.


def test_a_decorated_function_is_called_as_before_and_keeps_its_face() -> None:
    @agl.rollout
    def answer(question: str, *, loud: bool = False) -> float:
        """Answer a question."""
        return len(question) + loud

    assert answer("four", loud=True) == 5
    assert (answer.__name__, answer.__doc__) == ("answer", "Answer a question.")
    assert str(inspect.signature(answer)) == "(question: 'str', *, loud: 'bool' = False) -> 'float'"
    assert answer.name == "answer"
    assert isinstance(answer, LitAgent)


async def test_an_async_function_still_gives_a_coroutine() -> None:
    @agl.rollout
    async def answer(question: str) -> float:
        return 1.0

    assert await answer("x") == 1.0
    assert answer.is_async()


async def test_rollout_takes_options() -> None:
    config = agl.RolloutConfig(timeout_seconds=5)

    @agl.rollout(name="clever", config=config, runs_in="trio")
    async def answer(question: str) -> float:
        return 1.0

    async with Runner(answer) as runner:
        done = await runner.step("x")
    assert done.spans[0].name == "invoke_agent clever"
    assert done.rollout.config == config


def test_rollout_called_without_options_decorates_as_well() -> None:
    @agl.rollout()
    def answer(question: str) -> float:
        return 1.0

    assert answer("x") == 1.0


async def test_a_plain_function_given_to_a_runner_is_an_agent() -> None:
    async def answer(question: str) -> float:
        return 1.0

    assert Runner(answer).agent.name == "answer"


async def test_a_callable_object_is_an_agent() -> None:
    class Answer:
        async def __call__(self, question: str) -> float:
            return 1.0

    assert (await Runner(Answer()).fit(["x"])).mean_reward["train"] == 1.0


async def test_a_partial_is_an_agent() -> None:
    async def answer(weight: float, question: str) -> float:
        return weight

    assert (await Runner(functools.partial(answer, 0.5)).fit(["x"])).mean_reward["train"] == 0.5


async def test_a_bound_method_is_an_agent() -> None:
    class Judge:
        weight = 0.5

        async def judge(self, question: str) -> float:
            return self.weight

    assert (await Runner(Judge().judge).fit(["x"])).mean_reward["train"] == 0.5


@pytest.mark.parametrize("decorate", [agl.llm_rollout, agl.llm_rollout(), agl.llm_rollout(strip_proxy=False)])
async def test_llm_rollout_gives_the_llm(decorate: Callable[..., Any]) -> None:
    got: list[LLM] = []

    @decorate
    async def answer(task: str, llm: LLM) -> None:
        got.append(llm)

    await Runner(answer, resources={"main": LLM_ONE}).fit(["x"])

    assert got == [LLM_ONE]


@pytest.mark.parametrize("decorate", [agl.prompt_rollout, agl.prompt_rollout()])
async def test_prompt_rollout_gives_the_prompt_template(decorate: Callable[..., Any]) -> None:
    got: list[PromptTemplate] = []

    @decorate
    async def answer(task: str, prompt_template: PromptTemplate) -> None:
        got.append(prompt_template)

    await Runner(answer, resources={"main": PROMPT}).fit(["x"])

    assert got == [PROMPT]


def test_llm_rollout_without_llm_shows_what_to_write() -> None:
    with pytest.raises(agl.AgentSignatureError, match=r"called 'llm'; write: def answer\(task, llm\): …, or use @rol"):

        @agl.llm_rollout
        def answer(task: str) -> float:
            return 1.0


def test_prompt_rollout_without_prompt_template_shows_what_to_write() -> None:
    with pytest.raises(agl.AgentSignatureError, match=r"write: def answer\(task, prompt_template\): …"):

        @agl.prompt_rollout
        def answer(task: str) -> float:
            return 1.0


def no_parameter() -> float:
    return 1.0


def keyword_only(*, task: str) -> float:
    return 1.0


def generator(task: str) -> Any:
    yield 1.0


async def async_generator(task: str) -> Any:
    yield 1.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (no_parameter, r"no_parameter has no parameter for the task; write: def no_parameter\(task\): …"),
        (keyword_only, "keyword_only has no parameter for the task"),
        (generator, "generator is a generator; return a reward instead of yielding"),
        (async_generator, "is a generator"),
        (int, "int is a class: derive it from agl.LitAgent"),
        ("trio", r"not 'trio'; options are keywords: @rollout\(name=…\)"),
    ],
    ids=["no_parameter", "keyword_only", "generator", "async_generator", "class", "text"],
)
def test_what_cannot_be_an_agent_is_refused_at_decoration(value: Any, message: str) -> None:
    with pytest.raises(agl.AgentSignatureError, match=message) as caught:
        agl.rollout(value)

    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)


# Called directly, without a runner.


async def test_an_agent_runs_by_hand_as_in_a_runner() -> None:
    @agl.rollout
    def plain(task: str, llm: LLM, rollout: Rollout) -> str:
        return f"{task} {llm.model} {rollout.rollout_id}"

    @agl.rollout
    async def native(task: str, llm: LLM) -> str:
        return f"{task} {llm.model}"

    rollout = Rollout("ro-1", "x", 0.0)
    resources = {"main": LLM_ONE}

    assert plain.rollout("hi", resources, rollout) == "hi one ro-1"
    assert await native.rollout_async("hi", resources, rollout) == "hi one"
    with pytest.raises(RuntimeError, match=r"native is asynchronous. Use rollout_async instead."):
        native.rollout("hi", resources, rollout)
    with pytest.raises(RuntimeError, match=r"plain is synchronous. Use rollout instead."):
        await plain.rollout_async("hi", resources, rollout)


# Injection.


async def test_the_first_parameter_is_the_task_whatever_its_name() -> None:
    async def agent(question: str) -> str:
        return question

    assert await given_to(agent, task="why?") == "why?"


async def test_a_positional_only_task_is_fine() -> None:
    async def agent(task: str, /, llm: LLM) -> tuple[str, LLM]:
        return task, llm

    assert await given_to(agent, {"main": LLM_ONE}) == ("task", LLM_ONE)


async def test_a_task_called_like_a_resource_is_still_the_task() -> None:
    async def agent(llm: str) -> str:
        return llm

    assert await given_to(agent, {"llm": LLM_ONE}) == "task"


async def test_rollout_by_name_or_annotation_is_the_attempted_rollout() -> None:
    async def by_name(task: str, rollout: Any) -> Any:
        return rollout

    async def by_annotation(task: str, current: Rollout) -> Any:
        return current

    async def by_narrow_annotation(task: str, current: agl.AttemptedRollout) -> Any:
        return current

    for agent in (by_name, by_annotation, by_narrow_annotation):
        rollout = await given_to(agent)
        assert isinstance(rollout, agl.AttemptedRollout)
        assert rollout.attempt.sequence_id == 1


async def test_emitter_by_name_or_annotation_emits_into_the_rollout() -> None:
    async def agent(task: str, emitter: Any, other: agl.Emitter) -> None:
        emitter.emit_message("by name")
        other.emit_message("by annotation")

    async with Runner(agent) as runner:
        done = await runner.step("x")

    assert [agl.get_message_value(span) for span in done.spans[1:]] == ["by name", "by annotation"]


async def test_resources_by_name_or_annotation_is_the_whole_mapping() -> None:
    async def agent(task: str, resources: Any, everything: NamedResources) -> Any:
        return resources, everything

    named = {"a": LLM_ONE, "b": PROMPT}

    assert await given_to(agent, named) == (named, named)


async def test_a_parameter_named_like_a_resource_gets_it() -> None:
    async def agent(task: str, small: LLM, prompt: Any) -> Any:
        return small, prompt

    assert await given_to(agent, {"large": LLM_TWO, "small": LLM_ONE, "prompt": PROMPT}) == (LLM_ONE, PROMPT)


async def test_an_annotation_gets_the_only_resource_of_its_class() -> None:
    async def agent(task: str, guide: Rubric, words: PromptTemplate) -> Any:
        return guide, words

    rubric = Rubric("be short")

    assert await given_to(agent, {"r": rubric, "p": PROMPT, "l": LLM_ONE}) == (rubric, PROMPT)


async def test_an_optional_annotation_counts_as_its_class() -> None:
    async def new(task: str, guide: Rubric | None = None) -> Any:
        return guide

    async def old(task: str, guide: Optional[Rubric] = None) -> Any:  # noqa: UP045 - what older code writes
        return guide

    rubric = Rubric("be short")

    assert await given_to(new, {"r": rubric}) == rubric
    assert await given_to(old, {"r": rubric}) == rubric
    assert await given_to(new) is None


async def test_llm_and_prompt_template_find_their_type_under_any_key() -> None:
    async def agent(task: str, llm: Any, prompt_template: Any) -> Any:
        return llm, prompt_template

    assert await given_to(agent, {"p": PROMPT, "m": LLM_ONE}) == (LLM_ONE, PROMPT)


async def test_of_several_llms_the_first_is_taken_with_a_warning_that_names_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def agent(task: str, llm: LLM) -> Any:
        return llm

    caplog.set_level(logging.WARNING, "lightning_trio")

    assert await given_to(agent, {"first": LLM_ONE, "second": LLM_TWO}) == LLM_ONE
    [message] = set(caplog.messages)
    assert "gets 'first' for its parameter 'llm', the first of ['first', 'second']" in message


async def test_a_key_called_llm_wins_over_the_first() -> None:
    async def agent(task: str, llm: LLM) -> Any:
        return llm

    assert await given_to(agent, {"first": LLM_ONE, "llm": LLM_TWO}) == LLM_TWO


async def test_a_default_is_used_if_nothing_is_supplied() -> None:
    async def agent(task: str, temperature: float = 0.5, llm: LLM | None = None) -> Any:
        return temperature, llm

    assert await given_to(agent) == (0.5, None)


async def test_variadic_parameters_get_nothing() -> None:
    async def agent(task: str, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    assert await given_to(agent, {"llm": LLM_ONE}) == ((), {})


async def test_keyword_only_parameters_are_supplied() -> None:
    async def agent(task: str, *, llm: LLM) -> Any:
        return llm

    assert await given_to(agent, {"m": LLM_ONE}) == LLM_ONE


async def test_a_proxy_llm_becomes_a_plain_one_whose_endpoint_names_the_attempt() -> None:
    @agl.rollout
    async def agent(task: str, llm: LLM, rollout: agl.AttemptedRollout) -> None:
        base = f"http://proxy/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}/v1"
        assert type(llm) is LLM
        assert llm.endpoint == base

    proxy = ProxyLLM(endpoint="http://proxy/v1", model="m", api_key="secret")

    assert (await Runner(agent, resources={"m": proxy}).fit(["x"])).counts["succeeded"] == 1


async def test_strip_proxy_false_passes_the_proxy_itself() -> None:
    @agl.llm_rollout(strip_proxy=False)
    async def agent(task: str, llm: LLM) -> None:
        assert isinstance(llm, ProxyLLM)

    proxy = ProxyLLM(endpoint="http://proxy/v1", model="m")

    assert (await Runner(agent, resources={"m": proxy}).fit(["x"])).counts["succeeded"] == 1


async def test_current_rollout_and_resources_read_the_context() -> None:
    async def agent(task: str, rollout: Rollout, resources: NamedResources) -> None:
        assert agl.current_rollout() is rollout
        assert agl.current_resources() == resources
        assert agl.current_emitter().rollout is rollout

    assert (await Runner(agent, resources={"m": LLM_ONE}).fit(["x"])).counts["succeeded"] == 1


# Classes.


def methods(*names: str) -> LitAgent[str]:
    """Make an agent that overrides `names` and reports which one ran."""

    def make(name: str) -> Callable[..., Any]:
        if name.endswith("_async"):

            async def method(self: Any, task: str, resources: NamedResources, rollout: Rollout) -> None:
                agl.emit_message(name)
        else:

            def method(self: Any, task: str, resources: NamedResources, rollout: Rollout) -> None:  # type: ignore[misc]
                agl.emit_message(name)

        return method

    return type("Agent", (LitAgent,), {name: make(name) for name in names})()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("names", "train", "val"),
    [
        (["rollout"], "rollout", "rollout"),
        (["rollout_async"], "rollout_async", "rollout_async"),
        (["rollout", "rollout_async"], "rollout_async", "rollout_async"),
        (["training_rollout", "validation_rollout"], "training_rollout", "validation_rollout"),
        (["training_rollout", "rollout"], "training_rollout", "rollout"),
        (["training_rollout", "rollout_async"], "training_rollout", "rollout_async"),
        (["training_rollout", "training_rollout_async", "rollout"], "training_rollout_async", "rollout"),
        (["validation_rollout_async", "rollout"], "rollout", "validation_rollout_async"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
async def test_the_more_specific_method_wins_and_async_before_sync(names: list[str], train: str, val: str) -> None:
    async with Runner(methods(*names)) as runner:
        ran = [(await runner.step("x", mode=mode)).spans[1] for mode in ("train", "val", "test", None)]

    assert [agl.get_message_value(span) for span in ran] == [train, val, val, val]


@pytest.mark.parametrize("names", [[], ["training_rollout"]], ids=["none", "training only"])
async def test_a_class_without_a_method_for_a_mode_is_refused_with_the_methods_to_override(names: list[str]) -> None:
    async with Runner(methods(*names)) as runner:
        with pytest.raises(agl.AgentSignatureError) as caught:
            await runner.step("x", mode="val")

    assert "has no method for rollouts of mode 'val'; override one of rollout, rollout_async, validation" in str(
        caught.value
    )


async def test_a_method_of_a_class_is_supplied_like_a_function() -> None:
    class Agent(LitAgent[str]):
        async def rollout_async(self, task: str, llm: LLM, emitter: agl.Emitter) -> None:  # type: ignore[override]
            emitter.emit_message(llm.model)

    async with Runner(Agent(), resources={"m": LLM_ONE}) as runner:
        done = await runner.step("x")

    assert agl.get_message_value(done.spans[1]) == "one"
    assert done.spans[0].name == "invoke_agent Agent"


async def test_an_agents_own_state_is_there() -> None:
    class Agent(LitAgent[str]):
        def __init__(self, weight: float) -> None:
            self.weight = weight

        async def rollout_async(self, task: str, resources: NamedResources, rollout: Rollout) -> float:
            return self.weight

    assert (await Runner(Agent(0.5)).fit(["x"])).mean_reward["train"] == 0.5


async def test_a_class_may_have_a_configuration() -> None:
    class Agent(LitAgent[str]):
        config = agl.RolloutConfig(timeout_seconds=7)

        async def rollout_async(self, task: str, resources: NamedResources, rollout: Rollout) -> None: ...

    async with Runner(Agent()) as runner:
        done = await runner.step("x")

    assert done.rollout.config.timeout_seconds == 7


async def test_calling_super_falls_back_to_rollout() -> None:
    class Agent(LitAgent[str]):
        async def rollout_async(self, task: str, resources: NamedResources, rollout: Rollout) -> float:
            return 0.5

        async def training_rollout_async(self, task: str, resources: NamedResources, rollout: Rollout) -> Any:
            return await super().training_rollout_async(task, resources, rollout) + 0.25

    result = await Runner(Agent()).fit(["x"], ["x"])

    assert result.mean_reward == {"train": 0.75, "val": 0.5}


async def test_an_agent_reaches_its_runner_and_tracer_without_keeping_them() -> None:
    agent = methods("rollout_async")
    async with Runner(agent) as runner:
        assert agent.runner is runner
        assert agent.tracer is runner.tracer
    with pytest.raises(ValueError, match="Trainer has not been set for this agent"):
        _ = agent.trainer

    del runner
    # A runner, its engine and its stop handling refer to each other.
    gc.collect()
    with pytest.raises(ValueError, match="reference is no longer valid"):
        _ = agent.runner


def test_is_async_is_true_if_an_async_method_is_overridden() -> None:
    assert [methods(*names).is_async() for names in (["rollout"], ["rollout_async"], [])] == [False, True, False]


# Lanes.


async def where() -> str:
    return sniffio.current_async_library()


@pytest.mark.parametrize(("runs_in", "library"), [(None, "trio"), ("trio", "trio"), ("asyncio", "asyncio")])
async def test_runs_in_chooses_the_library_of_an_async_agent(runs_in: Any, library: str) -> None:
    seen: list[str] = []

    @agl.rollout(runs_in=runs_in)
    async def agent(task: int) -> None:
        seen.append(await where())

    assert (await Runner(agent).fit([1])).counts["succeeded"] == 1
    assert seen == [library]


async def an_async_agent(task: int) -> None: ...


def a_plain_agent(task: int) -> None: ...


@pytest.mark.parametrize(
    ("fn", "runs_in", "message"),
    [
        (a_plain_agent, "trio", "is a plain function and would block the event loop with runs_in='trio'; leave runs"),
        (a_plain_agent, "asyncio", "would block the event loop with runs_in='asyncio'"),
        (an_async_agent, "thread", "is async and runs_in='thread' takes plain functions; .*runs_in=\"asyncio\""),
        (a_plain_agent, "threads", "has runs_in='threads'; the lanes are trio, thread, asyncio, process"),
    ],
)
def test_a_lane_that_does_not_fit_is_refused_at_decoration(fn: Any, runs_in: Any, message: str) -> None:
    with pytest.raises(agl.UnsupportedLane, match=message):
        agl.rollout(runs_in=runs_in)(fn)


async def test_a_lane_that_does_not_fit_a_class_is_refused_before_it_runs() -> None:
    class Agent(LitAgent[int]):
        runs_in = "asyncio"

        def rollout(self, task: int, resources: NamedResources, rollout: Rollout) -> float:
            return 1.0

    with pytest.raises(agl.UnsupportedLane, match="Agent is a plain function"):
        await Runner(Agent()).fit([1])


async def test_an_annotation_that_only_type_checkers_know_does_not_hide_the_others() -> None:
    async def agent(task: Unknown, judge: agl.LLM) -> float:  # type: ignore[name-defined]  # noqa: F821
        return float(judge.model == "m")

    result = await Runner(agent, resources={"main": agl.LLM(endpoint="http://h/v1", model="m")}).fit([1])

    assert result.mean_reward["train"] == 1.0


async def test_a_resource_of_the_right_name_and_the_wrong_class_is_an_error_before_the_first_rollout() -> None:
    async def agent(task: int, llm: agl.LLM) -> None: ...

    with pytest.raises(agl.AgentSignatureError, match=r"asks for an LLM as 'llm'.*is a PromptTemplate"):
        await Runner(agent, resources={"llm": agl.PromptTemplate("x", engine="f-string")}).fit([1])


async def test_an_invalid_mode_is_refused() -> None:
    async def agent(task: int) -> None: ...

    async with Runner(agent) as runner:
        with pytest.raises(ValueError, match="mode='Train'; the modes are 'train', 'val' and 'test'"):
            await runner.step(1, mode="Train")  # type: ignore[arg-type]


def test_a_class_may_pass_trained_agents_on_as_in_0_3() -> None:
    class Solver(LitAgent[str]):
        def __init__(self) -> None:
            super().__init__(trained_agents="solver")

    with pytest.warns(DeprecationWarning, match="Solver ignores trained_agents='solver'"):
        agent = Solver()

    assert agent.trained_agents == "solver"


class TakesKeywords(LitAgent[str]):
    def rollout(self, task: str, **kwargs: Any) -> float:
        assert isinstance(kwargs["rollout"], agl.AttemptedRollout)
        return float(task == "task" and list(kwargs["resources"]) == ["llm"] and len(kwargs) == 2)


class TakesAnything(LitAgent[str]):
    async def rollout_async(self, *args: Any, **kwargs: Any) -> float:
        return float(args == ("task",) and sorted(kwargs) == ["resources", "rollout"])


class TakesOneByName(LitAgent[str]):
    def rollout(self, task: str, rollout: Rollout, **kwargs: Any) -> float:
        return float(rollout.input == "task" and list(kwargs) == ["resources"])


@pytest.mark.parametrize("agent", [TakesKeywords(), TakesAnything(), TakesOneByName()])
async def test_a_method_that_takes_any_keywords_gets_resources_and_rollout(agent: LitAgent[str]) -> None:
    async with Runner(agent, resources={"llm": LLM_ONE}) as runner:
        assert (await runner.step("task")).final_reward == 1.0


async def test_a_function_that_takes_any_keywords_gets_none() -> None:
    def agent(task: str, **kwargs: Any) -> float:
        return float(len(kwargs))

    async with Runner(agent, resources={"llm": LLM_ONE}) as runner:
        assert (await runner.step("task")).final_reward == 0.0


@pytest.mark.parametrize("decorate", [agl.rollout, agl.llm_rollout, agl.prompt_rollout])
def test_the_decorated_function_may_be_passed_by_name(decorate: Any) -> None:
    def answer(task: str, llm: agl.LLM, prompt_template: agl.PromptTemplate) -> float:
        return 1.0

    assert decorate(func=answer).name == "answer"
