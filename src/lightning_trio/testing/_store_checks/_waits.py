"""Waiting for rollouts to end."""

from __future__ import annotations

from functools import partial

import trio

from ..._records import RetryIn
from ...store import LightningStore
from ._steps import (
    NEVER,
    RETRY,
    SOON,
    Check,
    calling,
    claim_one,
    expect,
    expect_equal,
    finish,
    ids_of,
    outcome_of,
    requests,
)


async def wait_finished_of_what_has_ended_returns_at_once(store: LightningStore) -> None:
    ended = await claim_one(store)
    await finish(store, ended)

    expect_equal(await store.wait_finished([ended.rollout_id]), [], "what has ended is not waited for")
    expect_equal(await store.wait_finished([]), [], "nothing is not waited for")


async def wait_finished_waits_for_all(store: LightningStore) -> None:
    await store.enqueue(requests("a", "b"))
    first, second = await store.claim(2)
    async with calling(partial(store.wait_finished, ids_of([first, second]))) as wait:
        await finish(store, first)
        await trio.sleep(SOON)
        expect(wait.waits, "without count, wait_finished waits for all")
        await finish(store, second, "failed")

    expect_equal(wait.results, [[]], "wait_finished returns the ids that have not ended, here none")


async def wait_finished_waits_for_count(store: LightningStore) -> None:
    ids = await store.enqueue(requests("a", "b", "c", "d"))
    claimed = await store.claim(4)
    await finish(store, claimed[3])
    async with calling(partial(store.wait_finished, ids, count=2)) as wait:
        expect(wait.waits, "wait_finished waits until `count` have ended, including those that ended before")
        await finish(store, claimed[1])

    expect_equal(wait.results, [[ids[0], ids[2]]], "wait_finished returns the ids that have not ended, in order")


async def wait_finished_with_count_0_is_a_look(store: LightningStore) -> None:
    ids = await store.enqueue(requests("a", "b"))

    expect_equal(await store.wait_finished(ids, count=0), ids, "with count 0, wait_finished does not wait")


async def wait_finished_with_a_count_beyond_all_waits_for_all(store: LightningStore) -> None:
    claimed = await claim_one(store)
    async with calling(partial(store.wait_finished, [claimed.rollout_id], count=5)) as wait:
        await finish(store, claimed)

    expect_equal(wait.results, [[]], "more than all cannot end")


async def unknown_ids_count_as_finished(store: LightningStore) -> None:
    [known] = await store.enqueue(requests("a"))

    expect_equal(await store.wait_finished(["ro-unknown"]), [], "wait_finished does not wait for an unknown id")
    left = await store.wait_finished(["ro-unknown", known], count=1)
    expect_equal(left, [known], "an unknown id counts as finished")


async def wait_finished_is_woken_by_cancellation_in_the_store(store: LightningStore) -> None:
    ids = await store.enqueue(requests("a"))
    async with calling(partial(store.wait_finished, ids)):
        await store.update_rollout(ids[0], status="cancelled")


async def wait_finished_is_woken_by_an_update_of_the_attempt(store: LightningStore) -> None:
    claimed = await claim_one(store)
    async with calling(partial(store.wait_finished, [claimed.rollout_id])):
        await store.update_attempt(claimed.rollout_id, "latest", status="failed")


async def a_rollout_to_be_tried_again_has_not_ended(store: LightningStore) -> None:
    claimed = await claim_one(store, config=RETRY)
    async with calling(partial(store.wait_finished, [claimed.rollout_id])) as wait:
        await finish(store, claimed, "failed", next=RetryIn(NEVER))
        await trio.sleep(SOON)
        expect(wait.waits, "a rollout that is tried again has not ended")
        await store.update_rollout(claimed.rollout_id, status="cancelled")


async def wait_finished_wakes_all_who_wait(store: LightningStore) -> None:
    await store.enqueue(requests("a", "b"))
    first, second = await store.claim(2)
    wait_both = partial(store.wait_finished, ids_of([first, second]))
    wait_one = partial(store.wait_finished, ids_of([second, first]), count=1)
    async with calling(wait_both) as both, calling(wait_one) as one:
        await store.finish([outcome_of(first)])
        await trio.sleep(SOON)
        expect_equal((both.waits, one.waits), (True, False), "every caller waits for the rollouts it named")
        await store.finish([outcome_of(second)])

    expect_equal(both.results, [[]], "all waiting callers are woken")


async def wait_finished_can_be_cancelled(store: LightningStore) -> None:
    claimed = await claim_one(store)
    ids = [claimed.rollout_id]
    with trio.move_on_after(SOON) as scope:
        await store.wait_finished(ids)
    expect(scope.cancelled_caught, "wait_finished can be cancelled")

    async with calling(partial(store.wait_finished, ids)) as wait:
        await finish(store, claimed)
    expect_equal(wait.results, [[]], "a cancelled wait does not affect others")


async def an_id_given_twice_is_waited_for_once(store: LightningStore) -> None:
    claimed = await claim_one(store)
    async with calling(partial(store.wait_finished, [claimed.rollout_id] * 2)) as wait:
        await finish(store, claimed)

    expect_equal(wait.results, [[]], "an id given twice ends the wait as well")


CHECKS: tuple[Check, ...] = (
    wait_finished_of_what_has_ended_returns_at_once,
    wait_finished_waits_for_all,
    wait_finished_waits_for_count,
    wait_finished_with_count_0_is_a_look,
    wait_finished_with_a_count_beyond_all_waits_for_all,
    unknown_ids_count_as_finished,
    wait_finished_is_woken_by_cancellation_in_the_store,
    wait_finished_is_woken_by_an_update_of_the_attempt,
    a_rollout_to_be_tried_again_has_not_ended,
    wait_finished_wakes_all_who_wait,
    wait_finished_can_be_cancelled,
    an_id_given_twice_is_waited_for_once,
)
