"""Reprs: one line each, no secrets, no errors."""

from __future__ import annotations

import pytest

import lightning_trio as agl
from lightning_trio._repr import one_line
from lightning_trio.algorithms import Baseline
from lightning_trio.store import ForwardingStore


class Noisy:
    @one_line
    def __repr__(self) -> str:
        return "<Noisy:\nmany\nlines>"


def test_several_lines_become_one() -> None:
    assert repr(Noisy()) == "<Noisy: many lines>"


@pytest.mark.parametrize(
    "kind",
    [
        agl.Runner,
        agl.RolloutStream,
        agl.Trainer,
        agl.Session,
        agl.Tracer,
        agl.InMemoryLightningStore,
        agl.SqliteLightningStore,
        agl.PostgresLightningStore,
        agl.CompletedRollout,
        agl.FitResult,
        agl.PaginatedResult,
        agl.Emitter,
        agl.Operation,
        agl.embed.AsyncioRunner,
        agl.embed.BlockingRunner,
    ],
)
def test_objects_that_are_not_initialized_are_shown_without_an_error(kind: type) -> None:
    assert repr(kind.__new__(kind)) == f"<{kind.__name__} that cannot be shown: AttributeError>"


def test_a_trainer_shows_its_parts() -> None:
    assert repr(agl.Trainer(n_runners=2)) == (
        "<Trainer with Baseline, 2 rollouts at a time, in <InMemoryLightningStore: closed, 0 rollouts kept>>"
    )
    assert repr(agl.Trainer(algorithm=Baseline())).startswith("<Trainer with Baseline, in <InMemory")


async def test_an_emitter_shows_its_attempt() -> None:
    shown: list[str] = []

    async def agent(task: str, emitter: agl.Emitter) -> None:
        shown.append(repr(emitter))

    async with agl.Runner(agent) as runner:
        done = await runner.step("tea")

    assert shown == [f"<Emitter into {done.rollout.rollout_id}, attempt {done.attempt.attempt_id}>"]


def test_an_operation_shows_how_far_it_is() -> None:
    step = agl.operation(name="brew", propagate=False)
    shown = [repr(step)]
    with step:
        step.set_input("sk-secret")
        shown.append(repr(step))
    shown.append(repr(step))

    assert shown == ["<Operation brew: not entered yet>", "<Operation brew: open>", "<Operation brew: ended>"]


class OwnStore(agl.InMemoryLightningStore):
    __repr__ = agl.LightningStore.__repr__


async def test_a_store_without_a_repr_of_its_own_shows_whether_it_is_open() -> None:
    store = OwnStore()
    shown = [repr(store)]
    async with store:
        shown.append(repr(store))

    assert shown == ["<OwnStore: closed>", "<OwnStore: open>"]


def test_a_forwarding_store_shows_the_store_it_forwards_to() -> None:
    class Counting(ForwardingStore):
        pass

    assert repr(Counting(OwnStore())) == "<Counting to <OwnStore: closed>>"
    assert repr(ForwardingStore(agl.SqliteLightningStore("a.db"))).startswith("<ForwardingStore to <SqliteLightning")


def test_an_algorithm_shows_its_class_or_its_function() -> None:
    @agl.algo
    def once() -> None:
        pass

    assert [repr(Baseline()), repr(once)] == ["<Baseline>", "<algorithm once>"]


def test_an_agent_shows_its_name() -> None:
    class Echo(agl.LitAgent[str]):
        pass

    @agl.rollout
    def brew(task: str) -> None:
        pass

    assert [repr(Echo()), repr(brew)] == ["<agent Echo>", "<agent brew>"]


def test_a_hook_shows_its_class() -> None:
    class Report(agl.Hook):
        pass

    assert repr(Report()) == "<Report>"


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("http://h:1/v1", "http://h:1/v1"),
        ("http://user:pw@h/v1", "http://***@h/v1"),
        ("http://user:p@w@h/v1", "http://***@h/v1"),
        ("http://user:p?w@h/v1", "http://***@h/v1"),
        ("http://h/v1?key=sk-abc&api-version=1", "http://h/v1?key=***&api-version=***"),
        ("http://h/v1?sk-abc", "http://h/v1?***"),
        ("http://h/sk-0123456789/v1", "http://h/[api key]/v1"),
    ],
)
def test_a_model_shows_no_secret_of_its_endpoint(endpoint: str, shown: str) -> None:
    assert f"endpoint={shown!r}," in repr(agl.LLM(endpoint, "m", "sk-0123456789"))


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ({"temperature": 0.7, "max_tokens": 5}, {"temperature": 0.7, "max_tokens": 5}),
        ({"extra_headers": {"Authorization": "Bearer sk-abc"}}, {"extra_headers": {"Authorization": "***"}}),
        ({"extra_headers": [("X-Custom", "sk-abc")]}, {"extra_headers": "***"}),
        ({"extra_query": {"v": "sk-abc"}}, {"extra_query": {"v": "***"}}),
        ({"extra_body": {"tools": [{"access_token": "sk-abc"}]}}, {"extra_body": {"tools": [{"access_token": "***"}]}}),
        ({"api_key": "sk-abc", "clientSecret": "sk-abc"}, {"api_key": "***", "clientSecret": "***"}),
        ({"user": "sk-0123456789"}, {"user": "[api key]"}),
    ],
)
def test_a_model_shows_no_secret_of_its_parameters(parameters: dict[str, object], shown: dict[str, object]) -> None:
    llm = agl.LLM("http://h", "m", "sk-0123456789", parameters)

    assert f"sampling_parameters={shown!r}," in repr(llm)
    assert llm.sampling_parameters == parameters
