"""The state of a rollout and its latest attempt: what an operation reads before it changes either."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

import attrs

from ..._errors import Evicted, UnknownId
from ..._ids import new_attempt_id
from ..._lifecycle import TERMINAL_ROLLOUT, Move
from ..._records import (
    DEFAULT_CONFIG,
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
)
from ..._serialization import UNREADABLE, Unreadable, decode, decode_config, decode_value, is_outline, unreadable
from .._rollout_ids import RolloutIdCipher
from ._parts import part_reader
from ._schema import ATTEMPTS_PER_ROLLOUT
from ._transaction import Columns, Transaction

READY: Final = 0.0
"""The `available_at` of rollouts that can be claimed at once, independent of the clock."""

STATUS: Final[Mapping[RolloutStatus, str]] = {status: f"status:{status}" for status in get_args(RolloutStatus)}
"""The name of the count of each status."""

_ROLLOUT_PART: Final[Columns] = {
    "r.number": "int",
    "r.run_id": "text",
    "r.mode": "text",
    "r.status": "text",
    "r.available_at": "real",
    "r.end_time": "real",
    "r.attempts": "int",
    "r.not_counted": "int",
    "r.lost": "int",
    "r.config": "text",
}
_ATTEMPT_PART: Final[Columns] = {
    "a.attempt_id": "text",
    "a.status": "text",
    "a.worker_id": "text",
    "a.final_reward": "real",
    "a.last_span": "int",
    "a.last_sequence_id": "int",
}
_LATEST: Final = f"LEFT JOIN attempts a ON a.number = r.number * {ATTEMPTS_PER_ROLLOUT} + r.attempts"


@attrs.define(eq=False)
class RolloutState:
    """A rollout with its latest attempt, changed in memory and then written by `write_states`.

    It is a `Position` of the state machine.

    Args:
        rollout_id: the rollout's id; the other fields are columns, in the order of `_ROLLOUT_PART`, `_ATTEMPT_PART`.
        number: its number, which the id encrypts.
        run_id: its run, ``""`` for none.
        mode: ``"train"``, ``"val"`` or ``"test"``.
        status: its status.
        available_at: when it can be claimed, `READY` for at once; None outside the queue.
        end_time: when it ended.
        attempts: the number of its attempts.
        not_counted: attempts that do not count towards `max_attempts`.
        lost: attempts that were lost with their worker.
        config_text: its configuration, encoded; None for the default.
        attempt_id: the latest attempt's id; None, like the rest, if there is no attempt.
        attempt_status: its status.
        worker_id: its worker.
        final_reward: its reward.
        last_span: the number of its last span.
        last_sequence_id: the highest sequence id of its spans.
    """

    rollout_id: str
    number: int
    run_id: str
    mode: RolloutMode | None
    status: RolloutStatus
    available_at: float | None
    end_time: float | None
    attempts: int
    not_counted: int
    lost: int
    config_text: str | None
    attempt_id: str | None
    attempt_status: AttemptStatus | None
    worker_id: str | None
    final_reward: float | None
    last_span: int | None
    last_sequence_id: int | None

    @property
    def attempt_number(self) -> int:
        """The number of the latest attempt."""
        return attempt_number(self.number, self.attempts)

    @property
    def config(self) -> RolloutConfig:
        """The rollout's configuration."""
        return DEFAULT_CONFIG if self.config_text is None else decode_config(self.config_text)

    @property
    def counted(self) -> int:
        """The number of attempts that count towards `max_attempts`."""
        return self.attempts - self.not_counted

    @property
    def ended(self) -> bool:
        """Whether its status is terminal."""
        return self.status in TERMINAL_ROLLOUT

    @property
    def queued(self) -> bool:
        """Whether it has a place in the queue."""
        return self.available_at is not None

    def move_on(self, transaction: Transaction, move: Move) -> None:
        """Apply a move; the caller writes the attempt's new status."""
        if move.attempt_status is not None:
            self.attempt_status = move.attempt_status
        if move.anew:
            self.not_counted, self.lost = self.attempts, 0
        elif not move.counts:
            self.not_counted += 1
            self.lost += move.lost
        self.available_at = None
        if move.queue_in is not None:
            self.available_at = transaction.steady_now() + move.queue_in if move.queue_in > 0 else READY
            transaction.summary.queued = True
        status = move.status
        if status == self.status:
            return
        summary = transaction.summary
        summary.count(self.run_id, STATUS[self.status], -1)
        summary.count(self.run_id, STATUS[status], 1)
        reopened, self.status = self.ended, status
        if self.ended:
            self.end_time = transaction.now()
            summary.ended.append(self.rollout_id)
            if self.final_reward is not None:
                name = f"reward:{self.mode or ''}"
                summary.count(self.run_id, name, 1)
                summary.sum_up(self.run_id, name, self.final_reward)
        elif reopened:
            self.end_time = None
            if self.final_reward is not None:
                name = f"reward:{self.mode or ''}"
                summary.count(self.run_id, name, -1)
                summary.sum_up(self.run_id, name, -self.final_reward)
                summary.uncounted.add((self.run_id, name))


