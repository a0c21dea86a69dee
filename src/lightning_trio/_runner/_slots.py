"""The slots of running attempts, and the seats on which sub-rollouts ride on the slots of their parents."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import outcome
import trio


class Seat:
    """A ride on the slot of an attempt that waits, for one of its sub-rollouts at a time; the others wait in turn."""

    __slots__ = ("_slots", "inherited", "taken", "waiting")

    def __init__(self, slots: Slots, *, taken: bool = False) -> None:
        self._slots = slots
        self.taken: bool = taken
        self.waiting: OrderedDict[trio.lowlevel.Task, None] = OrderedDict()
        self.inherited: Callable[[], None] | None = None
        """Releases the slot below the seat, whose attempt ended before the sub-rollout on it."""

    def release(self) -> None:
        """Pass the seat to the next task that waits for it."""
        if self.inherited is not None:
            self.inherited()
        elif self.waiting:
            self._slots.wake(next(iter(self.waiting)), self)
        else:
            self.taken = False


class Taken(NamedTuple):
    """How many attempts may start, and the seat that the first of them rides on, None if all have slots."""

    number: int
    seat: Seat | None


class Waiting(NamedTuple):
    """A call that waits for a slot.

    Args:
        seat: the seat that it waits for as well, if only the spare one.
        since: since when, on Trio's clock.
        running: where its other attempts run, if it has several.
    """

    seat: Seat
    since: float
    running: trio.Nursery | None


class Slots:
    """Slots for attempts, taken and given back in batches; waiting tasks are served in order.

    A `trio.Semaphore` takes one at a time, at 0.4 µs each.

    Args:
        total: the number of slots.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        """Negative while more slots are taken than there are, see `lend_if_stuck`."""
        self._waiting: OrderedDict[trio.lowlevel.Task, Waiting] = OrderedDict()
        self.on_wait: Callable[[], None] | None = None
        """Called when a task begins to wait."""
        self.spare: Seat = Seat(self, taken=True)
        """What waits for a slot without a seat of its own; taken until `lend_if_stuck`."""
        self.stuck: int = 0
        """How many attempts with slots wait in a store, or have sub-rollouts that wait for some runner's spare seat."""

    def take_nowait(self, limit: int) -> int:
        """Take up to `limit` slots and return their number; 0 while other tasks wait."""
        taken = 0 if self._waiting or self._free < 0 else min(limit, self._free)
        self._free -= taken
        return taken

    @property
    def taken(self) -> int:
        """The number of slots that are taken."""
        return self._total - self._free

    def waiting(self) -> list[tuple[trio.lowlevel.Task, Waiting]]:
        """Return the waiting tasks, the first to be served first."""
        return list(self._waiting.items())

    async def take(self, limit: int = 1, running: trio.Nursery | None = None) -> int:
        """Wait for a slot, take up to `limit`, and return their number.

        Args:
            limit: the most to take.
            running: where the caller's other attempts run.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        taken = self.take_nowait(limit) or self._lend()
        if taken:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return taken
        # `give_back` passes its slot to the first waiting task, so that none is overtaken.
        await self._wait(self.spare, running)
        return 1 + self.take_nowait(limit - 1)

    async def take_or_ride(self, limit: int, seat: Seat) -> Taken:
        """Wait for the seat or a slot, whichever comes first, and take up to `limit` of them."""
        await trio.lowlevel.checkpoint_if_cancelled()
        rides = not seat.taken
        seat.taken = True
        taken = rides + self.take_nowait(limit - rides)
        if taken:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return Taken(taken, seat if rides else None)
        ridden = await self._wait(seat)
        return Taken(1 + self.take_nowait(limit - 1), ridden)

    async def _wait(self, seat: Seat, running: trio.Nursery | None = None) -> Seat | None:
        """Wait for a slot, or for the seat, which is returned if it came first."""
        task = trio.lowlevel.current_task()
        self._waiting[task] = Waiting(seat, trio.current_time(), running)
        if self.on_wait is not None:
            self.on_wait()
        seat.waiting[task] = None

        def withdraw(raise_cancel: object) -> trio.lowlevel.Abort:
            self._remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        ridden: Seat | None = await trio.lowlevel.wait_task_rescheduled(withdraw)
        return ridden

    def _remove(self, task: trio.lowlevel.Task) -> None:
        del self._waiting.pop(task).seat.waiting[task]

    def wake(self, task: trio.lowlevel.Task, seat: Seat | None) -> None:
        """Wake a waiting task, which has got the seat, or a slot."""
        self._remove(task)
        trio.lowlevel.reschedule(task, outcome.Value(seat))

    def give_back(self, count: int = 1) -> None:
        """Release `count` slots, to waiting tasks first."""
        self._free += count
        while self._waiting and self._free > 0:
            self._free -= 1
            self.wake(next(iter(self._waiting)), None)
        if self.spare.waiting:
            # A lent slot comes back, and those that are left may be stuck as before.
            self.lend_if_stuck()

    release = give_back
    """A slot of its own is a place that an attempt releases, as a seat is."""

    def lend_if_stuck(self) -> None:
        """Lend a slot too many if all attempts with slots wait for rollouts that have none.

        Otherwise two runners whose agents call each other could wait for each other for ever, and so could a runner
        whose agents put rollouts into its own queue and wait for them.
        """
        if self.spare.waiting and self._lend():
            self.wake(next(iter(self.spare.waiting)), None)

    def _lend(self) -> int:
        if not 0 < self._total - self._free <= self.stuck:
            return 0
        self._free -= 1
        return 1
