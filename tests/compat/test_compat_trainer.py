"""Agent-lightning 0.3's trainer: its components, and algorithms written for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lightning_trio.compat.algorithm.utils import batch_iter_over_dataset, with_llm_proxy, with_store

import lightning_trio
import lightning_trio.compat as agl


@agl.rollout
async def length(task: str) -> float:
    """Return the length of the task."""
    await asyncio.sleep(0)
    return float(len(task))


def test_an_async_agent_runs_on_asyncio() -> None:
    result = agl.Trainer(n_runners=2).fit(length, ["tea", "milk"], val_dataset=["water"])

    assert result.mean_reward == {"train": 3.5, "val": 5.0}


@pytest.mark.parametrize("method", ["fit", "dev"])
def test_one_rollout_runs_at_a_time_unless_more_are_asked_for(method: str) -> None:
    current = ""

    @agl.rollout
    async def keeps_its_task_in_the_module(task: str) -> float:
        nonlocal current
        current = task
        await asyncio.sleep(0)
        return float(current == task)

    trainer = agl.Trainer()

    assert getattr(trainer, method)(keeps_its_task_in_the_module, ["tea", "milk", "water"]).mean_reward["train"] == 1.0
    assert trainer.n_runners == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("options", "n_runners"),
    [
        ({"n_workers": 4}, 4),
        ({"strategy": "shm", "n_runners": 3}, 3),
        ({"strategy": {"type": "cs", "n_runners": 2}}, 2),
    ],
)
def test_more_rollouts_at_a_time_are_asked_for_under_their_old_names_and_by_the_strategy(
    options: Any, n_runners: int
) -> None:
    assert agl.Trainer(**options).n_runners == n_runners


def test_an_agent_written_for_trio_says_so_and_runs_there() -> None:
    import trio

    @agl.rollout(runs_in="trio")
    async def native(task: str) -> float:
        await trio.lowlevel.checkpoint()
        return 1.0

    assert agl.Trainer().fit(native, ["tea"]).counts["succeeded"] == 1


def test_the_methods_of_a_class_run_on_asyncio() -> None:
    class Length(agl.LitAgent[str]):
        async def training_rollout_async(self, task: str, resources: Any, rollout: Any) -> float:
            await asyncio.sleep(0)
            return float(len(task))

    assert Length.runs_in == "asyncio"
    assert agl.Trainer().fit(Length(), ["tea"]).mean_reward["train"] == 3.0


def test_a_class_that_says_where_it_runs_runs_there() -> None:
    class Native(agl.LitAgent[str]):
        runs_in = "trio"

        async def rollout_async(self, task: str, resources: Any, rollout: Any) -> float:
            return 1.0

    class Plain(agl.LitAgent[str]):
        def rollout(self, task: str, resources: Any, rollout: Any) -> float:
            return 1.0

    assert (Native.runs_in, Plain.runs_in) == ("trio", None)


def test_lightning_trios_own_agents_run_in_trio_beside_them() -> None:
    @lightning_trio.rollout
    async def native(task: str) -> float:
        return 1.0

    assert native.runs_in is None
    assert agl.Trainer().fit(native, ["tea"]).counts["succeeded"] == 1


def test_a_plain_function_is_an_agent() -> None:
    async def plain(task: str) -> float:
        await asyncio.sleep(0)
        return 2.0

    assert agl.Trainer().fit(plain, ["tea"]).mean_reward["train"] == 2.0


class Asking(agl.Algorithm):
    """An algorithm that enqueues each task and waits for it, on asyncio."""

    rewards: Sequence[float | None] = ()

    async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
        store = self.get_store()
        await store.update_resources("default", self.get_initial_resources() or {})
        queued = [await store.enqueue_rollout(task, mode="train") for task in train_dataset]
        ids = [rollout.rollout_id for rollout in queued]
        while len(await store.wait_for_rollouts(rollout_ids=ids, timeout=0.0)) < len(ids):
            await asyncio.sleep(0.01)
        self.rewards = [agl.find_final_reward(await store.query_spans(each, "latest")) for each in ids]


def test_an_algorithm_is_awaited_on_asyncio_with_the_runs_store() -> None:
    algorithm = Asking()

    result = agl.Trainer(algorithm=algorithm).fit(length, ["tea", "milk"])

    assert algorithm.rewards == [3.0, 4.0]
    assert result.counts["succeeded"] == 2


def test_a_plain_algorithm_runs_in_a_thread() -> None:
    class Plain(agl.Algorithm):
        def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:  # type: ignore[override]
            asyncio.run(self.get_store().enqueue_rollout(train_dataset[0], mode="train"))

    assert agl.Trainer(algorithm=Plain()).fit(length, ["tea"]).counts["succeeded"] == 1


def test_an_algorithms_error_ends_fit() -> None:
    @agl.algo
    async def failing(*, store: Any) -> None:
        raise ValueError("no candidates")

    with pytest.raises(ValueError, match="no candidates"):
        agl.Trainer(algorithm=failing).fit(length)


def test_an_algorithm_is_cancelled_on_its_loop_when_fit_ends_early() -> None:
    ended: list[str] = []

    @agl.algo
    async def endless(*, store: Any, train_dataset: Any) -> None:
        await store.enqueue_rollout(train_dataset[0])
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    @agl.rollout
    def failing(task: str) -> None:
        raise ValueError

    result = agl.Trainer(algorithm=endless, max_failures=0).fit(failing, ["tea"])

    assert ended == ["cleaned up"]
    assert result.ended_early is not None


def test_a_function_gets_what_it_asks_for() -> None:
    seen: dict[str, Any] = {}

    class Adapter(agl.TraceAdapter[int]):
        def adapt(self, source: Any, /) -> int:
            return len(source)

    adapter, prompt = Adapter(), agl.PromptTemplate("Hi", engine="f-string")

    @agl.algo
    async def asking(*, store: Any, adapter: Any, initial_resources: Any, llm_proxy: Any, train_dataset: Any) -> None:
        seen.update(adapter=adapter, resources=initial_resources, proxy=llm_proxy, data=train_dataset)
        await store.enqueue_rollout(train_dataset[0])

    agl.Trainer(algorithm=asking, adapter=adapter, initial_resources={"prompt": prompt}).fit(length, ["tea"])

    assert seen == {"adapter": adapter, "resources": {"prompt": prompt}, "proxy": None, "data": ["tea"]}


def test_a_dataset_that_a_function_does_not_ask_for_is_an_error() -> None:
    @agl.algo
    async def without(*, store: Any) -> None: ...

    with pytest.raises(TypeError, match="train_dataset is provided but not supported by the algorithm without"):
        without.run(["tea"])


def test_the_script_reads_the_store_after_fit_on_its_own_loop() -> None:
    trainer = agl.Trainer()
    trainer.fit(length, ["tea"])

    async def main() -> Any:
        [rollout] = await trainer.store.query_rollouts()
        return agl.find_final_reward(await trainer.store.query_spans(rollout.rollout_id))

    assert asyncio.run(main()) == 3.0


def test_a_store_of_lightning_trio_may_be_awaited_on_asyncio_as_well(tmp_path: Path) -> None:
    algorithm = Asking()
    trainer = agl.Trainer(algorithm=algorithm, store=lightning_trio.SqliteLightningStore(tmp_path / "runs.db"))

    trainer.fit(length, ["tea", "milk"])

    assert algorithm.rewards == [3.0, 4.0]


def test_runs_with_a_name_are_kept_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = agl.Trainer(run_name="teas")

    trainer.fit(length, ["tea"])

    assert (tmp_path / "runs" / "teas.db").exists()
    assert trainer.fit(length, ["tea"], resume=True).counts["succeeded"] == 1


def test_a_hook_runs_on_asyncio() -> None:
    seen: list[float | None] = []

    class Reading(agl.Hook):
        async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: Any, spans: Any) -> None:
            await asyncio.sleep(0)
            stored = await runner.get_store().get_rollout_by_id(rollout.rollout_id)
            seen.append(agl.find_final_reward(spans) if stored is not None else None)

    agl.Trainer(hooks=Reading()).fit(length, ["tea"])

    assert seen == [3.0]


# Components.


def test_defaults_are_those_of_0_3() -> None:
    trainer = agl.Trainer()

    assert isinstance(trainer.store, agl.InMemoryLightningStore)
    assert isinstance(trainer.tracer, agl.AgentOpsTracer)
    assert isinstance(trainer.runner, agl.LitAgentRunner)
    assert isinstance(trainer.strategy, agl.ClientServerExecutionStrategy)


@pytest.mark.parametrize("strategy", ["shm", {"type": "cs", "server_port": 9999}, agl.SharedMemoryExecutionStrategy()])
def test_a_strategy_is_made_and_ignored_with_a_warning(strategy: Any) -> None:
    with pytest.warns(DeprecationWarning, match="Trainer ignores strategy=.*: rollouts run in this process"):
        trainer = agl.Trainer(strategy=strategy)

    assert isinstance(trainer.strategy, agl.ExecutionStrategy)
    assert trainer.fit(length, ["tea"]).counts["succeeded"] == 1


def test_a_strategy_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGL_SERVER_PORT", "10000")
    monkeypatch.setenv("AGL_MANAGED_STORE", "off")

    strategy = agl.ClientServerExecutionStrategy()

    assert (strategy.server_port, strategy.managed_store, strategy.role) == (10000, False, "both")


@pytest.mark.parametrize("role", ["algorithm", "runner"])
def test_a_process_for_one_role_is_refused(monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    monkeypatch.setenv("AGL_CURRENT_ROLE", role)
    trainer = agl.Trainer()

    with pytest.raises(lightning_trio.UsageError, match=f"the role is '{role}'"):
        trainer.fit(length, ["tea"])


class InOneLoop(agl.ExecutionStrategy):
    """A program's own strategy."""

    def execute(self, algorithm: Any, runner: Any, store: Any) -> None:
        async def main() -> None:
            stop = agl.ThreadingEvent()
            running = asyncio.create_task(runner(store, 0, stop))
            await algorithm(store, stop)
            stop.set()
            await running

        asyncio.run(main())


