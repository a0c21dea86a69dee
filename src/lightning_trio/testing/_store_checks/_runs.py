"""Runs: keys that make enqueuing idempotent, leases of workers, removal, and the record of a run."""

from __future__ import annotations

import attrs
import trio

from ..._errors import StaleAttempt, StaleRun, UnknownId
from ..._records import (
    FINAL,
    DatasetFingerprint,
    EnqueueRolloutRequest,
    RolloutChange,
    RolloutConfig,
    RolloutRemoval,
    RolloutReopening,
    Run,
    Worker,
)
from ..._spans import Usage
from ...store import LightningStore
from ._steps import (
    RETRY,
    SOON,
    Check,
    attempts_of,
    claim_one,
    expect,
    expect_equal,
    finish,
    ids_of,
    nothing_changes,
    outcome_of,
    refused,
    requests,
    rollout_of,
    span_of,
)

LEASE = 8 * SOON
"""Seconds of a lease that must not expire: more than a few calls take on a busy machine."""


def _keyed(*keys: str) -> list[EnqueueRolloutRequest]:
    return [EnqueueRolloutRequest(f"task {key}", key=key) for key in keys]


async def a_known_key_makes_nothing_new(store: LightningStore) -> None:
    first = await store.enqueue(_keyed("a", "b"), run_id="run-1")
    again = await store.enqueue(_keyed("b", "c", "a"), run_id="run-1")
    expect_equal((again[0], again[2]), (first[1], first[0]), "a request whose key is known gets the rollout's id")
    expect(again[1] not in first, "a new key makes a new rollout")
    expect_equal(len(await store.claim(10, run_id="run-1")), 3, "a rollout enqueued twice by its key is claimed once")
    expect_equal((await rollout_of(store, first[0])).key, "a", "a rollout knows its key")


async def a_key_within_one_batch_counts_once(store: LightningStore) -> None:
    first, second, other = await store.enqueue([*_keyed("a", "a"), *requests("no key")], run_id="run-1")
    expect(first == second != other, "the same key twice in one call is one rollout")


async def a_key_belongs_to_its_run(store: LightningStore) -> None:
    [first] = await store.enqueue(_keyed("a"), run_id="run-1")
    [second] = await store.enqueue(_keyed("a"), run_id="run-2")
    [third] = await store.enqueue(_keyed("a"))
    expect_equal(len({first, second, third}), 3, "the same key in another run is another rollout")


async def a_finished_rollout_keeps_its_key(store: LightningStore) -> None:
    [rollout_id] = await store.enqueue(_keyed("a"), run_id="run-1")
    [claimed] = await store.claim(1)
    await finish(store, claimed)
    expect_equal(await store.enqueue(_keyed("a"), run_id="run-1"), [rollout_id], "a key stays taken when all is done")
    expect_equal(await store.claim(1), [], "a finished rollout is not run again")


async def an_expired_lease_requeues(store: LightningStore) -> None:
    await store.put([Worker("worker-1", lease_seconds=LEASE)])
    await store.enqueue(requests("a"))
    [claimed] = await store.claim(1, worker_id="worker-1")
    await store.add_spans([span_of(claimed)])
    expiry = await store.expire()
    expect_equal(list(expiry.requeued), [], "nothing is requeued while the lease lasts")
    expect(
        expiry.next_in is not None and 0 < expiry.next_in <= LEASE,
        "expire() returns the seconds until a lease runs out",
    )
    await trio.sleep(LEASE + SOON)
    expiry = await store.expire()
    expect_equal(list(expiry.requeued), [claimed.rollout_id], "a rollout whose worker's lease ran out is requeued")
    [lost] = await attempts_of(store, claimed)
    expect_equal(lost.status, "unresponsive", "an attempt lost with its worker is unresponsive")
    expect(
        lost.end_time is not None and lost.error is not None,
        "a lost attempt has an end_time and an error with the reason",
    )
    expect_equal((await rollout_of(store, claimed)).status, "requeuing", "its rollout is requeued")
    [again] = await store.claim(1, worker_id="worker-2")
    expect_equal(again.rollout_id, claimed.rollout_id, "a requeued rollout can be claimed by a survivor")
    expect_equal(await finish(store, claimed), None, "the late report of a lost attempt is refused")
    expect_equal(await finish(store, again), "succeeded", "the new attempt's report counts, whatever max_attempts says")


async def a_renewed_lease_lasts(store: LightningStore) -> None:
    await store.put([Worker("worker-1", lease_seconds=LEASE)])
    await store.enqueue(requests("a"))
    [claimed] = await store.claim(1, worker_id="worker-1")
    for _ in range(3):
        await trio.sleep(LEASE / 2)
        await store.put([Worker("worker-1", lease_seconds=LEASE)])
    expect_equal(list((await store.expire()).requeued), [], "a worker stored again keeps its attempts")
    expect_equal(await finish(store, claimed), "succeeded", "its report counts")


