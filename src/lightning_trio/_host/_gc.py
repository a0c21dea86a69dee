"""The garbage collector while rollouts run.

Thousands of rollouts in flight are hundreds of thousands of objects, none of them garbage, and Python's default
threshold of 700 new objects has the collector walk through them over and over: a fifth of the time of a fleet of small
rollouts. Ours frees by reference counting, so the collector may come less often while a runner is open.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator
from contextlib import contextmanager

_RELAXED = (50_000, 20, 100)

_lock = threading.Lock()
_open = 0
_before: tuple[int, int, int] | None = None


@contextmanager
def relaxed_gc() -> Generator[None]:
    """Have the collector look for garbage after 50,000 new objects instead of 700, until the last block ends.

    It walks through older objects less often as well.

    The thresholds belong to the process, hence the count. They are left alone if the program has turned the
    collector off or set them higher, and not set back if the program has set them meanwhile.
    """
    global _open, _before
    with _lock:
        _open += 1
        before = gc.get_threshold()
        if _open == 1 and 0 < before[0] < _RELAXED[0]:
            _before = before
            gc.set_threshold(*_RELAXED)
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if not _open and _before is not None:
                if gc.get_threshold() == _RELAXED:
                    gc.set_threshold(*_before)
                _before = None