def test_a_strategy_of_the_programs_own_runs_the_default_algorithm() -> None:
    trainer = agl.Trainer(strategy=InOneLoop())

    trainer.fit(length, ["tea", "milk"])

    assert [rollout.status for rollout in asyncio.run(trainer.store.query_rollouts())] == ["succeeded"] * 2


def test_a_strategy_of_the_programs_own_runs_algorithm_and_runners() -> None:
    algorithm = Asking()
    trainer = agl.Trainer(algorithm=algorithm, strategy=InOneLoop())

    trainer.fit(length, ["tea", "milk"])

    assert algorithm.rewards == [3.0, 4.0]


def test_components_are_made_from_paths_and_mappings() -> None:
    trainer = agl.Trainer(
        algorithm={"type": "lightning_trio.compat.Baseline", "polling_interval": 1.0},
        tracer="lightning_trio.compat.tracer.OtelTracer",
        store=agl.InMemoryLightningStore,
    )

    assert isinstance(trainer.algorithm, agl.Baseline)
    assert isinstance(trainer.tracer, agl.OtelTracer)


@pytest.mark.parametrize(
    ("option", "value", "error", "message"),
    [
        ("store", 3, ValueError, "Invalid store type: <class 'int'>. Expected LightningStore."),
        ("strategy", "fast", ValueError, "'fast' is not the path of a class, such as 'package.module.Name'"),
        ("algorithm", "builtins.dict", TypeError, "algorithm factory returned <class 'dict'>, which is not a"),
        ("tracer", {"no": "type"}, ValueError, "tracer dict must have a 'type' key"),
        ("llm_proxy", {"port": 1}, lightning_trio.UsageError, "ProxyLLM"),
    ],
)
def test_a_component_that_cannot_be_made_says_why(option: str, value: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        agl.Trainer(**{option: value})


@pytest.mark.parametrize(
    ("options", "trainer_options", "message"),
    [
        ({"repeats": 2}, {"strategy": InOneLoop()}, "fit.repeats=2. has no effect with the strategy InOneLoop"),
        ({"resume": True}, {"strategy": InOneLoop()}, "fit.resume=True. has no effect with the strategy InOneLoop"),
        ({"repeats": 2}, {"algorithm": Asking()}, "fit.repeats=2. has no effect with Asking, which enqueues its"),
    ],
)
def test_an_option_without_an_effect_is_refused(options: Any, trainer_options: Any, message: str) -> None:
    with pytest.raises(lightning_trio.UsageError, match=message):
        agl.Trainer(**trainer_options).fit(length, ["tea"], **options)


def test_fit_repeats_tasks_and_runs_failed_ones_again() -> None:
    left = ["tea"]

    @agl.rollout
    async def fails_once(task: str) -> float:
        await asyncio.sleep(0)
        if task in left:
            left.remove(task)
            raise ValueError(task)
        return float(len(task))

    trainer = agl.Trainer()

    assert trainer.fit(fails_once, ["tea", "milk"], repeats=2).counts["failed"] == 1
    again = trainer.fit(fails_once, ["tea", "milk"], repeats=2, resume=True, retry_failed=True)

    assert (again.counts["succeeded"], again.mean_reward["train"]) == (4, 3.5)


def test_dev_takes_fast_algorithms_only() -> None:
    with pytest.raises(TypeError, match="FastAlgorithm"):
        agl.Trainer(algorithm=Asking()).dev(length, ["tea"])

    assert agl.Trainer(algorithm=agl.Baseline()).dev(length, ["tea"]).counts["succeeded"] == 1


# Runners.


class Own(agl.LitAgentRunner[Any]):
    """A runner of the program's own."""

    steps = 0

    def init(self, agent: Any, **kwargs: Any) -> None:
        super().init(agent, **kwargs)

    async def iter(self, *, event: Any = None) -> None:
        type(self).steps += 1
        await super().iter(event=event)


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"runner": agl.LitAgentRunner(agl.OtelTracer(), max_rollouts=2)},
        lambda: {"runner": {"type": "lightning_trio.compat.LitAgentRunner", "max_rollouts": 2}},
        lambda: {"runner": agl.LitAgentRunner, "max_rollouts": 2},
        lambda: {"runner": agl.LitAgentRunner(agl.OtelTracer()), "max_rollouts": 2},
    ],
    ids=["instance", "mapping", "class", "without"],
)
def test_the_limit_of_a_runner_counts(make: Any) -> None:
    result = agl.Trainer(**make()).fit(length, ["tea", "milk", "water"])

    assert (result.counts["succeeded"], result.counts["cancelled"]) == (2, 1)