async def a_worker_has_the_rest_of_its_lease(store: LightningStore) -> None:
    async def left() -> float | None:
        worker = await store.get_worker_by_id("worker-1")
        assert worker is not None
        return worker.lease_left_seconds

    # The store counts by its own clock, not by the times in the worker's record.
    await store.put([Worker("worker-1", last_heartbeat_time=0.0, lease_seconds=60.0, lease_left_seconds=1000.0)])
    first = await left()
    expect(first is not None and 0 < first <= 60.0, "lease_left_seconds is the time until the lease runs out")
    await trio.sleep(SOON)
    second = await left()
    expect(first is not None and second is not None and second < first, "lease_left_seconds decreases")
    await store.put([Worker("worker-1", lease_seconds=0.0)])
    expect_equal(await left(), None, "lease_left_seconds is None once the lease has run out")
    await store.expire()
    expect_equal(await left(), None, "lease_left_seconds is None after expire(), too")
    await store.put([Worker("worker-1")])
    expect_equal(await left(), None, "lease_left_seconds is None without a lease")


async def no_lease_never_runs_out(store: LightningStore) -> None:
    await store.put([Worker("worker-1")])
    await store.enqueue(requests("a"))
    [claimed] = await store.claim(1, worker_id="worker-1")
    expiry = await store.expire()
    expect_equal((list(expiry.requeued), expiry.next_in), ([], None), "without a lease there is nothing to run out")
    await store.put([Worker("worker-1", lease_seconds=60.0)])
    await store.put([Worker("worker-1", lease_seconds=0.0)])
    expiry = await store.expire()
    expect_equal(list(expiry.requeued), [claimed.rollout_id], "a lease of 0 seconds ends at once")


async def an_idle_workers_lease_ends_quietly(store: LightningStore) -> None:
    await store.put([Worker("worker-1", lease_seconds=0.0)])
    expiry = await store.expire()
    expect_equal((list(expiry.requeued), list(expiry.failed), expiry.next_in), ([], [], None), "it had no attempts")
    worker = await store.get_worker_by_id("worker-1")
    expect(worker is not None and worker.status == "unknown", "a worker whose lease ran out is unknown")


async def rollouts_that_lose_every_worker_fail(store: LightningStore) -> None:
    config = RolloutConfig(max_lost_attempts=2)
    [rollout_id] = await store.enqueue(requests("deadly", config=config), run_id="run-1")
    for number in (1, 2):
        await store.put([Worker(f"worker-{number}", lease_seconds=0.0)])
        expect_equal(len(await store.claim(1, worker_id=f"worker-{number}")), 1, "a requeued rollout is claimed again")
        expiry = await store.expire()
    expect_equal(list(expiry.failed), [rollout_id], "a rollout that lost max_lost_attempts attempts fails")
    expect_equal((await rollout_of(store, rollout_id)).status, "failed", "its status is failed")
    expect_equal((await store.summarize("run-1")).counts, {"failed": 1}, "it is counted once")


async def lost_attempts_leave_the_others_their_number(store: LightningStore) -> None:
    config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
    await store.put([Worker("worker-1", lease_seconds=0.0)])
    await store.enqueue(requests("a", config=config))
    await store.claim(1, worker_id="worker-1")
    await store.expire()
    [second] = await store.claim(1)
    expect_equal(
        await finish(store, second, "failed"), "requeuing", "a lost attempt does not count as the first of two"
    )
    [third] = await store.claim(1)
    expect_equal(await finish(store, third, "failed"), "failed", "two failed attempts count as two")
    expect_equal([a.sequence_id for a in await attempts_of(store, third)], [1, 2, 3], "all attempts are kept")


async def a_final_outcome_is_not_retried(store: LightningStore) -> None:
    config = RolloutConfig(max_attempts=3, retry_condition=["failed"])
    claimed = await claim_one(store, config=config)
    expect_equal(
        await finish(store, claimed, "failed", next=FINAL), "failed", "a final outcome gets no further attempt"
    )


async def removed_rollouts_stay_counted(store: LightningStore) -> None:
    kept, gone = await store.enqueue(_keyed("kept", "gone"), run_id="run-1")
    for claimed in await store.claim(2):
        await store.finish([outcome_of(claimed, spans=[span_of(claimed)], final_reward=2.0, usage=Usage(3, 1, 0.5))])
    before = await store.summarize("run-1")
    await store.update([RolloutRemoval(gone)])
    expect_equal(ids_of(await store.query_rollouts()), [kept], "a removed rollout is no longer found")
    after = await store.summarize("run-1")
    expect_equal(attrs.evolve(after, removed=0), before, "counts, rewards and usage cover removed rollouts")
    expect_equal((before.removed, after.removed), (0, 1), "summarize counts the removed rollouts")
    expect_equal(await store.wait_finished([gone]), [], "waiting for a removed rollout returns at once")
    [again] = await store.enqueue(_keyed("gone"), run_id="run-1")
    expect(again not in (kept, gone), "the key of a removed rollout is free")


