"""`Runner.fit`: a whole run, its result, and what remains of an interrupted one."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import run_program
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import InMemoryLightningStore, RolloutConfig, Runner
from lightning_trio._runner._ending import ending_of


async def double(task: float) -> float:
    return task * 2


async def sleeper(task: float) -> float:
    await trio.sleep(task)
    return 1.0


class Thing:
    """An object that can be weakly referenced."""


def test_runs_under_trio_run_and_closes_what_it_opened() -> None:
    runner = Runner(double)

    result = trio.run(runner.fit, [1, 2, 3], [10])

    assert result.counts == {"cancelled": 0, "failed": 0, "succeeded": 4}
    assert result.mean_reward == {"train": 4.0, "val": 20.0}
    assert result.run_id.startswith("run-")
    assert not runner.store.is_open


async def test_every_task_runs_once_in_its_mode() -> None:
    runner = Runner(double)

    await runner.fit([1, 2], [3])

    rollouts = await runner.store.query_rollouts()
    assert sorted((rollout.input, rollout.mode) for rollout in rollouts) == [(1, "train"), (2, "train"), (3, "val")]


async def test_validation_starts_when_training_has_ended() -> None:
    running: list[str | None] = []

    async def agent(task: int, rollout: agl.Rollout) -> None:
        await trio.lowlevel.checkpoint()
        running.append(rollout.mode)

    await Runner(agent).fit(range(50), range(50))

    assert running == ["train"] * 50 + ["val"] * 50


async def test_nothing_rewarded_is_none_and_not_zero() -> None:
    async def agent(task: int) -> None: ...

    result = await Runner(agent).fit([1])

    assert result.mean_reward == {"train": None, "val": None}


async def test_an_error_is_no_reward_of_zero() -> None:
    async def agent(task: int) -> float:
        if task:
            raise ValueError
        return 1.0

    result = await Runner(agent).fit([0, 1, 1, 1])

    assert result.mean_reward["train"] == 1.0
    assert result.counts["failed"] == 3


async def test_a_failure_leaves_the_others_running() -> None:
    async def agent(task: int) -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)
            if task % 3 == 0:
                raise ValueError(task)
        return 1.0

    result = await Runner(agent, max_concurrency=7).fit(range(30))

    assert result.counts == {"cancelled": 0, "failed": 10, "succeeded": 20}


def test_system_exit_of_an_agent_fails_its_attempt_only() -> None:
    def agent(task: int) -> float:
        if task == 1:
            raise SystemExit(3)
        return 1.0

    result = trio.run(Runner(agent).fit, [0, 1, 2])

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}


async def test_generator_exit_of_an_agent_fails_its_attempt_and_leaves_its_neighbours_alone() -> None:
    async def agent(task: int) -> float:
        if task == 1:
            raise GeneratorExit
        await trio.lowlevel.checkpoint()
        return 1.0

    async with Runner(agent) as runner:
        result = await runner.fit([0, 1, 2])
        with pytest.raises(agl.AgentError, match="the agent raised GeneratorExit"):
            await runner.step(1)

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}


def test_an_attempt_whose_coroutine_is_closed_raises_generator_exit() -> None:
    """Trio and the garbage collector close coroutines while their tasks do not run."""
    with pytest.raises(GeneratorExit):
        ending_of(GeneratorExit(), None, cancelled=False)


@given(
    tasks=st.lists(st.sampled_from(["ok", "none", "bad", "raise"]), min_size=1, max_size=30), most=st.integers(0, 40)
)
@settings(max_examples=25, deadline=None)
def test_counts_add_up_to_the_rollouts_asked_for(tasks: list[str], most: int) -> None:
    async def agent(task: str) -> object:
        if task == "raise":
            raise ValueError
        return {"ok": 1.0, "none": None, "bad": {}}[task]

    result = trio.run(Runner(agent, max_rollouts=most, max_concurrency=3).fit, tasks)

    assert sum(result.counts.values()) == len(tasks)
    assert result.counts["cancelled"] == max(0, len(tasks) - most)


async def test_max_rollouts_covers_training_and_validation_together() -> None:
    result = await Runner(double, max_rollouts=3).fit([1, 2], [3, 4])

    assert result.counts == {"cancelled": 1, "failed": 0, "succeeded": 3}
    assert result.mean_reward["val"] == 6.0


async def test_max_rollouts_of_zero_runs_nothing_and_returns() -> None:
    runner = Runner(double, max_rollouts=0)

    result = await runner.fit([1, 2])

    assert result.counts == {"cancelled": 2, "failed": 0, "succeeded": 0}
    assert (await runner.store.statistics()).total_attempts == 0


async def test_runs_no_more_than_max_concurrency_at_a_time(autojump_clock: MockClock) -> None:
    running = most = 0

    async def agent(task: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1

    await Runner(agent, max_concurrency=7).fit(range(21))

    assert most == 7
    assert trio.current_time() == pytest.approx(3)


async def test_a_slot_is_used_again_as_soon_as_it_is_free(autojump_clock: MockClock) -> None:
    """A long rollout delays no other; it only holds its own slot."""
    await Runner(sleeper, max_concurrency=2).fit([10, *[1] * 10])

    assert trio.current_time() == pytest.approx(10)


async def test_more_tasks_than_are_enqueued_at_once_all_run() -> None:
    result = await Runner(double).fit(range(3000))

    assert result.counts["succeeded"] == 3000


async def test_two_fits_on_one_runner_are_two_runs() -> None:
    runner = Runner(double)

    first = await runner.fit([1])
    second = await runner.fit([2, 3])

    assert first.run_id != second.run_id
    assert second.counts["succeeded"] == 2


async def test_fit_works_on_an_open_runner() -> None:
    async with Runner(double) as runner:
        result = await runner.fit([1, 2])
        done = await runner.step(5)

    assert result.counts["succeeded"] == 2
    assert done.final_reward == 10.0


async def test_a_run_leaves_the_rollouts_of_others_alone() -> None:
    store = InMemoryLightningStore()
    other = await store.enqueue_rollout(1)

    await Runner(double, store=store).fit([1])

    found = await store.get_rollout_by_id(other.rollout_id)
    assert found is not None
    assert found.status == "queuing"


async def test_cancelling_puts_running_rollouts_back_into_the_queue(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()
    with trio.move_on_after(5):
        await Runner(sleeper, store=store, max_concurrency=2).fit([1, 100, 100, 100])

    rollouts = await store.query_rollouts()
    assert [rollout.status for rollout in rollouts] == ["succeeded", "requeuing", "requeuing", "queuing"]


async def test_what_a_cancelled_fit_left_is_run_by_serve(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()
    with trio.move_on_after(5):
        await Runner(sleeper, store=store, max_concurrency=2).fit([100, 100, 100])
    ids = [rollout.rollout_id for rollout in await store.query_rollouts()]

    async with Runner(double, store=store) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.serve)
        done = await store.wait_for_rollouts(ids)
        nursery.cancel_scope.cancel()
    assert [rollout.status for rollout in done] == ["succeeded"] * 3


async def test_a_cancelled_attempt_is_recorded_and_counts_towards_no_limit(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()
    runner = Runner(sleeper, store=store, config=RolloutConfig(max_attempts=1))
    with trio.move_on_after(1):
        await runner.fit([3])
    [rollout] = await store.query_rollouts()

    async with runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.serve)
        [done] = await store.wait_for_rollouts([rollout.rollout_id])
        nursery.cancel_scope.cancel()
    attempts = await store.query_attempts(rollout.rollout_id)
    assert done.status == "succeeded"
    assert [attempt.status for attempt in attempts] == ["cancelled", "succeeded"]


async def test_an_agent_that_fails_in_its_clean_up_when_cancelled_goes_back_as_well(autojump_clock: MockClock) -> None:
    """The agent failed because it was cancelled: the run's cancellation decides, not the agent's response."""
    store = InMemoryLightningStore()

    async def agent(task: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in the clean-up")

    with trio.move_on_after(1):
        await Runner(agent, store=store).fit([1])

    [rollout] = await store.query_rollouts()
    assert rollout.status == "requeuing"


async def test_an_algorithms_error_is_raised_by_fit_alone_and_stops_running_rollouts(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()

    @agl.algo
    async def broken(session: agl.Session, train_dataset: list[int]) -> None:
        await session.store.enqueue_rollout(100)
        await trio.sleep(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Runner(sleeper, store=store, algorithm=broken).fit([1])

    [rollout] = await store.query_rollouts()
    assert rollout.status == "requeuing"


async def test_the_statistics_of_an_open_runner_say_what_was_done() -> None:
    async def agent(task: int) -> None:
        if task:
            raise ValueError

    async with Runner(agent, max_concurrency=4) as runner:
        await runner.fit([0, 0, 1])

        statistics = runner.statistics()
    assert (statistics.succeeded, statistics.failed, statistics.attempts, statistics.running) == (2, 1, 3, 0)
    assert statistics.done == 3
    assert runner.statistics().done == 3


@pytest.mark.parametrize("fails", [False, True], ids=["succeeded", "failed"])
async def test_nothing_of_a_finished_rollout_is_kept_alive_but_records(fails: bool) -> None:
    alive: weakref.WeakSet[Thing] = weakref.WeakSet()

    async def agent(task: int) -> None:
        thing = Thing()
        alive.add(thing)
        await trio.lowlevel.checkpoint()
        if fails:
            raise ValueError(task)

    async with Runner(agent) as runner:
        await runner.fit(range(2000))

        gc.collect()
        assert len(alive) == 0


async def test_a_dataset_needs_length_and_index_only() -> None:
    class Squares:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> int:
            if not 0 <= index < 3:
                raise IndexError(index)
            return index * index

    result = await Runner(double).fit(Squares())  # type: ignore[arg-type]  # 0.3's Dataset protocol

    assert result.mean_reward["train"] == pytest.approx(10 / 3)


async def test_the_initial_resources_are_the_best_where_nothing_is_learned() -> None:
    resources: Mapping[str, agl.Resource] = {"p": agl.PromptTemplate("x", engine="f-string")}

    result = await Runner(double, resources=resources).fit([1])

    assert result.resources == resources
    assert result.resources_id is not None
    assert result.resources_id.startswith("rs-")


async def test_the_agents_configuration_wins_over_the_runners() -> None:
    @agl.rollout(config=RolloutConfig(max_attempts=5, retry_condition=["timeout"]))
    async def agent(task: int) -> None: ...

    runner = Runner(agent, config=RolloutConfig(max_attempts=2, retry_condition=["timeout"]))
    await runner.fit([1])

    [rollout] = await runner.store.query_rollouts()
    assert rollout.config.max_attempts == 5


def test_two_fits_at_once_on_one_runner_both_end() -> None:
    """Both finish, or the second is refused: the first to end must not close the other's engine."""
    ended = run_program(
        """
        import trio, lightning_trio as agl

        async def agent(task):
            await trio.sleep(task)

        async def fit(runner, seconds):
            try:
                await runner.fit([seconds])
            except agl.UsageError:
                pass

        async def main():
            runner = agl.Runner(agent)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fit, runner, 0.05)
                await trio.sleep(0.01)
                nursery.start_soon(fit, runner, 0.3)
            print("ended")

        trio.run(main)
        """
    )

    assert ended.out == "ended\n", ended.err