def test_the_tracer_of_a_runner_records() -> None:
    tracer = agl.OtelTracer()

    assert agl.Trainer(runner=agl.LitAgentRunner(tracer)).tracer is tracer


def test_a_warning_names_the_methods_of_a_runner_that_a_fit_does_not_call() -> None:
    with pytest.warns(UserWarning, match="Trainer.fit does not call these methods of Own: init, iter; .*agl.Hook"):
        trainer = agl.Trainer(runner=Own(agl.OtelTracer(), max_rollouts=1))

    assert trainer.fit(length, ["tea", "milk"]).counts["succeeded"] == 1


class Bare(agl.Runner[Any]):
    """A runner that is no `LitAgentRunner`."""

    seen: Sequence[str] = ()

    def init(self, *args: Any, **kwargs: Any) -> None:
        type(self).seen = [*self.seen, "init"]

    def init_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        type(self).seen = [*self.seen, f"worker {worker_id}"]

    async def iter(self, *, event: Any = None) -> None:
        type(self).seen = [*self.seen, "iter"]


def test_a_runner_that_is_no_lit_agent_runner_says_what_to_write() -> None:
    with pytest.raises(lightning_trio.UsageError, match=r"cannot call the runner Bare; .*agl.ExecutionStrategy"):
        agl.Trainer(runner=Bare)


