"""Changes and removals that callers request of rollouts and attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from ..._lifecycle import TERMINAL_ATTEMPT, change_attempt, change_rollout, check_removal, reopen_rollout, worker_status
from ..._records import (
    Attempt,
    AttemptChange,
    AttemptStatus,
    Change,
    RolloutChange,
    RolloutRemoval,
    RolloutReopening,
    Unset,
)
from ..._serialization import encode_config, encode_mapping, encode_value
from .._rollout_ids import RolloutIdCipher
from ._known_spans import CHAIN
from ._parts import insert_parts, remove_parts
from ._queue import check_resources_id
from ._rollout_state import (
    RolloutState,
    attempt_range,
    check_attempt_id,
    end_attempts,
    load_states,
    missing_error,
    number_of,
    write_states,
)
from ._schema import INLINE_BYTES
from ._texts import check_text
from ._transaction import Transaction
from ._workers import note_busy, set_idle, set_unknown


@attrs.frozen
class EncodedChange:
    """A change, and the columns that it sets besides the status."""

    change: Change
    columns: dict[str, Any] = attrs.field(factory=dict[str, Any])
    parts: Sequence[str] = ()
    """The parts of a large task, whose outline is one of the columns."""


def encode_changes(changes: Sequence[Change], limit: int) -> list[EncodedChange]:
    """Encode changes; see `_encode_change` for errors."""
    return [_encode_change(change, limit) for change in changes]


def _encode_change(change: Change, limit: int) -> EncodedChange:
    """Encode a change.

    Raises:
        NotStorable, PayloadTooLarge: see `encode`, `check_text`.
    """
    columns: dict[str, Any] = {}
    if isinstance(change, RolloutRemoval | RolloutReopening):
        return EncodedChange(change)
    if not isinstance(change.metadata, Unset):
        metadata = change.metadata
        columns["metadata"] = None if metadata is None else encode_mapping(metadata, "metadata", limit)
    if isinstance(change, AttemptChange):
        for name in ("worker_id", "last_heartbeat_time"):
            if not isinstance(value := getattr(change, name), Unset):
                columns[name] = value
        check_text("worker_id", columns.get("worker_id"))
        return EncodedChange(change, columns)
    parts: Sequence[str] = ()
    if not isinstance(change.input, Unset):
        columns["input"], parts = encode_value(change.input, "task", limit)
    for name in ("mode", "resources_id"):
        if not isinstance(value := getattr(change, name), Unset):
            columns[name] = value
    check_text("resources_id", columns.get("resources_id"))
    if not isinstance(change.config, Unset):
        columns["config"] = encode_config(change.config)
    return EncodedChange(change, columns, parts)


def update(transaction: Transaction, ids: RolloutIdCipher, calls: Sequence[Sequence[EncodedChange]]) -> list[None]:
    """Apply changes, one after the other; see `LightningStore.update`."""
    states = load_states(transaction, ids, [number_of(ids, each.change.rollout_id) for call in calls for each in call])
    reopened: list[RolloutState] = []
    for call in calls:
        for each in call:
            change = each.change
            state = states.get(number_of(ids, change.rollout_id))
            if state is None:
                raise missing_error(transaction, ids, change.rollout_id)
            if isinstance(change, RolloutRemoval):
                _remove(transaction, state)
                del states[state.number]
            elif isinstance(change, RolloutReopening):
                move = reopen_rollout(state)
                if move is not None:
                    state.move_on(transaction, move)
                    reopened.append(state)
            elif isinstance(change, RolloutChange):
                _change_rollout(transaction, state, change, each)
            else:
                _change_attempt(transaction, state, change, each.columns)
    # Together, because a run that is resumed may reopen many thousands; removed ones have no row.
    write_states(transaction, reopened)
    return [None] * len(calls)


def _remove(transaction: Transaction, state: RolloutState) -> None:
    check_removal(state)
    attempts = attempt_range(state)
    transaction.execute(
        f"WITH RECURSIVE v(number) AS (SELECT number FROM attempts WHERE number BETWEEN ? AND ?), {CHAIN} "
        "DELETE FROM spans WHERE number IN (SELECT number FROM chain)",
        attempts,
    )
    transaction.execute("DELETE FROM traces WHERE number BETWEEN ? AND ?", attempts)
    transaction.execute("DELETE FROM trace_parts WHERE attempt_number BETWEEN ? AND ?", attempts)
    transaction.execute("DELETE FROM attempts WHERE number BETWEEN ? AND ?", attempts)
    transaction.execute("DELETE FROM payloads WHERE number = ?", (state.number,))
    remove_parts(transaction, "payload_parts", state.number)
    transaction.execute("DELETE FROM rollouts WHERE number = ?", (state.number,))
    transaction.summary.count(state.run_id, "removed", 1)


def _change_rollout(
    transaction: Transaction, state: RolloutState, change: RolloutChange, encoded: EncodedChange
) -> None:
    if isinstance(change.resources_id, str):
        check_resources_id(transaction, change.resources_id)
    move = None if isinstance(change.status, Unset) else change_rollout(state, change.status)
    if encoded.columns:
        _set_columns(transaction, state, encoded)
    if move is None:
        return
    end_attempts(transaction, [(state, move.attempt_status, None)])
    state.move_on(transaction, move)
    write_states(transaction, [state])


def _set_columns(transaction: Transaction, state: RolloutState, encoded: EncodedChange) -> None:
    columns = dict(encoded.columns)
    text = columns.get("input")
    if text is not None:
        transaction.execute("DELETE FROM payloads WHERE number = ?", (state.number,))
        remove_parts(transaction, "payload_parts", state.number)
        insert_parts(transaction, "payload_parts", state.number, encoded.parts)
        if len(text) > INLINE_BYTES:
            transaction.execute("INSERT INTO payloads (number, input) VALUES (?, ?)", (state.number, text))
            columns["input"] = None
    if "config" in columns:
        state.config_text = columns["config"]
    if "mode" in columns:
        state.mode = columns["mode"]
    fields = ", ".join(f"{name} = ?" for name in columns)
    transaction.execute(f"UPDATE rollouts SET {fields} WHERE number = ?", (*columns.values(), state.number))


def _change_attempt(
    transaction: Transaction, state: RolloutState, change: AttemptChange, columns: dict[str, Any]
) -> None:
    number = check_attempt_id(transaction, state, change.attempt_id)
    before: AttemptStatus = transaction.value("status", "text", "FROM attempts WHERE number = ?", (number,))
    status = before if isinstance(change.status, Unset) else change.status
    move = change_attempt(state, change.attempt_id, before, status)
    if move is not None:
        columns = {**columns, "status": status}
        if status in TERMINAL_ATTEMPT:
            columns["end_time"] = transaction.now()
    if columns:
        fields = ", ".join(f"{name} = ?" for name in columns)
        transaction.execute(f"UPDATE attempts SET {fields} WHERE number = ?", (*columns.values(), number))
    if "worker_id" in columns and change.attempt_id == state.attempt_id:
        state.worker_id = columns["worker_id"]
    if move is not None or "worker_id" in columns:
        _note_worker(transaction, state, change.attempt_id, number, status)
    if move is not None:
        state.move_on(transaction, move)
        write_states(transaction, [state])


def _note_worker(
    transaction: Transaction, state: RolloutState, attempt_id: str, number: int, status: AttemptStatus
) -> None:
    worker_id: str | None = transaction.value("worker_id", "text", "FROM attempts WHERE number = ?", (number,))
    if worker_id is None:
        return
    noted = worker_status(status)
    if noted == "unknown":
        set_unknown(transaction, worker_id)
    elif noted == "idle":
        set_idle(transaction, worker_id)
    else:
        note_busy(transaction, worker_id, Attempt(state.rollout_id, attempt_id, 0, 0.0))
