"""The garbage collector while rollouts run.

Thousands of rollouts in flight hold hundreds of thousands of objects, none of them garbage. With Python's default
threshold of 700 new objects the collector traverses them over and over, which takes a fifth of the time of many small
rollouts. This package's objects are freed by reference counting, so the collector can run less often while a runner is
open.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator
from contextlib import contextmanager

_RELAXED = (50_000, 20, 100)


class _RelaxedCollector:
    """The thresholds while blocks are open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._before: tuple[int, int, int] | None = None

    @property
    def is_open(self) -> bool:
        return self._open > 0

    def open(self) -> None:
        with self._lock:
            self._open += 1
            before = gc.get_threshold()
            if self._open == 1 and 0 < before[0] < _RELAXED[0]:
                self._before = before
                gc.set_threshold(*_RELAXED)

    def close(self) -> None:
        with self._lock:
            self._open -= 1
            if not self._open:
                self.restore()

    def restore(self) -> None:
        before, self._before = self._before, None
        if before is not None and gc.get_threshold() == _RELAXED:
            gc.set_threshold(*before)


_collector = _RelaxedCollector()


def forget_relaxed_gc() -> bool:
    """Restore the thresholds in a forked child, which has no runner; return whether its parent has one open."""
    # Another collector, since a thread of the parent may hold the lock of this one.
    global _collector
    forgotten, _collector = _collector, _RelaxedCollector()
    forgotten.restore()
    return forgotten.is_open


@contextmanager
def relaxed_gc() -> Generator[None]:
    """Run the collector after 50,000 new objects instead of 700, until the last block ends.

    Older generations are traversed less often as well.

    The thresholds belong to the process, hence the count of open blocks. They stay as they are if the program has
    turned the collector off or set them higher, and they are not restored if the program has changed them meanwhile.
    A forked child has its parent's earlier thresholds.
    """
    collector = _collector
    collector.open()
    try:
        yield
    finally:
        collector.close()
