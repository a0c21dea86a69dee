"""What a forked child of an agent has inherited and must not keep, apart from signal handlers.

The child has a copy of everything, also of the marks that a runner is open and that this thread runs Trio. Neither
goes on there: the garbage collector gets its thresholds back, and code in the child may call `trio.run`, as it may call
`asyncio.run`.
"""

from __future__ import annotations

import os
from typing import Any

import trio

from ._gc import forget_relaxed_gc


def leave_trio() -> None:
    """Take away the mark that this thread runs Trio."""
    if trio.lowlevel.in_trio_run():
        # There is no public API for this.
        state: Any = trio._core._run.GLOBAL_RUN_CONTEXT  # pyright: ignore[reportPrivateUsage]
        vars(state).clear()


def _after_fork_in_child() -> None:
    # Without an open runner, a program may have forked itself to continue Trio's loop in the child.
    if forget_relaxed_gc():
        leave_trio()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
