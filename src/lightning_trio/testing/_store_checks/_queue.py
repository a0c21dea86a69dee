"""Queue: an enqueued rollout is claimed once, oldest first, and callers that wait for one are woken."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import trio

from ..._errors import NotStorable, UnknownId
from ..._records import AttemptedRollout, EnqueueRolloutRequest, RetryIn, RolloutConfig
from ...store import LightningStore
from ._steps import (
    NEVER,
    RETRY,
    SOON,
    Check,
    Marker,
    calling,
    claim_one,
    expect,
    expect_equal,
    finish,
    ids_of,
    nothing_changes,
    refused,
    requests,
    rollout_of,
)


async def enqueue_gives_ids_in_the_order_of_the_requests(store: LightningStore) -> None:
    ids = await store.enqueue(requests(*range(5)))

    expect_equal(len(set(ids)), 5, "every rollout has an id of its own")
    inputs = [(await rollout_of(store, rollout_id)).input for rollout_id in ids]
    expect_equal(inputs, list(range(5)), "ids come in the order of the requests")


async def enqueue_keeps_what_was_asked_for(store: LightningStore) -> None:
    config = RolloutConfig(timeout_seconds=3, max_attempts=2, retry_condition=["timeout"])
    task = {"text": "How?", "options": [1, 2.5, None, True]}
    [rollout_id] = await store.enqueue([EnqueueRolloutRequest(task, "val", None, config, {"fold": 3})])

    rollout = await rollout_of(store, rollout_id)
    expect(not isinstance(rollout, AttemptedRollout), "a rollout that waits for its first attempt has none")
    expect_equal(rollout.input, task, "the input is kept")
    expect_equal(rollout.mode, "val", "the mode is kept")
    expect_equal(rollout.config, config, "the configuration is kept")
    expect_equal(dict(rollout.metadata or {}), {"fold": 3}, "the metadata is kept")
    expect_equal((rollout.status, rollout.end_time), ("queuing", None), "an enqueued rollout is queuing")
    expect_equal(rollout.resources_id, None, "without any snapshot there is no resources_id")


async def large_tasks_come_back_as_they_were(store: LightningStore) -> None:
    # Of a size at which a store may handle them in parts.
    task = {"text": "äx" * 300_000, "rows": [{"number": number, "text": "x" * 9} for number in range(9_000)]}
    [rollout_id] = await store.enqueue([EnqueueRolloutRequest(task)])

    claimed = await claim_one(store)
    expect(claimed.input == task, "a large task is claimed as it was enqueued")
    claimed.input["rows"].clear()
    expect((await rollout_of(store, rollout_id)).input == task, "a large task is not shared with its attempt")
    other = [task, "x" * 600_000]
    await store.update_rollout(rollout_id, input=other)
    expect((await rollout_of(store, rollout_id)).input == other, "a large task can be replaced")
    [started] = await store.start([rollout_id])
    expect(started.input == other, "the next attempt has the new task")
    [started] = await store.start([EnqueueRolloutRequest(task)])
    expect(started.input == task, "a large task that is started outside the queue comes back")


async def enqueue_remembers_the_run(store: LightningStore) -> None:
    [in_run] = await store.enqueue(requests("a"), run_id="run-1")
    [in_none] = await store.enqueue(requests("b"))

    runs = [(await rollout_of(store, rollout_id)).run_id for rollout_id in (in_run, in_none)]
    expect_equal(runs, ["run-1", None], "a rollout belongs to the run it was enqueued for")


async def enqueue_takes_the_latest_resources(store: LightningStore) -> None:
    first = await store.add_resources({"marker": Marker(1)})
    latest = await store.add_resources({"marker": Marker(2)})
    [default, named] = await store.enqueue(
        [EnqueueRolloutRequest("a"), EnqueueRolloutRequest("b", resources_id=first.resources_id)]
    )

    used = [(await rollout_of(store, rollout_id)).resources_id for rollout_id in (default, named)]
    wanted = [latest.resources_id, first.resources_id]
    expect_equal(used, wanted, "a request without resources_id gets the latest snapshot's, another its own")


async def enqueue_refuses_an_unknown_resources_id(store: LightningStore) -> None:
    batch = [EnqueueRolloutRequest("a"), EnqueueRolloutRequest("b", resources_id="rs-unknown")]
    async with nothing_changes(store, "a batch with an unknown resources_id enqueues nothing"):
        with refused(UnknownId, "an unknown resources_id is refused"):
            await store.enqueue(batch)

    expect_equal(await store.claim(2), [], "a batch with an unknown resources_id enqueues nothing")


class _Faulty(Sequence[EnqueueRolloutRequest]):
    """Requests of which the last cannot be read, like the tasks of a server that is away."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: Any) -> Any:
        if index == 7:
            raise OSError("the last request cannot be read")
        return EnqueueRolloutRequest(index)


