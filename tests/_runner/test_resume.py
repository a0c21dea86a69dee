"""Resumed runs: finished rollouts are kept, interrupted ones run again, counts cover the whole run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import (
    Algorithm,
    Attempt,
    DatasetFingerprint,
    InMemoryLightningStore,
    PromptTemplate,
    ResumeError,
    RolloutConfig,
    Run,
    Runner,
    UsageError,
    Worker,
    audit,
)
from lightning_trio._errors import StoreUnavailable
from lightning_trio._host import own_process
from lightning_trio._lifecycle import rank_runs
from lightning_trio._records import RolloutStatus
from lightning_trio._runner._lease import LEASE_SECONDS, is_alive, is_of_dead_process
from lightning_trio.algorithms import Datasets
from lightning_trio.store import AttemptOutcome, Query

TASKS = list(range(10))


class Agent:
    """An agent that counts its calls, and takes a second from the task `slow_from` on."""

    def __init__(self, slow_from: int = 1000) -> None:
        self.slow_from = slow_from
        self.calls: list[int] = []

    async def __call__(self, task: int) -> float:
        self.calls.append(task)
        await trio.sleep(100.0 if task >= self.slow_from else 0.01)
        return float(task)


async def cut_off(store: agl.LightningStore, seconds: float = 1.0, **options: Any) -> Agent:
    """Start a run and cancel it when the first five of its tasks are done."""
    agent = Agent(slow_from=5)
    with trio.move_on_after(seconds):
        await Runner(agl.rollout(name="agent")(agent), store=store, max_concurrency=2, **options).fit(TASKS)
    return agent


def runner_of(agent: Agent, store: agl.LightningStore, **options: Any) -> Runner:
    return Runner(agl.rollout(name="agent")(agent), store=store, **options)


async def test_a_resumed_run_runs_only_what_is_missing(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore() as store:
        first = await cut_off(store)
        second = Agent()

        result = await runner_of(second, store).fit(TASKS, resume=True)

        assert sorted(first.calls) == [0, 1, 2, 3, 4, 5, 6]
        assert sorted(second.calls) == [5, 6, 7, 8, 9]
        assert result.counts == {"cancelled": 0, "failed": 0, "succeeded": 10}
        assert result.mean_reward["train"] == 4.5
        assert (await audit(store)).clean


async def test_times_cover_the_whole_run(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore() as store:
        await cut_off(store, seconds=7.0)

        result = await runner_of(Agent(), store).fit(TASKS, resume=True)

        assert result.duration == pytest.approx(7.0, abs=0.5)
        assert result.agent_seconds > 0.1


async def test_a_finished_run_gives_its_result_again(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore() as store:
        finished = await runner_of(Agent(), store).fit(TASKS)
        again = Agent()

        result = await runner_of(again, store).fit(TASKS, resume=True)

        assert not again.calls
        assert result == finished


async def test_where_there_is_nothing_to_resume_a_run_begins(autojump_clock: MockClock) -> None:
    agent = Agent()

    result = await runner_of(agent, InMemoryLightningStore()).fit(TASKS, resume=True)

    assert len(agent.calls) == 10
    assert result.counts["succeeded"] == 10


async def test_without_resume_a_new_run_begins_and_the_old_one_stays_unfinished(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore() as store:
        await cut_off(store)
        agent = Agent()

        await runner_of(agent, store).fit(TASKS)

        assert len(agent.calls) == 10
        assert [run.status for run in await store.query_runs()] == ["running", "finished"]


async def test_a_run_is_resumed_by_its_id(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore() as store:
        await cut_off(store)
        await cut_off(store)
        [first, second] = await store.query_runs()

        result = await runner_of(Agent(), store).fit(TASKS, resume=first.run_id)

        assert result.run_id == first.run_id
        assert [run.status for run in await store.query_runs()] == ["finished", "running"]
        assert second.run_id != first.run_id


async def test_an_unknown_run_is_refused() -> None:
    with pytest.raises(ResumeError, match="resume='run-nowhere': the store has no such run; its latest runs: none"):
        await runner_of(Agent(), InMemoryLightningStore()).fit(TASKS, resume="run-nowhere")


async def test_another_dataset_is_refused_naming_the_difference_and_the_way_to_force_it(
    autojump_clock: MockClock,
) -> None:
    async with InMemoryLightningStore() as store:
        await cut_off(store)
        [run] = await store.query_runs()

        with pytest.raises(ResumeError) as caught:
            await runner_of(Agent(), store).fit(TASKS[:9], resume=True)

        assert "its train dataset had 10 tasks, and this one has only 9 tasks; tasks may be appended" in str(
            caught.value
        )
        assert f'fit(…, resume="{run.run_id}", force_resume=True)' in str(caught.value)


async def test_runs_of_another_agent_are_left_alone_and_refused_by_their_id(autojump_clock: MockClock) -> None:
    async def other(task: int) -> float:
        return 0.0

    async with InMemoryLightningStore() as store:
        await cut_off(store)
        [run] = await store.query_runs()

        result = await Runner(other, store=store).fit(TASKS, resume=True)

        assert result.run_id != run.run_id
        with pytest.raises(ResumeError, match="it was begun with the agent 'agent', and this one is 'other'"):
            await Runner(other, store=store).fit(TASKS, resume=run.run_id)


async def test_force_continues_anyway(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore() as store:
        await cut_off(store)
        agent = Agent()

        result = await runner_of(agent, store).fit([*TASKS, 10], resume=True, force_resume=True)

        assert sorted(agent.calls) == [5, 6, 7, 8, 9, 10]
        assert result.counts["succeeded"] == 11


async def test_runs_of_another_name_are_left_alone(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore() as store:
        await cut_off(store, run_name="first")
        agent = Agent()

        result = await runner_of(agent, store, run_name="second").fit(TASKS, resume=True)

        assert len(agent.calls) == 10
        assert result.run_id != (await store.query_runs(name="first"))[0].run_id


async def test_the_resources_of_a_resumed_run_keep_their_id_and_are_todays(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(task: int, prompt: PromptTemplate) -> float:
        await trio.sleep(100.0 if task >= 5 and prompt.template == "old" else 0.0)
        return float(prompt.template == "new")

    def template(text: str) -> dict[str, PromptTemplate]:
        return {"prompt": PromptTemplate(text, engine="f-string")}

    async with InMemoryLightningStore() as store:
        with trio.move_on_after(1):
            await Runner(agent, store=store, resources=template("old")).fit(TASKS)

        result = await Runner(agent, store=store, resources=template("new")).fit(TASKS, resume=True)

        rollouts = await store.query_rollouts()
        assert len({rollout.resources_id for rollout in rollouts}) == 1
        assert result.mean_reward["train"] == 0.5
        assert "started with other resources" in caplog.text


async def test_a_model_that_has_moved_is_no_other_resource(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(task: int, llm: agl.LLM) -> float:
        return float(llm.endpoint[-1])

    def at(endpoint: str) -> dict[str, agl.LLM]:
        return {"llm": agl.LLM(endpoint=endpoint, model="m", api_key="secret")}

    async with InMemoryLightningStore() as store:
        await store.put([run_of(agent="agent", datasets={"train": DatasetFingerprint(1)}, resources_id="rs-1")])
        await store.update_resources("rs-1", at("http://h:1"))

        result = await Runner(agent, store=store, resources=at("http://h:2")).fit([0], resume=True)

        assert result.mean_reward["train"] == 2.0
        assert result.run_id == "run-1"
        assert "other resources" not in caplog.text


class Rounds(Algorithm):
    """Three rounds with candidates that can be computed again, so that no state is saved."""

    async def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> None:
        assert train_dataset is not None
        for number in range(3):
            snapshot = await self.session.publish({"prompt": PromptTemplate(str(number), engine="f-string")})
            done = await self.session.run(train_dataset, mode="train", resources=snapshot)
            self.session.note(round=number, reward=sum(each.final_reward or 0.0 for each in done))
            self.session.declare_best(snapshot)


class Saving(Algorithm):
    """`Rounds` with its state saved after each round."""

    def __init__(self) -> None:
        self.begun_with: list[Any] = []

    async def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> None:
        assert train_dataset is not None
        state = await self.session.load_state()
        self.begun_with.append(state)
        for number in range(0 if state is None else state["next"], 3):
            snapshot = await self.session.publish({"prompt": PromptTemplate(str(number), engine="f-string")})
            done = await self.session.run(train_dataset, mode="train", resources=snapshot)
            self.session.note(round=number, reward=sum(each.final_reward or 0.0 for each in done))
            self.session.declare_best(snapshot)
            await self.session.save_state({"next": number + 1})


@pytest.mark.parametrize("algorithm", [Rounds, Saving])
async def test_an_algorithm_continues_where_it_stopped(algorithm: type[Algorithm], autojump_clock: MockClock) -> None:
    calls: list[tuple[int, str]] = []
    slow = True

    @agl.rollout
    async def agent(task: int, prompt: PromptTemplate) -> float:
        await trio.sleep(100.0 if slow and prompt.template == "1" and task >= 3 else 0.01)
        calls.append((task, prompt.template))
        return float(prompt.template) + task

    async with InMemoryLightningStore() as store:
        with trio.move_on_after(5):
            await Runner(agent, store=store, algorithm=algorithm()).fit(range(5))
        slow = False

        result = await Runner(agent, store=store, algorithm=algorithm()).fit(range(5), resume=True)

        assert sorted(calls) == [(task, str(number)) for task in range(5) for number in range(3)]
        assert [entry["reward"] for entry in result.history] == [10.0, 15.0, 20.0]
        assert result.resources["prompt"] == PromptTemplate("2", engine="f-string")
        # With a state, the unfinished rollouts of the interrupted round are cancelled and enqueued again.
        given_up = 2 if algorithm is Saving else 0
        assert result.counts == {"cancelled": given_up, "failed": 0, "succeeded": 15}


async def test_saved_state_is_given_back_and_nothing_in_a_new_run(autojump_clock: MockClock) -> None:
    slow = True

    @agl.rollout
    async def agent(task: int, prompt: PromptTemplate) -> float:
        await trio.sleep(100.0 if slow and prompt.template == "2" else 0.0)
        return 1.0

    algorithm = Saving()
    async with InMemoryLightningStore() as store:
        with trio.move_on_after(5):
            await Runner(agent, store=store, algorithm=algorithm).fit(range(5))
        slow = False
        await Runner(agent, store=store, algorithm=algorithm).fit(range(5), resume=True)

    assert algorithm.begun_with == [None, {"next": 2}]


async def test_a_run_that_is_being_worked_on_is_refused(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore() as store, trio.open_nursery() as nursery:
        nursery.start_soon(cut_off, store, 50.0)
        await trio.sleep(2)

        with pytest.raises(
            ResumeError, match=r"is being worked on by runner-\w+ \(process \d+ on .+, last heartbeat 2 s ago"
        ):
            await runner_of(Agent(), store).fit(TASKS, resume=True)

        nursery.cancel_scope.cancel()


async def test_max_rollouts_covers_the_whole_run(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore() as store:
        await cut_off(store, max_rollouts=7)
        agent = Agent()

        result = await runner_of(agent, store, max_rollouts=7).fit(TASKS, resume=True)

        assert sorted(agent.calls) == [5, 6]
        assert result.counts == {"cancelled": 3, "failed": 0, "succeeded": 7}


def test_the_trainer_resumes_as_well() -> None:
    store = InMemoryLightningStore()
    trainer = agl.Trainer(store=store, run_name="mine")
    finished = trainer.fit(len, ["a", "bc"])

    assert trainer.fit(len, ["a", "bc"], resume=True) == finished
    assert [run.name for run in trio.run(store.query_runs)] == ["mine"]
    with pytest.raises(ResumeError, match="the store has no such run"):
        trainer.fit(len, ["a", "bc"], resume="run-nowhere")


# Choosing.


def run_of(run_id: str = "run-1", status: Any = "running", **fields: Any) -> Run:
    fields = {"agent": "agent", "algorithm": "Baseline", "datasets": {"train": DatasetFingerprint(3, "abc")}, **fields}
    return Run(run_id, status=status, **fields)


def test_the_latest_unfinished_run_of_the_same_kind_is_chosen() -> None:
    runs = [run_of("run-1"), run_of("run-2"), run_of("run-3", agent="other"), run_of("run-4", "finished")]

    chosen = rank_runs(runs, run_of("run-5"), True)[0]

    assert chosen.run is runs[1]
    assert not chosen.differences


def test_equal_numbers_of_other_tasks_are_distinguished_by_their_digest() -> None:
    other = run_of("run-1", datasets={"train": DatasetFingerprint(3, "xyz")})

    chosen = rank_runs([other], run_of(), True)[0]

    assert chosen.differences == {
        "train": "its train dataset had 3 tasks (fingerprint xyz), and this one has 3 tasks (fingerprint abc)"
    }


def test_a_finished_run_of_another_dataset_differs_as_well() -> None:
    other = run_of("run-1", "finished", datasets={"train": DatasetFingerprint(9, "xyz")})

    chosen = rank_runs([other], run_of(), True)[0]

    assert list(chosen.differences) == ["train"]


def test_finished_runs_of_another_algorithm_do_not_stand_in_the_way() -> None:
    assert not rank_runs([run_of("run-1", "finished", algorithm="apo")], run_of(), True)


def test_of_several_runs_the_one_with_the_same_datasets_comes_before_later_shorter_ones() -> None:
    same = run_of("run-1", "finished")
    shorter = run_of("run-2", "finished", datasets={"train": DatasetFingerprint(2, "ab")})
    wanted = run_of("run-3", datasets={"train": DatasetFingerprint(3, "abc", prefixes={2: "ab"})})

    chosen = rank_runs([same, shorter], wanted, True)[0]

    assert chosen.run is same


@pytest.mark.parametrize(("before", "appended"), [("ab", {"train": 1}), ("xy", {})])
def test_appended_tasks_are_recognized_by_the_digest_of_those_before(before: str, appended: dict[str, int]) -> None:
    shorter = run_of("run-1", datasets={"train": DatasetFingerprint(2, before)})
    wanted = run_of("run-2", datasets={"train": DatasetFingerprint(3, "abc", prefixes={2: "ab"})})

    chosen = rank_runs([shorter], wanted, True)[0]

    assert chosen.appended == appended
    assert bool(chosen.differences) == (not appended)


@pytest.mark.parametrize(
    ("tasks", "changed", "place"),
    [
        (1, 0, ", and task 0 is another"),
        (3, 0, ", and task 0 is another"),
        (3, 2, ", and task 2 is another"),
        (1000, 15, ", and one of the tasks 0 to 15 is another"),
        (1000, 16, ", and one of the tasks 16 to 31 is another"),
        (1000, 999, ", and one of the tasks 992 to 999 is another"),
    ],
)
@pytest.mark.parametrize("appended", [0, 5])
async def test_the_place_of_the_first_difference_is_found_by_digests(
    tasks: int, changed: int, place: str, appended: int
) -> None:
    before = run_of("run-1", datasets=await Datasets(range(tasks), None).fingerprints())
    now = [-1 if task == changed else task for task in range(tasks + appended)]
    fingerprints = await Datasets(now, None).fingerprints(before=[before])

    chosen = rank_runs([before], run_of("run-2", datasets=fingerprints), True)[0]

    assert chosen.differences["train"].endswith(place)


# Leases.


async def test_the_rollouts_of_a_runner_that_has_died_go_to_a_survivor(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with InMemoryLightningStore() as store:
        await store.put([Worker("dead", lease_seconds=LEASE_SECONDS)])
        await store.enqueue_rollout(1)
        claimed = await store.dequeue_rollout("dead")
        assert claimed is not None

        async with Runner(Agent(), store=store) as runner, trio.open_nursery() as nursery:
            nursery.start_soon(runner.serve)
            [done] = await store.wait_for_rollouts([claimed.rollout_id])
            nursery.cancel_scope.cancel()

        assert done.status == "succeeded"
        assert trio.current_time() == pytest.approx(LEASE_SECONDS, abs=1.0)
        assert [a.status for a in await store.query_attempts(claimed.rollout_id)] == ["unresponsive", "succeeded"]
        assert "a runner has died or lost contact: 1 of its rollouts go back to the queue" in caplog.text


async def test_a_runner_that_lives_keeps_its_rollouts_however_long_they_take(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore() as store:
        result = await Runner(Agent(slow_from=0), store=store).fit([1])

        assert result.counts["succeeded"] == 1
        assert len(await store.query_attempts((await store.query_rollouts())[0].rollout_id)) == 1


async def test_a_runner_holds_its_lease_for_as_long_as_configured(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()
    async with Runner(Agent(), store=store, lease_seconds=2.0):
        [worker] = await store.query_workers()

    assert worker.lease_seconds == 2.0


@pytest.mark.parametrize("seconds", [0, -1.0, float("inf"), "2"])
def test_a_lease_of_no_time_is_refused(seconds: Any) -> None:
    with pytest.raises(agl.UsageError, match="lease_seconds="):
        Runner(Agent(), lease_seconds=seconds)


async def test_a_closed_runner_holds_no_lease(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore() as store:
        await Runner(Agent(), store=store).fit([1])

        [worker] = await store.query_workers()
        assert (worker.status, worker.lease_seconds) == ("idle", None)


class Failing(InMemoryLightningStore):
    """A store that refuses to commit the first `times` outcomes."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.times = times

    async def finish(self, outcomes: Sequence[AttemptOutcome]) -> list[RolloutStatus | None]:
        self.times -= 1
        if self.times >= 0:
            raise StoreUnavailable("the disk is away")
        return await super().finish(outcomes)


