"""The frames of a coroutine that waits."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import FrameType
from typing import Any


def await_stack(awaited: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine that waits, of what it waits for, and so on, the outermost first."""
    while awaited is not None:
        for kind, waits_for in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            if (frame := getattr(awaited, f"{kind}_frame", None)) is not None:
                yield frame
                awaited = getattr(awaited, waits_for)
                break
        else:
            if type(awaited).__name__ not in ("async_generator_asend", "async_generator_athrow"):
                return
            # A step of an async generator, which has no attribute for it.
            awaited = next((each for each in gc.get_referents(awaited) if hasattr(each, "ag_frame")), None)
