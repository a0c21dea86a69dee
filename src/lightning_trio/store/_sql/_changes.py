"""Changes of rollouts and attempts by hand, and their removal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, cast, get_args

import attrs

from ..._errors import StaleAttempt
from ..._lifecycle import QUEUED, TERMINAL_ATTEMPT, TERMINAL_ROLLOUT
from ..._records import Attempt, AttemptChange, AttemptStatus, RolloutChange, RolloutRemoval, RolloutStatus, Unset
from ..._serialization import encode, encode_config
from .._rollout_ids import RolloutIdCipher
from ._known_spans import CHAIN
from ._outcomes import after_attempt
from ._queue import check_resources_id
from ._rollout_state import (
    READY,
    RolloutState,
    check_attempt_id,
    end_attempts,
    load_states,
    missing,
    number_of,
    write_states,
)
from ._schema import INLINE_BYTES
from ._transaction import Transaction
from ._workers import note_busy, set_idle, set_unknown

Change: TypeAlias = RolloutChange | AttemptChange | RolloutRemoval


@attrs.frozen
class EncodedChange:
    """A change, and the columns it sets besides the status."""

    change: Change
    columns: dict[str, Any] = attrs.field(factory=dict[str, Any])


def encode_change(change: Change, limit: int) -> EncodedChange:
    """Encode a change.

    Raises:
        NotStorable, PayloadTooLarge: see `encode`.
    """
    columns: dict[str, Any] = {}
    if isinstance(change, RolloutRemoval):
        return EncodedChange(change)
    if not isinstance(change.metadata, Unset):
        metadata = change.metadata
        columns["metadata"] = None if metadata is None else encode(dict(metadata), "metadata", limit)
    if isinstance(change, AttemptChange):
        for name in ("worker_id", "last_heartbeat_time"):
            if not isinstance(value := getattr(change, name), Unset):
                columns[name] = value
        return EncodedChange(change, columns)
    if not isinstance(change.input, Unset):
        columns["input"] = encode(change.input, "task", limit)
    for name in ("mode", "resources_id"):
        if not isinstance(value := getattr(change, name), Unset):
            columns[name] = value
    if not isinstance(change.config, Unset):
        columns["config"] = encode_config(change.config)
    return EncodedChange(change, columns)


def update(transaction: Transaction, ids: RolloutIdCipher, calls: Sequence[Sequence[EncodedChange]]) -> list[None]:
    """Make changes, one after the other; see `LightningStore.update`."""
    standings = load_states(
        transaction, ids, [number_of(ids, each.change.rollout_id) for call in calls for each in call]
    )
    for call in calls:
        for each in call:
            change = each.change
            standing = standings.get(number_of(ids, change.rollout_id))
            if standing is None:
                raise missing(transaction, ids, change.rollout_id)
            if isinstance(change, RolloutRemoval):
                _remove(transaction, standing)
                del standings[standing.number]
            elif isinstance(change, RolloutChange):
                _change_rollout(transaction, standing, change, each.columns)
            else:
                _change_attempt(transaction, standing, change, each.columns)
    return [None] * len(calls)


def _remove(transaction: Transaction, standing: RolloutState) -> None:
    if not standing.ended:
        raise ValueError(f"rollout {standing.rollout_id} is {standing.status}; only finished rollouts can be removed")
    last = standing.attempt_number
    attempts = (last - standing.attempts, last)
    transaction.execute(
        f"WITH RECURSIVE v(number) AS (SELECT number FROM attempts WHERE number BETWEEN ? AND ?), {CHAIN} "
        "DELETE FROM spans WHERE number IN (SELECT number FROM chain)",
        attempts,
    )
    transaction.execute("DELETE FROM traces WHERE number BETWEEN ? AND ?", attempts)
    transaction.execute("DELETE FROM attempts WHERE number BETWEEN ? AND ?", attempts)
    transaction.execute("DELETE FROM payloads WHERE number = ?", (standing.number,))
    transaction.execute("DELETE FROM rollouts WHERE number = ?", (standing.number,))
    transaction.effects.count(standing.run_id, "removed", 1)


def _change_rollout(
    transaction: Transaction, standing: RolloutState, change: RolloutChange, columns: dict[str, Any]
) -> None:
    if isinstance(change.resources_id, str):
        check_resources_id(transaction, change.resources_id)
    status = change.status
    if not isinstance(status, Unset):
        _check_rollout_status(standing, status)
    if columns:
        _set_columns(transaction, standing, columns)
    if isinstance(status, Unset):
        return
    if status in TERMINAL_ROLLOUT and standing.at_work:
        end_attempts(transaction, [(standing, cast("AttemptStatus", status), None)])
    if status == standing.status and (standing.available_at is not None or status not in QUEUED):
        return
    standing.set_status(transaction, status, READY if status in QUEUED else None)
    write_states(transaction, [standing])


def _check_rollout_status(standing: RolloutState, status: RolloutStatus) -> None:
    if status == standing.status:
        return
    if status not in get_args(RolloutStatus):
        raise ValueError(f"status={status!r} is no rollout status; there are {get_args(RolloutStatus)}")
    if standing.ended:
        raise StaleAttempt(
            f"rollout {standing.rollout_id} is {standing.status} and stays so; it cannot become {status}"
        )


def _set_columns(transaction: Transaction, standing: RolloutState, columns: dict[str, Any]) -> None:
    columns = dict(columns)
    text = columns.get("input")
    if text is not None:
        transaction.execute("DELETE FROM payloads WHERE number = ?", (standing.number,))
        if len(text) > INLINE_BYTES:
            transaction.execute("INSERT INTO payloads (number, input) VALUES (?, ?)", (standing.number, text))
            columns["input"] = None
    if "config" in columns:
        standing.config_text = columns["config"]
    if "mode" in columns:
        standing.mode = columns["mode"]
    fields = ", ".join(f"{name} = ?" for name in columns)
    transaction.execute(f"UPDATE rollouts SET {fields} WHERE number = ?", (*columns.values(), standing.number))


def _change_attempt(
    transaction: Transaction, standing: RolloutState, change: AttemptChange, columns: dict[str, Any]
) -> None:
    number = check_attempt_id(transaction, standing, change.attempt_id)
    before: AttemptStatus = transaction.value("status", "text", "FROM attempts WHERE number = ?", (number,))
    status = before if isinstance(change.status, Unset) else change.status
    moved = status != before
    if moved:
        _check_attempt_status(standing, change.attempt_id, before, status)
        columns = {**columns, "status": status}
        if status in TERMINAL_ATTEMPT:
            columns["end_time"] = transaction.now()
    if columns:
        fields = ", ".join(f"{name} = ?" for name in columns)
        transaction.execute(f"UPDATE attempts SET {fields} WHERE number = ?", (*columns.values(), number))
    if "worker_id" in columns and change.attempt_id == standing.attempt_id:
        standing.worker_id = columns["worker_id"]
    if moved or "worker_id" in columns:
        _note_worker(transaction, standing, change.attempt_id, number, status)
    if moved:
        standing.attempt_status = status
        after_attempt(transaction, standing, status, 0.0, final=False)
        write_states(transaction, [standing])


def _check_attempt_status(
    standing: RolloutState, attempt_id: str, before: AttemptStatus, status: AttemptStatus
) -> None:
    if status not in get_args(AttemptStatus):
        raise ValueError(f"status={status!r} is no attempt status; there are {get_args(AttemptStatus)}")
    if before in TERMINAL_ATTEMPT or attempt_id != standing.attempt_id or standing.ended:
        raise StaleAttempt(
            f"attempt {attempt_id} of rollout {standing.rollout_id} is {before}, its rollout {standing.status}: it can "
            f"no longer become {status}"
        )


def _note_worker(
    transaction: Transaction, standing: RolloutState, attempt_id: str, number: int, status: AttemptStatus
) -> None:
    worker_id: str | None = transaction.value("worker_id", "text", "FROM attempts WHERE number = ?", (number,))
    if worker_id is None:
        return
    if status in ("timeout", "unresponsive"):
        set_unknown(transaction, worker_id)
    elif status in TERMINAL_ATTEMPT:
        set_idle(transaction, worker_id)
    else:
        note_busy(transaction, worker_id, Attempt(standing.rollout_id, attempt_id, 0, 0.0))
