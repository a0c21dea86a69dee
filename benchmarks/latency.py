"""The latency of one rollout in the queue of an idle runner.

Measured: the time from enqueueing a rollout into the store of an idle `Runner.serve` until `wait_for_rollouts` returns
it, one rollout after another. Floor: the time from sending an item over a Trio channel to a loop that spawns a task
for it until the task is done.
"""

from __future__ import annotations

from time import perf_counter

import trio

import lightning_trio as agl

from ._floors import hand_over
from ._measurement import Measurement, Target
from ._timing import Times


async def agent(task: int) -> float:
    """Do nothing."""
    return 1.0


async def enqueue_to_done(count: int) -> list[float]:
    """Return the seconds of each of `count` rollouts."""
    store = agl.InMemoryLightningStore()
    seconds: list[float] = []
    async with agl.Runner(agent, store=store) as runner, trio.open_nursery() as nursery:
        await nursery.start(runner.serve)
        for number in range(count):
            started = perf_counter()
            rollout = await store.enqueue_rollout(number)
            [done] = await store.wait_for_rollouts([rollout.rollout_id])
            seconds.append(perf_counter() - started)
            assert done.status == "succeeded", done
        nursery.cancel_scope.cancel()
    return seconds


def measure(quick: bool) -> list[Measurement]:
    """Measure the median and the 99th percentile."""
    count = 200 if quick else 2_000
    trio.run(enqueue_to_done, 50)
    ours = Times(trio.run(enqueue_to_done, count))
    floor = Times(trio.run(hand_over, count))
    note = f"{count:,} one after another; floor: channel, spawn, event"
    return [
        Measurement(
            f"idle serve, enqueue to done, p{percent}",
            ours.percentile(percent) * 1e3,
            "ms",
            floor.percentile(percent) * 1e3,
            Target(limit),
            note,
        )
        for percent, limit in ((50, 1.0), (99, 10.0))
    ]
