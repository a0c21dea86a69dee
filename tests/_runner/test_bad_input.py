"""Every expected mistake raises an error as early as possible, which names the value and the remedy."""

from __future__ import annotations

import asyncio
import gc
import inspect
from typing import Any

import attrs
import outcome
import pytest
import trio

import lightning_trio as agl
from lightning_trio import Runner
from lightning_trio._runner import RunnerOptions


async def one(task: object) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "train_dataset is empty; pass at least one task"),
        ((task for task in "ab"), r"train_dataset is a generator, which has no length.*runner\.stream\(tasks\)"),
        ("abc", r"train_dataset is a str; a dataset is a list of tasks"),
        ({"a": 1}, r"train_dataset is a dict; a dataset is a list of tasks"),
        ({1, 2}, r"train_dataset is a set"),
        (3, r"train_dataset is an int"),
    ],
)
async def test_a_dataset_that_is_empty_or_no_sequence(dataset: Any, message: str) -> None:
    with pytest.raises(agl.DatasetError, match=message):
        await Runner(one).fit(dataset)


async def test_an_empty_validation_dataset() -> None:
    with pytest.raises(agl.DatasetError, match="val_dataset is empty"):
        await Runner(one).fit([1], [])


async def test_no_dataset_at_all() -> None:
    with pytest.raises(agl.DatasetError, match=r"trio\.run\(runner\.fit, \[task"):
        await Runner(one).fit()


async def test_a_parameter_that_nothing_supplies_before_the_first_rollout() -> None:
    ran: list[object] = []

    async def agent(task: object, database: object) -> None:
        ran.append(task)

    llm = agl.LLM(endpoint="http://127.0.0.1", model="m")
    with pytest.raises(agl.AgentSignatureError) as info:
        await Runner(agent, resources={"llm": llm}).fit([1, 2])

    message = str(info.value)
    assert "nothing supplies the parameter 'database' of the agent agent" in message
    assert "available resources: 'llm' (LLM)" in message
    assert "resources={'database': …}" in message
    assert ran == []


async def test_a_missing_resource_of_a_known_kind_shows_how_to_make_one() -> None:
    async def agent(task: object, llm: agl.LLM) -> None: ...

    with pytest.raises(agl.AgentSignatureError, match=r"needs an LLM for its parameter 'llm'.*LLM\(endpoint="):
        async with Runner(agent) as runner:
            await runner.step(1)


async def test_two_resources_for_one_annotation() -> None:
    async def agent(task: object, template: agl.PromptTemplate) -> None: ...

    prompt = agl.PromptTemplate("x", engine="f-string")
    with pytest.raises(agl.AgentSignatureError, match=r"there are several: \['a', 'b'\]; name the parameter"):
        await Runner(agent, resources={"a": prompt, "b": prompt}).fit([1])


async def test_a_snapshot_the_agent_cannot_run_with_is_refused_when_it_is_published() -> None:
    async def agent(task: object, llm: agl.LLM) -> None: ...

    @agl.algo
    async def publishes(session: agl.Session, train_dataset: list[int]) -> None:
        with pytest.raises(agl.AgentSignatureError, match="needs an LLM"):
            await session.publish({"prompt": agl.PromptTemplate("x", engine="f-string")})
        session.note(refused=True)

    llm = agl.LLM(endpoint="http://127.0.0.1", model="m")
    result = await Runner(agent, resources={"llm": llm}, algorithm=publishes).fit([1])

    assert result.history == ({"refused": True},)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"llm": "gpt"}, r"\['llm'\] is of type str, which is not a resource; use LLM"),
        ([1], "takes a mapping of names to resources, not list"),
        ({1: agl.PromptTemplate("x", engine="f-string")}, "has the key 1; the names of resources are strings"),
    ],
)
def test_a_resource_of_an_unknown_type(resources: Any, message: str) -> None:
    with pytest.raises(agl.ResourceError, match=message):
        Runner(one, resources=resources)


