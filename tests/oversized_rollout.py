"""Twenty rollouts, one of which records more than its store takes, as is known only once it is encoded."""

from __future__ import annotations

import trio

import lightning_trio as agl
from lightning_trio import LightningStore, Runner

LIMIT = 10_000

TOO_MUCH = "\x01" * (LIMIT // 2)
"""A text of half the limit, which takes three times the limit as JSON."""


@agl.rollout
async def one_of_many_records_too_much(task: int) -> float:
    if task == 8:
        agl.emit_message(TOO_MUCH)
    await trio.sleep(0.01)
    return float(task)


async def fit_with_one_that_records_too_much(store: LightningStore) -> None:
    """Run twenty rollouts at once, whose outcomes are committed together."""
    result = await Runner(one_of_many_records_too_much, store=store, max_concurrency=20).fit(list(range(20)))

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 19}
    async with store:
        [failed] = await store.query_rollouts(status_in=["failed"])
        [attempt] = await store.query_attempts(failed.rollout_id)
        [root] = await store.query_spans(failed.rollout_id)
    assert failed.input == 8
    assert attempt.error is not None
    assert attempt.error.type == "PayloadTooLarge"
    assert attempt.final_reward is None
    assert root.status.description == f"PayloadTooLarge: {attempt.error.message}"
