"""Records that a store cannot keep fail their own attempt and no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from oversized_rollout import LIMIT, TOO_MUCH, fit_with_one_that_records_too_much, one_of_many_records_too_much

import lightning_trio as agl
from lightning_trio import PayloadTooLarge, Runner, SqliteLightningStore


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