async def test_a_rollout_cancelled_and_evicted_meanwhile_does_not_stop_the_run() -> None:
    store = InMemoryLightningStore(retain=1)

    async def agent(task: int, rollout: agl.Rollout) -> float:
        if task == 0:
            await store.update_rollout(rollout.rollout_id, status="cancelled")
            await trio.sleep(0.05)
        return 1.0

    with trio.fail_after(5):
        result = await Runner(agent, store=store).fit(range(4))

    assert result.counts == {"cancelled": 1, "failed": 0, "succeeded": 3}


def test_fit_raises_what_its_store_raises_on_commit() -> None:
    class Full(InMemoryLightningStore):
        async def finish(self, outcomes: object) -> list[agl.RolloutStatus | None]:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        trio.run(Runner(double, store=Full()).fit, [1, 2])


async def test_fit_says_once_what_failed_and_how_to_see_it_all(caplog: pytest.LogCaptureFixture) -> None:
    async def agent(task: int) -> float:
        if task:
            raise LookupError(f"no {task}")
        return 1.0

    result = await Runner(agent).fit([0, 1, 2])

    [said] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "2 of 3 rollouts of run-" in said
    assert "the first with LookupError: no 1" in said
    assert f"query_rollouts(status_in=['failed'], run_id_in=['{result.run_id}'])" in said
