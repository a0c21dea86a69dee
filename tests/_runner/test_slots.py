"""The slots of attempts: served in turn, taken by the batch, and lost to no cancellation."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from lightning_trio._runner._slots import Slots


def free(slots: Slots) -> int:
    """Count the slots that are free."""
    taken = slots.take_nowait(1000)
    slots.give_back(taken)
    return taken


async def test_a_batch_is_all_that_is_available_up_to_the_limit() -> None:
    slots = Slots(5)

    taken = [await slots.take(3), await slots.take(3)]

    assert taken == [3, 2]
    assert slots.take_nowait(3) == 0


async def test_a_caller_waits_for_a_slot_and_then_takes_all_that_are_free() -> None:
    slots = Slots(4)
    await slots.take(4)
    taken: list[int] = []

    async def take() -> None:
        taken.append(await slots.take(10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        slots.give_back(3)

    assert taken == [3]
    assert free(slots) == 0


async def test_callers_are_served_in_the_order_they_came_in() -> None:
    slots = Slots(1)
    await slots.take()
    served: list[int] = []

    async def take(number: int) -> None:
        await slots.take(10)
        served.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(take, number)
            await wait_all_tasks_blocked()
        for _ in range(3):
            slots.give_back()
            await wait_all_tasks_blocked()

    assert served == [0, 1, 2]


async def test_waiting_callers_share_slots_that_are_freed_together() -> None:
    """The first takes no slot that has been handed to the second, whatever its limit."""
    slots = Slots(3)
    await slots.take(3)
    taken: list[int] = []

    async def take() -> None:
        taken.append(await slots.take(10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        slots.give_back(3)

    assert sorted(taken) == [1, 2]


async def test_no_caller_overtakes_one_that_waits() -> None:
    slots = Slots(1)
    await slots.take()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slots.take)
        await wait_all_tasks_blocked()
        slots.give_back()
        # It has been handed over, though its new owner has not run yet.
        overtaken = slots.take_nowait(1)

    assert overtaken == 0
    assert free(slots) == 0


async def test_a_slot_is_taken_with_a_checkpoint_and_without_one() -> None:
    slots = Slots(2)

    with trio.testing.assert_checkpoints():
        await slots.take()
    with trio.testing.assert_no_checkpoints():
        taken = slots.take_nowait(1)

    assert taken == 1


async def test_a_caller_that_is_cancelled_already_takes_none() -> None:
    slots = Slots(1)

    with trio.CancelScope() as scope:
        scope.cancel()
        await slots.take()

    assert scope.cancelled_caught
    assert free(slots) == 1


async def test_a_caller_that_is_cancelled_while_it_waits_takes_none() -> None:
    slots = Slots(1)
    await slots.take()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slots.take)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    slots.give_back()

    assert free(slots) == 1


async def test_a_cancelled_caller_does_not_keep_the_next_one_waiting() -> None:
    slots = Slots(1)
    await slots.take()
    first = trio.CancelScope()

    async def take_first() -> None:
        with first:
            await slots.take()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_first)
        await wait_all_tasks_blocked()
        nursery.start_soon(slots.take)
        await wait_all_tasks_blocked()
        first.cancel()
        slots.give_back()

    assert first.cancelled_caught
    assert free(slots) == 0


async def test_a_cancellation_after_the_hand_over_comes_too_late_to_lose_the_slot() -> None:
    """`take` returns then, and the cancellation is raised at its caller's next checkpoint, who gives the slot back."""
    slots = Slots(1)
    await slots.take()
    returned = trio.Event()
    scope = trio.CancelScope()

    async def take() -> None:
        with scope:
            taken = await slots.take()
            returned.set()
            try:
                await trio.sleep_forever()
            finally:
                slots.give_back(taken)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        slots.give_back()
        scope.cancel()

    assert returned.is_set()
    assert scope.cancelled_caught
    assert free(slots) == 1


async def test_a_cancellation_before_the_hand_over_leaves_the_slot_free() -> None:
    """Both come before the caller has run again."""
    slots = Slots(1)
    await slots.take()
    scope = trio.CancelScope()

    async def take() -> None:
        with scope:
            await slots.take()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        scope.cancel()
        slots.give_back()

    assert scope.cancelled_caught
    assert free(slots) == 1
