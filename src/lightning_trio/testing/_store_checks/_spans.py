"""Spans: they are numbered, kept once, and refused if they come late."""

from __future__ import annotations

import attrs

from ..._errors import UnknownId
from ..._records import ErrorRecord
from ..._spans import Event, Link, OtelResource, SpanContext, TraceStatus
from ...store import LightningStore
from ._steps import (
    RETRY,
    Check,
    attempts_of,
    claim_one,
    expect,
    expect_equal,
    finish,
    nothing_changes,
    refused,
    rollout_of,
    span_of,
)


async def spans_are_kept_as_they_are(store: LightningStore) -> None:
    claimed = await claim_one(store)
    span = attrs.evolve(
        span_of(claimed, "chat", sequence_id=3, parent_id="b" * 16, attributes={"n": 1, "x": 0.5, "tags": ["a", "b"]}),
        status=TraceStatus("ERROR", "no answer"),
        events=(Event("exception", {"exception.type": "ValueError"}, 1.5),),
        links=(Link(SpanContext("c" * 32, "d" * 16), {"why": "host"}),),
        kind="CLIENT",
        resource=OtelResource({"service.name": "rooms"}),
    )
    added = await store.add_spans([span])

    expect_equal(added, [span], "add_spans returns the spans that were stored")
    expect_equal(list(await store.query_spans(claimed.rollout_id)), [span], "a span is kept as it is")


async def texts_that_are_no_unicode_are_kept_as_they_are(store: LightningStore) -> None:
    # As `os.fsdecode` decodes a name that is not UTF-8.
    text = "caf\udce9.txt"
    claimed = await claim_one(store)
    early, plain, late = (span_of(claimed, name, sequence_id=number) for number, name in enumerate([text, "b", "c"], 1))
    early = attrs.evolve(early, attributes={"path": text, text: [text]}, status=TraceStatus("ERROR", text))
    late = attrs.evolve(late, events=(Event(text, {"path": text}, 1.5),), resource=OtelResource({"path": text}))
    await store.add_spans([early])
    error = ErrorRecord("FileNotFoundError", text, f"Traceback: {text}")
    await finish(store, claimed, "failed", spans=[plain, late], error=error)

    found = list(await store.query_spans(claimed.rollout_id))
    expect_equal(found, [early, plain, late], "a span whose texts have lone surrogates is kept as it is")
    [attempt] = await attempts_of(store, claimed)
    expect_equal(attempt.error, error, "an error whose texts have lone surrogates is kept as it is")


async def spans_are_numbered_within_their_attempt(store: LightningStore) -> None:
    first = await claim_one(store)
    added = await store.add_spans([span_of(first), span_of(first, sequence_id=7), span_of(first)])
    added += await store.add_spans([span_of(first)])
    expect_equal([span.sequence_id for span in added], [1, 7, 8, 9], "a sequence_id of 0 is replaced by the next")

    second = await store.start_attempt(first.rollout_id)
    [span] = await store.add_spans([span_of(second)])
    expect_equal(span.sequence_id, 1, "numbers restart in each attempt")


async def a_known_span_is_not_stored_again(store: LightningStore) -> None:
    claimed = await claim_one(store)
    span = span_of(claimed)
    expect_equal(len(await store.add_spans([span, span])), 1, "a span is stored once, also within a batch")

    expect_equal(await store.add_span(span), None, "a span that is known already is not stored")
    expect_equal(len(await store.query_spans(claimed.rollout_id)), 1, "a span is stored once")


async def spans_of_an_outcome_join_those_before(store: LightningStore) -> None:
    claimed = await claim_one(store)
    [early] = await store.add_spans([span_of(claimed, "early")])
    await finish(store, claimed, spans=[early, span_of(claimed, "last", sequence_id=2)])

    names = [span.name for span in await store.query_spans(claimed.rollout_id)]
    expect_equal(names, ["early", "last"], "a span that is known already is not doubled by the outcome")


