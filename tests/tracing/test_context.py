"""The rollout of the calling code: in tasks and threads, after the end, and with carried contexts."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trio

import lightning_trio as agl

PROMPT = agl.PromptTemplate("{question}", engine="f-string")


async def run(agent: Callable[..., Any], **options: Any) -> agl.CompletedRollout:
    async with agl.Runner(agent, **options) as runner:
        return await runner.step("task")


@pytest.mark.parametrize("what", [agl.current_rollout, agl.current_resources, agl.current_emitter])
def test_outside_a_rollout_the_context_readers_raise_by_name(what: Callable[[], object]) -> None:
    with pytest.raises(agl.NoActiveRollout, match=rf"{what.__name__}\(\) was called outside a rollout"):
        what()


async def test_current_rollout_is_the_one_the_agent_was_given() -> None:
    seen: list[agl.AttemptedRollout] = []

    async def agent(task: str, rollout: agl.AttemptedRollout) -> None:
        seen.extend([rollout, agl.current_rollout()])

    done = await run(agent)

    assert seen[0] is seen[1]
    assert seen[0].attempt.attempt_id == done.attempt.attempt_id


async def test_current_resources_are_the_rollouts() -> None:
    seen: list[agl.NamedResources] = []

    async def agent(task: str, emitter: agl.Emitter) -> None:
        seen.extend([agl.current_resources(), emitter.resources])

    await run(agent, resources={"prompt": PROMPT})

    assert seen == [{"prompt": PROMPT}, {"prompt": PROMPT}]


async def test_an_agent_that_changes_its_resources_changes_them_for_no_other_attempt() -> None:
    seen: list[list[str]] = []

    async def agent(task: str, resources: dict[str, agl.Resource], emitter: agl.Emitter) -> None:
        for mapping in (resources, agl.current_resources(), emitter.resources):
            assert isinstance(mapping, dict)
            seen.append(list(mapping))
            mapping["mine"] = PROMPT

    async with agl.Runner(agent, resources={"prompt": PROMPT}) as runner:
        for task in range(2):
            await runner.step(task)

    assert seen == [["prompt"]] * 6


async def test_code_that_outlives_its_attempt_gets_an_error_and_reaches_no_other_attempt() -> None:
    contexts: list[contextvars.Context] = []

    async def agent(task: str) -> None:
        contexts.append(contextvars.copy_context())

    async with agl.Runner(agent) as runner:
        done = await runner.step("first")

        with pytest.raises(agl.NoActiveRollout, match=f"of rollout {done.rollout.rollout_id} has ended"):
            contexts[0].run(agl.emit_message, "late")
        assert runner.tracer.statistics().late_spans == 1


async def test_a_rollout_inside_a_rollout_is_one_of_its_own() -> None:
    async def inner(task: str) -> float:
        agl.emit_message("inner")
        return 0.5

    async def outer(task: str) -> None:
        inside = await run(inner)
        agl.emit_object(inside.rollout.rollout_id)

    done = await run(outer)

    assert [span.name for span in done.spans] == ["invoke_agent outer", "agentlightning.object"]
    assert agl.get_object_value(done.spans[1]) != done.rollout.rollout_id


async def test_carry_context_keeps_arguments_result_and_metadata() -> None:
    def double(x: int, *, plus: int = 0) -> int:
        """Double."""
        return 2 * x + plus

    carried = agl.carry_context(double)

    assert carried(2, plus=1) == 5
    assert (carried.__name__, carried.__doc__) == ("double", "Double.")


async def test_a_carried_function_may_run_in_several_threads_at_once() -> None:
    def agent(task: str) -> None:
        meeting = threading.Barrier(4, timeout=5)

        def work(index: int) -> None:
            meeting.wait()
            agl.emit_message(str(index))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(agl.carry_context(work), range(4)))

    done = await run(agent)

    assert sorted(filter(None, map(agl.get_message_value, done.spans))) == ["0", "1", "2", "3"]


async def test_a_carried_function_raises_its_own_errors() -> None:
    with pytest.raises(ZeroDivisionError):
        agl.carry_context(divmod)(1, 0)


async def test_a_carried_function_records_below_the_operation_it_was_made_in() -> None:
    def agent(task: str) -> None:
        with agl.operation(name="fan out"):
            thread = threading.Thread(target=agl.carry_context(agl.emit_message), args=["below"])
        thread.start()
        thread.join()

    _, fan_out, message = (await run(agent)).spans

    assert message.parent_id == fan_out.span_id


async def test_threads_of_asyncio_to_thread_carry_the_rollout_on_their_own() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> None:
        await asyncio.to_thread(agl.emit_message, "from asyncio's thread")

    done = await run(agent)

    assert agl.get_message_value(done.spans[1]) == "from asyncio's thread"


async def test_run_in_executor_with_a_pool_needs_carry_context() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(agl.NoActiveRollout, match=r"agl\.carry_context"):
                await loop.run_in_executor(pool, agl.emit_message, "lost")
            await loop.run_in_executor(pool, agl.carry_context(agl.emit_message), "carried")

    done = await run(agent)

    assert [agl.get_message_value(span) for span in done.spans] == [None, "carried"]


async def test_the_executor_of_the_loop_itself_carries_the_rollout_on_its_own() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> None:
        await asyncio.get_running_loop().run_in_executor(None, agl.emit_message, "from the executor")

    done = await run(agent)

    assert agl.get_message_value(done.spans[1]) == "from the executor"


async def test_a_task_started_in_a_nursery_outside_the_rollout_keeps_the_callers_rollout() -> None:
    """Trio's tasks inherit the context of the task that starts them, whichever nursery they are in."""
    async with trio.open_nursery() as outside:

        async def agent(task: str) -> None:
            done = trio.Event()

            async def child() -> None:
                agl.emit_message("started elsewhere")
                done.set()

            outside.start_soon(child)
            await done.wait()

        result = await run(agent)

    assert agl.get_message_value(result.spans[1]) == "started elsewhere"


@pytest.mark.parametrize("value", [None, 3])
def test_carry_context_takes_a_function(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"takes a function, not {value}; write: .*carry_context\(fn\)"):
        agl.carry_context(value)
