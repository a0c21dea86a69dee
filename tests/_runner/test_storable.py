"""Records that a store cannot keep fail their own attempt and no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
from oversized_rollout import LIMIT, TOO_MUCH, fit_with_one_that_records_too_much, one_of_many_records_too_much

import lightning_trio as agl
from lightning_trio import (
    InMemoryLightningStore,
    NotStorable,
    PayloadTooLarge,
    RolloutStatus,
    Runner,
    SqliteLightningStore,
    StoreFormatError,
    UnknownId,
)
from lightning_trio.store import AttemptOutcome, ForwardingStore


async def test_the_others_of_its_commit_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await fit_with_one_that_records_too_much(SqliteLightningStore(tmp_path / "s.db", max_payload_bytes=LIMIT))

    assert "its attempt has failed: 3 spans of rollout" in caplog.text


async def test_a_step_raises_it_and_there_is_no_further_attempt(tmp_path: Path) -> None:
    store = SqliteLightningStore(tmp_path / "s.db", max_payload_bytes=LIMIT)
    config = agl.RolloutConfig(max_attempts=3, retry_condition=["failed"])
    async with Runner(one_of_many_records_too_much, store=store, config=config) as runner:
        with pytest.raises(PayloadTooLarge, match="3 spans of rollout"):
            await runner.step(8)

        [rollout] = await store.query_rollouts()
        assert (rollout.status, len(await store.query_attempts(rollout.rollout_id))) == ("failed", 1)


async def test_without_room_for_the_root_span_the_error_is_kept(tmp_path: Path) -> None:
    store = SqliteLightningStore(tmp_path / "s.db", max_payload_bytes=200)
    async with Runner(one_of_many_records_too_much, store=store) as runner:
        with pytest.raises(PayloadTooLarge):
            await runner.step(8)

        [rollout] = await store.query_rollouts()
        [attempt] = await store.query_attempts(rollout.rollout_id)
        assert list(await store.query_spans(rollout.rollout_id)) == []
    assert attempt.error is not None
    assert "the store's limit is 200" in attempt.error.message


async def test_one_that_was_cancelled_goes_back_to_the_queue(tmp_path: Path) -> None:
    store = SqliteLightningStore(tmp_path / "s.db", max_payload_bytes=LIMIT)
    with trio.CancelScope() as scope:

        async def records_too_much_and_is_cancelled(task: str) -> None:
            agl.emit_message(TOO_MUCH)
            scope.cancel()
            await trio.sleep_forever()

        await Runner(records_too_much_and_is_cancelled, store=store).fit(["task"])

    async with store:
        [rollout] = await store.query_rollouts()
        [attempt] = await store.query_attempts(rollout.rollout_id)
    assert (rollout.status, attempt.status) == ("requeuing", "cancelled")


# A store fails on one outcome of a commit, with an exception of any class.


class FailsOn(ForwardingStore):
    """A store of a user's own in memory, which fails on some outcomes."""

    def __init__(self, fails_on: Callable[[AttemptOutcome], bool], failure: Exception) -> None:
        super().__init__(InMemoryLightningStore())
        self.fails_on = fails_on
        self.failure = failure
        self.commits = 0

    async def finish(self, outcomes: Sequence[AttemptOutcome]) -> Sequence[RolloutStatus | None]:
        self.commits += 1
        if any(map(self.fails_on, outcomes)):
            raise self.failure
        return await super().finish(outcomes)


def has_poison(outcome: AttemptOutcome) -> bool:
    return any(agl.get_message_value(span) == "poison" for span in outcome.spans)


def has_nul_or_poison(outcome: AttemptOutcome) -> bool:
    return has_poison(outcome) or (outcome.error is not None and "\0" in outcome.error.message)


@agl.rollout
async def one_of_many_records_poison(task: int) -> float:
    if task == 8:
        agl.emit_message("poison")
    await trio.sleep(0.01)
    return float(task)


async def fit_with_poison(store: FailsOn) -> agl.FitResult:
    return await Runner(one_of_many_records_poison, store=store, max_concurrency=20).fit(range(20))


@pytest.mark.parametrize(
    "failure",
    [
        TypeError("no"),
        RecursionError(),
        OverflowError("int too large"),
        MemoryError(),
        AssertionError(),
        asyncio.CancelledError(),
        SystemExit(3),
        StoreFormatError.damaged_value("the store", "a row"),
        ExceptionGroup("of a nursery", [ValueError("no")]),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_store_that_fails_on_one_outcome_keeps_the_others_of_its_commit(failure: Exception) -> None:
    store = FailsOn(has_poison, failure)
    async with store:
        result = await fit_with_poison(store)
        [failed] = await store.query_rollouts(status_in=["failed"])

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 19}
    assert isinstance(failed, agl.AttemptedRollout)
    assert failed.attempt.error is not None
    assert failed.input == 8
    assert failed.attempt.error.type == "NotStorable"
    assert type(failure).__name__ in failed.attempt.error.message
    # Halves of the twenty, down to the one.
    assert store.commits < 15


async def test_a_step_raises_it_with_the_failure_of_the_store_as_its_cause() -> None:
    failure = OverflowError("int too large")
    async with Runner(one_of_many_records_poison, store=FailsOn(has_poison, failure)) as runner:
        with pytest.raises(NotStorable, match=r"\(OverflowError: int too large\)") as raised:
            await runner.step(8)

    assert raised.value.__cause__ is failure


async def test_a_store_that_fails_on_the_root_span_gets_a_status_and_plain_text() -> None:
    store = FailsOn(has_nul_or_poison, ValueError("\0 \ud800"))
    async with store:
        result = await fit_with_poison(store)
        [failed] = await store.query_rollouts(status_in=["failed"])
        assert list(await store.query_spans(failed.rollout_id)) == []

    assert result.counts["succeeded"] == 19
    assert isinstance(failed, agl.AttemptedRollout)
    assert failed.attempt.error is not None
    assert r"(ValueError: \0 \ud800)" in failed.attempt.error.message
    assert failed.attempt.error.traceback == ""


async def test_what_a_store_raises_even_for_a_status_and_plain_text_is_its_own_fault() -> None:
    with pytest.raises(TypeError, match="a mistake in the store"):
        await fit_with_poison(
            FailsOn(lambda outcome: outcome.error is None or True, TypeError("a mistake in the store"))
        )


@pytest.mark.parametrize(
    "failure", [OSError("no route to host"), ExceptionGroup("of a nursery", [ConnectionError("no route to host")])]
)
async def test_a_store_that_is_away_loses_no_spans(failure: Exception) -> None:
    store = FailsOn(has_poison, failure)
    with pytest.raises(OSError, match="no route to host"):
        await fit_with_poison(store)

    assert store.commits < 4
    async with store:
        assert not await store.query_rollouts(status_in=["failed"])


async def test_a_rollout_that_the_store_no_longer_has_counts_as_refused(caplog: pytest.LogCaptureFixture) -> None:
    store = FailsOn(has_poison, UnknownId.rollout("ro-1"))
    async with Runner(one_of_many_records_poison, store=store) as runner:
        assert (await runner.step(8)).status == "cancelled"
        assert (await runner.step(1)).status == "succeeded"

    assert "is lost: Rollout ro-1 not found" in caplog.text
