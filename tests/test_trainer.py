"""`Trainer`: Agent-lightning 0.3's synchronous interface."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel

import lightning_trio as agl
from lightning_trio import Algorithm, Baseline, Hook, InMemoryLightningStore, Trainer


async def double(task: float) -> float:
    return task * 2


@attrs.frozen
class Counts:
    """An adapter."""

    def adapt(self, spans: Sequence[agl.Span]) -> int:
        return len(spans)


def plain_double(task: float) -> float:
    return task * 2


class Store(InMemoryLightningStore):
    """A custom store, importable by its path."""


class Slow(Algorithm):
    """An algorithm that is not a `FastAlgorithm`."""

    async def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> None:
        self.session.note(trainer=self.get_trainer())


def make_store() -> InMemoryLightningStore:
    return InMemoryLightningStore(retain=7)


@pytest.mark.parametrize("agent", [double, plain_double, agl.rollout(double)], ids=["async", "plain", "decorated"])
def test_fit_runs_and_gives_a_result(agent: Any) -> None:
    result = Trainer(n_runners=2).fit(agent, [1, 2], val_dataset=[3])

    assert result.counts == {"cancelled": 0, "failed": 0, "succeeded": 3}
    assert result.mean_reward == {"train": 3.0, "val": 6.0}


def test_fit_takes_0_3s_keywords() -> None:
    result = Trainer().fit(agent=double, train_dataset=[1], val_dataset=[2])

    assert result.counts["succeeded"] == 2


def test_dev_runs_the_baseline_where_no_algorithm_is_given() -> None:
    assert Trainer().dev(double, [1]).counts["succeeded"] == 1


def test_dev_refuses_an_algorithm_that_is_not_fast() -> None:
    with pytest.raises(TypeError, match=r"dev\(\) takes a FastAlgorithm such as Baseline, not Slow; use fit\(\)"):
        Trainer(algorithm=Slow()).dev(double, [1])


def test_n_runners_is_the_concurrency() -> None:
    most = running = 0

    async def agent(task: int) -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await trio.sleep(0.01)
        running -= 1

    Trainer(n_runners=3).fit(agent, list(range(12)))

    assert most == 3


def test_max_rollouts_starts_so_many_and_returns() -> None:
    result = Trainer(max_rollouts=2).fit(double, [1, 2, 3, 4])

    assert result.counts == {"cancelled": 2, "failed": 0, "succeeded": 2}


def test_initial_resources_reach_the_agent() -> None:
    async def agent(task: str, prompt_template: agl.PromptTemplate) -> float:
        return float(len(prompt_template.format(name=task)))

    template = agl.PromptTemplate("Hello {name}", engine="f-string")

    result = Trainer(initial_resources={"greeting": template}).fit(agent, ["Ada"])

    assert result.mean_reward["train"] == 9.0
    assert result.resources == {"greeting": template}


def test_the_store_can_be_looked_into_afterwards() -> None:
    trainer = Trainer(store=InMemoryLightningStore())

    trainer.fit(double, [1])

    [rollout] = trio.run(trainer.store.query_rollouts)
    assert rollout.status == "succeeded"


def test_one_trainer_fits_twice() -> None:
    trainer = Trainer()

    results = [trainer.fit(double, [number]) for number in (1, 2)]

    assert [result.mean_reward["train"] for result in results] == [2.0, 4.0]


def test_the_agent_and_the_algorithm_know_the_trainer() -> None:
    agent = agl.rollout(double)
    trainer = Trainer(algorithm=Slow())

    result = trainer.fit(agent, [1])

    assert agent.trainer is trainer
    assert result.history[0]["trainer"] is trainer


def test_failures_are_counted_and_not_raised() -> None:
    def agent(task: int) -> float:
        raise ValueError(task)

    assert Trainer().fit(agent, [1, 2]).counts["failed"] == 2


@pytest.mark.parametrize("several", [False, True])
def test_hooks_are_one_or_several(several: bool) -> None:
    calls: list[str] = []

    class Noting(Hook):
        async def on_rollout_start(self, **_: object) -> None:
            calls.append("start")

    Trainer(hooks=[Noting(), Noting()] if several else Noting()).fit(double, [1])

    assert len(calls) == (2 if several else 1)


def test_fit_works_inside_a_running_asyncio_loop() -> None:
    """A notebook's cells run inside an event loop, which continues afterwards."""

    async def cell() -> agl.FitResult:
        result = Trainer().fit(plain_double, [1, 2])
        await asyncio.sleep(0)
        return result

    assert asyncio.run(cell()).counts["succeeded"] == 2


def test_native_and_asyncio_agents_run_inside_a_running_asyncio_loop() -> None:
    @agl.rollout(runs_in="asyncio")
    async def asyncio_agent(task: float) -> float:
        await asyncio.sleep(0)
        return task * 2

    async def native(task: float) -> float:
        await trio.lowlevel.checkpoint()
        return task * 2

    async def cell() -> list[float | None]:
        return [Trainer().fit(agent, [1]).mean_reward["train"] for agent in (asyncio_agent, native)]

    assert asyncio.run(cell()) == [2.0, 2.0]


# Components.