class OnlyRunner(agl.ExecutionStrategy):
    """A strategy that runs no algorithm."""

    def execute(self, algorithm: Any, runner: Any, store: Any) -> None:
        asyncio.run(runner(store, 3, agl.ThreadingEvent()))


def test_a_strategy_of_the_programs_own_calls_any_runner() -> None:
    agl.Trainer(runner=Bare, strategy=OnlyRunner()).fit(length)

    assert Bare.seen == ["init", "worker 3", "iter"]


def test_a_strategy_of_the_programs_own_calls_the_methods_of_the_runner() -> None:
    agl.Trainer(runner=Own(agl.OtelTracer(), max_rollouts=2), strategy=InOneLoop()).fit(length, ["tea", "milk"])

    assert Own.steps == 1


# Datasets and older names.


@pytest.mark.parametrize("method", ["fit", "dev"])
def test_a_trainer_without_a_dataset_says_how_to_give_one(method: str) -> None:
    with pytest.raises(lightning_trio.DatasetError, match=r"write: trainer\.fit\(agent, \[task, …\]\)"):
        getattr(agl.Trainer(), method)(length)


def test_fit_of_the_first_versions_says_what_to_write() -> None:
    with pytest.raises(lightning_trio.UsageError, match=r"write trainer\.fit\(agent, \[task, …\]\)"):
        agl.Trainer().fit_v0(length)


