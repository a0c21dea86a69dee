"""The familiar calls, and a rule of every call: it is a checkpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.status import Status, StatusCode
from trio.testing import assert_checkpoints

from ..._errors import ComponentError, UnknownId
from ..._records import EnqueueRolloutRequest, RolloutChange, RolloutConfig, Worker
from ...store import LightningStore, Query
from ._steps import (
    Check,
    Marker,
    calling,
    claim_one,
    expect_equal,
    finish,
    ids_of,
    outcome_of,
    refused,
    requests,
    rollout_of,
    span_of,
)


async def rollouts_are_enqueued_and_dequeued(store: LightningStore) -> None:
    config = RolloutConfig(max_attempts=2)
    one = await store.enqueue_rollout("a", "train", None, config, {"n": 1})
    many = await store.enqueue_many_rollouts([EnqueueRolloutRequest("b"), EnqueueRolloutRequest("c")])

    seen = (one.input, one.mode, one.config, one.metadata, one.status)
    expect_equal(seen, ("a", "train", config, {"n": 1}, "queuing"), "enqueue_rollout returns the rollout")
    first = await store.dequeue_rollout("worker-1")
    expect_equal(None if first is None else first.rollout_id, one.rollout_id, "dequeue_rollout takes the oldest")
    rest = await store.dequeue_many_rollouts(limit=5, worker_id="worker-1")
    expect_equal(ids_of(rest), ids_of(many), "dequeue_many_rollouts takes up to `limit`")
    expect_equal(await store.dequeue_rollout(), None, "dequeue_rollout does not wait")


async def rollouts_are_started(store: LightningStore) -> None:
    started = await store.start_rollout("a", "val", metadata={"n": 1}, worker_id="worker-1")
    again = await store.start_attempt(started.rollout_id, "worker-2")

    expect_equal((started.mode, started.metadata), ("val", {"n": 1}), "start_rollout keeps what was asked for")
    attempts = [(attempt.sequence_id, attempt.worker_id) for attempt in (started.attempt, again.attempt)]
    expect_equal(attempts, [(1, "worker-1"), (2, "worker-2")], "start_attempt starts a further attempt")


async def wait_for_rollouts_gives_those_that_ended(store: LightningStore) -> None:
    ids = await store.enqueue(requests("a", "b", "c"))
    claimed = await store.claim(3)
    await store.finish([outcome_of(claimed[2]), outcome_of(claimed[0], "failed")])

    done = await store.wait_for_rollouts([*reversed(ids), "ro-unknown"], 0)
    wanted = [(ids[2], "succeeded"), (ids[0], "failed")]
    seen = [(rollout.rollout_id, rollout.status) for rollout in done]
    expect_equal(seen, wanted, "a timeout of 0 does not wait; ended rollouts are returned in the order of the ids")


async def wait_for_rollouts_waits(store: LightningStore) -> None:
    claimed = await claim_one(store)
    async with calling(partial(store.wait_for_rollouts, [claimed.rollout_id])) as wait:
        await finish(store, claimed)

    expect_equal(
        [ids_of(done) for done in wait.results], [[claimed.rollout_id]], "without timeout it waits until all have ended"
    )


async def familiar_calls_refuse_unknown_ids(store: LightningStore) -> None:
    [waiting] = await store.enqueue(requests("a"))
    attempted = await store.start_rollout("b")
    changes: dict[str, Callable[[], Awaitable[Any]]] = {
        "enqueue_rollout": partial(store.enqueue_rollout, "a", resources_id="rs-unknown"),
        "start_rollout": partial(store.start_rollout, "a", resources_id="rs-unknown"),
        "start_attempt": partial(store.start_attempt, "ro-unknown"),
        "update_rollout": partial(store.update_rollout, "ro-unknown", metadata={}),
        "update_attempt": partial(store.update_attempt, attempted.rollout_id, "at-unknown", metadata={}),
        "update_attempt of the latest": partial(store.update_attempt, waiting, "latest", metadata={}),
        "update_attempt of an unknown rollout": partial(store.update_attempt, "ro-unknown", "latest", metadata={}),
    }
    for name, change in changes.items():
        with refused(UnknownId, f"{name} refuses an unknown id"):
            await change()


async def what_is_no_configuration_or_metadata_is_refused(store: LightningStore) -> None:
    rollout = await store.start_rollout("a")
    wrong: Any = {"timeout_seconds": 3}
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "enqueue_rollout(config=…)": partial(store.enqueue_rollout, "b", config=wrong),
        "enqueue_rollout(metadata=…)": partial(store.enqueue_rollout, "b", metadata=cast("Any", "x")),
        "enqueue_many_rollouts": partial(store.enqueue_many_rollouts, [wrong]),
        "start_rollout": partial(store.start_rollout, "b", config=wrong),
        "update_rollout": partial(store.update_rollout, rollout.rollout_id, config=wrong),
        "update_attempt": partial(store.update_attempt, rollout.rollout_id, "latest", metadata=cast("Any", [1])),
    }
    for name, call in calls.items():
        with refused(ComponentError, f"{name} refuses what is of the wrong kind"):
            await call()
    expect_equal(ids_of(await store.query_rollouts()), [rollout.rollout_id], "nothing of it is stored")


async def spans_of_the_opentelemetry_sdk_are_kept(store: LightningStore) -> None:
    claimed = await claim_one(store)
    context = SpanContext(0xA, 0xB, is_remote=False, trace_flags=TraceFlags(1))
    readable = ReadableSpan(
        "chat",
        context,
        attributes={"gen_ai.request.model": "m"},
        status=Status(StatusCode.OK),
        start_time=1_500_000_000,
        end_time=2_000_000_000,
    )
    added = await store.add_otel_span(claimed.rollout_id, claimed.attempt.attempt_id, readable)

    [span] = await store.query_spans(claimed.rollout_id)
    expect_equal(added, span, "add_otel_span returns the span that it stored")
    seen = (span.name, span.trace_id, span.span_id, span.start_time, span.end_time, span.sequence_id)
    expect_equal(seen, ("chat", f"{0xA:032x}", f"{0xB:016x}", 1.5, 2.0, 1), "the span is converted and numbered")
    numbered = await store.add_otel_span(claimed.rollout_id, claimed.attempt.attempt_id, readable, 9)
    expect_equal(numbered, None, "a span that is known already is not stored")


async def every_call_is_a_checkpoint(store: LightningStore) -> None:
    claimed = await claim_one(store)
    [queued] = await store.enqueue(requests("a"))
    calls: list[Callable[[], Awaitable[Any]]] = [
        partial(store.enqueue, []),
        store.wait_claimable,
        partial(store.claim, 0),
        partial(store.start, requests("b")),
        partial(store.add_spans, [span_of(claimed)]),
        partial(store.update, [RolloutChange(queued, metadata={})]),
        partial(store.finish, [outcome_of(claimed)]),
        partial(store.wait_finished, [claimed.rollout_id]),
        partial(store.add_resources, {"marker": Marker(1)}),
        partial(store.put, [Worker("worker-1")]),
        store.expire,
        partial(store.find, Query("rollouts")),
        store.summarize,
        store.statistics,
    ]
    for call in calls:
        with assert_checkpoints():
            await call()
    expect_equal((await rollout_of(store, claimed)).status, "succeeded", "the calls had their effects")


CHECKS: tuple[Check, ...] = (
    rollouts_are_enqueued_and_dequeued,
    rollouts_are_started,
    wait_for_rollouts_gives_those_that_ended,
    wait_for_rollouts_waits,
    familiar_calls_refuse_unknown_ids,
    what_is_no_configuration_or_metadata_is_refused,
    spans_of_the_opentelemetry_sdk_are_kept,
    every_call_is_a_checkpoint,
)