def attempt_number(rollout_number: int, sequence_id: int) -> int:
    """Return the number of a rollout's attempt."""
    return rollout_number * ATTEMPTS_PER_ROLLOUT + sequence_id


def load_states(transaction: Transaction, ids: RolloutIdCipher, numbers: Iterable[int]) -> dict[int, RolloutState]:
    """Read and lock the states of rollouts; missing rollouts are left out."""
    wanted = sorted(set(numbers))
    if not wanted:
        return {}
    if transaction.dialect.locks:
        # In one order for all writers, so that two cannot wait for each other.
        transaction.select_with_rows(
            {"number": "int"},
            [(number,) for number in wanted],
            {"r.number": "int"},
            f"FROM v JOIN rollouts r ON r.number = v.number ORDER BY r.number{transaction.dialect.lock('r')}",
        )
    rows = transaction.select_with_rows(
        {"number": "int"},
        [(number,) for number in wanted],
        {**_ROLLOUT_PART, **_ATTEMPT_PART},
        f"FROM v JOIN rollouts r ON r.number = v.number {_LATEST}",
    )
    # The rows' columns are the fields after the first, see `RolloutState`.
    return {row[0]: RolloutState(ids.rollout_id(row[0]), *row) for row in rows}


def write_states(transaction: Transaction, states: Sequence[RolloutState]) -> None:
    """Write the columns of rollouts that may have changed."""
    transaction.with_rows(
        {
            "number": "int",
            "status": "text",
            "available_at": "real",
            "end_time": "real",
            "attempts": "int",
            "not_counted": "int",
            "lost": "int",
            "config": "text",
        },
        [
            (s.number, s.status, s.available_at, s.end_time, s.attempts, s.not_counted, s.lost, s.config_text)
            for s in states
        ],
        "UPDATE rollouts SET status = v.status, available_at = v.available_at, end_time = v.end_time, "
        "attempts = v.attempts, not_counted = v.not_counted, lost = v.lost, config = v.config "
        "FROM v WHERE rollouts.number = v.number",
    )


def end_attempts(
    transaction: Transaction, ended: Sequence[tuple[RolloutState, AttemptStatus | None, str | None]]
) -> None:
    """End latest attempts without a report, each with a status (None: skip it) and the text of an error."""
    now = transaction.now()
    transaction.with_rows(
        {"number": "int", "status": "text", "end_time": "real", "error": "text"},
        [(state.attempt_number, status, now, error) for state, status, error in ended if status is not None],
        "UPDATE attempts SET status = v.status, end_time = v.end_time, error = v.error FROM v "
        "WHERE attempts.number = v.number",
    )


def number_of(ids: RolloutIdCipher, rollout_id: str) -> int:
    """Return a rollout's number.

    Raises:
        UnknownId: the id cannot be one of this store.
    """
    number = ids.number(rollout_id)
    if number is None:
        raise UnknownId.rollout(rollout_id)
    return number


def missing_error(transaction: Transaction, ids: RolloutIdCipher, rollout_id: str) -> Evicted | UnknownId:
    """Return the error for a missing rollout: `Evicted` if it was removed, else `UnknownId`."""
    if was_issued(transaction, ids, rollout_id):
        return Evicted.removed(rollout_id)
    return UnknownId.rollout(rollout_id)


