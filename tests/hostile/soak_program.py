"""What the soak kills and resumes: one run of many short rollouts, each of which marks what it records as its own."""

from __future__ import annotations

import sys

import trio

import lightning_trio as agl


async def agent(task: int) -> float:
    rollout_id = agl.current_rollout().rollout_id
    agl.emit_annotation({"task": task, "own": rollout_id})
    await trio.sleep(0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, agl.emit_annotation, {"task": task, "own": rollout_id})
    return float(task)


def open_store(kind: str, place: str) -> agl.LightningStore:
    """Return the store of a soak."""
    if kind == "sqlite":
        return agl.SqliteLightningStore(place, synchronous="normal")
    return agl.PostgresLightningStore(place, schema="soak")


async def main() -> None:
    kind, place, first, number = sys.argv[1:]
    # Runs of other agents are not in the way of resuming this one.
    soaked = agl.rollout(name=f"from {first}", config=agl.RolloutConfig(max_lost_attempts=10_000))(agent)
    async with agl.Runner(soaked, store=open_store(kind, place), max_concurrency=10, grace_seconds=0.2) as runner:
        print("begins", flush=True)
        result = await runner.fit(range(int(first), int(first) + int(number)), resume=True)
    print("ends", result.counts["succeeded"], flush=True)


if __name__ == "__main__":
    trio.run(main)
