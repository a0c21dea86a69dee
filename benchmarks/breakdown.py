"""The microseconds of a no-op rollout, layer by layer.

Each layer is run by itself, a batch at a time with the garbage collector off. The rest of a whole `Runner.fit` without
collector is the engine's own loops; the time that the collector adds is a separate line. All is processor time, which
other programs disturb least.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from time import process_time

import trio
from opentelemetry import context as otel_context

import lightning_trio as agl
from lightning_trio._records import AttemptOutcome
from lightning_trio._spans import find_final_reward
from lightning_trio.lanes import BoundAgent, record_return, run_natively
from lightning_trio.tracing import CURRENT, AttemptRecorder

from ._floors import run_limited
from ._measurement import Layer
from ._timing import Times, interleave
from .noop import CONCURRENCY, TIMEOUT_SECONDS, agent, run_noop

_BATCH = 128


class Laps:
    """Seconds of processor time of named stretches of code."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def lap(self, name: str) -> Generator[None]:
        """Time the block."""
        started = process_time()
        yield
        self.seconds.setdefault(name, []).append(process_time() - started)


async def _release(places: trio.Semaphore) -> None:
    places.release()


async def _round(count: int, laps: Laps) -> None:
    """Run `count` rollouts through every layer, one layer after the other."""
    store = agl.InMemoryLightningStore()
    config = agl.RolloutConfig(timeout_seconds=TIMEOUT_SECONDS)
    with laps.lap("Trio: a slot, spawn and end of the task"):
        await run_limited(count, CONCURRENCY, _release)
    with laps.lap("Trio: cancel scope with the deadline, call of the agent"):
        bound = BoundAgent("agent", agent, "trio", {}, {})
        for task in range(count):
            with trio.CancelScope(deadline=trio.current_time() + (config.timeout_seconds or math.inf)):
                await run_natively(bound, task, {}, trio.lowlevel.current_task(), 0)
    with laps.lap("store: requests and enqueue"):
        ids = await store.enqueue([agl.EnqueueRolloutRequest(task, "train") for task in range(count)])
    claimed: list[agl.AttemptedRollout] = []
    with laps.lap("store: claim, with attempt and records"):
        while len(claimed) < count:
            claimed += await store.claim(_BATCH, worker_id="runner", default_config=config)
    outcomes = _record_all(claimed, laps)
    with laps.lap("store: commit"):
        for start in range(0, count, _BATCH):
            await store.finish(outcomes[start : start + _BATCH])
    with laps.lap("store: check whether the rollouts have finished"):
        await store.wait_finished(ids)


def _record_all(claimed: Sequence[agl.AttemptedRollout], laps: Laps) -> list[AttemptOutcome]:
    """Run claimed rollouts through the layers that need no `await`."""
    tracer = agl.Tracer()
    with laps.lap("recorder: trace and root ids"):
        recorders = [AttemptRecorder(tracer, rollout, {}, "agent", None) for rollout in claimed]
    with laps.lap("context: ours and OpenTelemetry's, set and reset"):
        for recorder in recorders:
            token = CURRENT.set(recorder)
            otel_token = otel_context.attach(recorder.context())
            otel_context.detach(otel_token)
            CURRENT.reset(token)
    with laps.lap("recorder: reward span"):
        for recorder in recorders:
            record_return(recorder, 1.0)
    with laps.lap("recorder: root span, all spans in order"):
        spans = [recorder.close("succeeded", None) for recorder in recorders]
    with laps.lap("final reward, outcome"):
        return [
            AttemptOutcome(
                rollout.rollout_id,
                rollout.attempt.attempt_id,
                "succeeded",
                time.time(),
                own,
                None,
                find_final_reward(own),
                0.0,
            )
            for rollout, own in zip(claimed, spans, strict=True)
        ]


@contextmanager
def _without_collector() -> Generator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _run_without_collector(count: int) -> None:
    with _without_collector():
        run_noop(count)


def measure_layers(quick: bool) -> list[Layer]:
    """Return the layers, most expensive first, then the rest; their sum is the cost of a whole no-op rollout."""
    count, rounds, whole_count, whole_rounds = (500, 3, 2_000, 3) if quick else (2_000, 15, 20_000, 5)
    laps = Laps()
    run_noop(whole_count // 10)
    for _ in range(rounds):
        gc.collect()
        with _without_collector():
            trio.run(_round, count, laps)
    layers = [Layer(name, Times(seconds).median / count * 1e6) for name, seconds in laps.seconds.items()]
    layers.sort(key=lambda layer: layer.microseconds, reverse=True)
    whole, uncollected = (
        times.processor_median / whole_count * 1e6
        for times in interleave(
            whole_rounds, partial(run_noop, whole_count), partial(_run_without_collector, whole_count)
        )
    )
    known = sum(layer.microseconds for layer in layers)
    return [
        *layers,
        Layer("engine and attempt: loops, statistics, progress (the rest)", uncollected - known),
        Layer("garbage collection", whole - uncollected),
    ]
