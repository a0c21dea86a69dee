"""Large traces in SQLite: stored in parts, which are encoded outside of Trio's thread."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

import lightning_trio as agl
from lightning_trio import AttemptedRollout, NotStorable, Run, Span, SqliteLightningStore, audit
from lightning_trio._spans import LARGE, MANY
from lightning_trio.store import AttemptOutcome, RolloutRemoval


async def started(store: agl.LightningStore) -> AttemptedRollout:
    return await store.start_rollout("task")


def outcome_of(rollout: AttemptedRollout, spans: Sequence[Span]) -> AttemptOutcome:
    return AttemptOutcome(rollout.rollout_id, rollout.attempt.attempt_id, "succeeded", 1.0, spans)


def spans_of(rollout: AttemptedRollout, number: int, attributes: Any) -> list[Span]:
    return [
        Span.from_attributes(
            attributes=attributes,
            rollout_id=rollout.rollout_id,
            attempt_id=rollout.attempt.attempt_id,
            sequence_id=index + 1,
        )
        for index in range(number)
    ]


def rows_of(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        return {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("traces", "trace_parts", "spans")
        }


class Watched(dict[str, Any]):
    """Attributes that record in which threads they are read."""

    threads: set[int]

    def items(self) -> Any:
        self.threads.add(threading.get_ident())
        return super().items()


@pytest.mark.parametrize(
    ("number", "in_trio"), [(3, True), (MANY + 1, False), (20 * MANY, False)], ids=["few", "more", "many"]
)
async def test_only_large_traces_are_encoded_in_another_thread(tmp_path: Path, number: int, in_trio: bool) -> None:
    attributes = Watched(n=1)
    attributes.threads = set()
    async with SqliteLightningStore(tmp_path / "s.db") as store:
        rollout = await started(store)
        spans = [Span(*attributed(span, attributes)) for span in spans_of(rollout, number, {})]

        await store.finish([outcome_of(rollout, spans)])

        assert len(await store.query_spans(rollout.rollout_id)) == number
    assert len(attributes.threads) == 1
    assert (threading.get_ident() in attributes.threads) == in_trio


def attributed(span: Span, attributes: Any) -> tuple[Any, ...]:
    return (
        span.rollout_id,
        span.attempt_id,
        span.sequence_id,
        span.trace_id,
        span.span_id,
        None,
        span.name,
        span.status,
        attributes,
        1.0,
        2.0,
    )


async def test_other_tasks_run_while_a_large_trace_is_encoded(tmp_path: Path) -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await trio.lowlevel.checkpoint()
            beats += 1

    async with SqliteLightningStore(tmp_path / "s.db") as store, trio.open_nursery() as nursery:
        rollout = await started(store)
        spans = spans_of(rollout, 5 * MANY, {"text": "x"})
        nursery.start_soon(beat)
        await store.finish([outcome_of(rollout, spans)])
        nursery.cancel_scope.cancel()

    assert beats > 2


@pytest.mark.parametrize(
    ("number", "text", "rows"),
    [
        (3, "x", {"traces": 1, "trace_parts": 0, "spans": 0}),
        (2 * MANY, "x", {"traces": 0, "trace_parts": 8, "spans": 0}),
        (2, "x" * 3 * LARGE, {"traces": 0, "trace_parts": 8, "spans": 0}),
    ],
    ids=["ordinary", "many spans", "long texts"],
)
async def test_only_large_traces_are_stored_in_parts(
    tmp_path: Path, number: int, text: str, rows: dict[str, int]
) -> None:
    async with SqliteLightningStore(tmp_path / "s.db") as store:
        rollout = await started(store)
        spans = spans_of(rollout, number, {"text": text})

        await store.finish([outcome_of(rollout, spans)])

        assert list(await store.query_spans(rollout.rollout_id)) == spans
    assert rows_of(tmp_path / "s.db") == rows


async def test_a_removed_rollout_leaves_no_part(tmp_path: Path) -> None:
    async with SqliteLightningStore(tmp_path / "s.db") as store:
        rollout = await started(store)
        await store.finish([outcome_of(rollout, spans_of(rollout, 2 * MANY, {"n": 1}))])

        await store.update([RolloutRemoval(rollout.rollout_id)])

        assert (await audit(store)).clean
    assert rows_of(tmp_path / "s.db") == {"traces": 0, "trace_parts": 0, "spans": 0}


async def test_a_part_without_its_attempt_is_a_fault(tmp_path: Path) -> None:
    async with SqliteLightningStore(tmp_path / "s.db") as store:
        await started(store)
        with closing(sqlite3.connect(tmp_path / "s.db")) as connection, connection:
            connection.execute("INSERT INTO trace_parts VALUES (7, 0, '[]')")

        found = await store.find_faults()

    assert found == ["spans (number 7 of trace_parts) without an existing attempt"]


async def test_a_long_history_comes_back(tmp_path: Path) -> None:
    history = tuple({"round": number, "pair": (number, "x")} for number in range(3 * MANY + 1))
    async with SqliteLightningStore(tmp_path / "s.db") as store:
        await store.put([Run("run-1", history=history)])

        [run] = await store.query_runs()

    assert run.history == history


async def test_a_note_that_cannot_be_stored_is_named_in_a_long_history(tmp_path: Path) -> None:
    history = (*({"round": number} for number in range(2 * MANY)), {"why": len})
    async with SqliteLightningStore(tmp_path / "s.db") as store:
        with pytest.raises(NotStorable, match=rf"history\[{2 * MANY}\]\['why'\]"):
            await store.put([Run("run-1", history=history)])


async def test_a_run_with_its_history_is_within_the_limit(tmp_path: Path) -> None:
    history = tuple({"text": "x" * 50} for _ in range(50))
    async with SqliteLightningStore(tmp_path / "s.db", max_payload_bytes=5_000) as store:
        with pytest.raises(agl.PayloadTooLarge, match=r"run takes 6,\d+ bytes"):
            await store.put([Run("run-1", history=history, state="x" * 3_000)])