@pytest.mark.parametrize(
    ("spec", "retain"),
    [
        (InMemoryLightningStore(retain=7), 7),
        (make_store, 7),
        ({"type": "lightning_trio.InMemoryLightningStore", "retain": 7}, 7),
        (InMemoryLightningStore, 100_000),
        ("lightning_trio.InMemoryLightningStore", 100_000),
        (None, 100_000),
    ],
    ids=["instance", "factory", "mapping", "class", "path", "none"],
)
def test_a_component_may_be_given_in_any_of_these_ways(spec: Any, retain: int) -> None:
    trainer = Trainer(store=spec)

    assert isinstance(trainer.store, InMemoryLightningStore)
    assert trainer.store._retention.retain == retain
    assert trainer.fit(double, [1]).counts["succeeded"] == 1


@pytest.mark.parametrize(
    ("spec", "epochs"),
    [
        (Baseline(n_epochs=2), 2),
        (Baseline, 1),
        ("lightning_trio.Baseline", 1),
        ({"type": "lightning_trio.algorithms.Baseline", "n_epochs": 3}, 3),
        (lambda: Baseline(n_epochs=4), 4),
    ],
    ids=["instance", "class", "path", "mapping", "factory"],
)
def test_an_algorithm_may_be_given_in_any_of_these_ways(spec: Any, epochs: int) -> None:
    assert Trainer(algorithm=spec).fit(double, [1]).counts["succeeded"] == epochs


def test_a_function_made_an_algorithm_is_taken_as_it_is() -> None:
    @agl.algo
    async def twice(session: agl.Session, train_dataset: list[int]) -> None:
        await session.work_off(train_dataset * 2, mode="train")

    assert Trainer(algorithm=twice).fit(double, [1]).counts["succeeded"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store": 3}, "store takes a LightningStore, not 3"),
        ({"store": dict}, "store=<class 'dict'> returns {}, which is not a LightningStore"),
        ({"store": Baseline()}, "store takes a LightningStore, not"),
        ({"algorithm": "lightning_trio.Tracer"}, "which is not an Algorithm"),
        ({"tracer": InMemoryLightningStore}, "which is not a Tracer"),
    ],
    ids=["number", "class", "instance", "path", "tracer"],
)
def test_a_component_of_the_wrong_kind_is_a_type_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Trainer(**options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lightning_trio.NoSuchStore", "store='lightning_trio.NoSuchStore' cannot be imported: .*write package"),
        ("no_such_package.Store", "cannot be imported: No module named 'no_such_package'"),
        ("Store", "store='Store' cannot be imported"),
        ({"retain": 7}, 'has no "type"; write {"type": "package.module.Name", …}'),
        ({"type": 3}, 'has no "type"'),
    ],
    ids=["name", "package", "no module", "no type", "number"],
)
def test_a_specification_that_names_nothing_is_an_error_that_shows_one(spec: Any, message: str) -> None:
    with pytest.raises(agl.UsageError, match=message):
        Trainer(store=spec)


def test_what_only_0_3_needed_is_ignored_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="Trainer ignores strategy, port: rollouts run in this process"):
        trainer = Trainer(strategy="shm", port=4747)

    assert trainer.fit(double, [1]).counts["succeeded"] == 1


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({"n_workers": 3}, "n_runners", 3),
        ({"max_tasks": 1}, "max_rollouts", 1),
        ({"max_tasks": 1, "max_rollouts": 2}, "max_rollouts", 2),
        ({"triplet_exporter": f"{__name__}.Counts"}, "adapter", Counts()),
    ],
    ids=["n_workers", "max_tasks", "both", "triplet_exporter"],
)
def test_older_names_of_options_are_taken_with_a_warning(options: dict[str, Any], name: str, value: object) -> None:
    with pytest.warns(
        DeprecationWarning, match=rf"Trainer\({next(iter(options))}=…\) has been renamed: write {name}=…"
    ):
        trainer = Trainer(**options)

    assert getattr(trainer, name) == value


def test_dev_as_an_option_is_ignored_and_points_to_the_method() -> None:
    with pytest.warns(DeprecationWarning, match=r"ignores dev: .* call trainer\.dev\(agent, …\)"):
        Trainer(dev=True)


@pytest.mark.parametrize(
    ("options", "instead"),
    [({"llm_proxy": object()}, r"initial_resources=\{.*ProxyLLM"), ({"runner": object()}, r"trio\.run\(agl\.Runner")],
    ids=["llm_proxy", "runner"],
)
def test_what_was_removed_is_refused_with_what_to_write_instead(options: dict[str, Any], instead: str) -> None:
    with pytest.raises(agl.UsageError, match=instead):
        Trainer(**options)


@pytest.mark.parametrize("method", ["fit", "dev"])
def test_without_a_dataset_the_call_of_a_trainer_is_shown(method: str) -> None:
    with pytest.raises(agl.DatasetError, match=r"^fit\(\) got no dataset; write: trainer\.fit\(agent, \[task, …\]\)$"):
        getattr(Trainer(), method)(lambda task: 1.0)


def test_baseline_ignores_what_only_polling_needed() -> None:
    with pytest.warns(DeprecationWarning, match="Baseline ignores polling_interval, span_verbosity"):
        baseline = Baseline(polling_interval=1.0, span_verbosity="keys")

    assert Trainer(algorithm=baseline).fit(double, [1]).counts["succeeded"] == 1


def test_a_dataset_of_ones_own_has_a_length_and_an_index() -> None:
    class Squares:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> float:
            return float(index * index)

    squares: agl.Dataset[float] = Squares()

    assert Trainer().fit(double, squares).mean_reward["train"] == pytest.approx(10 / 3)
