"""Where code stands: the line of the program that a task or a thread is at.

Nothing here waits or changes anything, so that it can be done from a signal handler and from any thread.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

import attrs
import trio

from .._public import public

_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_TRIO = os.path.dirname(trio.__file__) + os.sep
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep


@public
@attrs.frozen
class RunningTask:
    """A Trio task or a thread of an attempt, and the line of the program it stands at.

    `code` is that line, empty where the source is not at hand. `children` are the tasks in its nurseries, `hidden`
    the number of those left out.
    """

    name: str
    function: str
    file: str
    line: int
    code: str
    children: Sequence[RunningTask] = ()
    hidden: int = 0


def thread_place(ident: int | None) -> RunningTask | None:
    """Return where a thread stands, None if it has not begun or has ended."""
    frame = None if ident is None else sys._current_frames().get(ident)  # pyright: ignore[reportPrivateUsage]  # documented
    return None if frame is None else place_of("thread", list(outwards(frame, None))[::-1])


def outwards(frame: FrameType | None, last: FrameType | None) -> Iterator[FrameType]:
    """Yield a stack's frames from its innermost one, down to `last`."""
    while frame is not None:
        yield frame
        if frame is last:
            return
        frame = frame.f_back


def place_of(name: str, frames: Sequence[FrameType]) -> RunningTask | None:
    """Return where a stack, given from the outside in, stands: at its innermost line outside of libraries."""
    ranked = sorted(frames, key=_rank)
    if not ranked:
        return None
    # Where there is nothing but Trio's own code, as in start_soon(trio.sleep, 60), what was called says the most.
    frame = ranked[-1] if _rank(ranked[-1]) else frames[0]
    code = frame.f_code
    source = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals).strip()
    return RunningTask(name, code.co_name, code.co_filename, frame.f_lineno, source)


def _rank(frame: FrameType) -> int:
    """Prefer the program's own code to a library's, and that to Trio's and ours; the sort is stable."""
    file = frame.f_code.co_filename
    if file.startswith((_PACKAGE, _TRIO)):
        return 0
    return 1 if "site-packages" in file or file.startswith((_STANDARD_LIBRARY, "<frozen")) else 2