@pytest.mark.parametrize(
    "emit",
    [
        lambda: agl.emit_reward(1),
        lambda: agl.emit_message("m"),
        lambda: agl.emit_object({}),
        lambda: agl.emit_annotation({}),
        lambda: agl.emit_exception(ValueError()),
        lambda: agl.operation().__enter__(),
        agl.current_rollout,
        agl.current_resources,
        agl.current_emitter,
    ],
)
def test_emitting_outside_a_rollout(emit: Any) -> None:
    with pytest.raises(agl.NoActiveRollout, match=r"was called outside a rollout\. Call it from an agent"):
        emit()


async def test_a_runner_that_is_not_open() -> None:
    runner = Runner(one)

    with pytest.raises(agl.RunnerClosed, match=r"async with runner: await runner\.step\(task\)"):
        await runner.step(1)
    with pytest.raises(agl.RunnerClosed, match=r"async with runner: await runner\.serve\(\)"):
        await runner.serve()
    with pytest.raises(agl.RunnerClosed, match=r"stream\(tasks\)"):
        runner.stream([1])


async def test_a_runner_opened_twice() -> None:
    async with Runner(one) as runner:
        with pytest.raises(agl.UsageError, match="open already"):
            async with runner:
                pass


async def sleeps(task: int) -> None:
    await asyncio.sleep(0)


async def sleeps_longer(task: int) -> None:
    await asyncio.sleep(0.01)


async def gathers(task: int) -> None:
    await asyncio.gather(asyncio.sleep(0))


async def makes_tasks(task: int) -> None:
    asyncio.create_task(sleeps(task)).cancel()


async def has_a_timeout(task: int) -> None:
    async with asyncio.timeout(1):
        await asyncio.sleep(0)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("agent", [sleeps, sleeps_longer, gathers, makes_tasks, has_a_timeout])
async def test_asyncio_in_an_agent_that_runs_in_trio(agent: Any) -> None:
    async with Runner(agent) as runner:
        with pytest.raises(agl.AsyncioAgentError, match=r'@agl\.rollout\(runs_in="asyncio"\)'):
            await runner.step(1)
    # The coroutine that asyncio.create_task did not accept warns when it is collected: here, not in another test.
    gc.collect()


async def test_trainer_fit_inside_trio() -> None:
    with pytest.raises(agl.NestedTrioRun, match=r"await agl\.Runner\(agent, …\)\.fit"):
        agl.Trainer().fit(one, [1])


class Agent(agl.LitAgent[int]):
    async def training_rollout_async(self, task: int, resources: Any, rollout: Any) -> None: ...


def test_a_class_where_an_agent_is_due() -> None:
    with pytest.raises(agl.AgentSignatureError, match=r"Agent is a class; pass an instance: Agent\(\)"):
        Runner(Agent)


async def test_an_agent_without_a_method_for_the_mode() -> None:
    with pytest.raises(agl.AgentSignatureError, match=r"Agent has no method for rollouts of mode 'val'"):
        await Runner(Agent()).fit([1], [2])


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
async def test_a_reward_that_is_not_finite(reward: float) -> None:
    async def agent(task: int) -> float:
        return reward

    async with Runner(agent) as runner:
        with pytest.raises(agl.InvalidReward, match=str(reward)):
            await runner.step(1)


@pytest.mark.parametrize(("value", "kind"), [({"a": 1}, "dict"), ("0.5", "str"), ((1.0,), "tuple")])
async def test_a_return_value_of_another_kind(value: object, kind: str) -> None:
    async def agent(task: int) -> object:
        return value

    async with Runner(agent) as runner:
        with pytest.raises(agl.InvalidReturn, match=rf"of type {kind}; an agent returns a number"):
            await runner.step(1)


