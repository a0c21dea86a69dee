"""New attempts: of rollouts claimed from the queue, and of rollouts started outside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import attrs

from ..._errors import StoreError, StoreFormatError
from ..._lifecycle import RolloutPosition, begin_attempt, end_attempt
from ..._records import DEFAULT_CONFIG, FINAL, Attempt, AttemptedRollout, ErrorRecord
from ..._serialization import UNREADABLE, decode, decode_config, decode_value, encode_error, reason_of
from .._rollout_ids import RolloutIdCipher
from ._queue import EncodedRequest, NewRollout, insert_rollouts, number_rollouts
from ._rollout_state import (
    ROLLOUT_RECORD,
    STATUS,
    RolloutState,
    attempt_number,
    end_attempts,
    load_states,
    missing_error,
    new_attempt,
    number_of,
    rollout_fields,
    unreadable_fields,
    write_states,
)
from ._schema import ATTEMPTS_PER_ROLLOUT
from ._transaction import Columns, Transaction
from ._workers import note_busy, note_idle


@attrs.frozen
class Start:
    """Arguments of `start`."""

    rollouts: Sequence[EncodedRequest | str]
    run_id: str
    worker_id: str | None
    default_config: str | None


@attrs.frozen
class Claim:
    """Arguments of `claim`."""

    limit: int
    run_id: str | None
    worker_id: str | None
    default_config: str | None


class _Started(NamedTuple):
    """A rollout whose new attempt is about to be written."""

    number: int
    run_id: str
    rollout: AttemptedRollout


# Decided once: a queued rollout has not ended, and of its attempts only the latest may still run.
_BEGIN: Final = begin_attempt(RolloutPosition("", "requeuing", True))
_SUPERSEDE: Final = begin_attempt(RolloutPosition("", "requeuing", True, "", "running", 1))

_NEW_ATTEMPT: Final[Columns] = {
    "number": "int",
    "rollout_number": "int",
    "attempt_id": "text",
    "sequence_id": "int",
    "worker_id": "text",
    "start_time": "real",
}


def _insert_attempts(transaction: Transaction, started: Sequence[_Started]) -> None:
    rows: list[tuple[Any, ...]] = []
    for number, run_id, rollout in started:
        attempt = rollout.attempt
        sequence_id = attempt.sequence_id
        if sequence_id >= ATTEMPTS_PER_ROLLOUT:
            before = sequence_id - 1
            raise StoreError.too_many_attempts(rollout.rollout_id, before)
        rows.append(
            (
                attempt_number(number, sequence_id),
                number,
                attempt.attempt_id,
                sequence_id,
                attempt.worker_id,
                attempt.start_time,
            )
        )
        transaction.summary.count(run_id, "attempts", 1)
    transaction.with_rows(
        _NEW_ATTEMPT,
        rows,
        "INSERT INTO attempts (number, rollout_number, attempt_id, sequence_id, status, worker_id, start_time, "
        "input_tokens, output_tokens, cost, last_span, last_sequence_id) SELECT number, rollout_number, attempt_id, "
        "sequence_id, 'preparing', worker_id, start_time, 0, 0, 0, 0, 0 FROM v WHERE number IS NOT NULL",
    )


def start(transaction: Transaction, ids: RolloutIdCipher, calls: Sequence[Start]) -> list[list[AttemptedRollout]]:
    """Start attempts outside the queue; see `LightningStore.start`."""
    states = load_states(
        transaction, ids, [number_of(ids, r) for call in calls for r in call.rollouts if isinstance(r, str)]
    )
    new = number_rollouts(
        transaction, ids, [(r, call.run_id) for call in calls for r in call.rollouts if not isinstance(r, str)]
    )
    fresh = iter(new)
    started: list[_Started] = []
    results: list[list[AttemptedRollout]] = []
    workers: dict[str, Attempt] = {}
    for call in calls:
        rollouts: list[AttemptedRollout] = []
        now = transaction.now()
        for each in call.rollouts:
            if isinstance(each, str):
                state = states.get(number_of(ids, each))
                if state is None:
                    raise missing_error(transaction, ids, each)
                rollouts.append(_restart(transaction, ids, state, call, now))
            else:
                made = next(fresh)
                made.config = made.config or call.default_config
                rollouts.append(_first_attempt(made, call.worker_id, now))
                started.append(_Started(made.number, made.run_id, rollouts[-1]))
        results.append(rollouts)
        if call.worker_id is not None and rollouts:
            workers[call.worker_id] = rollouts[-1].attempt
    insert_rollouts(transaction, new, "preparing", None, 1)
    _insert_attempts(transaction, started)
    for worker_id, attempt in workers.items():
        note_busy(transaction, worker_id, attempt)
    return results


def _first_attempt(new: NewRollout, worker_id: str | None, now: float) -> AttemptedRollout:
    request = new.request
    return AttemptedRollout(
        rollout_id=new.rollout_id,
        input=decode_value(request.input, request.parts.__getitem__),
        start_time=now,
        mode=request.mode,
        resources_id=new.resources_id,
        status="preparing",
        config=DEFAULT_CONFIG if new.config is None else decode_config(new.config),
        metadata=None if request.metadata is None else decode(request.metadata),
        run_id=new.run_id or None,
        key=request.key,
        attempt=new_attempt(new.rollout_id, 1, worker_id, now),
    )


def _restart(
    transaction: Transaction, ids: RolloutIdCipher, state: RolloutState, call: Start, now: float
) -> AttemptedRollout:
    move = begin_attempt(state)
    end_attempts(transaction, [(state, move.attempt_status, None)])
    state.attempts += 1
    state.config_text = state.config_text or call.default_config
    state.move_on(transaction, move)
    attempt = new_attempt(state.rollout_id, state.attempts, call.worker_id, now)
    state.attempt_id, state.attempt_status = attempt.attempt_id, "preparing"
    state.final_reward, state.worker_id = None, call.worker_id
    [row] = transaction.select(ROLLOUT_RECORD, "FROM rollouts r WHERE r.number = ?", (state.number,))
    fields: dict[str, Any] = {**rollout_fields(transaction, ids, row), "status": "preparing", "config": state.config}
    rollout = AttemptedRollout(**fields, attempt=attempt)
    _insert_attempts(transaction, [_Started(state.number, state.run_id, rollout)])
    write_states(transaction, [state])
    return rollout


class Claimed(NamedTuple):
    """The rollouts of a claim, and whether claimable ones are left."""

    rollouts: list[AttemptedRollout]
    more: bool


def claim(transaction: Transaction, ids: RolloutIdCipher, calls: Sequence[Claim]) -> list[Claimed]:
    """Take rollouts off the queue; see `LightningStore.claim`."""
    by_run: dict[str | None, list[Claim]] = {}
    for call in calls:
        by_run.setdefault(call.run_id, []).append(call)
    claimed = {run_id: iter(_claim(transaction, ids, run_id, same)) for run_id, same in by_run.items()}
    return [next(claimed[call.run_id]) for call in calls]


def _claim(transaction: Transaction, ids: RolloutIdCipher, run_id: str | None, calls: Sequence[Claim]) -> list[Claimed]:
    """Take the rollouts that several calls claim of one run; those that cannot be read fail, and others are taken."""
    unreadable: list[_Started] = []
    claimed = _claim_once(transaction, ids, run_id, calls, unreadable)
    while unreadable:
        _fail(transaction, ids, unreadable)
        unreadable.clear()
        left = [
            attrs.evolve(call, limit=max(call.limit, 0) - len(done.rollouts))
            for call, done in zip(calls, claimed, strict=True)
        ]
        others = _claim_once(transaction, ids, run_id, left, unreadable)
        claimed = [
            Claimed([*done.rollouts, *other.rollouts], other.more) for done, other in zip(claimed, others, strict=True)
        ]
    return claimed


def _claim_once(
    transaction: Transaction,
    ids: RolloutIdCipher,
    run_id: str | None,
    calls: Sequence[Claim],
    unreadable: list[_Started],
) -> list[Claimed]:
    """Take the rollouts that several calls claim of one run, in order of the calls, with the statements of one call.

    Those that cannot be read are appended to `unreadable` instead.
    """
    wanted = sum(max(call.limit, 0) for call in calls)
    found = _candidates(transaction, run_id, wanted + 1) if wanted else []
    taken: list[list[_Started]] = []
    updates: list[tuple[int, int, str | None]] = []
    start = 0
    for call in calls:
        rows = found[start : start + max(call.limit, 0)]
        start += len(rows)
        started = _take(transaction, ids, call, rows, updates, unreadable)
        taken.append(started)
        if call.worker_id is not None:
            if started:
                note_busy(transaction, call.worker_id, started[-1].rollout.attempt)
            else:
                note_idle(transaction, [call.worker_id])
    if updates:
        together = [*unreadable, *(each for started in taken for each in started)]
        _supersede(transaction, together)
        _insert_attempts(transaction, together)
        transaction.with_rows(
            {"number": "int", "attempts": "int", "config": "text"},
            updates,
            f"UPDATE rollouts SET status = '{_BEGIN.status}', available_at = NULL, attempts = v.attempts, "
            "config = v.config FROM v WHERE rollouts.number = v.number",
        )
    more = len(found) > start
    return [Claimed([rollout for _, _, rollout in started], more) for started in taken]


def _take(
    transaction: Transaction,
    ids: RolloutIdCipher,
    call: Claim,
    rows: Iterable[Sequence[Any]],
    updates: list[tuple[int, int, str | None]],
    unreadable: list[_Started],
) -> list[_Started]:
    now = transaction.now()
    started: list[_Started] = []
    for row in rows:
        number, run_id, attempts = row[0], row[8], row[10] + 1
        config = row[6] or call.default_config
        try:
            fields = rollout_fields(transaction, ids, row)
            if config is not None:
                fields["config"] = decode_config(config)
            of_kind = started
        except UNREADABLE as exc:
            fields = unreadable_fields(transaction, ids, row, reason_of(exc))
            of_kind = unreadable
        transaction.summary.count(run_id, STATUS[row[5]], -1)
        transaction.summary.count(run_id, STATUS[_BEGIN.status], 1)
        fields["status"] = _BEGIN.status
        attempt = new_attempt(fields["rollout_id"], attempts, call.worker_id, now)
        of_kind.append(_Started(number, run_id, AttemptedRollout(**fields, attempt=attempt)))
        updates.append((number, attempts, config))
    return started


def _fail(transaction: Transaction, ids: RolloutIdCipher, unreadable: Sequence[_Started]) -> None:
    """End rollouts that were claimed and cannot be read as failed, each with an error that says why."""
    states = load_states(transaction, ids, [number for number, _, _ in unreadable])
    for number, _, rollout in unreadable:
        state = states[number]
        error = StoreFormatError.unreadable_task(rollout.input.reason)
        record = encode_error(ErrorRecord(type(error).__name__, str(error), ""))
        move = end_attempt(state, rollout.attempt.attempt_id, "failed", FINAL)
        assert move is not None
        end_attempts(transaction, [(state, move.attempt_status, record)])
        state.move_on(transaction, move)
    write_states(transaction, list(states.values()))


def _supersede(transaction: Transaction, started: Sequence[_Started]) -> None:
    """End attempts that were still running when a caller put their rollout back into the queue."""
    before = [
        (attempt_number(number, rollout.attempt.sequence_id - 1),)
        for number, _, rollout in started
        if rollout.attempt.sequence_id > 1
    ]
    if before:
        transaction.with_rows(
            {"number": "int"},
            before,
            f"UPDATE attempts SET status = '{_SUPERSEDE.attempt_status}', end_time = {transaction.now()!r} FROM v "
            "WHERE attempts.number = v.number AND attempts.end_time IS NULL",
        )


def _candidates(transaction: Transaction, run_id: str | None, limit: int) -> list[list[Any]]:
    """Read and lock the oldest rollouts that can be claimed."""
    if run_id is not None:
        return _candidates_of(transaction, run_id, limit)
    rows = [row for each in queued_runs(transaction) for row in _candidates_of(transaction, each, limit)]
    return sorted(rows)[:limit]


def _candidates_of(transaction: Transaction, run_id: str, limit: int) -> list[list[Any]]:
    rows = _queued(transaction, "available_at = 0", "number", (run_id,), limit)
    # Due retries: few, and behind rollouts that have waited longer.
    due = _queued(
        transaction, "available_at > 0 AND available_at <= ?", "available_at", (run_id, transaction.steady_now()), limit
    )
    return sorted(rows + due)[:limit] if due else rows


def _queued(
    transaction: Transaction, condition: str, order: str, parameters: Sequence[Any], limit: int
) -> list[list[Any]]:
    # The columns come from the locked rows: a second read could return an older version of them.
    return transaction.select_with(
        f"WITH r AS (SELECT * FROM rollouts WHERE run_id = ? AND {condition} ORDER BY {order} LIMIT ?"
        f"{transaction.dialect.skip_locked('rollouts')})",
        ROLLOUT_RECORD,
        "FROM r ORDER BY r.number",
        (*parameters, limit),
    )


def queued_runs(transaction: Transaction) -> list[str]:
    """Return the runs with queued rollouts, by skipping from run to run in the index."""
    return [
        row[0]
        for row in transaction.select_with(
            "WITH RECURSIVE runs(run_id) AS (SELECT min(run_id) FROM rollouts WHERE available_at IS NOT NULL UNION ALL "
            "SELECT (SELECT min(r.run_id) FROM rollouts r WHERE r.available_at IS NOT NULL AND r.run_id > runs.run_id) "
            "FROM runs WHERE runs.run_id IS NOT NULL)",
            {"run_id": "text"},
            "FROM runs WHERE run_id IS NOT NULL",
            (),
        )
    ]