# By hand.


def test_an_algorithm_runs_by_hand_beside_a_runner() -> None:
    async def main() -> Any:
        store = agl.InMemoryLightningStore()
        algorithm = agl.Baseline()
        algorithm.set_store(store)
        algorithm.set_initial_resources({"prompt": agl.PromptTemplate("Hi", engine="f-string")})
        runner: Any = agl.LitAgentRunner(agl.OtelTracer(), max_rollouts=3)
        with runner.run_context(agent=length, store=store):
            await asyncio.gather(algorithm.run(["tea", "milk"], ["water"]), runner.iter())
        latest = await store.get_latest_resources()
        assert latest is not None
        return latest.resources_id, [(each.mode, each.attempt.final_reward) for each in await store.query_rollouts()]

    assert asyncio.run(main()) == ("default", [("train", 3.0), ("train", 4.0), ("val", 5.0)])


def test_an_algorithm_without_a_store_says_so() -> None:
    with pytest.raises(ValueError, match="Store has not been set"):
        Asking().get_store()


def test_batches_go_on_for_ever_and_shuffle_whole_datasets() -> None:
    batches = batch_iter_over_dataset(["a", "b", "c"], 2)
    whole = batch_iter_over_dataset(["a", "b"], 5)

    assert [len(next(batches)) for _ in range(5)] == [2] * 5
    assert sorted(next(whole)) == ["a", "b"]


def test_a_method_gets_the_store_and_a_proxy_that_is_started_and_stopped() -> None:
    calls: list[str] = []

    class Proxy:
        def is_running(self) -> bool:
            return "start" in calls and "stop" not in calls

        async def start(self) -> None:
            calls.append("start")

        async def stop(self) -> None:
            calls.append("stop")

    class Training(agl.Algorithm):
        @with_store
        async def ask(self, store: Any, word: str) -> Any:
            return store, word

        @with_llm_proxy(required=True)
        async def train(self, llm_proxy: Any) -> bool:
            return bool(llm_proxy.is_running())

    algorithm, store = Training(), agl.InMemoryLightningStore()
    algorithm.set_store(store)
    with pytest.raises(ValueError, match="has no LLM proxy"):
        asyncio.run(algorithm.train())
    algorithm.set_llm_proxy(Proxy())

    assert asyncio.run(algorithm.ask("tea")) == (store, "tea")
    assert asyncio.run(algorithm.train())
    assert calls == ["start", "stop"]