async def reopened_rollouts_are_run_again(store: LightningStore) -> None:
    await store.enqueue(requests("bad", "good", config=RETRY), run_id="run-1")
    bad, good = await store.claim(2)
    await finish(store, bad, "failed", final_reward=-8.0, next=FINAL)
    await finish(store, good, final_reward=2.0)
    await store.update([RolloutReopening(bad.rollout_id)])

    reopened = await rollout_of(store, bad)
    expect_equal((reopened.status, reopened.end_time), ("requeuing", None), "a reopened rollout is in the queue")
    summary = await store.summarize("run-1")
    expect_equal(dict(summary.counts), {"requeuing": 1, "succeeded": 1}, "a reopened rollout is no failed one")
    expect_equal(dict(summary.rewards), {None: (1, 2.0)}, "the reward of a reopened rollout no longer counts")
    expect_equal(await store.wait_finished([bad.rollout_id], count=0), [bad.rollout_id], "it has not finished")

    [again] = await store.claim(1, run_id="run-1")
    expect_equal(again.attempt.sequence_id, 2, "attempts of a reopened rollout are numbered on")
    with refused(StaleAttempt, "the attempts before stay ended"):
        await store.update_attempt(bad.rollout_id, bad.attempt.attempt_id, status="succeeded")
    expect_equal(await finish(store, again, "failed"), "requeuing", "attempts before a reopening do not count")
    [last] = await store.claim(1, run_id="run-1")
    await finish(store, last, final_reward=4.0)
    statuses = [attempt.status for attempt in await attempts_of(store, bad)]
    expect_equal(statuses, ["failed", "failed", "succeeded"], "all attempts are kept")
    ended = await rollout_of(store, bad)
    expect((ended.end_time or 0.0) >= (good.end_time or 0.0), "a reopened rollout ends again")
    summary = await store.summarize("run-1")
    expect_equal(dict(summary.counts), {"succeeded": 2}, "a reopened rollout is counted once")
    expect_equal(dict(summary.rewards), {None: (2, 6.0)}, "a reopened rollout has one reward, its last")


async def a_reopened_reward_leaves_the_others_exact(store: LightningStore) -> None:
    await store.enqueue([EnqueueRolloutRequest(reward, "train") for reward in (0.25, -1e300, 0.5)], run_id="run-1")
    claimed = await store.claim(3)
    for each in claimed:
        await finish(store, each, "failed", final_reward=each.input)
    await store.update([RolloutReopening(claimed[1].rollout_id)])

    rewards = dict((await store.summarize("run-1")).rewards)
    expect_equal(rewards, {"train": (2, 0.75)}, "the sum without a large reward has all its digits")


async def a_reopened_rollout_that_never_ran_is_queued(store: LightningStore) -> None:
    [rollout_id] = await store.enqueue(requests("a"), run_id="run-1", status="cancelled")
    await store.update([RolloutReopening(rollout_id)])

    expect_equal((await rollout_of(store, rollout_id)).status, "queuing", "a rollout that never ran is queued")
    expect_equal(ids_of(await store.claim(1, run_id="run-1")), [rollout_id], "it can be claimed")


async def only_unsuccessful_rollouts_are_reopened(store: LightningStore) -> None:
    done = await claim_one(store)
    await finish(store, done)
    [queued] = await store.enqueue(requests("a"))
    async with nothing_changes(store, "what has succeeded or has not ended is not reopened"):
        with refused(StaleAttempt, "a succeeded rollout cannot be reopened"):
            await store.update([RolloutReopening(done.rollout_id)])
        with refused(UnknownId, "an unknown rollout cannot be reopened"):
            await store.update([RolloutReopening("ro-unknown")])
        await store.update([RolloutReopening(queued)])


async def only_finished_rollouts_can_be_removed(store: LightningStore) -> None:
    [queued] = await store.enqueue(requests("a"))
    with refused(ValueError, "a rollout in the queue cannot be removed"):
        await store.update([RolloutRemoval(queued)])
    with refused(UnknownId, "an unknown rollout cannot be removed"):
        await store.update([RolloutRemoval("ro-unknown")])
    await store.update([RolloutChange(queued, status="cancelled"), RolloutRemoval(queued)])
    expect_equal(ids_of(await store.query_rollouts()), [], "a rollout cancelled by the change before can be removed")


