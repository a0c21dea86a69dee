"""Waits for rollouts to end."""

from __future__ import annotations

from collections.abc import Collection

import attrs
import trio


@attrs.define(eq=False)
class _Wait:
    """A caller that waits for `remaining` more rollouts to end."""

    remaining: int
    done: trio.Event = attrs.field(factory=trio.Event)


class Waits:
    """Wake callers when enough of the rollouts that they wait for have ended."""

    def __init__(self) -> None:
        self._waits: dict[str, tuple[_Wait, ...]] = {}
        """By rollout id."""

    def __len__(self) -> int:
        return len(self._waits)

    def ended(self, rollout_id: str) -> None:
        """Wake those for whom this was the last one."""
        for wait in self._waits.pop(rollout_id, ()):
            wait.remaining -= 1
            if wait.remaining <= 0:
                wait.done.set()

    async def wait(self, rollout_ids: Collection[str], count: int) -> None:
        """Wait until `count` of the rollouts, none of which has ended yet, have."""
        wait = _Wait(count)
        # One tuple for all rollouts that have no other wait, which is nearly all.
        alone = (wait,)
        for rollout_id in rollout_ids:
            others = self._waits.get(rollout_id)
            self._waits[rollout_id] = alone if others is None else (*others, wait)
        try:
            await wait.done.wait()
        finally:
            for rollout_id in rollout_ids:
                waits = self._waits.get(rollout_id)
                if waits is alone:
                    del self._waits[rollout_id]
                elif waits is not None:
                    self._waits[rollout_id] = tuple(each for each in waits if each is not wait)
