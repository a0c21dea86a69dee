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
    """A time in which the clock was not set.

    It began between `earliest` and `seen`; meanwhile the wall clock was ahead of the steady one by `ahead`.
    """

    earliest: float
    seen: float
    ahead: float


class WallClock:
    """Measure how long ago a moment of the wall clock was, although the clock has been set since."""

    def __init__(self) -> None:
        self._noted = _steady()
        self._stretches = [_Stretch(-math.inf, -math.inf, time.time() - self._noted)]

    def note(self) -> float:
        """Note whether the clock was set; returns the steady clock's time."""
        now = _steady()
        ahead = time.time() - now
        if abs(ahead - self._stretches[-1].ahead) > _TOLERANCE:
            self._stretches = [*self._stretches[-_MOST:], _Stretch(self._noted, now, ahead)]
        self._noted = now
        return now

    def since(self, moment: float) -> float:
        """Return how many seconds ago the wall clock showed `moment`; if it did so several times, the last time."""
        now = self.note()
        nearest, age = math.inf, 0.0
        end = now
        for earliest, seen, ahead in reversed(self._stretches):
            then = min(max(moment - ahead, earliest), end)
            distance = abs(moment - ahead - then)
            # An earlier stretch must fit better than by what the clock may have been slowed or sped up.
            if distance < nearest - _TOLERANCE:
                nearest, age = distance, now - then
            # Until the next was seen, this one may have lasted.
            end = seen
        return age


def _steady() -> float:
    # It also counts the time in which the machine is suspended, as the wall clock does.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


WALL_CLOCK: Final = WallClock()
