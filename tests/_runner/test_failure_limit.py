"""`max_failures`: a run with too many failures ends early, gives the reason, and counts every task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner, Trainer, UsageError


async def fail_from_five(task: int) -> float:
    await trio.sleep(task)
    if task >= 5:
        raise ValueError(task)
    return 1.0


async def test_a_run_ends_when_more_have_failed_than_may(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    runner = Runner(fail_from_five, max_failures=3, max_concurrency=4)

    result = await runner.fit(range(20))

    # 5, 6, 7 and 8 fail; rollouts that run beside the last of them are cancelled with the rest.
    assert result.counts == {"cancelled": 11, "failed": 4, "succeeded": 5}
    assert result.ended_early == "4 rollouts failed, more than max_failures=3 allows"
    assert f"{result.run_id} ends early: 4 rollouts failed, more than max_failures=3 allows" in caplog.text
    assert runner.statistics().running == 0


async def test_running_rollouts_are_cancelled_and_stay_cancelled(autojump_clock: MockClock) -> None:
    runner = Runner(fail_from_five, max_failures=0, max_concurrency=4)

    await runner.fit(range(20))

    rollouts = await runner.store.query_rollouts()
    assert {rollout.status for rollout in rollouts} == {"succeeded", "failed", "cancelled"}
    assert (await runner.store.statistics()).queued == 0


async def test_a_share_is_one_of_all_tasks(autojump_clock: MockClock) -> None:
    result = await Runner(fail_from_five, max_failures=0.25, max_concurrency=1).fit(range(10), range(5, 11))

    assert result.counts["failed"] == 5
    assert sum(result.counts.values()) == 16
    assert result.ended_early == "5 rollouts failed, more than max_failures=0.25 of 16 tasks allows"


async def test_as_many_failures_as_may_be_end_nothing(autojump_clock: MockClock) -> None:
    result = await Runner(fail_from_five, max_failures=5).fit(range(10))

    assert result.counts == {"cancelled": 0, "failed": 5, "succeeded": 5}
    assert result.ended_early is None


async def test_attempts_that_are_tried_again_are_no_failures(autojump_clock: MockClock) -> None:
    async def agent(task: int, rollout: agl.AttemptedRollout) -> None:
        if rollout.attempt.sequence_id < 3:
            raise ValueError

    config = RolloutConfig(max_attempts=3, retry_condition=["failed"])
    result = await Runner(agent, max_failures=0, config=config).fit(range(10))

    assert result.counts["succeeded"] == 10


async def test_tasks_that_were_not_even_enqueued_count_as_cancelled(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> None:
        raise ValueError

    result = await Runner(agent, max_failures=0, max_concurrency=1).fit(range(5000))

    assert result.counts == {"cancelled": 4999, "failed": 1, "succeeded": 0}


async def test_an_algorithm_of_ones_own_is_cancelled(autojump_clock: MockClock) -> None:
    rounds: list[int] = []

    @agl.algo
    async def endless(session: agl.Session, train_dataset: Sequence[Any]) -> None:
        while True:
            done = await session.run(train_dataset)
            rounds.append(len(done))
            await trio.sleep(1)

    result = await Runner(fail_from_five, algorithm=endless, max_failures=7).fit(range(8))

    assert result.counts == {"cancelled": 1, "failed": 8, "succeeded": 15}
    assert result.ended_early == "8 rollouts failed, more than max_failures=7 allows"
    assert rounds == [8, 8]


async def test_an_interrupted_run_counts_its_earlier_failures_when_it_is_resumed(autojump_clock: MockClock) -> None:
    runner = Runner(fail_from_five, max_failures=1, max_concurrency=1)
    with trio.move_on_after(5.5):
        await runner.fit([5, 6, 7])
    result = await runner.fit([5, 6, 7], resume=True)

    assert result.counts == {"cancelled": 1, "failed": 2, "succeeded": 0}
    assert result.ended_early == "2 rollouts failed, more than max_failures=1 allows"


async def test_cancelled_from_outside_it_ends_as_any_run(autojump_clock: MockClock) -> None:
    store = agl.InMemoryLightningStore()
    with trio.move_on_after(2.5):
        await Runner(fail_from_five, store=store, max_failures=3, max_concurrency=2).fit(range(20))

    counts = [rollout.status for rollout in await store.query_rollouts()]
    assert counts.count("requeuing") == 2
    assert "cancelled" not in counts


def test_trainer_takes_it_as_well(caplog: pytest.LogCaptureFixture) -> None:
    async def agent(task: int) -> None:
        raise ValueError

    caplog.set_level(logging.ERROR)
    result = Trainer(max_failures=2, n_runners=1).fit(agent, range(10))

    assert result.counts == {"cancelled": 7, "failed": 3, "succeeded": 0}
    assert result.ended_early == "3 rollouts failed, more than max_failures=2 allows"


@pytest.mark.parametrize("wrong", [True, -1, 1.0, 0.0, 1.5, -0.1, float("nan"), "3", []])
@pytest.mark.parametrize("kind", [lambda **options: Runner(fail_from_five, **options), Trainer])
def test_what_is_neither_a_number_nor_a_share_is_refused(kind: Any, wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"max_failures=.*; pass the number of rollouts that may fail, as an int"):
        kind(max_failures=wrong)


def test_one_as_a_float_is_taken_for_neither() -> None:
    with pytest.raises(UsageError, match=r"as a float between 0 and 1; did you mean 1\?"):
        Runner(fail_from_five, max_failures=1.0)


async def test_a_share_needs_tasks() -> None:
    @agl.algo
    async def alone(session: agl.Session) -> None: ...

    with pytest.raises(UsageError, match="is a share of the datasets' tasks, and fit"):
        await Runner(fail_from_five, algorithm=alone, max_failures=0.5).fit()
