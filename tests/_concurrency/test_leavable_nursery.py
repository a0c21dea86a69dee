"""A nursery that can be left behind, while its block still starts tasks."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lightning_trio._concurrency import open_leavable_nursery


async def test_the_block_may_start_tasks_until_it_ends_also_when_they_are_cancelled() -> None:
    """As a claim does that was being written when its runner was stopped."""
    cancelled: list[str] = []

    async def task() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append("cancelled")
            raise

    async with open_leavable_nursery() as leavable:
        leavable.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
        leavable.nursery.start_soon(task)

    assert cancelled == ["cancelled"]


async def test_the_error_of_a_task_ends_the_block() -> None:
    async def task() -> None:
        raise KeyError("tea")

    with pytest.raises(KeyError, match="tea"):
        async with open_leavable_nursery() as leavable:
            leavable.nursery.start_soon(task)
            await trio.sleep_forever()
