"""The current line of a task or a thread.

Nothing here waits or changes anything, so it may run in a signal handler and in any thread.
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
_TRIO_LOOP = os.path.join(_TRIO, "_core", "_run.py")
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep


@public
@attrs.frozen
class RunningTask:
    """A Trio task or a thread of an attempt, and its current line.

    `code` is the text of that line, empty where the source is unavailable. `children` are the tasks in its nurseries,
    `hidden` is the number of those left out.
    """

    name: str
    function: str
    file: str
    line: int
    code: str
    children: Sequence[RunningTask] = ()
    hidden: int = 0


def thread_place(ident: int | None) -> RunningTask | None:
    """Return the current line of a thread, None if it has not begun or has ended."""
    frame = None if ident is None else sys._current_frames().get(ident)  # pyright: ignore[reportPrivateUsage]  # documented
    return None if frame is None else place_of("thread", list(outwards(frame, None))[::-1])


def running_place(innermost: FrameType | None) -> RunningTask | None:
    """Return the current line of the task that Trio runs, given the innermost frame of Trio's thread."""
    frames: list[FrameType] = []
    for frame in outwards(innermost, None):
        if file_of(frame) == _TRIO_LOOP:
            break
        frames.append(frame)
    return place_of("Trio's thread", frames[::-1])


def line_of(place: RunningTask | None) -> str:
    """Return the current line of the innermost task, to be appended to a message; empty if it is not known."""
    if place is None:
        return ""
    while place.children:
        place = place.children[0]
    return f", in {place.function} at {place.file}:{place.line}: {place.code}"


def is_programs_own(frame: FrameType) -> bool:
    """Whether a frame is of the program's own code, and of no library's."""
    return _rank(frame) == 2


def outwards(frame: FrameType | None, last: FrameType | None) -> Iterator[FrameType]:
    """Yield a stack's frames from the innermost one out to `last`."""
    while frame is not None:
        yield frame
        if frame is last:
            return
        frame = frame.f_back


def place_of(name: str, frames: Sequence[FrameType]) -> RunningTask | None:
    """Return the innermost line outside libraries of a stack, whose frames are given from the outermost one in."""
    ranked = sorted(frames, key=_rank)
    if not ranked:
        return None
    # In a stack of Trio's own code, as in start_soon(trio.sleep, 60), the outermost function says the most.
    frame = ranked[-1] if _rank(ranked[-1]) else frames[0]
    return RunningTask(name, function_of(frame), file_of(frame), frame.f_lineno, code_line(frame))


def file_of(frame: FrameType) -> str:
    """Return the file of a frame's code as a plain string: a class derived from `str` may be an agent's."""
    return str.__str__(frame.f_code.co_filename)


def function_of(frame: FrameType) -> str:
    """Return the function of a frame's code as a plain string."""
    return str.__str__(frame.f_code.co_name)


# A Ctrl-C waits until it has returned, so what is caught is not one.
@trio.lowlevel.enable_ki_protection
def code_line(frame: FrameType) -> str:
    """Return the text of a frame's current line, empty where the source is unavailable."""
    try:
        # It asks the module's loader, which may be the program's own, such as one of encrypted modules.
        return str.strip(linecache.getline(file_of(frame), frame.f_lineno, frame.f_globals))
    except BaseException:
        return ""


def _rank(frame: FrameType) -> int:
    """Rank the program's own code above a library's, and that above Trio's and this package's; the sort is stable."""
    file = file_of(frame)
    if file.startswith((_PACKAGE, _TRIO)):
        return 0
    return 1 if "site-packages" in file or file.startswith((_STANDARD_LIBRARY, "<frozen")) else 2