@pytest.mark.parametrize("number", [0, -1, 1.5, "many"])
def test_an_invalid_concurrency(number: Any) -> None:
    with pytest.raises(agl.UsageError, match="max_concurrency="):
        Runner(one, max_concurrency=number)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"store": agl.InMemoryLightningStore}, r"did you mean InMemoryLightningStore\(\)\?"),
        ({"algorithm": agl.Baseline}, r"did you mean Baseline\(\)\?"),
        ({"tracer": "console"}, "tracer takes a Tracer, not 'console'"),
        ({"config": {"timeout_seconds": 1}}, "config takes a RolloutConfig"),
        (
            {"hooks": [print]},
            r"hooks\[0\] is <built-in function print>, which is not a Hook; write: hooks=\[MyHook\(\)\]",
        ),
    ],
)
def test_a_component_of_the_wrong_kind(option: dict[str, Any], message: str) -> None:
    with pytest.raises(agl.UsageError, match=message):
        Runner(one, **option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"timeout_seconds": 0}, "timeout_seconds=0 is not positive"),
        ({"unresponsive_seconds": -1}, "unresponsive_seconds=-1 is not positive"),
        ({"max_attempts": 0}, "max_attempts=0: pass at least 1"),
        ({"retry_condition": ["succeeded"]}, r"retry_condition names \['succeeded'\]"),
        ({"backoff_seconds": -1}, "backoff_seconds=-1 is negative"),
    ],
)
def test_a_configuration_that_cannot_be(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agl.RolloutConfig(**option)


def test_lanes_that_do_not_fit() -> None:
    def plain(task: int) -> None: ...

    with pytest.raises(agl.UnsupportedLane, match="would block the event loop"):
        agl.rollout(runs_in="trio")(plain)
    with pytest.raises(agl.UnsupportedLane, match="takes plain functions"):
        agl.rollout(runs_in="thread")(one)
    with pytest.raises(agl.UnsupportedLane, match="the lanes are trio, thread, asyncio, process"):
        agl.rollout(runs_in="gpu")(one)
    with pytest.raises(agl.UnsupportedLane, match="cannot run in a worker process"):
        trio.run(agl.Runner(agl.rollout(runs_in="process")(plain)).fit, [1])


def test_what_cannot_be_decorated() -> None:
    def no_task() -> None: ...
    def yields(task: int) -> Any:
        yield task

    with pytest.raises(agl.AgentSignatureError, match=r"no parameter for the task; write: def no_task\(task\)"):
        agl.rollout(no_task)
    with pytest.raises(agl.AgentSignatureError, match="is a generator; return a reward"):
        agl.rollout(yields)
    with pytest.raises(agl.AgentSignatureError, match=r"options are keywords: @rollout\(name="):
        agl.rollout("name")  # type: ignore[call-overload]
    with pytest.raises(agl.AgentSignatureError, match="must have a parameter called 'llm'"):
        agl.llm_rollout(one)


def test_nothing_is_started_by_a_mistake() -> None:
    """The program continues, and the next run works."""
    with pytest.raises(agl.DatasetError):
        trio.run(Runner(one).fit, [])

    assert trio.run(Runner(one).fit, [1]).counts["succeeded"] == 1


async def test_a_parameter_that_only_validation_lacks_is_found_before_training() -> None:
    ran: list[int] = []

    class TwoFaced(agl.LitAgent[int]):
        async def training_rollout_async(self, task: int, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
            ran.append(task)
            return 1.0

        async def validation_rollout_async(self, task: int, judge: agl.LLM) -> float:  # type: ignore[override]
            return 1.0

    with pytest.raises(agl.AgentSignatureError, match="'judge'"):
        await Runner(TwoFaced()).fit([1], [2])

    assert ran == []


def test_a_stream_of_a_runner_that_is_not_open_shows_a_stream() -> None:
    """`stream` is not a coroutine function, so there is nothing to await."""
    with pytest.raises(agl.RunnerClosed) as caught:
        Runner(one).stream([1])

    assert "async with runner, runner.stream(tasks) as results" in str(caught.value)
    assert "await runner.stream" not in str(caught.value)


@pytest.mark.parametrize("number", [-1, 1.5, "3"])
def test_an_invalid_limit_of_rollouts(number: Any) -> None:
    with pytest.raises(agl.UsageError, match=f"max_rollouts={number!r}"):
        Runner(one, max_rollouts=number)


async def waits_for_a_queue(task: int) -> None:
    await asyncio.Queue[int]().get()


async def waits_for_an_event(task: int) -> None:
    await asyncio.Event().wait()


async def connects(task: int) -> None:
    await asyncio.open_connection("127.0.0.1", 1)


async def sleeps_in_a_nursery(task: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeps_longer, task)


@pytest.mark.parametrize("agent", [waits_for_a_queue, waits_for_an_event, connects, sleeps_in_a_nursery])
async def test_asyncio_that_fails_in_other_ways_in_trio(agent: Any) -> None:
    async with Runner(agent) as runner:
        with pytest.raises(agl.AsyncioAgentError, match=r'@agl\.rollout\(runs_in="asyncio"\)'):
            await runner.step(1)


async def test_a_class_is_shown_where_its_lane_is_set() -> None:
    class Sleeps(agl.LitAgent[int]):
        async def rollout_async(self, task: int, resources: Any, rollout: Any) -> None:
            await sleeps_longer(task)

    async with Runner(Sleeps()) as runner:
        with pytest.raises(agl.AsyncioAgentError, match=r'Set runs_in = "asyncio" in its class, or call trio\.sleep'):
            await runner.step(1)


async def trio_sleeps(task: int) -> None:
    await trio.sleep(task)


async def trio_checkpoints(task: int) -> None:
    await trio.lowlevel.checkpoint()


async def trio_waits(task: int) -> None:
    await trio.sleep_forever()


async def trio_opens_a_nursery(task: int) -> None:
    async with trio.open_nursery():
        pass


async def trio_in_a_task_group(task: int) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(trio_sleeps(task))


@pytest.mark.parametrize(
    "agent", [trio_sleeps, trio_checkpoints, trio_waits, trio_opens_a_nursery, trio_in_a_task_group]
)
async def test_trio_in_an_agent_that_runs_in_asyncio(agent: Any) -> None:
    async with Runner(agl.rollout(runs_in="asyncio")(agent)) as runner:
        with pytest.raises(agl.UnsupportedLane, match=rf"the agent {agent.__name__} .* calls Trio.* Leave runs_in out"):
            await runner.step(1)


async def double(task: int) -> float:
    return task * 2.0


async def test_an_algorithm_written_for_asyncio() -> None:
    @agl.algo
    async def searches(train_dataset: Any) -> None:
        await asyncio.sleep(0.01)

    with pytest.raises(agl.AsyncioAgentError, match=r"the algorithm searches is written for asyncio .* run in Trio"):
        await Runner(double, algorithm=searches).fit([1])


async def test_an_error_of_an_algorithm_that_has_nothing_to_do_with_asyncio() -> None:
    @agl.algo
    async def fails(train_dataset: Any) -> None:
        raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match=r"^its own$"):
        await Runner(double, algorithm=fails).fit([1])


async def test_a_hook_written_for_asyncio(caplog: pytest.LogCaptureFixture) -> None:
    class Sleeping(agl.Hook):
        async def on_rollout_start(self, **kwargs: Any) -> None:
            await asyncio.sleep(0.01)

    result = await Runner(double, hooks=[Sleeping()]).fit([1])

    assert result.counts["succeeded"] == 1
    assert "the hook Sleeping.on_rollout_start is written for asyncio (no running event loop)" in caplog.text
    assert "hooks run in Trio" in caplog.text


async def opened(runner: Runner) -> None:
    async with runner:
        pass


@pytest.mark.parametrize("call", [lambda runner: runner.fit([1]), opened], ids=["fit", "async with"])
def test_a_runner_in_asyncio(call: Any) -> None:
    with pytest.raises(agl.NotInTrio, match=r"trio\.run\(runner\.fit, .* embed\.open_asyncio\(runner\)"):
        asyncio.run(call(Runner(double)))


def test_a_runner_that_asyncio_could_not_open_opens_in_trio() -> None:
    runner = Runner(double)
    with pytest.raises(agl.NotInTrio):
        asyncio.run(opened(runner))

    assert trio.run(runner.fit, [1]).counts["succeeded"] == 1


async def test_a_call_of_asyncio_stays_in_its_attempt() -> None:
    async def agent(task: int) -> float:
        if task == 1:
            await asyncio.sleep(0)
        await trio.lowlevel.checkpoint()
        return 1.0

    result = await Runner(agent).fit([0, 1, 2])

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}


