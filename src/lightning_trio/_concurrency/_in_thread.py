"""Work outside of Trio's thread."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import trio

P = ParamSpec("P")
T = TypeVar("T")

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("lightning_trio computations")


async def run_in_thread(fn: Callable[[], T], *, abandon_on_cancel: bool = False) -> T:
    """Run `fn` in a worker thread, as `trio.to_thread.run_sync` does, at once.

    Trio's default limiter belongs to the agents too, whose calls may have taken all of it for good, or set it to less.
    """
    limiter = trio.CapacityLimiter(math.inf)
    return await trio.to_thread.run_sync(fn, limiter=limiter, abandon_on_cancel=abandon_on_cancel)


async def compute_in_thread(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a computation in a worker thread and return its result, also if the caller is cancelled meanwhile.

    One at a time for each Trio program: a thread that computes holds the interpreter's lock for up to five
    milliseconds, and Trio's thread would wait for each of several. For the same reason, `fn` must work in slices: a
    single call into C, such as the encoding of a large value, holds the lock until it returns.
    """
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(1)
        _limiter.set(limiter)
    with trio.CancelScope(shield=True):
        return await trio.to_thread.run_sync(lambda: fn(*args, **kwargs), limiter=limiter)
    # Not reached: nothing cancels the scope.
    raise AssertionError
