"""Wake-ups: waiting tasks look again when this process or another one has committed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from ..._concurrency import FlatNursery


@attrs.define(eq=False)
class Waiter:
    """A waiting task: for rollouts of `pending` to end, or (None) for a rollout to claim."""

    pending: set[str] | None = None
    enough: int = 0
    """How many rollouts may still be pending when the wait is over."""
    event: trio.Event = attrs.field(factory=trio.Event)


class Wakeups:
    """Wake waiting tasks.

    Commits of this process are reported by `ended`, `queued` and `others_committed`. Commits of other processes are
    watched for by one of the waiters on behalf of all, which hands over when it leaves; without waiters, nothing is
    watched.

    Args:
        wait_foreign: returns when another process may have committed.
    """

    def __init__(self, wait_foreign: Callable[[], Awaitable[None]]) -> None:
        self._wait_foreign = wait_foreign
        self._waiters: dict[Waiter, None] = {}
        self._by_rollout: dict[str, dict[Waiter, None]] = {}
        self._is_watched = False

    def add(self, waiter: Waiter) -> None:
        """Add a waiter; to be called before it reads the database, so that no commit in between is missed."""
        self._waiters[waiter] = None
        for rollout_id in waiter.pending or ():
            self._by_rollout.setdefault(rollout_id, {})[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter."""
        del self._waiters[waiter]
        for rollout_id in waiter.pending or ():
            self._forget(rollout_id, waiter)

    def keep_pending(self, waiter: Waiter, unfinished: set[str]) -> None:
        """Remove from `pending` the rollouts that `waiter` has read to be finished."""
        assert waiter.pending is not None
        for rollout_id in waiter.pending - unfinished:
            waiter.pending.discard(rollout_id)
            self._forget(rollout_id, waiter)

    def _forget(self, rollout_id: str, waiter: Waiter) -> None:
        waiters = self._by_rollout.get(rollout_id)
        if waiters is not None and waiters.pop(waiter, 0) is None and not waiters:
            del self._by_rollout[rollout_id]

    def ended(self, rollout_id: str) -> None:
        """Wake the waiters that a rollout's end completes."""
        for waiter in self._by_rollout.pop(rollout_id, ()):
            assert waiter.pending is not None
            waiter.pending.discard(rollout_id)
            if len(waiter.pending) <= waiter.enough:
                waiter.event.set()

    def queued(self) -> None:
        """Wake the waiters for a rollout to claim: one can be claimed, now or later."""
        for waiter in self._waiters:
            if waiter.pending is None:
                waiter.event.set()

    def others_committed(self) -> None:
        """Wake all waiters: another process may have committed."""
        for waiter in self._waiters:
            waiter.event.set()

    async def wait(self, waiter: Waiter, seconds: float | None = None) -> None:
        """Wait until `waiter` should look again, for `seconds` at most; may return early."""
        with trio.CancelScope(deadline=trio.current_time() + (float("inf") if seconds is None else seconds)):
            if self._is_watched or waiter.event.is_set():
                await waiter.event.wait()
            else:
                await self._watch_for_all(waiter)
        waiter.event = trio.Event()

    async def _watch_for_all(self, waiter: Waiter) -> None:
        self._is_watched = True
        try:
            async with FlatNursery() as nursery:
                nursery.start_soon(self._watch)
                await waiter.event.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._is_watched = False
            # The waiter that is woken takes over the watch.
            for other in self._waiters:
                if other is not waiter:
                    other.event.set()
                    break

    async def _watch(self) -> None:
        while True:
            await self._wait_foreign()
            self.others_committed()