async def test_a_runner_that_could_not_commit_holds_nothing_once_it_is_closed(autojump_clock: MockClock) -> None:
    config = RolloutConfig(max_lost_attempts=1)
    async with Failing(1) as store:
        with pytest.raises(StoreUnavailable, match="the disk is away"):
            await runner_of(Agent(), store, config=config, max_concurrency=3).fit(range(5))

        [worker] = await store.query_workers()
        assert (worker.lease_seconds, await unended(store)) == (None, [])
        # The rollouts are not at fault, so even one loss would be too many.
        result = await runner_of(Agent(), store, config=config).fit(range(5), resume=True)
        assert result.counts["succeeded"] == 5


async def test_a_lease_is_left_to_run_out_where_the_store_fails(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with Failing(float("inf")) as store:
        with pytest.raises(StoreUnavailable, match="the disk is away"):
            await runner_of(Agent(), store, max_concurrency=3).fit(range(5))

        [worker] = await store.query_workers()
        assert worker.lease_seconds == LEASE_SECONDS
        assert "could not end its lease (StoreUnavailable: the disk is away)" in caplog.text
        store.times = 0
        await trio.sleep(LEASE_SECONDS)
        expiry = await store.expire()
        assert len(expiry.requeued) > 0
        assert await unended(store) == []


async def unended(store: InMemoryLightningStore) -> list[Attempt]:
    return [attempt for attempt in await store.find(Query("attempts")) if attempt.end_time is None]


def worker_of(process: int, **changes: Any) -> Worker:
    stats = {**own_process(), "started": None, **changes, "process": process}
    return Worker("w", heartbeat_stats=stats, lease_seconds=30.0, lease_left_seconds=10.0)


def test_a_dead_process_of_this_machine_is_distinguished_from_a_living_one() -> None:
    assert is_alive(worker_of(os.getpid()))
    assert is_of_dead_process(worker_of(2**22 + 1))
    assert not is_alive(worker_of(2**22 + 1))


def test_a_worker_is_alive_as_long_as_the_store_says_that_its_lease_lasts() -> None:
    # Whatever the time is here, because the other machine's clock may differ.
    assert is_alive(attrs.evolve(worker_of(os.getpid()), last_heartbeat_time=0.0))
    assert not is_alive(attrs.evolve(worker_of(os.getpid()), lease_left_seconds=None, last_heartbeat_time=1e12))


@pytest.mark.parametrize("name", ["host", "boot", "namespace"])
def test_of_processes_elsewhere_nothing_is_known(name: str) -> None:
    assert not is_of_dead_process(worker_of(2**22 + 1, **{name: "another"}))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say when a process began")
def test_a_later_process_of_the_same_number_is_another() -> None:
    own = own_process()

    assert not is_of_dead_process(worker_of(os.getpid(), started=own["started"]))
    assert is_of_dead_process(worker_of(os.getpid(), started="1"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say whether a process has ended")
def test_a_process_that_has_not_been_waited_for_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

        assert is_of_dead_process(worker_of(process.pid))


def test_resuming_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with InMemoryLightningStore() as store:
            await cut_off(store)
            await runner_of(Agent(), store).fit(TASKS, resume=True)

    with caplog.at_level(logging.INFO, "lightning_trio.runner"):
        trio.run(main, clock=MockClock(autojump_threshold=0))

    assert "resuming run-" in caplog.text
    assert ": 5 rollouts are done, 5 started ones are not" in caplog.text


# Stores that outlive the process.


async def test_a_run_with_a_name_is_kept_in_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = await Runner(len, run_name="nightly").fit(["a", "bc"])

    again = await Runner(len, run_name="nightly").fit(["a", "bc"], resume=True)

    assert (tmp_path / "runs" / "nightly.db").is_file()
    assert again == finished


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "a:b", "\U0001f600" * 99])
def test_a_name_that_cannot_be_a_files_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"run_name=.* cannot be the name of a file; use letters"):
        Runner(len, run_name=name)


