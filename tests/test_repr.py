"""Reprs: one line each, no secrets, no errors."""

from __future__ import annotations

import pytest

import lightning_trio as agl
from lightning_trio._repr import one_line
from lightning_trio.algorithms import Baseline


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
def test_what_is_not_made_yet_is_shown_without_an_error(kind: type) -> None:
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
