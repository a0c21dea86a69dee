"""The frames of a coroutine that waits."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import FrameType
from typing import Any

_MOST_FRAMES = 10_000
"""An awaitable of the program's own may say that it waits for itself."""


def await_stack(awaited: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine that waits, of what it waits for, and so on, the outermost first.

    They end at an awaitable of the program's own that has no frame, or raises when asked for it.
    """
    for _ in range(_MOST_FRAMES):
        found = _look_into(awaited)
        if found is None:
            return
        frame, awaited = found
        if frame is not None:
            yield frame


def _look_into(awaited: Any) -> tuple[FrameType | None, Any] | None:
    """Return an awaitable's frame, if it has one, and what it waits for; None if that cannot be seen."""
    try:
        for kind, waits_for in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame = getattr(awaited, f"{kind}_frame", None)
            if type(frame) is FrameType:
                return frame, getattr(awaited, waits_for)
        if type(awaited).__name__ in ("async_generator_asend", "async_generator_athrow"):
            # A step of an async generator, which has no attribute for it.
            return None, next((each for each in gc.get_referents(awaited) if hasattr(each, "ag_frame")), None)
    except BaseException:
        # The attributes of an agent's own class.
        return None
    return None
