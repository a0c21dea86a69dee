"""The retention of finished rollouts by a store in memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from ._entry import Entry


class Retention:
    """Evict the oldest finished rollouts, except those of held runs.

    Args:
        retain: how many finished rollouts to keep.
        entries: the stored rollouts, by id.
        forget: called with the id of a rollout to evict.
    """

    def __init__(self, retain: int, entries: Mapping[str, Entry], forget: Callable[[str], None]) -> None:
        if retain < 0:
            raise ValueError(f"retain={retain!r}; pass the number of finished rollouts to keep, 0 or more")
        self.retain = retain
        self._entries = entries
        self._forget = forget
        self._finished: deque[str] = deque()
        self._holds: dict[str | None, int] = {}
        """The number of open `holding` blocks of each run."""
        self._held: dict[str | None, list[str]] = {}
        self._reopened = Counter[str]()
        """How often rollouts in `_finished` or `_held` were put back into the queue."""
        self._gaps = 0
        """The sum of these numbers."""

    def __len__(self) -> int:
        return len(self._finished) - self._gaps

    def ended(self, rollout_id: str) -> None:
        """Record the end of a rollout, and evict the oldest if there are too many."""
        finished = self._finished
        finished.append(rollout_id)
        while len(finished) - self._gaps > self.retain:
            self._evict(finished.popleft())

    def reopened(self, rollout_id: str) -> None:
        """Keep a rollout that has ended before and is in the queue again, until it ends again."""
        self._reopened[rollout_id] += 1
        self._gaps += 1

    def _evict(self, rollout_id: str) -> None:
        if self._reopened and self._reopened[rollout_id]:
            self._reopened[rollout_id] -= 1
            self._gaps -= 1
            return
        entry = self._entries.get(rollout_id)
        if entry is None:
            # Removed by a caller in the meantime.
            return
        if entry.run_id in self._holds:
            self._held.setdefault(entry.run_id, []).append(rollout_id)
        else:
            self._forget(rollout_id)

    @contextmanager
    def holding(self, run_id: str | None) -> Generator[None]:
        """Keep a run's finished rollouts at least until the block ends."""
        self._holds[run_id] = self._holds.get(run_id, 0) + 1
        try:
            yield
        finally:
            self._holds[run_id] -= 1
            if not self._holds[run_id]:
                del self._holds[run_id]
                for rollout_id in self._held.pop(run_id, ()):
                    self._evict(rollout_id)