async def enqueue_of_requests_that_raise_changes_nothing(store: LightningStore) -> None:
    async with nothing_changes(store, "a batch of which a request cannot be read enqueues nothing"):
        with refused(OSError, "what a caller's sequence raises is raised"):
            await store.enqueue(_Faulty())

    expect_equal(await store.claim(1), [], "a batch of which a request cannot be read enqueues nothing")


async def enqueue_takes_all_tasks_of_a_batch_or_none(store: LightningStore) -> None:
    batch = [EnqueueRolloutRequest(threading.Lock() if number == 6 else number) for number in range(8)]
    taken = 8
    try:
        await store.enqueue(batch)
    except NotStorable:
        taken = 0

    claimed = await store.claim(8)
    expect_equal(len(claimed), taken, "a batch with a task that the store cannot keep raises and enqueues nothing")


async def enqueue_of_nothing_gives_no_ids(store: LightningStore) -> None:
    expect_equal(await store.enqueue([]), [], "an empty batch is accepted")


async def cancelled_rollouts_are_recorded_and_never_claimed(store: LightningStore) -> None:
    ids = await store.enqueue(requests("a", "b"), status="cancelled")

    for rollout_id in ids:
        rollout = await rollout_of(store, rollout_id)
        expect_equal(rollout.status, "cancelled", "enqueue with status='cancelled' records cancelled rollouts")
        expect(rollout.end_time is not None, "a cancelled rollout has ended")
    expect_equal(await store.claim(2), [], "a cancelled rollout is not claimed")


async def claim_takes_the_oldest_up_to_the_limit(store: LightningStore) -> None:
    await store.enqueue(requests(0, 1))
    await store.enqueue(requests(2, 3, 4))

    batches = [[rollout.input for rollout in await store.claim(limit)] for limit in (2, 2, 5, 5)]
    expect_equal(batches, [[0, 1], [2, 3], [4], []], "claim takes up to `limit`, the oldest first, each once")


async def claim_takes_nothing_for_a_limit_of_zero_or_less(store: LightningStore) -> None:
    await store.enqueue(requests("a"))

    expect_equal([await store.claim(0), await store.claim(-1)], [[], []], "claim takes nothing for 0 or less")


async def claim_starts_an_attempt(store: LightningStore) -> None:
    [rollout_id] = await store.enqueue(requests("a"))
    [claimed] = await store.claim(1, worker_id="worker-1")

    expect_equal(claimed.rollout_id, rollout_id, "claim returns the input that was enqueued")
    expect_equal(claimed.status, "preparing", "a claimed rollout is preparing")
    attempt = claimed.attempt
    expect_equal((attempt.sequence_id, attempt.status), (1, "preparing"), "claim starts attempt 1, preparing")
    expect_equal(attempt.worker_id, "worker-1", "the attempt names the worker that claimed it")
    expect_equal(await rollout_of(store, rollout_id), claimed, "claim returns the rollout that the store has")


async def claim_takes_one_runs_rollouts(store: LightningStore) -> None:
    await store.enqueue(requests(0), run_id="run-1")
    await store.enqueue(requests(1), run_id="run-2")
    await store.enqueue(requests(2), run_id="run-1")

    inputs = [rollout.input for rollout in await store.claim(5, run_id="run-1")]
    expect_equal(inputs, [0, 2], "claim with a run_id takes that run's only")
    expect_equal(await store.claim(5, run_id="run-3"), [], "an unknown run has nothing to claim")