async def many_spans_and_long_texts_are_kept_as_they_are(store: LightningStore) -> None:
    claimed = await claim_one(store)
    # Of two kinds of characters, and with one that is no Unicode.
    text = "a line\n" * 100_000 + "\u00fcber" * 10_000 + "\udce9"
    spans = [span_of(claimed, sequence_id=number) for number in range(1, 1_500)]
    attributes = {"before": 1, "text": text, "after": text[:-1]}
    spans[700] = attrs.evolve(spans[700], attributes=attributes, events=(Event("read", {"text": text}, 1.5),))
    await store.add_spans(spans[:1])
    await finish(store, claimed, spans=spans)

    found = list(await store.query_spans(claimed.rollout_id))
    expect_equal(len(found), len(spans), "all of many spans are kept, one that is known already once")
    expect(found == spans, "many spans, and one with long texts, are kept as they are")
    expect_equal(list(found[700].attributes), ["before", "text", "after"], "attributes keep their order")


async def spans_of_unknown_ids_are_refused(store: LightningStore) -> None:
    claimed = await claim_one(store)
    good = span_of(claimed)
    async with nothing_changes(store, "a batch with a span of an unknown id stores nothing"):
        with refused(UnknownId, "a span of an unknown rollout is refused"):
            await store.add_spans([good, attrs.evolve(good, rollout_id="ro-unknown")])
        with refused(UnknownId, "a span of an unknown attempt is refused"):
            await store.add_spans([good, attrs.evolve(good, attempt_id="at-unknown")])


async def the_first_span_makes_its_attempt_running(store: LightningStore) -> None:
    claimed = await claim_one(store)
    await store.add_spans([span_of(claimed)])

    [attempt] = await attempts_of(store, claimed)
    expect_equal(attempt.status, "running", "a span makes its attempt running")
    expect(attempt.last_heartbeat_time is not None, "a span is a heartbeat")
    expect_equal((await rollout_of(store, claimed)).status, "running", "a span makes its rollout running")


async def the_first_span_of_a_retry_makes_it_running(store: LightningStore) -> None:
    await finish(store, await claim_one(store, config=RETRY), "failed")
    [again] = await store.claim(1)
    await store.add_spans([span_of(again)])

    statuses = [attempt.status for attempt in await attempts_of(store, again)]
    expect_equal(statuses, ["failed", "running"], "a span makes its own attempt running, no other")
    expect_equal((await rollout_of(store, again)).status, "running", "the rollout runs again")


async def spans_of_an_ended_attempt_are_late(store: LightningStore) -> None:
    claimed = await claim_one(store)
    await finish(store, claimed)

    async with nothing_changes(store, "a late span changes nothing"):
        expect_equal(await store.add_spans([span_of(claimed)]), [], "a span of an ended attempt is not stored")
    expect_equal((await store.statistics()).late_spans, 1, "late spans are counted")


async def spans_of_a_superseded_attempt_are_late(store: LightningStore) -> None:
    first = await claim_one(store)
    second = await store.start_attempt(first.rollout_id)
    late, good = span_of(first), span_of(second, sequence_id=1)

    expect_equal(await store.add_spans([late, good]), [good], "a late span is left out, alone")
    expect_equal((await store.statistics()).late_spans, 1, "late spans are counted")


async def spans_of_a_late_report_are_counted(store: LightningStore) -> None:
    claimed = await claim_one(store)
    await finish(store, claimed)
    await finish(store, claimed, spans=[span_of(claimed), span_of(claimed)])

    expect_equal((await store.statistics()).late_spans, 2, "the spans of a late report are counted as late")


CHECKS: tuple[Check, ...] = (
    spans_are_kept_as_they_are,
    texts_that_are_no_unicode_are_kept_as_they_are,
    spans_are_numbered_within_their_attempt,
    a_known_span_is_not_stored_again,
    spans_of_an_outcome_join_those_before,
    many_spans_and_long_texts_are_kept_as_they_are,
    spans_of_unknown_ids_are_refused,
    the_first_span_makes_its_attempt_running,
    the_first_span_of_a_retry_makes_it_running,
    spans_of_an_ended_attempt_are_late,
    spans_of_a_superseded_attempt_are_late,
    spans_of_a_late_report_are_counted,
)