async def old_rollouts_are_pruned(store: LightningStore) -> None:
    for run_id in ("run-1", "run-2"):
        await store.enqueue(requests("a", "b"), run_id=run_id)
        for claimed in (await store.claim(2, run_id=run_id))[:1]:
            await finish(store, claimed, spans=[span_of(claimed)])
    expect_equal(await store.prune(run_id="run-1", older_than_seconds=3600), 0, "younger rollouts are kept")
    expect_equal(await store.prune(run_id="run-1"), 1, "prune() returns the number of rollouts that it removed")
    await store.vacuum()
    expect_equal(len(await store.query_rollouts(run_id_in=["run-1"])), 1, "unfinished rollouts are kept")
    expect_equal(len(await store.query_rollouts(run_id_in=["run-2"])), 2, "other runs' rollouts are kept")
    expect_equal((await store.summarize("run-1")).counts.get("succeeded"), 1, "counts cover pruned rollouts")


async def usage_and_durations_add_up(store: LightningStore) -> None:
    config = RolloutConfig(max_attempts=2, retry_condition=["failed"])
    claimed = await claim_one(store, config=config, run_id="run-1")
    await finish(store, claimed, "failed", duration=1.5, usage=Usage(10, 2, 0.25))
    [again] = await store.claim(1)
    await finish(store, again, duration=2.0, usage=Usage(5, 1, 0.5))
    summary = await store.summarize("run-1")
    expect_equal(summary.usage, Usage(15, 3, 0.75), "a run's usage is that of all attempts")
    expect_equal(summary.agent_seconds, 3.5, "a run's agent_seconds are those of all attempts")
    expect_equal([a.usage for a in await attempts_of(store, again)][1], Usage(5, 1, 0.5), "an attempt keeps its usage")


async def runs_are_kept(store: LightningStore) -> None:
    run = Run(
        "run-1",
        "first",
        "agent",
        "Baseline",
        {"train": DatasetFingerprint(3, "abc")},
        start_time=1.0,
        state={"round": 2},
        history=[{"score": 0.5}],
    )
    await store.put([run, Run("run-2", "second", "other", start_time=2.0)])
    expect_equal(await store.get_run_by_id("run-1"), run, "a run is returned as it was put")
    expect_equal(await store.get_run_by_id("run-3"), None, "an unknown run is None")
    finished = attrs.evolve(run, status="finished", end_time=3.0)
    await store.put([finished])
    expect_equal(await store.get_run_by_id("run-1"), finished, "putting a run again replaces it")
    expect_equal([r.run_id for r in await store.query_runs()], ["run-1", "run-2"], "runs come in order of their start")
    expect_equal([r.run_id for r in await store.query_runs(name="second")], ["run-2"], "and by name")
    expect_equal([r.run_id for r in await store.query_runs(agent="agent")], ["run-1"], "and by agent")


async def a_run_is_resumed_by_one_runner_only(store: LightningStore) -> None:
    begun = Run("run-1", worker_id="first")
    await store.put([begun])
    await store.put([attrs.evolve(begun, elapsed_seconds=1.0)])
    taken = attrs.evolve(begun, worker_id="second", takeovers=1)
    await store.put([taken])
    with refused(StaleRun, "of two runners that resume a run at the same time the second is refused"):
        await store.put([attrs.evolve(begun, worker_id="third", takeovers=1)])
    with refused(StaleRun, "a late report of a run by its previous runner is refused"):
        await store.put([attrs.evolve(begun, elapsed_seconds=2.0)])
    expect_equal(await store.get_run_by_id("run-1"), taken, "a refused change changes nothing")


CHECKS: tuple[Check, ...] = (
    a_known_key_makes_nothing_new,
    a_key_within_one_batch_counts_once,
    a_key_belongs_to_its_run,
    a_finished_rollout_keeps_its_key,
    an_expired_lease_requeues,
    a_renewed_lease_lasts,
    a_worker_has_the_rest_of_its_lease,
    no_lease_never_runs_out,
    an_idle_workers_lease_ends_quietly,
    rollouts_that_lose_every_worker_fail,
    lost_attempts_leave_the_others_their_number,
    a_final_outcome_is_not_retried,
    removed_rollouts_stay_counted,
    reopened_rollouts_are_run_again,
    a_reopened_reward_leaves_the_others_exact,
    a_reopened_rollout_that_never_ran_is_queued,
    only_unsuccessful_rollouts_are_reopened,
    only_finished_rollouts_can_be_removed,
    old_rollouts_are_pruned,
    usage_and_durations_add_up,
    runs_are_kept,
    a_run_is_resumed_by_one_runner_only,
)
