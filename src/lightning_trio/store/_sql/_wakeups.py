"""Wake-ups: those who wait look again when this process, or another one, has committed something."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from ..._concurrency import FlatNursery


@attrs.define(eq=False)
class Waiter:
    """Somebody who waits: for rollouts of `pending` to end, or (None) for something to claim."""

    pending: set[str] | None = None
    enough: int = 0
    """How many may be pending still."""
    event: trio.Event = attrs.field(factory=trio.Event)


class Wakeups:
    """Wake those who wait.

    Commits of this process come by `committed`. Those of others are noticed by one of the waiters, which does so for
    all and hands over when it leaves; nobody looks while nobody waits.

    Args:
        wait_foreign: returns when another process may have committed something.
    """

    def __init__(self, wait_foreign: Callable[[], Awaitable[None]]) -> None:
        self._wait_foreign = wait_foreign
        self._waiters: dict[Waiter, None] = {}
        self._by_rollout: dict[str, dict[Waiter, None]] = {}
        self._somebody_looks = False

    def add(self, waiter: Waiter) -> None:
        """Begin to note what happens for `waiter`; to be called before it looks for itself."""
        self._waiters[waiter] = None
        for rollout_id in waiter.pending or ():
            self._by_rollout.setdefault(rollout_id, {})[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        """Forget a waiter."""
        del self._waiters[waiter]
        for rollout_id in waiter.pending or ():
            self._forget(rollout_id, waiter)

    def keep_pending(self, waiter: Waiter, unfinished: set[str]) -> None:
        """Note which rollouts have not ended, as `waiter` has seen for itself."""
        assert waiter.pending is not None
        for rollout_id in waiter.pending - unfinished:
            waiter.pending.discard(rollout_id)
            self._forget(rollout_id, waiter)

    def _forget(self, rollout_id: str, waiter: Waiter) -> None:
        waiters = self._by_rollout.get(rollout_id)
        if waiters is not None and waiters.pop(waiter, 0) is None and not waiters:
            del self._by_rollout[rollout_id]

    def ended(self, rollout_id: str) -> None:
        """Note that a rollout has ended."""
        for waiter in self._by_rollout.pop(rollout_id, ()):
            assert waiter.pending is not None
            waiter.pending.discard(rollout_id)
            if len(waiter.pending) <= waiter.enough:
                waiter.event.set()

    def queued(self) -> None:
        """Note that something can be claimed, now or later."""
        for waiter in self._waiters:
            if waiter.pending is None:
                waiter.event.set()

    def others_committed(self) -> None:
        """Note that others have committed something: everybody looks again."""
        for waiter in self._waiters:
            waiter.event.set()

    async def wait(self, waiter: Waiter, seconds: float | None = None) -> None:
        """Wait until `waiter` should look again, at the latest in `seconds`; may return without need."""
        with trio.CancelScope(deadline=trio.current_time() + (float("inf") if seconds is None else seconds)):
            if self._somebody_looks or waiter.event.is_set():
                await waiter.event.wait()
            else:
                await self._look_for_all(waiter)
        waiter.event = trio.Event()

    async def _look_for_all(self, waiter: Waiter) -> None:
        self._somebody_looks = True
        try:
            async with FlatNursery() as nursery:
                nursery.start_soon(self._look)
                await waiter.event.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._somebody_looks = False
            # Whoever wakes first is the next to look.
            for other in self._waiters:
                if other is not waiter:
                    other.event.set()
                    break

    async def _look(self) -> None:
        while True:
            await self._wait_foreign()
            self.others_committed()
