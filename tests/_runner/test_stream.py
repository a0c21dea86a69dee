"""`Runner.stream`: results as they finish, back-pressure on the source, and leaving early."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
from programs import run_program
from trio.testing import MockClock, wait_all_tasks_blocked

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner


async def double(task: float) -> float:
    return task * 2


async def sleeper(task: float) -> float:
    await trio.sleep(task)
    return 1.0


class Source:
    """An endless source of numbers that counts those read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        for number in itertools.count():
            self.read += 1
            yield number


async def test_gives_results_as_they_finish(autojump_clock: MockClock) -> None:
    async with Runner(sleeper) as runner, runner.stream([3, 1, 2]) as results:
        order = [done.rollout.input async for done in results]

    assert order == [1, 2, 3]


async def test_an_empty_source_yields_nothing() -> None:
    async with Runner(double) as runner, runner.stream([]) as results:
        assert [done async for done in results] == []


async def test_takes_an_async_iterable(autojump_clock: MockClock) -> None:
    async def tasks() -> AsyncGenerator[int]:
        for number in range(3):
            await trio.sleep(1)
            yield number

    async with Runner(double) as runner, aclosing(tasks()) as source, runner.stream(source) as results:
        rewards = [done.final_reward async for done in results]

    assert rewards == [0.0, 2.0, 4.0]
    assert trio.current_time() == pytest.approx(3)


async def test_a_failure_comes_as_data() -> None:
    async def agent(task: int) -> float:
        if task == 1:
            raise ValueError("one")
        return 1.0

    async with Runner(agent) as runner, runner.stream(range(3)) as results:
        by_task = {done.rollout.input: done async for done in results}

    assert [by_task[task].status for task in range(3)] == ["succeeded", "failed", "succeeded"]
    error = by_task[1].error
    assert error is not None
    assert (error.type, error.message) == ("ValueError", "one")
    assert isinstance(error.exception, ValueError)


async def test_a_deadline_comes_as_data(autojump_clock: MockClock) -> None:
    async with Runner(sleeper, config=RolloutConfig(timeout_seconds=2)) as runner, runner.stream([1, 5]) as results:
        ended = [(done.status, done.attempt.status) async for done in results]

    assert ended == [("succeeded", "succeeded"), ("failed", "timeout")]


async def test_the_source_is_not_read_further_ahead_than_max_concurrency(autojump_clock: MockClock) -> None:
    source = Source()
    async with Runner(double, max_concurrency=4) as runner, runner.stream(source) as results:
        await trio.sleep(10)
        unread = source.read
        for _ in range(3):
            await anext(results)
        await wait_all_tasks_blocked()

    assert unread == 4
    assert source.read == 7


async def test_a_slow_reader_holds_rollouts_back_and_not_slots(autojump_clock: MockClock) -> None:
    """Results that wait to be read hold no slot, so other work of the runner continues."""
    async with Runner(double, max_concurrency=2) as runner, runner.stream(Source()):
        await trio.sleep(1)
        statistics = runner.statistics()
        done = await runner.step(21)

    assert statistics.running == 0
    assert done.final_reward == 42.0


async def test_leaving_the_block_cancels_running_rollouts_and_frees_their_slots(autojump_clock: MockClock) -> None:
    async with Runner(sleeper, max_concurrency=3) as runner:
        async with runner.stream([1, 100, 100, 100, 100]) as results:
            first = await anext(results)

        assert trio.current_time() == pytest.approx(1)
        assert first.rollout.input == 1
        assert runner.statistics().running == 0
        statuses = [rollout.status for rollout in await runner.store.query_rollouts()]
        assert (await runner.step(0)).status == "succeeded"
    assert statuses[0] == "succeeded"
    assert set(statuses[1:]) == {"cancelled"}


@pytest.mark.parametrize("size", [1, 10, 1000])
async def test_leaving_after_the_first_result_raises_nothing(size: int) -> None:
    """Other rollouts end at the same moment, and their results have no reader."""
    async with Runner(double, max_concurrency=64) as runner:
        for _ in range(20):
            async with runner.stream(range(size)) as results:
                await anext(results)

        assert runner.statistics().running == 0


async def test_an_error_in_the_block_comes_out_alone(autojump_clock: MockClock) -> None:
    async with Runner(sleeper) as runner:
        with pytest.raises(ZeroDivisionError):
            async with runner.stream([1, 100]) as results:
                async for _ in results:
                    raise ZeroDivisionError

        assert runner.statistics().running == 0


async def test_an_error_of_the_source_comes_out_alone(autojump_clock: MockClock) -> None:
    def tasks() -> Iterator[int]:
        yield 100
        raise LookupError("no more")

    async with Runner(sleeper) as runner:
        with pytest.raises(LookupError, match="no more"):
            async with runner.stream(tasks()) as results:
                async for _ in results:
                    pass

        assert runner.statistics().running == 0