async def test_a_reward_that_is_not_finite_in_returned_spans() -> None:
    async def agent(task: int) -> list[agl.SpanCoreFields]:
        return [agl.SpanCoreFields("judged", attributes={"agentlightning.reward.0.value": float("nan")})]

    async with Runner(agent) as runner:
        with pytest.raises(agl.InvalidReward):
            await runner.step(1)


@pytest.mark.parametrize("value", [10**400, float("inf")], ids=["huge", "infinite"])
async def test_a_reward_that_no_mean_survives_annotated_by_hand_stays_in_its_rollout(value: float) -> None:
    async def agent(task: int) -> float | None:
        if task:
            return 1.0
        agl.emit_annotation({"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": value})
        return None

    with trio.fail_after(5):
        result = await Runner(agent).fit([0, 1])

    assert result.mean_reward["train"] == 1.0


async def test_a_long_return_value_is_cut_in_the_message() -> None:
    async def agent(task: int) -> object:
        return {"text": "x" * 100_000}

    async with Runner(agent) as runner:
        with pytest.raises(agl.InvalidReturn) as caught:
            await runner.step(1)

    assert len(str(caught.value)) < 400


async def test_a_list_of_several_kinds_is_named_by_them() -> None:
    async def agent(task: int) -> object:
        return [agl.SpanCoreFields("x"), 3, "y"]

    async with Runner(agent) as runner:
        with pytest.raises(agl.InvalidReturn, match="returned a list of SpanCoreFields, int, str; an agent returns"):
            await runner.step(1)