def was_issued(transaction: Transaction, ids: RolloutIdCipher, rollout_id: str) -> bool:
    """Whether the store has ever issued `rollout_id`."""
    number = ids.number(rollout_id)
    return number is not None and 0 < number <= transaction.last_number("rollouts")


def check_attempt_id(transaction: Transaction, state: RolloutState, attempt_id: str) -> int:
    """Return the number of one of a rollout's attempts.

    Raises:
        UnknownId: the rollout has no such attempt.
    """
    number: int | None = transaction.value(
        "number",
        "int",
        "FROM attempts WHERE rollout_number = ? AND attempt_id = ? AND number BETWEEN ? AND ?",
        (state.number, attempt_id, *attempt_range(state)),
    )
    if number is None:
        raise UnknownId.attempt(state.rollout_id, attempt_id)
    return number


def attempt_range(state: RolloutState) -> tuple[int, int]:
    """Return the range of numbers of a rollout's attempts."""
    last = state.attempt_number
    return last - state.attempts, last


def count_late(
    transaction: Transaction, ids: RolloutIdCipher, state: RolloutState | None, rollout_id: str, spans: int
) -> None:
    if state is None and not was_issued(transaction, ids, rollout_id):
        raise UnknownId.rollout(rollout_id)
    if spans:
        transaction.summary.count("" if state is None else state.run_id, "late_spans", spans)


# Records.

_TASK: Final = "coalesce(r.input, (SELECT p.input FROM payloads p WHERE p.number = r.number))"

ROLLOUT_RECORD: Final[Columns] = {
    "r.number": "int",
    "r.start_time": "real",
    "r.end_time": "real",
    "r.mode": "text",
    "r.resources_id": "text",
    "r.status": "text",
    "r.config": "text",
    "r.metadata": "text",
    "r.run_id": "text",
    "r.key": "text",
    "r.attempts": "int",
    _TASK: "text",
}


def rollout_fields(transaction: Transaction, ids: RolloutIdCipher, row: Sequence[Any]) -> dict[str, Any]:
    """Return the fields of a `Rollout` from a row of `ROLLOUT_RECORD`.

    Raises:
        msgspec.DecodeError: its task, configuration or metadata cannot be read.
    """
    number, start, end, mode, resources_id, status, config, metadata, run_id, key, _, text = row
    try:
        if is_outline(text):
            # Again, by a statement that sees what the ones that read its parts see: in a transaction that writes, each
            # sees what was committed before it, and the one that found the row waited for its lock.
            text = transaction.value(_TASK, "text", "FROM rollouts r WHERE r.number = ?", (number,))
        read = (
            decode_value(text, part_reader(transaction, "payload_parts", number)),
            DEFAULT_CONFIG if config is None else decode_config(config),
            None if metadata is None else decode(metadata),
        )
    except UNREADABLE as exc:
        raise unreadable(f"rollout {ids.rollout_id(number)}", exc) from exc
    return {
        "rollout_id": ids.rollout_id(number),
        "input": read[0],
        "start_time": start,
        "end_time": end,
        "mode": mode,
        "resources_id": resources_id,
        "status": status,
        "config": read[1],
        "metadata": read[2],
        "run_id": run_id or None,
        "key": key,
    }


def unreadable_fields(
    transaction: Transaction, ids: RolloutIdCipher, row: Sequence[Any], reason: str
) -> dict[str, Any]:
    """Return the fields of a `Rollout` whose task, configuration or metadata cannot be read."""
    number, start, end, mode, resources_id, status, _, _, run_id, key, attempts, _ = row
    readable = number, start, end, mode, resources_id, status, None, None, run_id, key, attempts, "null"
    return {**rollout_fields(transaction, ids, readable), "input": Unreadable(reason)}


def make_rollout(fields: Mapping[str, Any], attempt: Attempt | None) -> Rollout:
    """Return the record, with the latest attempt if there is one."""
    return Rollout(**fields) if attempt is None else AttemptedRollout(**fields, attempt=attempt)


def new_attempt(rollout_id: str, sequence_id: int, worker_id: str | None, now: float) -> Attempt:
    """Return the record of a new attempt."""
    return Attempt(rollout_id, new_attempt_id(), sequence_id, now, None, "preparing", worker_id)
