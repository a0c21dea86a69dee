"""The looks of watches at what agents have made: whatever such an object raises, the watch goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from .._log import Log

logger = Log("lightning_trio.runner")

T = TypeVar("T")


class Looks(Generic[T]):
    """The looks of one watch, of which the first that fails is logged.

    Args:
        watched: what it looks at, for the message.
    """

    def __init__(self, watched: str) -> None:
        self._watched = watched
        self._failed = False

    # A Ctrl-C waits until the look has ended, so what is caught is not one.
    @trio.lowlevel.enable_ki_protection
    def take(self, look: Callable[[], T], otherwise: T) -> T:
        """Return what a look finds, or `otherwise` if it raises."""
        try:
            return look()
        except BaseException:
            if not self._failed:
                self._failed = True
                logger.exception("looking at %s failed; further failures are not logged", self._watched)
            return otherwise
