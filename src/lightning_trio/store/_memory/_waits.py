"""Waits for the end of rollouts."""

from __future__ import annotations

from collections.abc import Collection

import attrs
import trio


@attrs.define(eq=False)
class _Wait:
    """A caller that waits until `remaining` more rollouts have ended."""

    remaining: int
    done: trio.Event = attrs.field(factory=trio.Event)


class Waits:
    """Wake callers when enough of their rollouts have ended."""

    def __init__(self) -> None:
        self._waits: dict[str, tuple[_Wait, ...]] = {}
        """The waits for each rollout, by id."""

    def __len__(self) -> int:
        return len(self._waits)

    def ended(self, rollout_id: str) -> None:
        """Count the end of a rollout, and wake the callers whose wait it completes."""
        for wait in self._waits.pop(rollout_id, ()):
            wait.remaining -= 1
            if wait.remaining <= 0:
                wait.done.set()

    async def wait(self, rollout_ids: Collection[str], count: int) -> None:
        """Wait until `count` of the rollouts have ended, none of which has yet."""
        wait = _Wait(count)
        # One tuple for all rollouts that have no other wait, which is nearly all.
        alone = (wait,)
        new = dict.fromkeys(rollout_ids, alone)
        if len(new) == len(rollout_ids) and self._waits.keys().isdisjoint(new):
            self._waits.update(new)
        else:
            for rollout_id in rollout_ids:
                self._waits[rollout_id] = (*self._waits.get(rollout_id, ()), wait)
        try:
            await wait.done.wait()
        finally:
            for rollout_id in rollout_ids:
                waits = self._waits.get(rollout_id)
                if waits == alone:
                    del self._waits[rollout_id]
                elif waits is not None:
                    self._waits[rollout_id] = tuple(each for each in waits if each is not wait)