async def claim_without_a_run_takes_any_oldest_first(store: LightningStore) -> None:
    for number, run_id in enumerate(["run-1", None, "run-2", "run-1"]):
        await store.enqueue(requests(number), run_id=run_id)

    inputs = [rollout.input for rollout in await store.claim(3)]
    expect_equal(inputs, [0, 1, 2], "claim without a run_id takes the oldest of all runs")


async def claim_gives_a_configuration_to_those_without(store: LightningStore) -> None:
    own, default = RolloutConfig(timeout_seconds=1), RolloutConfig(timeout_seconds=2)
    await store.enqueue(requests("own", config=own) + requests("none"))
    claimed = await store.claim(2, default_config=default)

    expect_equal([rollout.config for rollout in claimed], [own, default], "default_config is for those without one")
    kept = (await rollout_of(store, claimed[1])).config
    expect_equal(kept, default, "the configuration an attempt started with stays with its rollout")


async def concurrent_claims_share_the_queue(store: LightningStore) -> None:
    ids = await store.enqueue(requests(*range(24)))
    claimed: list[str] = []

    async def claim_some() -> None:
        while batch := await store.claim(4):
            claimed.extend(ids_of(batch))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(claim_some)

    expect_equal(sorted(claimed), sorted(ids), "concurrent claimers take every rollout exactly once")


async def a_cancelled_claim_loses_nothing(store: LightningStore) -> None:
    ids = await store.enqueue(requests("a", "b"))
    claimed: list[AttemptedRollout] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        claimed += await store.claim(2)
    claimed += await store.claim(2)

    expect_equal(ids_of(claimed), ids, "rollouts that a cancelled claim did not return are still in the queue")


async def cancelled_in_the_queue_is_not_claimed(store: LightningStore) -> None:
    first, second = await store.enqueue(requests("a", "b"))
    await store.update_rollout(first, status="cancelled")

    expect_equal(ids_of(await store.claim(2)), [second], "a rollout cancelled in the queue is not claimed")


async def started_past_the_queue_is_not_claimed(store: LightningStore) -> None:
    first, second = await store.enqueue(requests("a", "b"))
    await store.start_attempt(first)

    expect_equal(ids_of(await store.claim(2)), [second], "a rollout that runs already is not claimed")


async def started_past_the_queue_has_lost_its_place(store: LightningStore) -> None:
    first, second = await store.enqueue(requests("a", "b", config=RETRY))
    await finish(store, await store.start_attempt(first), "failed", next=RetryIn(NEVER))

    claimed = ids_of(await store.claim(2))
    expect_equal(claimed, [second], "a retry waits for its delay, even if its rollout was once in the queue")


async def put_back_by_status_is_claimed_once(store: LightningStore) -> None:
    claimed = await claim_one(store)
    await store.update_rollout(claimed.rollout_id, status="queuing")
    await store.update_rollout(claimed.rollout_id, status="requeuing")

    again = await store.claim(5)
    expect_equal(ids_of(again), [claimed.rollout_id], "a rollout set to queuing is in the queue once")
    expect_equal(again[0].attempt.sequence_id, 2, "it gets a further attempt")


async def a_queued_rollout_takes_another_queued_status(store: LightningStore) -> None:
    [rollout_id] = await store.enqueue(requests("a"))
    changed = await store.update_rollout(rollout_id, status="requeuing")

    expect_equal(changed.status, "requeuing", "a rollout has the status that was set")
    expect_equal(ids_of(await store.claim(2)), [rollout_id], "it is still in the queue, once")


async def a_retry_that_waits_is_ready_once_it_is_set_to_queuing(store: LightningStore) -> None:
    claimed = await claim_one(store, config=RETRY)
    await finish(store, claimed, "failed", next=RetryIn(NEVER))
    await store.update_rollout(claimed.rollout_id, status="queuing")

    expect_equal(ids_of(await store.claim(2)), [claimed.rollout_id], "a rollout set to queuing can be claimed")


