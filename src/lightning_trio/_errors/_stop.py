"""What ends code instead of reporting a failure: no ``except Exception`` catches it."""

from __future__ import annotations

from typing import Self

from ._base import compose, public


@public
class AttemptAbandoned(BaseException):
    """Raised by every emit in code that goes on running though its attempt has been given up.

    A thread, or an asyncio agent that blocks its loop, cannot be stopped from outside; this is how it hears that
    nobody waits for it any more.
    It is a ``BaseException``, like ``trio.Cancelled``, so that an agent's ``except Exception: retry()`` does
    not keep an abandoned thread alive.
    """

    rollout_id: str | None = None
    """The rollout that the code still runs for."""

    attempt_id: str | None = None
    """The attempt that was given up."""

    @classmethod
    def given_up(cls, rollout_id: str, attempt_id: str) -> Self:
        """Return what an emit raises in the attempt from now on."""
        message = (
            f"attempt {attempt_id} of rollout {rollout_id} was given up at its deadline or cancelled; what still runs "
            "of it should end"
        )
        return compose(cls, message, rollout_id=rollout_id, attempt_id=attempt_id)


class Terminated(SystemExit):
    """SIGTERM has come: the program is to end with the status that shells give a program so killed, 128 + 15."""

    def __init__(self, status: int = 128 + 15) -> None:
        super().__init__(status)
