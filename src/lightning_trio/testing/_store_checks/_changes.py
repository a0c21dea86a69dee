"""Changes: which are allowed, which statuses are sticky, and that returned records never change."""

from __future__ import annotations

from typing import Any, cast

from ..._errors import StaleAttempt, UnknownId
from ..._lifecycle import TERMINAL_ATTEMPT
from ..._records import (
    AttemptChange,
    AttemptStatus,
    EnqueueRolloutRequest,
    RolloutChange,
    RolloutConfig,
    RolloutStatus,
    Run,
    Worker,
)
from ..._resources import Resource
from ...store import LightningStore
from ._steps import (
    RETRY,
    Check,
    Marker,
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


async def update_changes_what_is_given(store: LightningStore) -> None:
    snapshot = await store.add_resources({"marker": Marker(1)})
    [rollout_id] = await store.enqueue([EnqueueRolloutRequest("a", "train", metadata={"old": 1})])
    config = RolloutConfig(max_attempts=3)
    changed = await store.update_rollout(rollout_id, "b", config=config, metadata={"new": 2})

    expect_equal((changed.input, changed.config, changed.metadata), ("b", config, {"new": 2}), "what is given changes")
    kept = (changed.mode, changed.status, changed.resources_id)
    expect_equal(kept, ("train", "queuing", snapshot.resources_id), "what is not given stays")
    changed = await store.update_rollout(rollout_id, mode=None, resources_id=None, metadata=None)
    cleared = (changed.mode, changed.resources_id, changed.metadata)
    expect_equal(cleared, (None, None, None), "None is a value, not the same as not given")


async def update_of_an_attempt_changes_what_is_given(store: LightningStore) -> None:
    claimed = await claim_one(store)
    attempt_id = claimed.attempt.attempt_id
    changed = await store.update_attempt(
        claimed.rollout_id, attempt_id, worker_id="w", last_heartbeat_time=5.0, metadata={"a": 1}
    )

    seen = (changed.worker_id, changed.last_heartbeat_time, changed.metadata)
    expect_equal(seen, ("w", 5.0, {"a": 1}), "what is given changes")
    expect_equal((changed.status, changed.end_time), ("preparing", None), "what is not given stays")
    latest = await store.update_attempt(claimed.rollout_id, "latest", metadata=None)
    expect_equal((latest.attempt_id, latest.metadata), (attempt_id, None), '"latest" is the latest attempt')


async def metadata_alone_changes_no_status(store: LightningStore) -> None:
    claimed = await claim_one(store)
    for status in ("running", "cancelled"):
        await store.update_rollout(claimed.rollout_id, status=status)
        await store.update_rollout(claimed.rollout_id, metadata={"seen": status})
        await store.update_attempt(claimed.rollout_id, "latest", metadata={"seen": status})

        rollout = await rollout_of(store, claimed)
        expect_equal(rollout.status, status, "a change of metadata alone leaves every status alone")
    expect(rollout.end_time is not None, "a cancelled rollout has an end_time")
    expect_equal(await store.claim(1), [], "a change of metadata does not put it back into the queue")


async def terminal_statuses_of_rollouts_are_sticky(store: LightningStore) -> None:
    statuses: tuple[AttemptStatus, ...] = ("succeeded", "failed", "cancelled")
    others: tuple[RolloutStatus, ...] = ("queuing", "running", "requeuing")
    for status in statuses:
        ended = await claim_one(store)
        await finish(store, ended, status)
        async with nothing_changes(store, f"a rollout that is {status} stays so"):
            for other in others:
                with refused(StaleAttempt, f"a rollout that is {status} does not become {other}"):
                    await store.update_rollout(ended.rollout_id, status=other)
    expect_equal(await store.claim(5), [], "what has ended is not claimed")


async def the_same_status_again_is_no_change(store: LightningStore) -> None:
    ended = await claim_one(store)
    await finish(store, ended)

    async with nothing_changes(store, "setting the status it has changes nothing"):
        await store.update_rollout(ended.rollout_id, status="succeeded")


async def terminal_statuses_of_attempts_are_sticky(store: LightningStore) -> None:
    ended = await claim_one(store)
    await finish(store, ended, "timeout")

    async with nothing_changes(store, "an attempt that has ended stays so"):
        with refused(StaleAttempt, "an attempt that has ended gets no other status"):
            await store.update_attempt(ended.rollout_id, "latest", status="succeeded")


async def a_superseded_attempt_gets_no_status(store: LightningStore) -> None:
    first = await claim_one(store)
    await store.start_attempt(first.rollout_id)

    async with nothing_changes(store, "a superseded attempt stays as it is"):
        with refused(StaleAttempt, "the status of a superseded attempt does not change"):
            await store.update_attempt(first.rollout_id, first.attempt.attempt_id, status="succeeded")


async def update_refuses_unknown_ids(store: LightningStore) -> None:
    claimed = await claim_one(store)
    good = RolloutChange(claimed.rollout_id, metadata={"changed": True})
    unknown: dict[str, RolloutChange | AttemptChange] = {
        "rollout": RolloutChange("ro-unknown", metadata={}),
        "attempt": AttemptChange(claimed.rollout_id, "at-unknown", metadata={}),
        "rollout of an attempt": AttemptChange("ro-unknown", claimed.attempt.attempt_id, metadata={}),
        "resources snapshot": RolloutChange(claimed.rollout_id, resources_id="rs-unknown"),
    }
    for kind, change in unknown.items():
        async with nothing_changes(store, "changes are made all or none"):
            with refused(UnknownId, f"a change that names an unknown {kind} is refused"):
                await store.update([good, change])


async def a_stale_change_refuses_the_whole_batch(store: LightningStore) -> None:
    ended = await claim_one(store)
    await finish(store, ended)
    other = await claim_one(store)

    async with nothing_changes(store, "changes are made all or none"):
        with refused(StaleAttempt, "a stale change is refused"):
            await store.update(
                [RolloutChange(other.rollout_id, status="cancelled"), RolloutChange(ended.rollout_id, status="running")]
            )


async def a_batch_does_not_undo_what_it_ended(store: LightningStore) -> None:
    claimed = await claim_one(store)
    rollout_id, attempt_id = claimed.rollout_id, claimed.attempt.attempt_id
    ending = RolloutChange(rollout_id, status="cancelled")
    for undoing in (RolloutChange(rollout_id, status="queuing"), AttemptChange(rollout_id, attempt_id, "running")):
        async with nothing_changes(store, "changes are made all or none"):
            with refused(StaleAttempt, "a terminal status is sticky within one batch as well"):
                await store.update([ending, undoing])


async def statuses_that_do_not_exist_are_refused(store: LightningStore) -> None:
    claimed = await claim_one(store)
    async with nothing_changes(store, "a status that does not exist changes nothing"):
        with refused(ValueError, "a rollout takes no status that does not exist"):
            await store.update_rollout(claimed.rollout_id, status=cast("RolloutStatus", "queueing"))
        with refused(ValueError, "an attempt takes no status that does not exist"):
            await store.update_attempt(claimed.rollout_id, "latest", status=cast("AttemptStatus", "done"))


async def an_attempt_ended_by_update_ends_its_rollout(store: LightningStore) -> None:
    statuses: tuple[AttemptStatus, ...] = ("succeeded", "failed", "timeout", "unresponsive", "cancelled")
    for status in statuses:
        claimed = await claim_one(store)
        attempt = await store.update_attempt(claimed.rollout_id, "latest", status=status)

        expect(attempt.end_time is not None, f"an attempt set to {status} has an end_time")
        wanted = status if status in ("succeeded", "cancelled") else "failed"
        expect_equal((await rollout_of(store, claimed)).status, wanted, f"an attempt set to {status} ends its rollout")


async def an_attempt_ended_by_update_is_tried_again(store: LightningStore) -> None:
    claimed = await claim_one(store, config=RETRY)
    await store.update_attempt(claimed.rollout_id, "latest", status="failed")

    expect_equal((await rollout_of(store, claimed)).status, "requeuing", "retries apply to update as to finish")
    expect_equal(ids_of(await store.claim(2)), [claimed.rollout_id], "it can be claimed again")


async def an_attempt_set_running_makes_its_rollout_running(store: LightningStore) -> None:
    claimed = await claim_one(store)
    await store.update_attempt(claimed.rollout_id, "latest", status="running")

    expect_equal((await rollout_of(store, claimed)).status, "running", "the rollout runs as its attempt does")


async def a_rollout_ended_by_update_ends_its_attempt(store: LightningStore) -> None:
    claimed = await claim_one(store)
    await store.update_rollout(claimed.rollout_id, status="cancelled")

    [attempt] = await attempts_of(store, claimed)
    expect(attempt.status in TERMINAL_ATTEMPT, "no attempt is left running in a rollout that has ended")
    expect(attempt.end_time is not None, "the attempt of a rollout that was ended has an end_time")


async def a_span_of_an_ended_rollout_is_late(store: LightningStore) -> None:
    claimed = await claim_one(store)
    await store.update_rollout(claimed.rollout_id, status="cancelled")

    async with nothing_changes(store, "a span of a cancelled rollout changes nothing"):
        expect_equal(await store.add_spans([span_of(claimed)]), [], "a span of a cancelled rollout is not stored")


async def records_handed_out_never_change(store: LightningStore) -> None:
    queued = await rollout_of(store, (await store.enqueue(requests("a")))[0])
    [claimed] = await store.claim(1)
    before = (repr(queued), repr(claimed), repr(claimed.attempt))
    await store.add_spans([span_of(claimed)])
    await store.update_rollout(claimed.rollout_id, metadata={"new": 1})
    await store.finish([outcome_of(claimed, final_reward=1.0)])

    after = (repr(queued), repr(claimed), repr(claimed.attempt))
    expect_equal(after, before, "records handed out never change")


async def lists_handed_out_never_change(store: LightningStore) -> None:
    claimed = await claim_one(store)
    await store.add_spans([span_of(claimed)])
    spans = await store.query_spans(claimed.rollout_id)
    attempts = await store.query_attempts(claimed.rollout_id)
    await store.add_spans([span_of(claimed)])
    await store.start_attempt(claimed.rollout_id)

    expect_equal((len(spans), len(attempts)), (1, 1), "results handed out never change")


async def _check_nested_lists(store: LightningStore, finished_id: str) -> None:
    nested: dict[str, Any] = {"folds": [1]}
    [enqueued] = await store.enqueue([EnqueueRolloutRequest("b", metadata=nested)])
    started = await store.start_rollout("c")
    await store.update(
        [
            RolloutChange(finished_id, metadata=nested),
            AttemptChange(started.rollout_id, started.attempt.attempt_id, metadata=nested),
        ]
    )
    await store.put([Run("run-own", state=nested)])
    await store.put([Worker("worker-own", heartbeat_stats=nested)])
    nested["folds"].append(2)
    run, worker = await store.get_run_by_id("run-own"), await store.get_worker_by_id("worker-own")
    attempt = await store.get_latest_attempt(started.rollout_id)
    kept = {
        "an enqueued rollout": (await rollout_of(store, enqueued)).metadata,
        "a changed rollout": (await rollout_of(store, finished_id)).metadata,
        "a changed attempt": None if attempt is None else attempt.metadata,
        "a run": None if run is None else run.state,
        "a worker": None if worker is None else worker.heartbeat_stats,
    }
    for holder, value in kept.items():
        expect_equal(value, {"folds": [1]}, f"the store has its own copies of the lists of {holder}")


async def what_the_caller_changes_later_changes_nothing_here(store: LightningStore) -> None:
    metadata: dict[str, Any] = {"fold": 1}
    resources: dict[str, Resource] = {"marker": Marker(1)}
    await store.update_resources("rs-1", resources)
    [rollout_id] = await store.enqueue([EnqueueRolloutRequest("a", metadata=metadata)])
    [claimed] = await store.claim(1)
    spans = [span_of(claimed)]
    await store.finish([outcome_of(claimed, spans=spans)])
    metadata["fold"] = 2
    resources.clear()
    spans.clear()

    expect_equal((await rollout_of(store, rollout_id)).metadata, {"fold": 1}, "the store has its own copy of metadata")
    await _check_nested_lists(store, rollout_id)
    expect_equal(len(await store.query_spans(rollout_id)), 1, "the store has its own list of an outcome's spans")
    snapshot = await store.get_resources_by_id("rs-1")
    kept = None if snapshot is None else dict(snapshot.resources)
    expect_equal(kept, {"marker": Marker(1)}, "the store has its own copy of a snapshot")


CHECKS: tuple[Check, ...] = (
    update_changes_what_is_given,
    update_of_an_attempt_changes_what_is_given,
    metadata_alone_changes_no_status,
    terminal_statuses_of_rollouts_are_sticky,
    the_same_status_again_is_no_change,
    terminal_statuses_of_attempts_are_sticky,
    a_superseded_attempt_gets_no_status,
    update_refuses_unknown_ids,
    a_stale_change_refuses_the_whole_batch,
    a_batch_does_not_undo_what_it_ended,
    statuses_that_do_not_exist_are_refused,
    an_attempt_ended_by_update_ends_its_rollout,
    an_attempt_ended_by_update_is_tried_again,
    an_attempt_set_running_makes_its_rollout_running,
    a_rollout_ended_by_update_ends_its_attempt,
    a_span_of_an_ended_rollout_is_late,
    records_handed_out_never_change,
    lists_handed_out_never_change,
    what_the_caller_changes_later_changes_nothing_here,
)
