"""The cost of one call of an emitter inside a rollout.

Measured: microseconds a call, in a native agent. Floor: starting and ending one span of the OpenTelemetry SDK with two
attributes below a current one. For information: there is no target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter

import trio
from opentelemetry import trace

import lightning_trio as agl

from ._floors import sdk_tracer
from ._measurement import Measurement
from ._timing import Times


def _operation() -> None:
    with agl.operation(name="step"):
        pass


def _message() -> None:
    agl.emit_message("what the agent is up to")


def _reward() -> None:
    agl.emit_reward(1.0)


def _sdk_span(tracer: trace.Tracer) -> Callable[[], None]:
    root = trace.set_span_in_context(tracer.start_span("root"))

    def make() -> None:
        tracer.start_span(
            "agentlightning.annotation",
            context=root,
            attributes={"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 1.0},
        ).end()

    return make


async def seconds_per_call(calls: Mapping[str, Callable[[], None]], count: int, rounds: int) -> dict[str, Times]:
    """Call each of `calls` `count` times in each of `rounds` rollouts and return the seconds of one call."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}

    async def agent(task: int) -> None:
        for name, call in calls.items():
            started = perf_counter()
            for _ in range(count):
                call()
            seconds[name].append((perf_counter() - started) / count)

    async with agl.Runner(agent) as runner:
        for number in range(rounds):
            await runner.step(number)
    return {name: Times(taken) for name, taken in seconds.items()}


def measure(quick: bool) -> list[Measurement]:
    """Compare medians over several rollouts."""
    count, rounds = (100, 5) if quick else (500, 40)
    floor_name = "SDK span"
    calls = {
        "emit_reward": _reward,
        "emit_message": _message,
        "operation, enter and exit": _operation,
        floor_name: _sdk_span(sdk_tracer()),
    }
    times = trio.run(seconds_per_call, calls, count, rounds)
    floor = times.pop(floor_name).median * 1e6
    return [
        Measurement(name, taken.median * 1e6, "µs", floor, note=f"median of {rounds} × {count}; floor: one SDK span")
        for name, taken in times.items()
    ]