def test_trainer_refuses_what_a_runner_refuses() -> None:
    with pytest.raises(agl.DatasetError, match="train_dataset is a str"):
        agl.Trainer().fit(one, "tasks.parquet")
    with pytest.raises(agl.UsageError, match="n_runners=0"):
        agl.Trainer(n_runners=0).fit(one, [1])
    with pytest.raises(agl.ResourceError, match=r"\['llm'\] is of type str, which is not a resource"):
        agl.Trainer(initial_resources={"llm": "gpt"}).fit(one, [1])  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"timeout_seconds": "5"}, "timeout_seconds='5' is of type str; pass a number of seconds"),
        ({"backoff_seconds": None}, "backoff_seconds=None is of type NoneType"),
        ({"max_attempts": 1.5}, "max_attempts=1.5 is of type float; pass a whole number"),
        ({"retry_condition": "failed"}, r"is a string; write a list: retry_condition=\['failed'\]"),
    ],
)
def test_a_configuration_of_the_wrong_types(option: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        agl.RolloutConfig(**option)


def test_a_configuration_that_is_a_mapping_shows_what_to_write() -> None:
    for make in (lambda config: agl.rollout(config=config)(one), lambda config: Runner(one, config=config)):
        with pytest.raises(agl.ComponentError, match=r"config takes a RolloutConfig.*write RolloutConfig\(max_att"):
            make({"max_attempts": 2})  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (agl.RolloutConfig(max_attempts=3), r"max_attempts=3 has no effect without retry_condition=\[…\]"),
        (
            agl.RolloutConfig(retry_condition=["failed"]),
            r"retry_condition=\['failed'\] has no effect with max_attempts=1",
        ),
        (agl.RolloutConfig(retry_exceptions=[OSError]), "retry_exceptions=.* has no effect with max_attempts=1"),
    ],
)
def test_half_of_a_configuration_of_retries_warns_that_it_does_nothing(config: agl.RolloutConfig, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        Runner(one, config=config)


def test_a_plain_function_as_algorithm_shows_the_decorator() -> None:
    async def search(session: agl.Session) -> None: ...
    def search_in_thread(session: agl.Session) -> None: ...

    for algorithm in (search, search_in_thread):
        for make in (agl.Trainer, lambda **options: Runner(one, **options)):
            with pytest.raises(agl.ComponentError, match=r"plain function: decorate it with @agl\.algo"):
                make(algorithm=algorithm)  # type: ignore[operator]


@pytest.mark.parametrize("make", [agl.Trainer, lambda **options: Runner(one, **options)], ids=["trainer", "runner"])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"store": 5}, "store takes a LightningStore, not 5"),
        ({"algorithm": 5}, "algorithm takes an Algorithm, not 5"),
        ({"hooks": [1]}, r"hooks\[0\] is 1, which is not a Hook"),
    ],
)
def test_trainers_and_runners_refuse_a_component_alike(make: Any, option: dict[str, Any], message: str) -> None:
    with pytest.raises(agl.ComponentError, match=message):
        make(**option)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("max_concurrency", value) for value in (0, -1, True, 1.5, "2")],
        *[("max_rollouts", value) for value in (-1, True, 1.5, "2")],
        *[("max_processes", value) for value in (0, -1, True, "2")],
        *[("max_failures", value) for value in (-1, 1.5, "2", float("nan"))],
        *[("grace_seconds", value) for value in (-1, float("inf"), float("nan"), "5")],
        *[("run_name", value) for value in ("a/b", "a\nb", 3)],
        *[("resources", value) for value in (5, {"llm": "gpt"}, {5: agl.PromptTemplate("x", "f-string")})],
        *[("hooks", value) for value in (5, "hook", [1])],
        *[(name, 5) for name in ("store", "algorithm", "tracer", "adapter")],
    ],
)
def test_what_a_runner_refuses_a_trainer_refuses_alike_when_it_is_made(name: str, value: Any) -> None:
    other = {"max_concurrency": "n_runners", "resources": "initial_resources"}.get(name, name)

    with pytest.raises((TypeError, ValueError, agl.LightningTrioError)) as by_runner:
        Runner(one, **{name: value})
    with pytest.raises(by_runner.type) as by_trainer:
        agl.Trainer(**{other: value})

    renamed = str(by_runner.value).replace("Runner(resources", "Trainer(initial_resources")
    assert str(by_trainer.value) == renamed.replace("max_concurrency", "n_runners")


