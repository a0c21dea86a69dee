"""Exceptions that end code instead of reporting a failure: no ``except Exception`` catches them."""

from __future__ import annotations

from typing import Self

from ._base import compose, public


@public
class AttemptAbandoned(BaseException):
    """Raised by every emit, change of a store and call of a runner in code that runs on after it was abandoned.

    A thread, or an asyncio agent that blocks its loop, cannot be stopped from outside. This exception ends it at its
    next such call. It is a ``BaseException``, like ``trio.Cancelled``, so that an agent's ``except Exception: retry()``
    does not keep an abandoned thread alive.
    """

    rollout_id: str | None = None
    """The rollout that the code still runs for."""

    attempt_id: str | None = None
    """The attempt that was abandoned."""

    @classmethod
    def abandoned(cls, rollout_id: str, attempt_id: str) -> Self:
        """Return the exception that each emit and each change of a store by the attempt raises from now on."""
        message = (
            f"attempt {attempt_id} of rollout {rollout_id} was abandoned at its deadline or when it was cancelled; its "
            "code must stop"
        )
        return compose(cls, message, rollout_id=rollout_id, attempt_id=attempt_id)


class Terminated(SystemExit):
    """SIGTERM has arrived: the program ends with 128 + 15, the exit status that shells report for that signal."""

    def __init__(self, status: int = 128 + 15) -> None:
        super().__init__(status)
