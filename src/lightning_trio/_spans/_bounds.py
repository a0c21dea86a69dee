"""The range of sums: rewards, costs and seconds stay finite floats, tokens stay within 63 bits.

A sum that would leave its range stays at the range's end, so that every store can keep it, and all agree on it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Final

MOST: Final = sys.float_info.max
MOST_INT: Final = (1 << 63) - 1


def bounded(value: float) -> float:
    """Return a number as a finite float: the nearest one, and 0 for NaN.

    >>> bounded(float("-inf")) == -bounded(10**400) == -MOST
    True
    """
    try:
        number = float(value)
    except OverflowError:
        return MOST if value > 0 else -MOST
    if -MOST <= number <= MOST:
        return number
    return 0.0 if math.isnan(number) else math.copysign(MOST, number)


def bounded_int(value: float) -> int:
    """Return a number as the nearest integer that a column of 64 bits can hold, and 0 for NaN.

    >>> bounded_int(1e300) == MOST_INT
    True
    """
    try:
        number = int(value)
    except OverflowError:
        return MOST_INT if value > 0 else -MOST_INT
    except ValueError:
        return 0
    return max(-MOST_INT, min(number, MOST_INT))


_LARGE: Final = 1e300
_SCALE: Final = 2.0**704


def bounded_sum(values: Iterable[float]) -> float:
    """Return the sum of floats, as a finite one; whatever their order, it does not reach a bound on the way.

    >>> bounded_sum([MOST, MOST, -MOST, -MOST, 1.0])
    1.0
    """
    small = large = 0.0
    for value in values:
        if abs(value) < _LARGE:
            small += value
        else:
            large += value / _SCALE
    return bounded(small + large * _SCALE)