def test_the_options_are_the_keywords_of_a_runner_with_the_same_defaults() -> None:
    keywords = {
        name: parameter.default
        for name, parameter in inspect.signature(Runner).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }

    options = {field.name: field.default for field in attrs.fields(RunnerOptions)}
    # The default store depends on the runs' name.
    assert keywords.pop("store") is None
    assert keywords.pop("hooks") == ()
    assert isinstance(options.pop("store"), attrs.Factory)  # type: ignore[arg-type]  # a function to type checkers only
    assert keywords == options


def test_counts_are_refused_where_they_are_given() -> None:
    with pytest.raises(agl.UsageError, match="n_runners=0 is invalid; pass an integer of at least 1"):
        agl.Trainer(n_runners=0)
    with pytest.raises(
        agl.UsageError, match="max_rollouts=-1 is invalid; pass an integer of at least 0, or None for no limit"
    ):
        agl.Trainer(max_rollouts=-1)


async def keep_cancelled() -> outcome.Outcome[None]:
    with trio.CancelScope() as scope:
        scope.cancel()
        return await outcome.acapture(trio.sleep, 1)
    raise AssertionError


async def test_a_cancellation_that_was_kept_and_raised_elsewhere_fails_its_attempt_only() -> None:
    kept = await keep_cancelled()

    async def agent(task: int) -> float:
        if task == 1:
            kept.unwrap()
        return 1.0

    async with Runner(agent, max_concurrency=1) as runner:
        with trio.fail_after(10):
            result = await runner.fit([0, 1, 2])
        [failed] = await runner.store.query_rollouts(status_in=["failed"])

    assert result.counts["succeeded"] == 2
    assert isinstance(failed, agl.AttemptedRollout)
    assert failed.attempt.error is not None
    assert "a cancellation that was not meant for it" in failed.attempt.error.message


async def test_in_a_group_with_a_stray_cancellation_the_error_counts() -> None:
    kept = await keep_cancelled()
    assert isinstance(kept, outcome.Error)

    async def agent(task: int) -> float:
        raise BaseExceptionGroup("both", [kept.error, ValueError("mine")])

    async with Runner(agent) as runner:
        with trio.fail_after(10), pytest.raises(ExceptionGroup) as raised:
            await runner.step(1)

    assert raised.group_contains(ValueError, match="mine")
