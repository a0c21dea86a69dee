"""Random ids, from a separate generator: an agent that calls `random.seed` must not repeat them."""

from __future__ import annotations

import os
from random import Random

_random = Random(os.urandom(32))
random_bits = _random.getrandbits

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def new_attempt_id() -> str:
    return f"at-{random_bits(32):08x}"


def new_resources_id() -> str:
    return f"rs-{random_bits(48):012x}"


def new_run_id() -> str:
    return f"run-{random_bits(48):012x}"


def new_trace_and_span_id() -> tuple[str, str]:
    """Return the ids of a trace and of its root span, for half the price of both alone.

    >>> [len(each) for each in new_trace_and_span_id()]
    [32, 16]
    """
    # A bit of each is always set, because neither may be all zero.
    both = f"{random_bits(192) | _SET_BITS:048x}"
    return both[:32], both[32:]


_SET_BITS = 1 << 64 | 1


def new_trace_id() -> str:
    """Return 32 hexadecimal digits, not all zero."""
    return f"{random_bits(128) or 1:032x}"


def new_span_id() -> str:
    """Return 16 hexadecimal digits, not all zero."""
    return f"{random_bits(64) or 1:016x}"
