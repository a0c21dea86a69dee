"""Runs that run again: failed rollouts, appended tasks, and repeats; what was done before stays done."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import (
    Algorithm,
    FitResult,
    InMemoryLightningStore,
    LightningStore,
    PromptTemplate,
    ResumeError,
    RolloutConfig,
    Runner,
    SqliteLightningStore,
    UsageError,
    audit,
)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LightningStore:
    return InMemoryLightningStore() if request.param == "memory" else SqliteLightningStore(tmp_path / "runs.db")


class Api:
    """An agent whose service fails for `down`: an error for each task."""

    def __init__(self, **down: Exception) -> None:
        self.down = {int(task.removeprefix("task")): error for task, error in down.items()}
        self.calls: list[int] = []

    async def __call__(self, task: int) -> float:
        self.calls.append(task)
        await trio.lowlevel.checkpoint()
        if task in self.down:
            agl.emit_reward(-1.0)
            raise self.down[task]
        return float(task)

    def back(self) -> Api:
        self.calls = []
        self.down = {}
        return self


def runner_of(api: Any, store: LightningStore, **options: Any) -> Runner:
    return Runner(agl.rollout(name="api")(api), store=store, **options)


async def fit(api: Any, store: LightningStore, tasks: Sequence[Any] = range(6), /, **how: Any) -> FitResult:
    return await runner_of(api, store).fit(tasks, **how)


# Failed rollouts.


async def test_failed_rollouts_of_a_finished_run_run_again_and_nothing_else(store: LightningStore) -> None:
    async with store:
        api = Api(task1=ConnectionError("down"), task3=ConnectionError("down"))
        first = await fit(api, store)

        result = await fit(api.back(), store, resume=True, retry_failed=True)

        assert sorted(api.calls) == [1, 3]
        assert result.run_id == first.run_id
        assert (first.counts["failed"], result.counts["failed"], result.counts["succeeded"]) == (2, 0, 6)
        assert (first.mean_reward["train"], result.mean_reward["train"]) == (pytest.approx(9 / 6), 2.5)
        assert (await audit(store)).clean


async def test_all_attempts_of_a_rollout_that_runs_again_are_kept(store: LightningStore) -> None:
    async with store:
        api = Api(task1=ConnectionError("down"))
        await fit(api, store)
        [failed] = await store.query_rollouts(status_in=["failed"])

        await fit(api.back(), store, resume=True, retry_failed=True)

        attempts = await store.query_attempts(failed.rollout_id)
        assert [(each.sequence_id, each.status) for each in attempts] == [(1, "failed"), (2, "succeeded")]
        again = await store.get_rollout_by_id(failed.rollout_id)
        assert again is not None
        assert (again.end_time or 0.0) > (failed.end_time or 0.0)
        assert len(await store.query_spans(failed.rollout_id)) > len(
            await store.query_spans(failed.rollout_id, attempts[0].attempt_id)
        )


async def test_the_run_ends_again(store: LightningStore) -> None:
    async with store:
        api = Api(task1=ConnectionError("down"))
        await fit(api, store)
        [before] = await store.query_runs()

        await fit(api.back(), store, resume=True, retry_failed=True)

        [after] = await store.query_runs()
        assert after.status == "finished"
        assert (after.end_time or 0.0) > (before.end_time or 0.0)
        assert after.elapsed_seconds > before.elapsed_seconds


@pytest.mark.parametrize(
    ("retry_failed", "calls"),
    [
        ([ConnectionError], [1]),
        (["ConnectionError"], [1]),
        ((OSError,), [1]),
        (["builtins.ValueError", OSError], [1, 2]),
        ([LookupError], []),
    ],
)
async def test_failed_rollouts_are_chosen_by_the_class_of_their_error(
    retry_failed: Any, calls: list[int], store: LightningStore
) -> None:
    async with store:
        api = Api(task1=ConnectionError("down"), task2=ValueError("bad"))
        await fit(api, store)

        result = await fit(api.back(), store, resume=True, retry_failed=retry_failed)

        assert sorted(api.calls) == calls
        assert result.counts["failed"] == 2 - len(calls)


async def test_a_rollout_that_runs_again_has_all_its_attempts_again() -> None:
    config = RolloutConfig(max_attempts=2, retry_condition=["failed"], backoff_seconds=0)
    async with InMemoryLightningStore() as store:
        api = Api(task1=ConnectionError("down"))
        await runner_of(api, store, config=config).fit(range(2))

        await runner_of(api, store, config=config).fit(range(2), resume=True, retry_failed=True)

        [failed] = await store.query_rollouts(status_in=["failed"])
        assert len(await store.query_attempts(failed.rollout_id)) == 4


async def test_a_rollout_that_timed_out_runs_again(autojump_clock: MockClock) -> None:
    seconds = 10.0

    async def slow(task: int) -> float:
        await trio.sleep(seconds)
        return 1.0

    async with InMemoryLightningStore() as store:
        runner = runner_of(slow, store, config=RolloutConfig(timeout_seconds=1.0))
        assert (await runner.fit([0])).counts["failed"] == 1
        seconds = 0.0

        result = await runner.fit([0], resume=True, retry_failed=[TimeoutError])

        assert result.counts["succeeded"] == 1


async def test_failed_rollouts_of_an_interrupted_run_run_again_with_the_others(store: LightningStore) -> None:
    async with store:
        api = Api(task1=ConnectionError("down"))

        async def hang(task: int) -> float:
            return await api(task) if task < 4 else await trio.sleep_forever()

        with trio.move_on_after(0.5):
            await runner_of(hang, store, max_concurrency=1).fit(range(6))

        result = await fit(api.back(), store, resume=True, retry_failed=True)

        assert sorted(api.calls) == [1, 4, 5]
        assert result.counts["succeeded"] == 6


async def test_rollouts_that_too_many_failures_cancelled_run_again(store: LightningStore) -> None:
    async with store:
        api = Api(**{f"task{task}": ConnectionError("down") for task in range(20)})
        first = await runner_of(api, store, max_failures=2, max_concurrency=1).fit(range(20))
        assert first.ended_early is not None

        result = await runner_of(api.back(), store, max_failures=2).fit(range(20), resume=True, retry_failed=True)

        assert sorted(api.calls) == list(range(20))
        assert (result.counts, result.ended_early) == ({"cancelled": 0, "failed": 0, "succeeded": 20}, None)
        assert (await audit(store)).clean


@pytest.mark.parametrize(("max_rollouts", "succeeded"), [(4, 4), (5, 5), (None, 6)])
async def test_rollouts_beyond_max_rollouts_run_as_far_as_it_allows_now(
    max_rollouts: int | None, succeeded: int, store: LightningStore
) -> None:
    async with store:
        api = Api(task1=ConnectionError("down"))
        await runner_of(api, store, max_rollouts=4).fit(range(6))

        result = await runner_of(api.back(), store, max_rollouts=max_rollouts).fit(
            range(6), resume=True, retry_failed=True
        )

        assert result.counts == {"cancelled": 6 - succeeded, "failed": 0, "succeeded": succeeded}


async def test_a_run_without_failures_gives_its_result_again(store: LightningStore) -> None:
    async with store:
        finished = await fit(Api(), store)
        api = Api()

        result = await fit(api, store, resume=True, retry_failed=True)

        assert not api.calls
        assert result == finished


class Rounds(Algorithm):
    """Two rounds with two prompts."""

    async def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> None:
        assert train_dataset is not None
        for number in range(2):
            snapshot = await self.session.publish({"prompt": PromptTemplate(str(number), engine="f-string")})
            done = await self.session.run(train_dataset, mode="train", resources=snapshot)
            self.session.note(rewards=[each.final_reward for each in done])
            self.session.declare_best(snapshot)


async def test_an_algorithm_learns_from_rollouts_that_run_again(store: LightningStore) -> None:
    down = True
    calls: list[tuple[int, str]] = []

    async def agent(task: int, prompt: PromptTemplate) -> float:
        calls.append((task, prompt.template))
        if down and task == 1:
            raise ConnectionError("down")
        return float(task)

    async with store:
        await runner_of(agent, store, algorithm=Rounds()).fit(range(3))
        down = False
        calls.clear()

        result = await runner_of(agent, store, algorithm=Rounds()).fit(range(3), resume=True, retry_failed=True)

        assert sorted(calls) == [(1, "0"), (1, "1")]
        assert [entry["rewards"] for entry in result.history] == [[0.0, 1.0, 2.0]] * 2
        assert result.counts["succeeded"] == 6


async def test_retry_failed_without_resume_is_refused() -> None:
    with pytest.raises(UsageError, match=r"write: fit\(…, resume=True, retry_failed=True\)"):
        await fit(Api(), InMemoryLightningStore(), retry_failed=True)


@pytest.mark.parametrize(
    ("retry_failed", "message"),
    [
        (ConnectionError, r"retry_failed=<class 'ConnectionError'>; pass a list: retry_failed=\[ConnectionError\]"),
        ("ConnectionError", r"pass a list: retry_failed=\['ConnectionError'\]"),
        ([int], "retry_failed names <class 'int'>, which is not an exception"),
        (["trio.Bussy"], r"retry_failed=\['trio.Bussy'\], and its module has no such name"),
        ([], r"retry_failed=\[\] is invalid; pass True, or a list of at least one"),
        (1, "retry_failed=1 is invalid; pass True, or a list of exception classes or their names"),
    ],
)
async def test_what_names_no_errors_is_refused(retry_failed: Any, message: str) -> None:
    with pytest.raises((ValueError, UsageError), match=message):
        await fit(Api(), InMemoryLightningStore(), resume=True, retry_failed=retry_failed)


def test_the_trainer_runs_failed_rollouts_again() -> None:
    api = Api(task1=ConnectionError("down"))
    trainer = agl.Trainer(store=InMemoryLightningStore())
    agent = agl.rollout(name="api")(api)
    trainer.fit(agent, range(3))
    api.back()

    assert trainer.fit(agent, range(3), resume=True, retry_failed=True).counts["succeeded"] == 3
    assert api.calls == [1]


# Appended tasks.


async def test_appended_tasks_are_the_only_ones_to_run(store: LightningStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with store:
        first = await fit(Api(), store, range(3))
        api = Api()

        result = await fit(api, store, range(5), resume=True)

        assert sorted(api.calls) == [3, 4]
        assert (result.run_id, result.counts["succeeded"], result.mean_reward["train"]) == (first.run_id, 5, 2.0)
        assert f"{first.run_id}: 2 tasks were appended to the 3 of its train dataset" in caplog.text


async def test_tasks_are_appended_once(store: LightningStore) -> None:
    async with store:
        await fit(Api(), store, range(3))
        await fit(Api(), store, range(5), resume=True)
        api = Api()

        await fit(api, store, range(5), resume=True)
        await fit(api, store, range(6), resume=True)

        assert api.calls == [5]


async def test_tasks_appended_to_an_interrupted_run_run_with_the_unfinished_ones(store: LightningStore) -> None:
    async def hang(task: int) -> float:
        return await Api()(task) if task < 2 else await trio.sleep_forever()

    async with store:
        with trio.move_on_after(0.5):
            await runner_of(hang, store, max_concurrency=1).fit(range(4))
        api = Api()

        result = await fit(api, store, range(6), resume=True)

        assert sorted(api.calls) == [2, 3, 4, 5]
        assert result.counts["succeeded"] == 6


async def test_tasks_may_be_appended_to_both_datasets(store: LightningStore) -> None:
    async with store:
        await runner_of(Api(), store).fit(range(2), range(10, 12))
        api = Api()

        result = await runner_of(api, store).fit(range(3), range(10, 13), resume=True)

        assert sorted(api.calls) == [2, 12]
        assert result.mean_reward == {"train": 1.0, "val": 11.0}


async def test_an_algorithm_runs_appended_tasks_only(store: LightningStore) -> None:
    calls: list[tuple[int, str]] = []

    async def agent(task: int, prompt: PromptTemplate) -> float:
        calls.append((task, prompt.template))
        return float(task)

    async with store:
        await runner_of(agent, store, algorithm=Rounds()).fit(range(2))
        calls.clear()

        result = await runner_of(agent, store, algorithm=Rounds()).fit(range(3), resume=True)

        assert sorted(calls) == [(2, "0"), (2, "1")]
        assert result.history[-1]["rewards"] == [0.0, 1.0, 2.0]


class Reversed(Algorithm):
    """Runs its tasks from the last to the first, so that appended ones change the place of the others."""

    async def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> None:
        assert train_dataset is not None
        done = await self.session.run(list(train_dataset)[::-1], mode="train")
        self.session.note(rewards=[each.final_reward for each in done])


async def test_another_task_in_the_same_place_never_gets_the_earlier_result(store: LightningStore) -> None:
    async with store:
        await runner_of(Api(), store, algorithm=Reversed()).fit(range(2))

        result = await runner_of(Api(), store, algorithm=Reversed()).fit(range(3), resume=True)

        assert result.history[-1]["rewards"] == [2.0, 1.0, 0.0]


# Datasets that differ.


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([0, 1, 33, 3], "task 2 of its train dataset was 2, and is now 33"),
        ([0, 1, 33, 3, 4, 5], "task 2 of its train dataset was 2, and is now 33"),
        ([0, 1, 2], r"its train dataset had 4 tasks.*, and this one has only 3 tasks.*; tasks may be appended"),
        ([3, 1, 2], "has only 3 tasks.*; task 0 of its train dataset was 0, and is now 3"),
    ],
)
async def test_another_dataset_is_refused_for_a_finished_run_with_the_task_that_differs(
    tasks: list[int], message: str, store: LightningStore
) -> None:
    async with store:
        first = await fit(Api(), store, range(4))

        with pytest.raises(ResumeError, match=message) as caught:
            await fit(Api(), store, tasks, resume=True)

        assert f'fit(…, resume="{first.run_id}", force_resume=True)' in str(caught.value)
        assert [run.status for run in await store.query_runs()] == ["finished"]


async def test_the_difference_may_be_in_the_validation_dataset(store: LightningStore) -> None:
    async with store:
        await runner_of(Api(), store).fit(range(2), [7, 8])

        with pytest.raises(ResumeError, match="task 1 of its val dataset was 8, and is now 9"):
            await runner_of(Api(), store).fit(range(2), [7, 9], resume=True)
        with pytest.raises(ResumeError, match=r"its val dataset had 2 tasks.*, and this one has no tasks"):
            await runner_of(Api(), store).fit(range(2), resume=True)


async def test_a_difference_that_no_rollout_shows_is_found_by_the_digests(store: LightningStore) -> None:
    async with store:
        await runner_of(Api(), store, algorithm=Reversed()).fit(range(2))

        with pytest.raises(
            ResumeError, match=r"and this one has 2 tasks \(fingerprint \w+\)(, and task 1 is another)?\."
        ):
            await runner_of(Api(), store, algorithm=Reversed()).fit([0, 7], resume=True)


async def test_of_a_long_dataset_in_memory_the_first_tasks_are_compared() -> None:
    async with InMemoryLightningStore() as store:
        first = await runner_of(Api(), store, algorithm=Reversed()).fit(range(100))
        more = await runner_of(Api(), store, algorithm=Reversed()).fit(range(110), resume=True)

        assert more.run_id == first.run_id
        with pytest.raises(ResumeError, match="its train dataset had 110 tasks"):
            await runner_of(Api(), store, algorithm=Reversed()).fit([*range(63), -1, *range(64, 110)], resume=True)


async def test_a_run_of_another_dataset_does_not_stand_in_the_way(store: LightningStore) -> None:
    async with store:
        finished = [await fit(Api(), store, tasks) for tasks in (range(3), range(3, 6))]
        with trio.CancelScope() as scope:

            async def cut_off(task: int) -> None:
                scope.cancel()
                await trio.sleep_forever()

            await fit(cut_off, store, range(4, 8))

        assert [await fit(Api(), store, tasks, resume=True) for tasks in (range(3), range(3, 6))] == finished
        with pytest.raises(ResumeError, match="its train dataset had 4 tasks"):
            await fit(Api(), store, range(3, 5), resume=True)


async def test_a_forced_run_runs_the_tasks_that_changed_and_is_the_datasets_from_then_on(
    store: LightningStore,
) -> None:
    async with store:
        await fit(Api(), store, range(4))
        api = Api()

        result = await fit(api, store, [0, 1, 33, 3], resume=True, force_resume=True)
        again = await fit(api, store, [0, 1, 33, 3], resume=True)

        assert api.calls == [33]
        assert result.counts["succeeded"] == 5
        assert again == result


@pytest.mark.parametrize(("tasks", "how"), [(range(4), {}), (range(3), {"repeats": 2})])
async def test_tasks_whose_rollouts_were_removed_do_not_run_and_count_twice(
    tasks: Sequence[int], how: dict[str, Any], store: LightningStore
) -> None:
    async with store:
        first = await fit(Api(), store, range(3))
        await store.prune()

        with pytest.raises(ResumeError, match=f"{first.run_id} .* 3 of its finished rollouts were removed"):
            await fit(Api(), store, tasks, resume=True, **how)
        assert await fit(Api(), store, range(3), resume=True) == first


class Question:
    """A task that knows nothing about equality, and that no other process could read."""

    def __init__(self, text: str, *parts: object) -> None:
        self.text = text
        self.parts = parts
        self.asked_by = lambda: None


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ([Question("a"), Question("b")], [Question("a"), Question("c")]),
        ([Question("a"), Question("b")], [Question("b"), Question("a")]),
        ([{"q": Question("a")}, 2], [{"q": Question("c")}, 2]),
        ([Question("a", Question("b"))], [Question("a", Question("c"))]),
        ([SimpleNamespace(q=1), 2], [SimpleNamespace(q=10), 2]),
        (np.arange(4), np.array([0, 1, 9, 3])),
    ],
    ids=["objects", "in another order", "within dicts", "within objects", "namespaces", "an array"],
)
async def test_tasks_of_any_kind_that_differ_are_refused(before: Sequence[Any], now: Sequence[Any]) -> None:
    async def agent(task: object) -> float:
        return 1.0

    async with InMemoryLightningStore() as store:
        await runner_of(agent, store).fit(before)

        with pytest.raises(ResumeError, match="of its train dataset was"):
            await runner_of(agent, store).fit(now, resume=True)


async def test_objects_with_the_same_attributes_are_the_same_tasks() -> None:
    async def agent(task: object) -> float:
        return 1.0

    def tasks() -> list[Question]:
        return [Question("a", np.arange(3), Question("b")), Question("c")]

    async with InMemoryLightningStore() as store:
        first = await runner_of(agent, store).fit(tasks())

        assert await runner_of(agent, store).fit(tasks(), resume=True) == first


async def test_tasks_may_be_appended_to_an_array(store: LightningStore) -> None:
    async with store:
        await fit(Api(), store, [5, 6])
        await fit(Api(), store, np.arange(4))
        again = Api()
        result = await fit(again, store, np.arange(6), resume=True)

    assert sorted(again.calls) == [4, 5]
    assert result.counts["succeeded"] == 6


async def test_tasks_that_cannot_be_compared_are_taken_for_the_same() -> None:
    async def agent(task: object) -> float:
        return 1.0

    async with InMemoryLightningStore() as store:
        first = await runner_of(agent, store).fit([object()])

        assert await runner_of(agent, store).fit([object()], resume=True) == first


# Repeats.


async def test_every_task_runs_as_often_as_it_is_repeated(store: LightningStore) -> None:
    async with store:
        api = Api()

        result = await runner_of(api, store).fit(range(2), [7], repeats=3)

        assert sorted(api.calls) == [0, 0, 0, 1, 1, 1, 7, 7, 7]
        assert result.counts["succeeded"] == 9
        seen = [(each.input, (each.metadata or {})["repeat"]) for each in await store.query_rollouts()]
        assert seen == [(task, repeat) for task in (0, 1, 7) for repeat in range(3)]
        assert len({each.key for each in await store.query_rollouts()}) == 9


async def test_an_interrupted_run_with_repeats_runs_only_what_is_missing(store: LightningStore) -> None:
    async def hang(task: int) -> float:
        return await Api()(task) if task < 2 else await trio.sleep_forever()

    async with store:
        with trio.move_on_after(0.5):
            await runner_of(hang, store, max_concurrency=1).fit(range(4), repeats=2)
        api = Api()

        result = await fit(api, store, range(4), resume=True, repeats=2)

        assert sorted(api.calls) == [2, 2, 3, 3]
        assert result.counts["succeeded"] == 8


async def test_more_repeats_are_run_as_appended_ones_and_fewer_are_refused(store: LightningStore) -> None:
    async with store:
        await fit(Api(), store, range(2))
        api = Api()

        result = await fit(api, store, range(2), resume=True, repeats=3)

        assert sorted(api.calls) == [0, 0, 1, 1]
        assert result.counts["succeeded"] == 6
        with pytest.raises(ResumeError, match="it was begun with repeats=3, and this call has repeats=2"):
            await fit(api, store, range(2), resume=True, repeats=2)


async def test_a_session_runs_repeats_of_a_task_in_a_row() -> None:
    @agl.algo
    async def once(session: agl.Session, train_dataset: Sequence[int]) -> None:
        done = await session.run(train_dataset, metadata={"fold": 1}, repeats=2)
        session.note(tasks=[each.rollout.input for each in done], metadata=[each.rollout.metadata for each in done])
        await session.work_off(train_dataset)

    result = await runner_of(Api(), InMemoryLightningStore(), algorithm=once).fit([5, 6], repeats=3)

    assert result.history[0]["tasks"] == [5, 5, 6, 6]
    assert result.history[0]["metadata"] == [{"fold": 1, "repeat": 0}, {"fold": 1, "repeat": 1}] * 2
    assert result.counts["succeeded"] == 4 + 6


async def test_the_share_of_failures_is_of_all_repeats() -> None:
    api = Api(task0=ConnectionError("down"))

    result = await runner_of(api, InMemoryLightningStore(), max_failures=0.5).fit(range(2), repeats=4)

    assert result.ended_early is None
    assert result.counts["failed"] == 4


@pytest.mark.parametrize("repeats", [0, -1, "2", 1.5])
async def test_repeats_are_a_positive_number(repeats: Any) -> None:
    with pytest.raises(UsageError, match="repeats="):
        await fit(Api(), InMemoryLightningStore(), repeats=repeats)


def test_dev_and_fit_of_a_trainer_repeat_tasks() -> None:
    trainer = agl.Trainer()

    assert trainer.dev(len, ["a", "bc"], repeats=2).counts["succeeded"] == 4
    assert trainer.fit(len, ["a", "bc"], repeats=2).counts["succeeded"] == 4
