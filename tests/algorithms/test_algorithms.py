"""Algorithms: the baseline, functions, classes, and the session."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import Algorithm, Baseline, PromptTemplate, Runner, Session


async def double(task: float) -> float:
    return task * 2


async def length(task: str, prompt: PromptTemplate) -> float:
    return float(len(prompt.format(task=task)))


def prompt(text: str) -> agl.NamedResources:
    return {"prompt": PromptTemplate(text, engine="f-string")}


# The baseline.


async def test_the_baseline_runs_everything_once_for_each_epoch() -> None:
    result = await Runner(double, algorithm=Baseline(n_epochs=3)).fit([1, 2], [3])

    assert result.counts["succeeded"] == 9


def test_the_baseline_wants_an_epoch() -> None:
    with pytest.raises(ValueError, match="n_epochs=0: pass at least 1"):
        Baseline(n_epochs=0)


async def test_the_baseline_runs_a_validation_set_alone() -> None:
    result = await Runner(double).fit(None, [3])

    assert result.mean_reward == {"train": None, "val": 6.0}


# The session.


async def test_run_gives_results_in_the_order_of_the_tasks(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> float:
        await trio.sleep(100 - task)
        return float(task)

    order: list[float | None] = []

    @agl.algo
    async def once(session: Session, train_dataset: list[int]) -> None:
        order.extend(done.final_reward for done in await session.run(train_dataset, mode="train"))

    await Runner(agent, algorithm=once).fit(list(range(100)))

    assert order == [float(number) for number in range(100)]


async def test_results_carry_status_error_and_spans() -> None:
    results: list[agl.CompletedRollout] = []

    async def agent(task: int) -> float:
        if task == 1:
            raise ValueError("one")
        return 1.0

    @agl.algo
    async def once(session: Session, train_dataset: list[int]) -> None:
        results.extend(await session.run(train_dataset, mode="train"))

    await Runner(agent, algorithm=once).fit([0, 1])

    good, bad = results
    assert (good.status, len(good.spans)) == ("succeeded", 2)
    assert bad.error is not None
    assert (bad.status, bad.error.message) == ("failed", "one")


async def test_candidates_are_published_tried_and_the_best_declared() -> None:
    @agl.algo
    async def search(session: Session, train_dataset: list[str], val_dataset: list[str]) -> None:
        for text in ("{task}", "{task}!!", "{task}?"):
            snapshot = await session.publish(prompt(text))
            done = await session.run(val_dataset, mode="val", resources=snapshot)
            score = sum(each.final_reward or 0 for each in done)
            if score > max((note["score"] for note in session.history), default=0):
                session.declare_best(snapshot)
            session.note(text=text, score=score)

    runner = Runner(length, resources=prompt("{task}"), algorithm=search)
    result = await runner.fit(["x"], ["a", "b"])

    assert result.resources == prompt("{task}!!")
    assert [note["score"] for note in result.history] == [2, 6, 4]
    stored = await runner.store.get_resources_by_id(result.resources_id or "")
    assert stored is not None
    assert stored.resources == result.resources


async def test_the_best_so_far_is_what_rollouts_run_with() -> None:
    @agl.algo
    async def improve(session: Session, train_dataset: list[str]) -> None:
        session.declare_best(await session.publish(prompt("{task} and more")))
        await session.work_off(train_dataset, mode="train")

    result = await Runner(length, resources=prompt("{task}"), algorithm=improve).fit(["x"])

    assert result.mean_reward["train"] == len("x and more")


async def test_what_an_algorithm_enqueues_belongs_to_its_run() -> None:
    @agl.algo
    async def by_hand(session: Session, store: agl.LightningStore, train_dataset: list[int]) -> None:
        rollout = await store.enqueue_rollout(train_dataset[0], mode="train")
        [done] = await store.wait_for_rollouts([rollout.rollout_id])
        assert done.run_id == session.run_id

    result = await Runner(double, algorithm=by_hand).fit([4])

    assert result.counts["succeeded"] == 1
    assert result.mean_reward["train"] == 8.0


async def test_fit_waits_for_what_the_algorithm_left_in_the_queue(autojump_clock: MockClock) -> None:
    async def slow(task: int) -> None:
        await trio.sleep(5)

    @agl.algo
    async def hasty(store: agl.LightningStore, train_dataset: list[int]) -> None:
        await store.enqueue_rollout(1)

    result = await Runner(slow, algorithm=hasty).fit([1])

    assert result.counts["succeeded"] == 1


async def test_an_algorithm_that_enqueues_nothing_ends() -> None:
    @agl.algo
    async def lazy(train_dataset: list[int]) -> None: ...

    result = await Runner(double, algorithm=lazy).fit([1])

    assert sum(result.counts.values()) == 0


async def test_rollouts_beyond_max_rollouts_come_back_as_cancelled() -> None:
    statuses: list[tuple[str, int]] = []

    @agl.algo
    async def once(session: Session, train_dataset: list[int]) -> None:
        done = await session.run(train_dataset, mode="train")
        statuses.extend((each.status, each.attempt.sequence_id) for each in done)

    await Runner(double, algorithm=once, max_rollouts=2).fit([1, 2, 3])

    assert statuses == [("succeeded", 1), ("succeeded", 1), ("cancelled", 0)]


async def test_large_batches_come_back_whole() -> None:
    rewards: list[float | None] = []

    @agl.algo
    async def once(session: Session, train_dataset: Sequence[int]) -> None:
        rewards.extend(done.final_reward for done in await session.run(train_dataset))

    await Runner(double, algorithm=once).fit(range(5000))

    assert rewards == [2.0 * number for number in range(5000)]


async def test_a_result_is_not_lost_to_a_store_that_keeps_few() -> None:
    counted: list[int] = []

    @agl.algo
    async def once(session: Session, train_dataset: Sequence[int]) -> None:
        counted.append(len(await session.run(train_dataset)))

    runner = Runner(double, algorithm=once, store=agl.InMemoryLightningStore(retain=10))
    result = await runner.fit(range(100))

    assert counted == [100]
    assert result.counts["succeeded"] == 100


# Functions.


@attrs.frozen
class Named:
    """An adapter with a name, to tell it from others."""

    name: str

    def adapt(self, spans: Sequence[agl.Span]) -> int:
        return len(spans)


async def test_a_function_gets_what_it_asks_for_by_name() -> None:
    got: dict[str, Any] = {}

    @agl.algo
    async def curious(
        session: Any, store: Any, adapter: Any, initial_resources: Any, train_dataset: Any, val_dataset: Any
    ) -> None:
        got.update(locals())

    await Runner(length, resources=prompt("{task}"), algorithm=curious, adapter=Named("adapter")).fit(["a"], ["b"])

    assert isinstance(got["session"], Session)
    assert isinstance(got["store"], agl.LightningStore)
    assert got["adapter"] == Named("adapter")
    assert got["initial_resources"] == prompt("{task}")
    assert (got["train_dataset"], got["val_dataset"]) == (["a"], ["b"])


def test_a_function_made_an_algorithm_is_called_as_before() -> None:
    @agl.algo
    def add(left: int, right: int) -> int:
        """Add."""
        return left + right

    assert add(1, 2) == 3
    assert (add.__name__, add.__doc__) == ("add", "Add.")
    assert not add.is_async()


async def test_a_dataset_the_function_does_not_take_is_an_error() -> None:
    @agl.algo
    async def train_only(train_dataset: list[int]) -> None: ...

    with pytest.raises(TypeError, match="train_only got a val_dataset but has no parameter of that name"):
        await Runner(double, algorithm=train_only).fit([1], [2])


async def test_a_parameter_that_cannot_be_supplied_is_an_error_that_lists_those_that_can() -> None:
    @agl.algo
    async def wants(train_dataset: list[int], llm_proxy: object) -> None: ...

    with pytest.raises(
        TypeError, match="asks for 'llm_proxy'; it can ask for session, store, adapter, initial_resources"
    ):
        await Runner(double, algorithm=wants).fit([1])


async def test_an_adapter_asked_for_and_not_given_shows_where_to_pass_it() -> None:
    @agl.algo
    async def wants(train_dataset: list[int], adapter: object) -> None: ...

    with pytest.raises(ValueError, match=r"has no adapter; pass adapter=… to Runner or Trainer"):
        await Runner(double, algorithm=wants).fit([1])


# Plain functions run in a thread.


async def test_a_plain_algorithm_runs_in_a_thread_and_comes_back_for_its_session() -> None:
    threads: list[int] = []

    @agl.algo
    def plain(session: Session, train_dataset: list[int]) -> None:
        threads.append(threading.get_ident())
        done = trio.from_thread.run(session.run, train_dataset)
        session.note(rewards=[each.final_reward for each in done])

    result = await Runner(double, algorithm=plain).fit([1, 2])

    assert threads != [threading.get_ident()]
    assert result.history == ({"rewards": [2.0, 4.0]},)


async def test_an_error_of_a_plain_algorithm_comes_out_of_fit_alone() -> None:
    @agl.algo
    def broken(train_dataset: list[int]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Runner(double, algorithm=broken).fit([1])


async def test_cancelling_fit_does_not_wait_for_a_blocked_algorithm() -> None:
    gate = threading.Event()

    @agl.algo
    def blocked(train_dataset: list[int]) -> None:
        gate.wait(20)

    with trio.fail_after(5):
        with trio.move_on_after(0.05):
            await Runner(double, algorithm=blocked).fit([1])
        gate.set()


# Classes.


async def test_a_class_is_an_algorithm_and_has_its_session_while_it_runs() -> None:
    class OneRound(Algorithm):
        async def run(
            self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None
        ) -> None:
            assert train_dataset is not None
            await self.get_store().enqueue_rollout(train_dataset[0])
            self.session.note(initial=self.get_initial_resources())

    algorithm = OneRound()
    result = await Runner(double, algorithm=algorithm).fit([1])

    assert result.counts["succeeded"] == 1
    assert result.history == ({"initial": {}},)
    with pytest.raises(ValueError, match="OneRound has no session"):
        _ = algorithm.session


async def test_a_class_without_run_says_what_to_write() -> None:
    class Empty(Algorithm): ...

    with pytest.raises(NotImplementedError, match="Empty has no `run`; write: async def run"):
        await Runner(double, algorithm=Empty()).fit([1])


async def test_one_algorithm_serves_two_fits_one_after_the_other() -> None:
    runner = Runner(double, algorithm=Baseline())

    results = [await runner.fit([1]) for _ in range(2)]

    assert [result.counts["succeeded"] for result in results] == [1, 1]


async def test_two_fits_at_once_keep_their_rollouts_apart() -> None:
    async def agent(task: int) -> float:
        await trio.sleep(0.001)
        return float(task)

    results: dict[int, agl.FitResult] = {}

    async def fit(runner: Runner, task: int) -> None:
        results[task] = await runner.fit([task] * task, [task * 10] * task)

    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        for task in (3, 5):
            nursery.start_soon(fit, runner, task)

    for task, result in results.items():
        assert result.counts["succeeded"] == 2 * task
        assert result.mean_reward == {"train": task, "val": task * 10}


async def test_an_algorithm_may_bring_its_own_tasks() -> None:
    async def agent(task: str) -> None: ...

    @agl.algo
    async def own_tasks(session: agl.Session) -> None:
        await session.work_off(["a", "bb"], mode="train")

    result = await Runner(agent, algorithm=own_tasks).fit()

    assert result.counts["succeeded"] == 2


async def test_an_adapter_parameter_with_a_default_keeps_it_without_an_adapter() -> None:
    got: list[object] = []

    @agl.algo
    async def may_adapt(train_dataset: list[str], adapter: object = "own") -> None:
        got.append(adapter)

    await Runner(length, algorithm=may_adapt).fit(["a"])
    await Runner(length, algorithm=may_adapt, adapter=Named("given")).fit(["a"])

    assert got == ["own", Named("given")]


async def test_an_algorithm_that_two_runners_share_keeps_no_adapter_of_the_first() -> None:
    @agl.algo
    async def wants(train_dataset: list[str], adapter: object) -> None: ...

    await Runner(length, algorithm=wants, adapter=Named("first")).fit(["a"])

    with pytest.raises(ValueError, match="has no adapter"):
        await Runner(length, algorithm=wants).fit(["a"])


async def test_an_adapter_set_by_hand_serves_runners_without_one() -> None:
    got: list[object] = []

    @agl.algo
    async def wants(train_dataset: list[str], adapter: object) -> None:
        got.append(adapter)

    wants.set_adapter(Named("by hand"))
    await Runner(length, algorithm=wants).fit(["a"])
    await Runner(length, algorithm=wants, adapter=Named("the runner's")).fit(["a"])

    assert got == [Named("by hand"), Named("the runner's")]


# An algorithm that the caller runs by hand, as in Agent-lightning 0.3.


class Enqueues(Algorithm):
    async def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> None:
        resources = await self.get_store().add_resources(self.get_initial_resources())
        for task in train_dataset or ():
            await self.get_store().enqueue_rollout(task, resources_id=resources.resources_id)


async def test_an_algorithm_run_by_hand_has_the_store_and_the_resources_that_were_set() -> None:
    algorithm = Enqueues()
    async with agl.InMemoryLightningStore() as store:
        algorithm.set_store(store)
        algorithm.set_initial_resources(prompt("Hi"))

        await algorithm.run(["tea"])

        [rollout] = await store.query_rollouts()
        assert rollout.input == "tea"
        snapshot = await store.get_latest_resources()
        assert snapshot is not None
        assert snapshot.resources == prompt("Hi")


async def test_in_a_fit_the_run_supplies_the_store_and_the_resources() -> None:
    seen: list[object] = []

    class Looks(Algorithm):
        async def run(self, *datasets: object, **options: object) -> None:
            seen.extend([self.get_store() is self.session.store, self.get_initial_resources()])

    algorithm = Looks()
    algorithm.set_store(agl.InMemoryLightningStore())
    algorithm.set_initial_resources(prompt("by hand"))
    await Runner(length, algorithm=algorithm, resources=prompt("of the run")).fit(["tea"])

    assert seen == [True, prompt("of the run")]


@pytest.mark.parametrize("ask", [Enqueues.get_store, Enqueues.get_initial_resources])
def test_an_algorithm_that_nothing_was_set_on_says_what_to_write(ask: Any) -> None:
    with pytest.raises(ValueError, match=r"first write set_store\(…\)"):
        ask(Enqueues())


def test_only_a_store_can_be_set_as_one() -> None:
    with pytest.raises(agl.ComponentError, match="store"):
        Enqueues().set_store("runs.db")  # type: ignore[arg-type]


async def test_a_function_gets_the_proxy_that_was_set() -> None:
    seen: list[object] = []

    @agl.algo
    async def looks(llm_proxy: object = None) -> None:
        seen.append(llm_proxy)

    assert looks.get_llm_proxy() is None
    looks.set_llm_proxy("proxy")
    await looks.run()

    assert seen == ["proxy"]


def test_the_decorated_function_may_be_passed_by_name() -> None:
    def once(session: Session) -> None: ...

    assert agl.algo(func=once).name == "once"
