"""Waiting for room on a full disk, and for file descriptors."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

import trio

from ..._errors import NotBegun, StoreUnavailable
from ..._log import Log

logger = Log("lightning_trio.store")

_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 1.0
_STEP: Final = 0.05
"""How often to check, during a pause, whether a caller is still waiting."""


class Patience:
    """The tries of a connection since it failed for lack of room or of file descriptors.

    Args:
        seconds: how long to try again.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._cause: StoreUnavailable | None = None
        self._since = 0.0
        self._pause = _FIRST_PAUSE

    def note(self, error: StoreUnavailable) -> None:
        """Record a failure."""
        if self._cause is None:
            self._since, self._pause = time.monotonic(), _FIRST_PAUSE
            if self._seconds > 0:
                logger.warning("%s; calls wait for up to %g s (patience_seconds=…)", error, self._seconds)
        self._cause = error

    def succeeded(self) -> None:
        """Record a success."""
        if self._cause is not None:
            logger.warning("the store works again, after %.1f s", time.monotonic() - self._since)
            self._cause = None

    def wait(self, unwanted: Callable[[], bool]) -> None:
        """Pause after a failure; without one, return at once.

        Args:
            unwanted: whether every caller has been cancelled.

        Raises:
            StoreUnavailable: the last failure, after `seconds` or when no caller waits any longer.
        """
        cause = self._cause
        if cause is None:
            return
        until = time.monotonic() + self._next_pause()
        while (left := until - time.monotonic()) > 0:
            if unwanted():
                self._cause = None
                raise NotBegun(*cause.args) from cause
            time.sleep(min(left, _STEP))
        self._raise_if_over(cause)

    async def wait_in_trio(self) -> None:
        """Pause after a failure, in a Trio task, which may be cancelled; see `wait`."""
        cause = self._cause
        if cause is None:
            await trio.lowlevel.checkpoint()
            return
        await trio.sleep(self._next_pause())
        self._raise_if_over(cause)

    def _next_pause(self) -> float:
        # Random, so that connections that failed together do not try again together.
        pause = self._pause * (0.5 + random.random())
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        return pause

    def _raise_if_over(self, cause: StoreUnavailable) -> None:
        if time.monotonic() - self._since > self._seconds:
            self._cause = None
            raise cause
