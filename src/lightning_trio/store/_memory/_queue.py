"""The queues of a store in memory: one per run, in order of arrival, with delayed retries."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

import attrs
import trio

T = TypeVar("T")


@attrs.define(eq=False)
class Place:
    """The place of an item in the queues, by which it can be removed."""

    run_id: str | None
    number: int


@attrs.define(eq=False)
class _RunQueue(Generic[T]):
    """The items of one run by number: ready ones, oldest first, and delayed ones."""

    ready: OrderedDict[int, T] = attrs.field(factory=OrderedDict[int, T])
    delayed: dict[int, T] = attrs.field(factory=dict[int, T])
    due: list[tuple[float, int]] = attrs.field(factory=list[tuple[float, int]])
    """A heap of times and numbers; a number missing from `delayed` has been removed."""

    def refresh(self, now: float) -> None:
        """Move items that are due by `now` to `ready`."""
        while self.due and (self.due[0][0] <= now or self.due[0][1] not in self.delayed):
            _, number = heapq.heappop(self.due)
            if number in self.delayed:
                self.ready[number] = self.delayed.pop(number)


class Queues(Generic[T]):
    """Queue items by run, and wake the tasks that wait for them."""

    def __init__(self) -> None:
        self._runs: dict[str | None, _RunQueue[T]] = {}
        self._numbers = itertools.count()
        self._arrival = trio.Event()

    def __len__(self) -> int:
        return sum(len(queue.ready) + len(queue.delayed) for queue in list(self._runs.values()))

    def put(self, run_id: str | None, item: T, delay: float = 0.0) -> Place:
        """Add an item that can be taken after `delay` seconds of Trio's clock, and return its place."""
        queue = self._runs.get(run_id)
        if queue is None:
            queue = self._runs[run_id] = _RunQueue()
        place = Place(run_id, next(self._numbers))
        if delay > 0:
            queue.delayed[place.number] = item
            heapq.heappush(queue.due, (trio.current_time() + delay, place.number))
        else:
            queue.ready[place.number] = item
        self._arrival.set()
        return place

    def give_up(self, place: Place) -> None:
        """Remove an item before it is taken."""
        queue = self._runs[place.run_id]
        if queue.ready.pop(place.number, None) is None:
            queue.delayed.pop(place.number, None)
        self._drop_if_empty(place.run_id, queue)

    def take(self, limit: int, run_id: str | None) -> Iterator[T]:
        """Remove and yield up to `limit` ready items, oldest first; None takes from all runs."""
        queues = self._ready(run_id)
        while queues and limit > 0:
            limit -= 1
            run = (
                next(iter(queues)) if len(queues) == 1 else min(queues, key=lambda each: next(iter(queues[each].ready)))
            )
            queue = queues[run]
            yield queue.ready.popitem(last=False)[1]
            if not queue.ready:
                del queues[run]
                self._drop_if_empty(run, queue)

    async def wait_ready(self, run_id: str | None) -> None:
        """Wait until an item is ready; return at once if one is."""
        while not self._ready(run_id):
            self._arrival = trio.Event() if self._arrival.is_set() else self._arrival
            due = (queue.due[0][0] for queue in self._of(run_id).values() if queue.due)
            with trio.CancelScope(deadline=min(due, default=float("inf"))):
                await self._arrival.wait()

    def release_delayed(self) -> None:
        """Make all delayed items ready now."""
        for queue in self._runs.values():
            queue.refresh(float("inf"))

    def _of(self, run_id: str | None) -> dict[str | None, _RunQueue[T]]:
        if run_id is None:
            return dict(self._runs)
        queue = self._runs.get(run_id)
        return {} if queue is None else {run_id: queue}

    def _ready(self, run_id: str | None) -> dict[str | None, _RunQueue[T]]:
        now = trio.current_time()
        queues = self._of(run_id)
        for queue in queues.values():
            queue.refresh(now)
        return {run: queue for run, queue in queues.items() if queue.ready}

    def _drop_if_empty(self, run_id: str | None, queue: _RunQueue[T]) -> None:
        if not queue.ready and not queue.delayed and self._runs.get(run_id) is queue:
            del self._runs[run_id]