@pytest.mark.parametrize("name", ["a\nb", "a\0", "x" * 101, "\ud800", 3])
@pytest.mark.parametrize("store", [None, agl.InMemoryLightningStore()])
def test_a_name_that_is_no_line_of_text_is_refused(name: Any, store: agl.LightningStore | None) -> None:
    with pytest.raises(ValueError, match=r"run_name=.*; pass one line of text, with at most 100 characters"):
        Runner(len, run_name=name, store=store)
    with pytest.raises(ValueError, match=r"run_name=.*; pass one line of text, with at most 100 characters"):
        agl.Trainer(run_name=name, store=store)


KILLED = """
import os, signal, sys, trio
import lightning_trio as agl

@agl.rollout(name="agent")
async def agent(task):
    if task == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    await trio.sleep(0.001)
    return 1.0

trio.run(agl.Runner(agent, store=agl.SqliteLightningStore(sys.argv[1]), max_concurrency=4).fit, range(100))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
async def test_a_run_whose_process_was_killed_continues_at_once(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    killed = await trio.run_process([sys.executable, "-c", KILLED, str(path)], check=False)
    agent = Agent()

    async with agl.SqliteLightningStore(path) as store:
        with trio.fail_after(LEASE_SECONDS / 2):
            result = await runner_of(agent, store).fit(range(100), resume=True)
        found = await audit(store)

    assert killed.returncode == -9
    assert 59 < len(agent.calls) < 100
    assert result.counts == {"cancelled": 0, "failed": 0, "succeeded": 100}
    assert found.clean, found.problems


async def kill(process: trio.Process) -> None:
    process.kill()


async def test_another_process_that_lives_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    living = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "print(flush=True); await trio.sleep(60)")
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(trio.run_process, deliver_cancel=kill, stdout=subprocess.PIPE, check=False),
            [sys.executable, "-c", living, str(path)],
        )
        await process.stdout.receive_some()

        async with agl.SqliteLightningStore(path) as store:
            with pytest.raises(ResumeError, match=f"process {process.pid} on "):
                await runner_of(Agent(), store).fit(range(100), resume=True)

        nursery.cancel_scope.cancel()


async def test_datasets_that_differ_in_one_task_are_distinguished(tmp_path: Path) -> None:
    async with agl.SqliteLightningStore(tmp_path / "runs.db") as store:
        await store.put([run_of(datasets=await Datasets(["a", "b"], None).fingerprints())])

        with pytest.raises(ResumeError, match="its train dataset had 2 tasks"):
            await runner_of(Agent(), store).fit(["a", "c"], resume=True)


async def test_rounds_that_are_decided_differently_get_rollouts_of_their_own(tmp_path: Path) -> None:
    offset = 0

    @agl.algo
    async def wavering(session: agl.Session, train_dataset: Sequence[int]) -> None:
        done = await session.run([task + offset for task in train_dataset], mode="train")
        session.note(rewards=[each.final_reward for each in done])
        if offset == 0:
            raise RuntimeError("cut off")

    async with agl.SqliteLightningStore(tmp_path / "runs.db") as store:
        with pytest.raises(RuntimeError, match="cut off"):
            await runner_of(Agent(), store, algorithm=wavering).fit([1, 2])
        offset = 1
        result = await runner_of(Agent(), store, algorithm=wavering).fit([1, 2], resume=True)

    assert list(result.history) == [{"rewards": [2.0, 3.0]}]
    assert result.counts["succeeded"] == 4


# Unusual ways to resume.


async def test_a_published_model_that_has_moved_is_the_same_candidate(autojump_clock: MockClock) -> None:
    calls: list[int] = []
    slow = True

    @agl.rollout
    async def agent(task: int, llm: agl.LLM, prompt: PromptTemplate) -> float:
        await trio.sleep(100.0 if slow and task >= 3 else 0.01)
        calls.append(task)
        return 1.0

    @agl.algo
    async def publishing(session: agl.Session, train_dataset: Sequence[int]) -> None:
        prompt = PromptTemplate("better", engine="f-string")
        candidate = await session.publish({**session.initial_resources, "prompt": prompt})
        await session.run(train_dataset, resources=candidate)

    def at(endpoint: str) -> dict[str, agl.Resource]:
        prompt = PromptTemplate("first", engine="f-string")
        return {"llm": agl.LLM(endpoint=endpoint, model="m", api_key="secret"), "prompt": prompt}

    async with InMemoryLightningStore() as store:
        with trio.move_on_after(5):
            await Runner(agent, store=store, algorithm=publishing, resources=at("http://h:1")).fit(range(5))
        slow = False
        result = await Runner(agent, store=store, algorithm=publishing, resources=at("http://h:2")).fit(
            range(5), resume=True
        )

    assert sorted(calls) == list(range(5))
    assert result.counts == {"cancelled": 0, "failed": 0, "succeeded": 5}


@agl.algo
async def wavering_rounds(session: agl.Session, train_dataset: Sequence[int]) -> None:
    """Three rounds, each with a candidate that differs from process to process."""
    state = await session.load_state() or {"next": 0}
    for number in range(state["next"], 3):
        text = f"{number} {os.urandom(8).hex()}"
        candidate = await session.publish({"prompt": PromptTemplate(text, engine="f-string")})
        await session.run(train_dataset, mode="train", resources=candidate)
        await session.save_state({"next": number + 1})


async def test_what_is_left_of_a_round_that_was_cut_off_is_cancelled_when_its_state_is_loaded(
    autojump_clock: MockClock,
) -> None:
    ran: list[str] = []
    slow = True

    @agl.rollout
    async def agent(task: int, prompt: PromptTemplate) -> float:
        await trio.sleep(100.0 if slow and prompt.template.startswith("1") and task >= 3 else 0.01)
        ran.append(prompt.template)
        return 1.0

    async with InMemoryLightningStore() as store:
        with trio.move_on_after(5):
            await Runner(agent, store=store, algorithm=wavering_rounds, max_concurrency=4).fit(range(10))
        slow = False
        abandoned = {template for template in ran if template.startswith("1")}
        before = len(ran)
        result = await Runner(agent, store=store, algorithm=wavering_rounds).fit(range(10), resume=True)

        assert not abandoned & set(ran[before:])
        assert len(ran) - before == 20
        assert result.counts["succeeded"] == len(ran)
        assert (await audit(store)).clean


async def test_max_rollouts_holds_over_all_processes_of_an_algorithm_with_state(autojump_clock: MockClock) -> None:
    ran: list[int] = []
    slow = True

    @agl.rollout
    async def agent(task: int, prompt: PromptTemplate) -> float:
        await trio.sleep(100.0 if slow and prompt.template.startswith("1") else 0.01)
        ran.append(task)
        return 1.0

    async with InMemoryLightningStore() as store:
        with trio.move_on_after(5):
            await Runner(agent, store=store, algorithm=wavering_rounds, max_rollouts=25).fit(range(10))
        slow = False
        await Runner(agent, store=store, algorithm=wavering_rounds, max_rollouts=25).fit(range(10), resume=True)

    assert len(ran) <= 25


async def test_pruning_leaves_runs_that_can_be_resumed_alone(autojump_clock: MockClock) -> None:
    async with InMemoryLightningStore() as store:
        await cut_off(store)
        agent = Agent()

        assert await store.prune() == 0
        result = await runner_of(agent, store).fit(TASKS, resume=True)

        assert sorted(agent.calls) == [5, 6, 7, 8, 9]
        assert result.counts["succeeded"] == 10
        assert await store.prune() == 10


async def test_of_several_that_resume_a_run_at_once_one_continues(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with agl.SqliteLightningStore(path) as store:
        await store.put([run_of(datasets=await Datasets(TASKS, None).fingerprints(), worker_id="gone")])

    outcomes: list[str] = []

    async def resume() -> None:
        async with agl.SqliteLightningStore(path) as mine:
            try:
                await runner_of(Agent(), mine).fit(TASKS, resume="run-1")
                outcomes.append("ran")
            except ResumeError as exc:
                outcomes.append("refused" if "just been resumed" in str(exc) or "worked on" in str(exc) else str(exc))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(resume)

    assert sorted(outcomes) in (["ran", "refused", "refused"], ["ran", "ran", "refused"], ["ran", "ran", "ran"])
    async with agl.SqliteLightningStore(path) as store:
        assert (await audit(store)).clean
        assert len(await store.query_rollouts()) == len(TASKS)


@pytest.mark.parametrize("resume", [None, 0, 3, []])
async def test_resume_takes_a_bool_or_the_id_of_a_run(resume: Any) -> None:
    with pytest.raises(UsageError, match="pass True, False, or the id of a run"):
        await runner_of(Agent(), InMemoryLightningStore()).fit(TASKS, resume=resume)


async def test_force_without_resume_is_refused() -> None:
    with pytest.raises(UsageError, match="force_resume=True has no effect without resume"):
        await runner_of(Agent(), InMemoryLightningStore()).fit(TASKS, force_resume=True)


@pytest.mark.parametrize(("train", "val", "named"), [(3000, 2, "train_dataset"), (2, 3000, "val_dataset")])
async def test_a_task_that_cannot_be_stored_is_refused_before_any_has_run(
    train: int, val: int, named: str, tmp_path: Path
) -> None:
    ran: list[Any] = []

    async def note(task: Any) -> None:
        ran.append(task)

    datasets: list[list[Any]] = [list(range(train)), list(range(val))]
    datasets[named == "val_dataset"].append({"image": object()})
    store = agl.SqliteLightningStore(tmp_path / "s.db")
    with pytest.raises(agl.NotStorable, match=rf"{named}\[3000\]\['image'\]: object of type builtins.object cannot"):
        await Runner(note, store=store).fit(*datasets)

    assert ran == []
    async with store:
        assert list(await store.query_runs()) == []
