"""The wall clock and when it was set, as far as this process has seen it."""

from __future__ import annotations

import math
import time
from typing import Final, NamedTuple

_TOLERANCE: Final = 1.0
"""By how many seconds the wall clock must have moved to have been set; it is also slowed and sped up a little."""

_MOST: Final = 100
"""How many settings are kept."""


class _Stretch(NamedTuple):
    """A time in which the clock was not set: when it began, and how far the wall clock is ahead of the steady one."""

    began: float
    ahead: float


class WallClock:
    """Measure how long ago a moment of the wall clock was, although the clock has been set since."""

    def __init__(self) -> None:
        self._stretches = [_Stretch(-math.inf, time.time() - _steady())]

    def note(self) -> float:
        """Look whether the clock was set; returns the steady clock's time."""
        now = _steady()
        ahead = time.time() - now
        if abs(ahead - self._stretches[-1].ahead) > _TOLERANCE:
            self._stretches = [*self._stretches[-_MOST:], _Stretch(now, ahead)]
        return now

    def since(self, moment: float) -> float:
        """Return how many seconds ago the wall clock showed `moment`; if it did so several times, the last time."""
        now = self.note()
        nearest, age = math.inf, 0.0
        end = now
        for began, ahead in reversed(self._stretches):
            then = min(max(moment - ahead, began), end)
            distance = abs(moment - ahead - then)
            if distance < nearest:
                nearest, age = distance, now - then
            end = began
        return age


def _steady() -> float:
    # It also counts the time in which the machine is suspended, as the wall clock does.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


WALL_CLOCK: Final = WallClock()
