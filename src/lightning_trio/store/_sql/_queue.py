"""New rollouts: numbering them, and putting them into the queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import attrs

from ..._errors import UnknownId
from ..._records import EnqueueRolloutRequest, RolloutMode, RolloutStatus
from ..._serialization import EncodedValue, encode, encode_config, encode_mapping, encode_value
from .._rollout_ids import RolloutIdCipher
from ._parts import insert_parts
from ._rollout_state import (
    READY,
    STATUS,
)
from ._schema import INLINE_BYTES, ROLLOUT
from ._texts import check_text
from ._transaction import Transaction


@attrs.frozen
class EncodedRequest:
    """A request for a rollout, with its values encoded as text; of a large task the outline, and its parts."""

    input: str
    mode: RolloutMode | None
    resources_id: str | None
    config: str | None
    metadata: str | None
    key: str | None
    parts: Sequence[str] = ()


def encode_request(request: EnqueueRolloutRequest, limit: int, task: EncodedValue | None = None) -> EncodedRequest:
    """Encode a request.

    Args:
        request: the request.
        limit: how many bytes a value may take.
        task: the encoded task, if that may be large.

    Raises:
        NotStorable, PayloadTooLarge: see `encode`, `check_text`.
    """
    metadata = request.metadata
    if request.key is not None:
        check_text("key", request.key)
    if request.resources_id is not None:
        check_text("resources_id", request.resources_id)
    return EncodedRequest(
        encode(request.input, "task", limit) if task is None else task.text,
        request.mode,
        request.resources_id,
        None if request.config is None else encode_config(request.config),
        None if metadata is None else encode_mapping(metadata, "metadata", limit),
        request.key,
        () if task is None else task.parts,
    )


def encode_large_requests(requests: Sequence[EnqueueRolloutRequest], limit: int) -> list[EncodedRequest]:
    """Encode requests of which some have large tasks, these in slices; see `encode_request`."""
    return [encode_request(each, limit, encode_value(each.input, "task", limit)) for each in requests]


@attrs.frozen
class Enqueue:
    """Arguments of `enqueue`; `run_id` is empty for None."""

    requests: Sequence[EncodedRequest]
    run_id: str
    status: Literal["queuing", "cancelled"]


@attrs.define(eq=False)
class NewRollout:
    """A rollout about to be written."""

    number: int
    rollout_id: str
    request: EncodedRequest
    run_id: str
    resources_id: str | None
    config: str | None


def enqueue(transaction: Transaction, ids: RolloutIdCipher, calls: Sequence[Enqueue]) -> list[list[str]]:
    """Put rollouts into the queue, or record them as cancelled; see `LightningStore.enqueue`."""
    known = _known_keys(transaction, ids, calls)
    results: list[list[str]] = []
    made: dict[Literal["queuing", "cancelled"], list[NewRollout]] = {"queuing": [], "cancelled": []}
    wanted: list[tuple[Enqueue, EncodedRequest]] = []
    for call in calls:
        for request in call.requests:
            if request.key is None or (call.run_id, request.key) not in known:
                wanted.append((call, request))
                if request.key is not None:
                    known[call.run_id, request.key] = ""
    new = iter(number_rollouts(transaction, ids, [(request, call.run_id) for call, request in wanted]))
    for call in calls:
        rollout_ids: list[str] = []
        for request in call.requests:
            rollout_id = "" if request.key is None else known[call.run_id, request.key]
            if not rollout_id:
                each = next(new)
                rollout_id = each.rollout_id
                made[call.status].append(each)
                if request.key is not None:
                    known[call.run_id, request.key] = rollout_id
            rollout_ids.append(rollout_id)
        results.append(rollout_ids)
    insert_rollouts(transaction, made["queuing"], "queuing", READY)
    insert_rollouts(transaction, made["cancelled"], "cancelled", None)
    transaction.summary.ended += [each.rollout_id for each in made["cancelled"]]
    return results


def _known_keys(transaction: Transaction, ids: RolloutIdCipher, calls: Sequence[Enqueue]) -> dict[tuple[str, str], str]:
    keyed = list(
        dict.fromkeys(
            (call.run_id, request.key) for call in calls for request in call.requests if request.key is not None
        )
    )
    if not keyed:
        return {}
    rows = transaction.select_with_rows(
        {"run_id": "text", "key": "text"},
        keyed,
        {"r.run_id": "text", "r.key": "text", "r.number": "int"},
        # The index is partial: only a query that repeats its condition may use it.
        "FROM v JOIN rollouts r ON r.run_id = v.run_id AND r.key = v.key WHERE r.key IS NOT NULL",
    )
    return {(run_id, key): ids.rollout_id(number) for run_id, key, number in rows}


def number_rollouts(
    transaction: Transaction, ids: RolloutIdCipher, wanted: Sequence[tuple[EncodedRequest, str]]
) -> list[NewRollout]:
    """Assign numbers and resources to new rollouts."""
    if not wanted:
        return []
    _check_resources(transaction, {request.resources_id for request, _ in wanted})
    latest: str | None = None
    if any(request.resources_id is None for request, _ in wanted):
        latest = transaction.value("resources_id", "text", "FROM resources ORDER BY stored DESC LIMIT 1")
    first = transaction.take_numbers("rollouts", len(wanted))
    return [
        NewRollout(number, ids.rollout_id(number), request, run_id, request.resources_id or latest, request.config)
        for number, (request, run_id) in enumerate(wanted, first)
    ]


def _check_resources(transaction: Transaction, resources_ids: Iterable[str | None]) -> None:
    for resources_id in resources_ids:
        if resources_id is not None:
            check_resources_id(transaction, resources_id)


def check_resources_id(transaction: Transaction, resources_id: str) -> None:
    """Validate that a resources snapshot exists.

    Raises:
        UnknownId: it does not.
    """
    if transaction.value("version", "int", "FROM resources WHERE resources_id = ?", (resources_id,)) is None:
        raise UnknownId.resources(resources_id)


def insert_rollouts(
    transaction: Transaction,
    made: Sequence[NewRollout],
    status: RolloutStatus,
    available_at: float | None,
    attempts: int = 0,
) -> None:
    if not made:
        return
    now = transaction.now()
    end_time = now if status == "cancelled" else None
    rows: list[tuple[Any, ...]] = []
    large: list[tuple[int, str]] = []
    for new in made:
        request = new.request
        text: str | None = request.input
        if len(request.input) > INLINE_BYTES:
            large.append((new.number, request.input))
            text = None
        rows.append(
            (
                new.number,
                new.run_id,
                request.key,
                request.mode,
                status,
                new.resources_id,
                available_at,
                now,
                end_time,
                attempts,
                0,
                0,
                new.config,
                request.metadata,
                text,
            )
        )
        transaction.summary.count(new.run_id, STATUS[status], 1)
    columns = ", ".join(ROLLOUT)
    transaction.with_rows(
        ROLLOUT, rows, f"INSERT INTO rollouts ({columns}) SELECT {columns} FROM v WHERE number IS NOT NULL"
    )
    if large:
        transaction.with_rows(
            {"number": "int", "input": "text"},
            large,
            "INSERT INTO payloads (number, input) SELECT number, input FROM v WHERE number IS NOT NULL",
        )
    for new in made:
        if new.request.parts:
            insert_parts(transaction, "payload_parts", new.number, new.request.parts)
    if available_at is not None:
        transaction.summary.queued = True
