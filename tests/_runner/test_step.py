"""`Runner.step`: one task, one result, and what its caller sees on failure, at a deadline and on cancellation."""

from __future__ import annotations

import pytest
import trio
from programs import run_program
from trio.testing import MockClock, wait_all_tasks_blocked

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner


async def half(task: int) -> float:
    return task / 2


async def sleeper(task: float) -> float:
    await trio.sleep(task)
    return 1.0


async def failing(task: object) -> float:
    raise KeyError(task)


async def test_gives_the_rollout_with_reward_spans_and_status() -> None:
    async with Runner(half) as runner:
        done = await runner.step(3)

    assert (done.status, done.final_reward, done.error) == ("succeeded", 1.5, None)
    assert done.rollout.input == 3
    assert [span.name for span in done.spans] == ["invoke_agent half", "agentlightning.annotation"]


async def test_the_store_holds_what_step_gave() -> None:
    async with Runner(half) as runner:
        done = await runner.step(3)

        stored = await runner.store.get_rollout_by_id(done.rollout.rollout_id)
        spans = await runner.store.query_spans(done.rollout.rollout_id, "latest")
    assert stored is not None
    assert stored.status == "succeeded"
    assert list(spans) == list(done.spans)


async def test_raises_what_the_agent_raised_in_no_group() -> None:
    async with Runner(failing) as runner:
        with pytest.raises(KeyError, match="room") as caught:
            await runner.step("room")

    [note] = caught.value.__notes__
    assert note.startswith("In rollout ro-")


async def test_a_failure_is_recorded_before_it_is_raised() -> None:
    async with Runner(failing) as runner:
        with pytest.raises(KeyError):
            await runner.step("room")

        [rollout] = await runner.store.query_rollouts(status_in=["failed"])
        attempt = await runner.store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    assert attempt.error is not None
    assert attempt.error.type == "KeyError"
    assert attempt.error.message == "'room'"
    assert "raise KeyError(task)" in attempt.error.traceback


async def test_an_exception_that_cannot_be_shown_fails_its_own_attempt_only() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    async def agent(task: int) -> float:
        if task == 1:
            raise Mute
        return 1.0

    result = await Runner(agent).fit([0, 1, 2])

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}


async def test_a_deadline_is_raised_as_a_timeout(autojump_clock: MockClock) -> None:
    async with Runner(sleeper, config=RolloutConfig(timeout_seconds=3)) as runner:
        with pytest.raises(agl.AttemptTimedOut, match="deadline after 3 s") as caught:
            await runner.step(100)

        [rollout] = await runner.store.query_rollouts()
        attempt = await runner.store.get_latest_attempt(rollout.rollout_id)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.seconds, caught.value.parameter) == (3, "timeout_seconds")
    assert trio.current_time() == pytest.approx(3)
    assert attempt is not None
    assert (rollout.status, attempt.status) == ("failed", "timeout")
    assert attempt.duration == pytest.approx(3)


async def test_cancelled_from_outside_ends_the_rollout_as_cancelled(autojump_clock: MockClock) -> None:
    async with Runner(sleeper) as runner:
        with trio.move_on_after(1) as scope:
            await runner.step(100)

        [rollout] = await runner.store.query_rollouts()
        attempt = await runner.store.get_latest_attempt(rollout.rollout_id)
    assert scope.cancelled_caught
    assert attempt is not None
    assert attempt.error is not None
    assert (rollout.status, attempt.status, attempt.error.type) == ("cancelled", "cancelled", "RolloutCancelled")


async def test_cancelled_while_it_waits_for_a_slot_leaves_no_rollout(autojump_clock: MockClock) -> None:
    async with Runner(sleeper, max_concurrency=1) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 10)
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await runner.step(1)

        rollouts = await runner.store.query_rollouts()
    assert [rollout.input for rollout in rollouts] == [10]
    assert runner.statistics().running == 0


async def test_steps_run_at_the_same_time_up_to_max_concurrency(autojump_clock: MockClock) -> None:
    async with Runner(sleeper, max_concurrency=2) as runner:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(runner.step, 1)

        assert trio.current_time() == pytest.approx(3)


async def test_resources_of_a_step_win_over_the_runners() -> None:
    async def agent(task: int, prompt_template: agl.PromptTemplate) -> None:
        agl.emit_message(prompt_template.template)

    def template(text: str) -> agl.NamedResources:
        return {"prompt_template": agl.PromptTemplate(text, engine="f-string")}

    async with Runner(agent, resources=template("own")) as runner:
        own = await runner.step(1)
        other = await runner.step(1, resources=template("other"))

    assert [agl.get_message_value(done.spans[1]) for done in (own, other)] == ["own", "other"]
    assert own.rollout.resources_id != other.rollout.resources_id


async def test_a_step_without_the_resources_it_needs_is_refused_and_leaves_no_rollout() -> None:
    async def agent(task: int, llm: agl.LLM) -> None: ...

    async with Runner(agent) as runner:
        with pytest.raises(agl.AgentSignatureError, match="'llm'"):
            await runner.step(1)

        assert await runner.store.query_rollouts() == agl.PaginatedResult([], -1, 0, 0)


