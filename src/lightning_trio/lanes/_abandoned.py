"""Abandoned calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

from .._public import public_in


@public_in("lightning_trio.lanes")
class AbandonedCall(Protocol):
    """An agent's call that could not be stopped and was abandoned.

    It holds its runner's slot until it ends.
    """

    kind: ClassVar[str]
    """The kind of call, for messages: ``"thread"``, ``"asyncio call"``."""

    def when_ended(self, fn: Callable[[], None]) -> None:
        """Call `fn` in Trio's thread when the call has ended, at once if it already has."""
        ...
