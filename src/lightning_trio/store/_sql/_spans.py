"""Spans that are reported one by one, before their attempt ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..._errors import NotStorable
from ..._lifecycle import Move, note_heartbeat
from ..._serialization import encode_spans
from ..._spans import Span, with_number
from .._rollout_ids import RolloutIdCipher
from .._rules import span_number
from ._rollout_state import RolloutState, check_attempt_id, count_late, load_states, number_of, write_states
from ._schema import SPAN
from ._texts import check_text
from ._transaction import Transaction


class EncodedSpan(NamedTuple):
    """A span and its text; the number has its own column, because the store may assign it."""

    span: Span
    body: str


def encode_span(span: Span, limit: int) -> EncodedSpan:
    """Encode a span.

    Raises:
        NotStorable, PayloadTooLarge: see `encode_spans`, `check_text`.
    """
    check_text("span_id", span.span_id)
    if not isinstance(span.sequence_id, int):
        raise NotStorable.not_integer("sequence_id", span.sequence_id)
    return EncodedSpan(span, encode_spans((span,), limit))


class _Alive(NamedTuple):
    """A running attempt that reported a span, and its rollout's move."""

    state: RolloutState
    move: Move


class _New(NamedTuple):
    """A span about to be written."""

    state: RolloutState
    span: Span
    body: str


def add_spans(
    transaction: Transaction, ids: RolloutIdCipher, calls: Sequence[Sequence[EncodedSpan]]
) -> list[list[Span]]:
    """Store spans that are reported one by one; see `LightningStore.add_spans`."""
    numbers = {
        rollout_id: number_of(ids, rollout_id)
        for rollout_id in {each.span.rollout_id for call in calls for each in call}
    }
    by_number = load_states(transaction, ids, numbers.values())
    states = {rollout_id: by_number.get(number) for rollout_id, number in numbers.items()}
    known = known_span_ids(transaction, states.values())
    new: list[_New] = []
    alive: dict[int, _Alive] = {}
    results: list[list[Span]] = []
    for call in calls:
        added: list[Span] = []
        for span, body in call:
            state = states[span.rollout_id]
            move = None if state is None else _move(transaction, state, span)
            if state is None or move is None:
                count_late(transaction, ids, state, span.rollout_id, 1)
                continue
            number = state.attempt_number
            alive[number] = _Alive(state, move)
            if span.span_id not in known[number]:
                known[number].add(span.span_id)
                span = _numbered(span, state)
                new.append(_New(state, span, body))
                added.append(span)
        results.append(added)
    _insert_spans(transaction, new)
    for number, (state, _) in alive.items():
        transaction.known_spans.keep(number, state.last_span or 0, known[number])
    _note_alive(transaction, list(alive.values()))
    return results


def _move(transaction: Transaction, state: RolloutState, span: Span) -> Move | None:
    """Return the move for a span, None if it comes too late.

    Raises:
        UnknownId: the rollout has no such attempt.
    """
    if span.attempt_id != state.attempt_id:
        check_attempt_id(transaction, state, span.attempt_id)
    return note_heartbeat(state, span.attempt_id)


def _insert_spans(transaction: Transaction, new: Sequence[_New]) -> None:
    if not new:
        return
    rows: list[tuple[Any, ...]] = []
    for number, (state, span, body) in enumerate(new, transaction.take_numbers("spans", len(new))):
        rows.append((number, state.attempt_number, state.last_span or 0, span.span_id, span.sequence_id, body))
        state.last_span = number
        transaction.summary.count(state.run_id, "spans", 1)
    columns = ", ".join(SPAN)
    transaction.with_rows(SPAN, rows, f"INSERT INTO spans ({columns}) SELECT {columns} FROM v WHERE number IS NOT NULL")


def _note_alive(transaction: Transaction, alive: Sequence[_Alive]) -> None:
    """Write the heartbeats of attempts; the first span makes its attempt and rollout running."""
    if not alive:
        return
    now = transaction.now()
    transaction.with_rows(
        {
            "number": "int",
            "status": "text",
            "last_heartbeat_time": "real",
            "last_span": "int",
            "last_sequence_id": "int",
        },
        [(s.attempt_number, move.attempt_status, now, s.last_span, s.last_sequence_id) for s, move in alive],
        "UPDATE attempts SET status = v.status, last_heartbeat_time = v.last_heartbeat_time, last_span = v.last_span, "
        "last_sequence_id = v.last_sequence_id FROM v WHERE attempts.number = v.number",
    )
    changed: list[RolloutState] = []
    for state, move in alive:
        # Most spans are of rollouts that are already running, which need no write.
        if state.status != move.status or state.queued:
            changed.append(state)
        state.move_on(transaction, move)
    if changed:
        write_states(transaction, changed)


def known_span_ids(transaction: Transaction, states: Iterable[RolloutState | None]) -> dict[int, set[str]]:
    """Return the span ids of rollouts' latest attempts, by attempt number; callers add to the sets."""
    last_spans = {s.attempt_number: s.last_span or 0 for s in states if s is not None}
    return transaction.known_spans.of(transaction, last_spans)


def number_spans(spans: Sequence[Span], known: set[str], state: RolloutState) -> list[Span]:
    """Return the spans that are new, with numbers."""
    new: list[Span] = []
    for span in spans:
        if span.span_id not in known:
            known.add(span.span_id)
            new.append(_numbered(span, state))
    return new


def _numbered(span: Span, state: RolloutState) -> Span:
    last = state.last_sequence_id or 0
    number = span_number(span.sequence_id, last)
    if number != span.sequence_id:
        span = with_number(span, number)
    state.last_sequence_id = max(last, number)
    return span