async def test_the_mode_chooses_the_method() -> None:
    class Agent(agl.LitAgent[int]):
        async def training_rollout_async(self, task: int, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
            return 1.0

        async def validation_rollout_async(
            self, task: int, resources: agl.NamedResources, rollout: agl.Rollout
        ) -> float:
            return 2.0

    async with Runner(Agent()) as runner:
        rewards = [(await runner.step(0, mode=mode)).final_reward for mode in ("train", "val", "test", None)]

    assert rewards == [1.0, 2.0, 2.0, 2.0]


async def test_a_step_inside_a_rollout_is_a_trace_of_its_own() -> None:
    async with Runner(half) as inner:

        async def outer(task: int) -> float:
            done = await inner.step(task)
            agl.emit_message("back outside")
            inside.append(done)
            return 0.0

        inside: list[agl.CompletedRollout] = []
        async with Runner(outer) as runner:
            done = await runner.step(4)

    assert [span.name for span in done.spans][1] == "agentlightning.message"
    assert inside[0].final_reward == 2.0
    assert not {span.trace_id for span in done.spans} & {span.trace_id for span in inside[0].spans}


async def test_a_rollout_cancelled_through_the_store_is_not_overwritten_by_its_result() -> None:
    store = agl.InMemoryLightningStore()

    async def agent(task: int, rollout: agl.Rollout) -> float:
        await store.update_rollout(rollout.rollout_id, status="cancelled")
        return 1.0

    async with Runner(agent, store=store) as runner:
        done = await runner.step(1)

    [rollout] = await store.query_rollouts()
    assert (done.status, rollout.status) == ("cancelled", "cancelled")


def test_a_step_that_outlives_its_runner_ends() -> None:
    """Refused, cancelled or finished, it must not wait for ever for a commit that does not come."""
    ended = run_program(
        """
        import trio, lightning_trio as agl

        async def agent(task):
            await trio.sleep(0.2)

        async def step(runner):
            try:
                await runner.step(1)
            except agl.LightningTrioError:
                pass

        async def main():
            runner = agl.Runner(agent)
            async with trio.open_nursery() as nursery:
                async with runner:
                    nursery.start_soon(step, runner)
                    await trio.sleep(0.05)
            print("ended")

        trio.run(main)
        """
    )

    assert ended.out == "ended\n", ended.err


def test_a_step_ends_when_its_store_cannot_commit() -> None:
    ended = run_program(
        """
        import trio, lightning_trio as agl

        class Full(agl.InMemoryLightningStore):
            async def finish(self, outcomes):
                raise OSError("disk full")

        async def agent(task):
            return 1.0

        async def main():
            try:
                async with agl.Runner(agent, store=Full()) as runner:
                    await runner.step(1)
            except* OSError:
                print("disk full")

        trio.run(main)
        """
    )

    assert ended.out == "disk full\n", ended.err


def test_a_step_ends_when_its_rollout_was_cancelled_and_evicted_meanwhile() -> None:
    ended = run_program(
        """
        import trio, lightning_trio as agl

        store = agl.InMemoryLightningStore(retain=0)

        async def agent(task, rollout):
            try:
                await store.update_rollout(rollout.rollout_id, status="cancelled")
            except agl.Evicted:
                pass
            return 1.0

        async def main():
            async with agl.Runner(agent, store=store) as runner:
                print((await runner.step(1)).status)

        trio.run(main)
        """
    )

    assert ended.out == "cancelled\n", ended.err


async def test_an_error_in_the_block_of_a_runner_comes_out_alone() -> None:
    with pytest.raises(ValueError, match="mine"):
        async with Runner(half):
            raise ValueError("mine")


async def test_a_group_of_the_agents_own_stays_a_group() -> None:
    async def agent(task: int) -> None:
        raise ExceptionGroup("two rooms", [ValueError("A103"), ValueError("Lily")])

    async with Runner(agent) as runner:
        with pytest.raises(ExceptionGroup, match="two rooms"):
            await runner.step(1)


async def test_after_a_step_its_caller_is_in_no_rollout() -> None:
    async with Runner(half) as runner:
        await runner.step(1)

        with pytest.raises(agl.NoActiveRollout):
            agl.emit_message("after")


# The shapes of Agent-lightning 0.3.


async def test_the_task_may_be_called_input() -> None:
    async with Runner(half) as runner:
        done = await runner.step(input=3)

    assert (done.input, done.final_reward) == (3, 1.5)


@pytest.mark.parametrize("arguments", [{}, {"task": 1, "input": 1}])
async def test_a_step_takes_one_task(arguments: dict[str, int]) -> None:
    async with Runner(half) as runner:
        with pytest.raises(TypeError, match=r"takes one task; write: await runner.step\(task\)"):
            await runner.step(**arguments)  # type: ignore[call-overload]


async def test_the_result_has_the_rollouts_fields() -> None:
    async with Runner(half) as runner:
        done = await runner.step(3, mode="val")

    rollout = done.rollout
    assert (done.rollout_id, done.input, done.mode) == (rollout.rollout_id, 3, "val")
    assert (done.resources_id, done.metadata) == (rollout.resources_id, rollout.metadata)