async def test_cancelled_from_outside_ends_its_rollouts_as_cancelled(autojump_clock: MockClock) -> None:
    async with Runner(sleeper) as runner:
        with trio.move_on_after(1) as scope:
            async with runner.stream([100, 100]) as results:
                async for _ in results:
                    pass

        statuses = [rollout.status for rollout in await runner.store.query_rollouts()]
    assert scope.cancelled_caught
    assert statuses == ["cancelled", "cancelled"]


async def test_two_streams_share_the_runners_slots(autojump_clock: MockClock) -> None:
    async with Runner(sleeper, max_concurrency=2) as runner:
        async with runner.stream([1] * 4) as left, runner.stream([1] * 4) as right:
            done = [each async for each in left] + [each async for each in right]

        assert len(done) == 8
        assert trio.current_time() == pytest.approx(4)


async def test_mode_and_resources_reach_every_rollout() -> None:
    async def agent(task: int, prompt_template: agl.PromptTemplate) -> None:
        agl.emit_message(prompt_template.template)

    resources = {"prompt_template": agl.PromptTemplate("hello", engine="f-string")}
    async with Runner(agent) as runner, runner.stream([1, 2], resources=resources, mode="val") as results:
        done = [each async for each in results]

    assert [each.rollout.mode for each in done] == ["val", "val"]
    assert [agl.get_message_value(each.spans[1]) for each in done] == ["hello", "hello"]


async def test_a_parameter_that_cannot_be_supplied_is_an_error_on_entering() -> None:
    async def agent(task: int, llm: agl.LLM) -> None: ...

    source = Source()
    async with Runner(agent) as runner:
        with pytest.raises(agl.AgentSignatureError, match="'llm'"):
            async with runner.stream(source):
                pass

    assert source.read == 0


async def test_retries_happen_inside_the_stream(autojump_clock: MockClock) -> None:
    async def agent(task: int, rollout: agl.AttemptedRollout) -> float:
        if rollout.attempt.sequence_id < 3:
            raise ValueError
        return 1.0

    config = RolloutConfig(max_attempts=3, retry_condition=["failed"])
    async with Runner(agent, config=config) as runner, runner.stream(range(4)) as results:
        done = [each async for each in results]

    assert [(each.status, each.attempt.sequence_id) for each in done] == [("succeeded", 3)] * 4


async def test_a_rollout_cancelled_through_the_store_between_attempts_comes_as_data(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> None:
        raise ValueError

    config = RolloutConfig(max_attempts=2, retry_condition=["failed"], backoff_seconds=10)
    async with Runner(agent, config=config) as runner, runner.stream([1, 2]) as results:
        await trio.sleep(1)
        first, _ = await runner.store.query_rollouts()
        await runner.store.update_rollout(first.rollout_id, status="cancelled")
        done = {each.rollout.rollout_id: each.status async for each in results}

    assert sorted(done.values()) == ["cancelled", "failed"]
    assert done[first.rollout_id] == "cancelled"


async def test_a_stream_that_is_not_entered_shows_how() -> None:
    async with Runner(double) as runner:
        results = runner.stream([1])
        with pytest.raises(agl.UsageError, match=r"async with runner\.stream\(tasks\) as results"):
            await anext(results)


async def test_a_stream_is_entered_once() -> None:
    async with Runner(double) as runner:
        results = runner.stream([1])
        async with results:
            pass

        with pytest.raises(agl.UsageError, match=r"call runner\.stream\(tasks\) again"):
            async with results:
                pass


@pytest.mark.parametrize("tasks", [3, None, double])
async def test_what_is_no_iterable_is_refused(tasks: object) -> None:
    async with Runner(double) as runner:
        with pytest.raises(agl.DatasetError, match="takes an iterable or async iterable of tasks, not"):
            runner.stream(tasks)  # type: ignore[arg-type]


@pytest.mark.parametrize("tasks", ["tea", {"q": "tea"}])
async def test_one_task_in_place_of_tasks_is_refused(tasks: object) -> None:
    async with Runner(double) as runner:
        with pytest.raises(agl.DatasetError, match=r"tasks is a (str|dict); a dataset is a list of tasks: \[task, …\]"):
            runner.stream(tasks)  # type: ignore[arg-type]


async def test_tasks_that_cannot_be_stored_raise_one_error_and_no_group(tmp_path: Path) -> None:
    async with Runner(double, store=agl.SqliteLightningStore(tmp_path / "runs.db")) as runner:
        for _ in range(10):
            with pytest.raises(agl.NotStorable, match=r"task: object of type builtins\.object cannot be stored"):
                async with runner.stream([object()] * 7) as results:
                    async for _ in results:
                        pass


def test_a_stream_entered_after_its_runner_closed_is_refused() -> None:
    ended = run_program(
        """
        import trio, lightning_trio as agl

        async def agent(task):
            return 1.0

        async def main():
            async with agl.Runner(agent) as runner:
                results = runner.stream([1])
            try:
                async with results:
                    async for done in results:
                        pass
            except agl.RunnerClosed:
                print("closed")

        trio.run(main)
        """
    )

    assert ended.out == "closed\n", ended.err
