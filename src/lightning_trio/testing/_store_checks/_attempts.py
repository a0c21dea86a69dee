"""Attempts: starting them, and committing how they ended."""

from __future__ import annotations

import trio

from ..._errors import StaleAttempt, UnknownId
from ..._lifecycle import TERMINAL_ATTEMPT
from ..._records import (
    GIVE_BACK,
    REPORTER_RETRIES,
    RETRY_NOW,
    AttemptOutcome,
    AttemptStatus,
    EnqueueRolloutRequest,
    ErrorRecord,
    GiveBack,
    RetryIn,
    RolloutConfig,
    RolloutStatus,
)
from ...store import LightningStore
from ._steps import (
    NEVER,
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


async def start_makes_a_rollout_past_the_queue(store: LightningStore) -> None:
    snapshot = await store.add_resources({"marker": Marker(1)})
    config = RolloutConfig(timeout_seconds=2)
    [started] = await store.start(requests("a"), run_id="run-1", worker_id="worker-1", default_config=config)

    expect_equal((started.input, started.status), ("a", "preparing"), "a started rollout is preparing")
    expect_equal(started.run_id, "run-1", "it belongs to the run")
    expect_equal(started.resources_id, snapshot.resources_id, "it has the latest resources")
    expect_equal(started.config, config, "it has the default configuration")
    expect_equal(started.attempt.sequence_id, 1, "it has attempt 1")
    expect_equal(await rollout_of(store, started), started, "the store has the rollout that start returned")
    expect_equal(await store.claim(1), [], "a started rollout is not in the queue")


async def every_attempt_gets_a_task_of_its_own(store: LightningStore) -> None:
    task = {"steps": [{"left": 2}]}
    [first_id, second_id] = await store.enqueue(requests(task, task, config=RETRY))
    task["steps"].clear()
    [first] = await store.claim(1)
    first.input.pop("steps")[0]["left"] = 0

    [second] = await store.claim(1)
    expect_equal(second.rollout_id, second_id, "the queue is in order")
    expect_equal(second.input, {"steps": [{"left": 2}]}, "what an agent does to its task touches no other rollout")
    await finish(store, first, "failed", next=RETRY_NOW)
    [again] = await store.claim(1)
    expect_equal(again.rollout_id, first_id, "a retry is claimed")
    expect_equal(again.input, {"steps": [{"left": 2}]}, "nor the task of its own next attempt")
    [started] = await store.start([again.rollout_id])
    expect_equal(started.input, again.input, "a further attempt gets the whole task")
    expect(started.input is not again.input, "every attempt has its own copy of the task")


async def start_keeps_the_order_of_new_and_known(store: LightningStore) -> None:
    known = await claim_one(store)
    started = await store.start([EnqueueRolloutRequest("a"), known.rollout_id, EnqueueRolloutRequest("b")])

    expect_equal(
        [rollout.input for rollout in started], ["a", "task", "b"], "start returns one rollout for each, in order"
    )
    numbers = [rollout.attempt.sequence_id for rollout in started]
    expect_equal(numbers, [1, 2, 1], "an id gets a further attempt, a request its first")


async def start_refuses_unknown_ids(store: LightningStore) -> None:
    async with nothing_changes(store, "start with an unknown id starts nothing"):
        with refused(UnknownId, "start refuses an unknown rollout"):
            await store.start([EnqueueRolloutRequest("a"), "ro-unknown"])
        with refused(UnknownId, "start refuses an unknown resources_id"):
            await store.start([EnqueueRolloutRequest("a", resources_id="rs-unknown")])


async def start_refuses_what_has_ended(store: LightningStore) -> None:
    ended = await claim_one(store)
    await finish(store, ended)

    async with nothing_changes(store, "start with an ended rollout starts nothing"):
        with refused(StaleAttempt, "a rollout in a terminal status gets no further attempt"):
            await store.start([EnqueueRolloutRequest("a"), ended.rollout_id])


async def a_further_attempt_supersedes_the_one_before(store: LightningStore) -> None:
    first = await claim_one(store)
    second = await store.start_attempt(first.rollout_id, worker_id="worker-2")

    expect_equal(second.attempt.sequence_id, 2, "attempts are numbered from 1")
    before, after = await attempts_of(store, first)
    expect_equal(after, second.attempt, "the latest attempt is the new one")
    expect(before.status in TERMINAL_ATTEMPT, "a superseded attempt has ended")
    expect(before.end_time is not None, "a superseded attempt has an end_time")
    async with nothing_changes(store, "the late report of a superseded attempt changes nothing"):
        late = await finish(store, first, spans=[span_of(first)])
        expect_equal(late, None, "the late report of a superseded attempt is refused")


async def finish_commits_outcome_spans_and_status_together(store: LightningStore) -> None:
    claimed = await claim_one(store)
    spans = [span_of(claimed, "one", sequence_id=1), span_of(claimed, "two", sequence_id=2)]
    outcome = outcome_of(claimed, spans=spans, final_reward=0.5, duration=1.25)
    [status] = await store.finish([outcome])

    rollout = await rollout_of(store, claimed)
    expect_equal((status, rollout.status), ("succeeded", "succeeded"), "a succeeded attempt ends its rollout")
    expect(rollout.end_time is not None, "an ended rollout has an end_time")
    attempt = await store.get_latest_attempt(claimed.rollout_id)
    expect(attempt is not None and attempt.attempt_id == claimed.attempt.attempt_id, "the attempt is still the latest")
    assert attempt is not None
    seen = (attempt.status, attempt.end_time, attempt.final_reward, attempt.duration)
    expect_equal(seen, ("succeeded", outcome.end_time, 0.5, 1.25), "the attempt has the values of its outcome")
    found = await store.query_spans(claimed.rollout_id, claimed.attempt.attempt_id)
    expect_equal(list(found), spans, "the spans are kept unchanged")


async def finish_keeps_the_error(store: LightningStore) -> None:
    claimed = await claim_one(store)
    error = ErrorRecord("ValueError", "no such room", "Traceback …")
    status = await finish(store, claimed, "failed", error=error)

    expect_equal(status, "failed", "a failed attempt without retry fails its rollout")
    [attempt] = await attempts_of(store, claimed)
    expect_equal(attempt.error, error, "the error is kept")


async def finish_refuses_unknown_ids(store: LightningStore) -> None:
    claimed = await claim_one(store)
    good = outcome_of(claimed, spans=[span_of(claimed)])
    attempt_id = claimed.attempt.attempt_id
    async with nothing_changes(store, "a batch with an unknown id commits nothing"):
        with refused(UnknownId, "finish refuses an unknown rollout"):
            await store.finish([good, AttemptOutcome("ro-unknown", attempt_id, "succeeded", 1.0)])
        with refused(UnknownId, "finish refuses an unknown attempt"):
            await store.finish([good, AttemptOutcome(claimed.rollout_id, "at-unknown", "succeeded", 1.0)])


async def a_cancelled_finish_commits_all_or_nothing(store: LightningStore) -> None:
    claimed = await claim_one(store)
    with trio.CancelScope() as scope:
        scope.cancel()
        await finish(store, claimed, spans=[span_of(claimed)])

    [attempt] = await attempts_of(store, claimed)
    spans = len(await store.query_spans(claimed.rollout_id))
    seen = ((await rollout_of(store, claimed)).status, attempt.status, spans)
    whole: list[tuple[RolloutStatus, AttemptStatus, int]] = [
        ("preparing", "preparing", 0),
        ("succeeded", "succeeded", 1),
    ]
    expect(seen in whole, f"outcome, spans and status are committed together or not at all, not {seen!r}")


async def each_outcome_gives_its_rollout_a_status(store: LightningStore) -> None:
    wanted: dict[AttemptStatus, RolloutStatus] = {
        "succeeded": "succeeded",
        "failed": "failed",
        "timeout": "failed",
        "unresponsive": "failed",
        "cancelled": "cancelled",
    }
    await store.enqueue(requests(*wanted))
    claimed = await store.claim(len(wanted))
    seen = await store.finish([outcome_of(one, status) for one, status in zip(claimed, wanted, strict=True)])

    expect_equal(seen, list(wanted.values()), "a rollout without retries ends as its attempt did")
    kept = [(await rollout_of(store, one)).status for one in claimed]
    expect_equal(kept, seen, "finish returns the status that the store keeps")


async def a_retry_waits_for_its_delay(store: LightningStore) -> None:
    claimed = await claim_one(store, config=RETRY)
    status = await finish(store, claimed, "failed", next=RetryIn(NEVER))

    rollout = await rollout_of(store, claimed)
    expect_equal((status, rollout.status), ("requeuing", "requeuing"), "a rollout to be tried again is requeuing")
    expect_equal(rollout.end_time, None, "it has not ended")
    expect_equal(await store.claim(1), [], "a retry is not claimed before it is due")


async def a_retry_is_the_next_attempt(store: LightningStore) -> None:
    claimed = await claim_one(store, config=RETRY)
    await finish(store, claimed, "timeout")
    [again] = await store.claim(1)

    expect_equal(again.rollout_id, claimed.rollout_id, "a retry without delay can be claimed at once")
    expect_equal(again.attempt.sequence_id, 2, "a retry is attempt 2")
    statuses = [attempt.status for attempt in await attempts_of(store, claimed)]
    expect_equal(statuses, ["timeout", "preparing"], "attempts before a retry are kept")


async def retries_end_at_max_attempts(store: LightningStore) -> None:
    await finish(store, await claim_one(store, config=RETRY), "failed")
    [again] = await store.claim(1)

    expect_equal(await finish(store, again, "failed"), "failed", "the last of max_attempts fails its rollout")


async def only_what_retry_condition_names_is_tried_again(store: LightningStore) -> None:
    claimed = await claim_one(store, config=RETRY)

    status = await finish(store, claimed, "unresponsive")
    expect_equal(status, "failed", "a status that retry_condition does not name is not tried again")


async def a_retry_without_delay_given_is_not_queued(store: LightningStore) -> None:
    claimed = await claim_one(store, config=RETRY)
    status = await finish(store, claimed, "failed", next=REPORTER_RETRIES)

    expect_equal(status, "requeuing", "a rollout whose reporter runs the retry is requeuing")
    expect_equal(await store.claim(1), [], "with ReporterRetries the rollout is not queued")
    again = await store.start_attempt(claimed.rollout_id)
    expect_equal(again.attempt.sequence_id, 2, "the reporter starts its next attempt")


async def started_past_the_queue_and_retried_by_its_reporter_is_not_queued(store: LightningStore) -> None:
    [rollout_id] = await store.enqueue(requests("a", config=RETRY))
    await finish(store, await store.start_attempt(rollout_id), "failed", next=REPORTER_RETRIES)

    expect_equal(await store.claim(1), [], "ReporterRetries does not queue, even if the rollout was once in the queue")


async def a_retry_that_was_not_queued_can_be_by_its_status(store: LightningStore) -> None:
    claimed = await claim_one(store, config=RETRY)
    await finish(store, claimed, "failed", next=REPORTER_RETRIES)
    await store.update_rollout(claimed.rollout_id, status="queuing")

    expect_equal(ids_of(await store.claim(2)), [claimed.rollout_id], "a rollout set to queuing can be claimed")


async def requeue_gives_the_rollout_back(store: LightningStore) -> None:
    claimed = await claim_one(store, config=RETRY)
    status = await finish(store, claimed, "cancelled", next=GIVE_BACK)
    expect_equal(status, "requeuing", "GiveBack puts the rollout back into the queue")

    [second] = await store.claim(1)
    expect_equal(second.rollout_id, claimed.rollout_id, "it can be claimed at once")
    status = await finish(store, second, "failed")
    expect_equal(status, "requeuing", "the attempt that was given back does not count towards max_attempts")
    [third] = await store.claim(1)
    expect_equal(await finish(store, third, "failed"), "failed", "the others do")


async def a_reporter_that_repeats_an_attempt_itself_queues_nothing(store: LightningStore) -> None:
    claimed = await claim_one(store, config=RolloutConfig(max_attempts=1))
    status = await finish(store, claimed, "cancelled", next=GiveBack(queued=False))
    expect_equal(status, "requeuing", "GiveBack does not end the rollout")
    expect_equal(ids_of(await store.claim(2)), [], "it is not queued")

    second = await store.start_attempt(claimed.rollout_id)
    expect_equal(await finish(store, second, "succeeded"), "succeeded", "its reporter begins the next attempt")


async def a_second_report_is_refused(store: LightningStore) -> None:
    claimed = await claim_one(store)
    await finish(store, claimed, final_reward=1.0)

    async with nothing_changes(store, "a second report changes nothing"):
        late = await finish(store, claimed, "failed", final_reward=0.0, spans=[span_of(claimed)])
        expect_equal(late, None, "a second report of an attempt is refused")


async def two_reports_in_one_batch_are_one_too_many(store: LightningStore) -> None:
    claimed = await claim_one(store)
    statuses = await store.finish([outcome_of(claimed, final_reward=1.0), outcome_of(claimed, "failed")])

    expect_equal(statuses, ["succeeded", None], "of two reports of an attempt, the second is refused")
    expect_equal((await rollout_of(store, claimed)).status, "succeeded", "the second report changes nothing")


async def a_report_after_cancellation_is_refused(store: LightningStore) -> None:
    claimed = await claim_one(store)
    await store.update_rollout(claimed.rollout_id, status="cancelled")

    async with nothing_changes(store, "a report after cancellation changes nothing"):
        late = await finish(store, claimed, spans=[span_of(claimed)])
        expect_equal(late, None, "a report of a cancelled rollout is refused")


async def a_late_report_does_not_hold_up_others(store: LightningStore) -> None:
    late = await claim_one(store)
    await finish(store, late)
    good = await claim_one(store)

    statuses = await store.finish([outcome_of(late), outcome_of(good)])
    expect_equal(statuses, [None, "succeeded"], "a late report is refused alone, not with its batch")


async def a_late_report_after_a_retry_has_begun_is_refused(store: LightningStore) -> None:
    first = await claim_one(store, config=RETRY)
    await finish(store, first, "timeout")
    [second] = await store.claim(1)

    expect_equal(await finish(store, first), None, "an attempt that has ended cannot end again")
    expect_equal((await rollout_of(store, first)).status, "preparing", "its report does not touch the retry")
    expect_equal(await finish(store, second), "succeeded", "the retry ends the rollout")


CHECKS: tuple[Check, ...] = (
    start_makes_a_rollout_past_the_queue,
    every_attempt_gets_a_task_of_its_own,
    start_keeps_the_order_of_new_and_known,
    start_refuses_unknown_ids,
    start_refuses_what_has_ended,
    a_further_attempt_supersedes_the_one_before,
    finish_commits_outcome_spans_and_status_together,
    finish_keeps_the_error,
    finish_refuses_unknown_ids,
    a_cancelled_finish_commits_all_or_nothing,
    each_outcome_gives_its_rollout_a_status,
    a_retry_waits_for_its_delay,
    a_retry_is_the_next_attempt,
    retries_end_at_max_attempts,
    only_what_retry_condition_names_is_tried_again,
    a_retry_without_delay_given_is_not_queued,
    started_past_the_queue_and_retried_by_its_reporter_is_not_queued,
    a_retry_that_was_not_queued_can_be_by_its_status,
    requeue_gives_the_rollout_back,
    a_reporter_that_repeats_an_attempt_itself_queues_nothing,
    a_second_report_is_refused,
    two_reports_in_one_batch_are_one_too_many,
    a_report_after_cancellation_is_refused,
    a_late_report_does_not_hold_up_others,
    a_late_report_after_a_retry_has_begun_is_refused,
)
