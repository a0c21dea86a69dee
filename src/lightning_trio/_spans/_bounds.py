"""The range of sums: rewards, costs and seconds stay finite floats, tokens stay within 63 bits.

A sum that would leave its range stays at the range's end, so that every store can keep it, and all agree on it.
"""

from __future__ import annotations

import math
import sys
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