async def wait_claimable_returns_at_once_if_there_is_something(store: LightningStore) -> None:
    await store.enqueue(requests("a"))

    await store.wait_claimable()


async def wait_claimable_is_woken_by_enqueue(store: LightningStore) -> None:
    async with calling(store.wait_claimable) as wait:
        expect(wait.waits, "wait_claimable waits while the queue is empty")
        await store.enqueue(requests("a"))


async def wait_claimable_waits_for_its_run(store: LightningStore) -> None:
    async with calling(partial(store.wait_claimable, run_id="run-1")) as wait:
        await store.enqueue(requests("a"), run_id="run-2")
        await trio.sleep(SOON)
        expect(wait.waits, "wait_claimable with a run_id does not return for another run's rollouts")
        await store.enqueue(requests("b"), run_id="run-1")


async def wait_claimable_wakes_all_who_wait(store: LightningStore) -> None:
    async with calling(store.wait_claimable), calling(store.wait_claimable):
        await store.enqueue(requests("a"))


async def wait_claimable_is_woken_when_a_retry_is_due(store: LightningStore) -> None:
    claimed = await claim_one(store, config=RETRY)
    await finish(store, claimed, "failed", next=RetryIn(SOON))
    await store.wait_claimable()

    expect_equal(ids_of(await store.claim(1)), [claimed.rollout_id], "a retry can be claimed once it is due")


async def wait_claimable_learns_of_a_retry_while_it_waits(store: LightningStore) -> None:
    claimed = await claim_one(store, config=RETRY)
    async with calling(store.wait_claimable):
        await finish(store, claimed, "failed", next=RetryIn(SOON))


async def wait_claimable_does_not_count_the_cancelled(store: LightningStore) -> None:
    [rollout_id] = await store.enqueue(requests("a"))
    await store.update_rollout(rollout_id, status="cancelled")

    async with calling(store.wait_claimable) as wait:
        expect(wait.waits, "wait_claimable does not return for a cancelled rollout")
        await store.enqueue(requests("b"))


async def wait_claimable_can_be_cancelled(store: LightningStore) -> None:
    with trio.move_on_after(SOON) as scope:
        await store.wait_claimable()
    expect(scope.cancelled_caught, "wait_claimable can be cancelled")

    await store.enqueue(requests("a"))
    await store.wait_claimable()
    expect_equal(len(await store.claim(2)), 1, "a cancelled wait takes nothing from the queue")


CHECKS: tuple[Check, ...] = (
    enqueue_gives_ids_in_the_order_of_the_requests,
    enqueue_keeps_what_was_asked_for,
    large_tasks_come_back_as_they_were,
    enqueue_remembers_the_run,
    enqueue_takes_the_latest_resources,
    enqueue_refuses_an_unknown_resources_id,
    enqueue_of_requests_that_raise_changes_nothing,
    enqueue_takes_all_tasks_of_a_batch_or_none,
    enqueue_of_nothing_gives_no_ids,
    cancelled_rollouts_are_recorded_and_never_claimed,
    claim_takes_the_oldest_up_to_the_limit,
    claim_takes_nothing_for_a_limit_of_zero_or_less,
    claim_starts_an_attempt,
    claim_takes_one_runs_rollouts,
    claim_without_a_run_takes_any_oldest_first,
    claim_gives_a_configuration_to_those_without,
    concurrent_claims_share_the_queue,
    a_cancelled_claim_loses_nothing,
    cancelled_in_the_queue_is_not_claimed,
    started_past_the_queue_is_not_claimed,
    started_past_the_queue_has_lost_its_place,
    put_back_by_status_is_claimed_once,
    a_queued_rollout_takes_another_queued_status,
    a_retry_that_waits_is_ready_once_it_is_set_to_queuing,
    wait_claimable_returns_at_once_if_there_is_something,
    wait_claimable_is_woken_by_enqueue,
    wait_claimable_waits_for_its_run,
    wait_claimable_wakes_all_who_wait,
    wait_claimable_is_woken_when_a_retry_is_due,
    wait_claimable_learns_of_a_retry_while_it_waits,
    wait_claimable_does_not_count_the_cancelled,
    wait_claimable_can_be_cancelled,
)
