"""The limit of a run's failures, beyond which it ends early."""

from __future__ import annotations

import trio

from .._errors import UsageError


def check_max_failures(value: object) -> None:
    """Validate a number of failures, or a share of the tasks.

    Raises:
        UsageError: the message says what to give instead.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return
    if isinstance(value, float) and 0.0 < value < 1.0:
        return
    raise UsageError.max_failures(value)


class FailureLimit:
    """The failures of a run, and the event that there are too many.

    Args:
        max_failures: a number, or a share of the tasks.
        tasks: the number of tasks.
        failed: the number of rollouts that have failed already.
    """

    def __init__(self, max_failures: float, tasks: int, failed: int) -> None:
        if isinstance(max_failures, float) and not tasks:
            raise UsageError.share_of_nothing(max_failures)
        self._given = max_failures
        self._tasks = tasks
        self._allowed = max_failures if isinstance(max_failures, int) else int(max_failures * tasks)
        self._failed = failed
        self.exceeded = trio.Event()
        self._check()

    @property
    def reason(self) -> str:
        """Why the run ends early."""
        what = f"max_failures={self._given!r}"
        if isinstance(self._given, float):
            what += f" of {self._tasks} tasks"
        return f"{self._failed} rollouts failed, more than {what} allows"

    def count(self) -> None:
        """Count another failed rollout."""
        self._failed += 1
        self._check()

    def _check(self) -> None:
        if self._failed > self._allowed:
            self.exceeded.set()
