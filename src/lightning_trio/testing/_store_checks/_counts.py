"""Counts: summaries of runs, and statistics of the store."""

from __future__ import annotations

import math
import sys

from ..._records import REPORTER_RETRIES, EnqueueRolloutRequest, RolloutMode
from ..._spans import Usage
from ...store import LightningStore
from ._steps import RETRY, Check, Marker, claim_one, expect, expect_equal, finish, requests, span_of


async def counts_add_up(store: LightningStore) -> None:
    await store.enqueue(requests(*range(6), config=RETRY), run_id="run-1")
    claimed = await store.claim(5, run_id="run-1")
    await finish(store, claimed[0])
    await finish(store, claimed[1], "unresponsive")
    await finish(store, claimed[2], "timeout", next=REPORTER_RETRIES)
    await store.add_spans([span_of(claimed[3])])
    await store.enqueue(requests("a", "b"), run_id="run-1", status="cancelled")

    wanted = {"succeeded": 1, "failed": 1, "requeuing": 1, "running": 1, "preparing": 1, "queuing": 1, "cancelled": 2}
    counts = (await store.summarize("run-1")).counts
    expect_equal({status: n for status, n in counts.items() if n}, wanted, "every rollout of a run is counted once")


async def counts_are_by_run_and_whole(store: LightningStore) -> None:
    await store.enqueue(requests("a", "b"), run_id="run-1")
    await store.enqueue(requests("c"), run_id="run-2")
    await store.enqueue(requests("d"))

    totals = [sum((await store.summarize(run_id)).counts.values()) for run_id in ("run-1", "run-2", "run-3", None)]
    expect_equal(totals, [2, 1, 0, 4], "summarize counts the rollouts of a run, or without a run_id all")


async def a_status_that_nothing_has_is_not_counted(store: LightningStore) -> None:
    await finish(store, await claim_one(store))

    counts = (await store.summarize()).counts
    expect_equal(dict(counts), {"succeeded": 1}, "statuses that no rollout has are left out")


async def rewards_are_summed_up_by_mode(store: LightningStore) -> None:
    cases: list[tuple[RolloutMode | None, float | None]] = [
        ("train", 1.0),
        ("train", 0.5),
        ("train", None),
        ("val", 0.0),
        (None, 2.0),
    ]
    await store.enqueue([EnqueueRolloutRequest(reward, mode) for mode, reward in cases], run_id="run-1")
    for claimed in await store.claim(5):
        await finish(store, claimed, final_reward=claimed.input)

    for run_id in ("run-1", None):
        summary = await store.summarize(run_id)
        wanted = {"train": (2, 1.5), "val": (1, 0.0), None: (1, 2.0)}
        expect_equal(dict(summary.rewards), wanted, "only rewarded rollouts count towards rewards, by mode")
    expect_equal(summary.mean_reward("train"), 0.75, "no reward is not a reward of 0")
    expect_equal(summary.mean_reward("test"), None, "without any reward the mean is None")


async def sums_stay_in_range(store: LightningStore) -> None:
    most, tokens = sys.float_info.max, (1 << 63) - 1
    await store.enqueue([EnqueueRolloutRequest(reward) for reward in (-most, -most, 1.0)], run_id="run-1")
    for claimed in await store.claim(3):
        usage = Usage(tokens, 10**30, 10**400)
        await finish(store, claimed, final_reward=claimed.input, usage=usage, duration=most)

    for run_id in ("run-1", None):
        summary = await store.summarize(run_id)
        number, total = summary.rewards[None]
        expect(number == 3 and math.isclose(total, -most), "a sum of rewards out of range is the largest float")
        usage = summary.usage
        expect_equal((usage.input_tokens, usage.output_tokens), (tokens, tokens), "tokens stay within 63 bits")
        expect(math.isclose(usage.cost, most) and math.isclose(summary.agent_seconds, most), "sums stay finite")
    expect_equal((await store.statistics()).total_rollouts, 3, "the store still works")


async def only_the_last_attempt_is_rewarded(store: LightningStore) -> None:
    await finish(store, await claim_one(store, config=RETRY), "failed", final_reward=0.25)
    expect_equal(dict((await store.summarize()).rewards), {}, "a rollout to be tried again has no reward yet")

    [again] = await store.claim(1)
    await finish(store, again, final_reward=1.0)
    expect_equal(dict((await store.summarize()).rewards), {None: (1, 1.0)}, "a rollout has one reward, its last")


async def late_reports_are_not_counted(store: LightningStore) -> None:
    claimed = await claim_one(store)
    await finish(store, claimed, final_reward=1.0)
    await finish(store, claimed, "failed", final_reward=0.0)

    summary = await store.summarize()
    expect_equal((dict(summary.counts), dict(summary.rewards)), ({"succeeded": 1}, {None: (1, 1.0)}), "none is counted")


async def statistics_count_what_the_store_holds(store: LightningStore) -> None:
    await store.add_resources({"marker": Marker(1)})
    await store.enqueue(requests("a", "b", "c"))
    [claimed] = await store.claim(1, worker_id="worker-1")
    await store.start_attempt(claimed.rollout_id, worker_id="worker-1")
    latest = await store.start_attempt(claimed.rollout_id)
    await finish(store, latest, spans=[span_of(latest), span_of(latest)])

    seen = await store.statistics()
    expect_equal((seen.total_rollouts, seen.queued), (3, 2), "statistics count rollouts, and those in the queue")
    expect_equal((seen.total_attempts, seen.total_spans), (3, 2), "statistics count attempts and spans")
    expect_equal((seen.total_resources, seen.total_workers), (1, 1), "statistics count snapshots and workers")
    expect_equal(seen.late_spans, 0, "nothing came late")


CHECKS: tuple[Check, ...] = (
    counts_add_up,
    counts_are_by_run_and_whole,
    a_status_that_nothing_has_is_not_counted,
    rewards_are_summed_up_by_mode,
    sums_stay_in_range,
    only_the_last_attempt_is_rewarded,
    late_reports_are_not_counted,
    statistics_count_what_the_store_holds,
)
