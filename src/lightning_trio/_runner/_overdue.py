"""Attempts in Trio that do not end at their deadline: named in a warning, and given up.

A task can only be stopped at a checkpoint that its cancellation reaches. One that waits for a thread which Trio does
not abandon, or in a shielded scope, goes on; the attempt ends without it, and the task keeps the slot until it ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import ClassVar

import attrs
import trio

from .._log import Log
from ..lanes import RunningTask, line_of, may_end
from ._live_attempt import LiveAttempt
from ._looks import Looks
from ._loop_watch import LoopWatch

logger = Log("lightning_trio.runner")

_OVERDUE_SECONDS = 1.0
"""A task that still runs so long after its deadline is named, and given up if no cancellation can reach it."""

_CLEAN_UP_SECONDS = 10.0
"""How long a task may clean up in a shielded scope before it is given up."""


@attrs.define(eq=False)
class AbandonedTask:
    """The task of an attempt that was given up."""

    kind: ClassVar[str] = "task"
    _ended: bool = attrs.field(default=False, init=False)
    _on_end: Callable[[], None] | None = attrs.field(default=None, init=False)

    def when_ended(self, fn: Callable[[], None]) -> None:
        """Call `fn` when the task has ended, at once if it already has."""
        if self._ended:
            fn()
        else:
            self._on_end = fn

    def end(self) -> None:
        """Mark the task as ended."""
        self._ended = True
        if self._on_end is not None:
            self._on_end()


class OverdueWatch:
    """Look at the running attempts whenever one of them might be overdue; costs nothing while none is.

    Args:
        attempts: returns the running attempts.
        locate: returns the current line of an attempt.
        give_up: called for an attempt that is to end without its task.
        watch: knows when Trio's thread was blocked, and no cancellation could be delivered.
    """

    def __init__(
        self,
        attempts: Callable[[], Collection[LiveAttempt]],
        locate: Callable[[LiveAttempt], RunningTask | None],
        give_up: Callable[[LiveAttempt], None],
        watch: LoopWatch,
    ) -> None:
        self._attempts = attempts
        self._locate = locate
        self._give_up = give_up
        self._watch = watch
        self._pause = trio.CancelScope()
        """The scope of the wait for the next look."""
        self._looks = Looks[float]("the attempts beyond their deadlines")
        self.covered: float = math.inf
        """Deadlines from this one on need no call of `expect`."""
        self._named: set[LiveAttempt] = set()

    def expect(self, deadline: float) -> None:
        """Look at the attempts again soon after a deadline, and measure until then who blocks Trio's thread."""
        self._watch.measure()
        if deadline < self.covered:
            self.covered = deadline
            self._pause.deadline = deadline + _OVERDUE_SECONDS

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            with self._pause:
                await trio.sleep_forever()
            # Trio has not cancelled an attempt yet whose deadline passed later, while another one blocked its thread.
            due = self._look(self._watch.deadlines_checked_at)
            self._pause = trio.CancelScope(deadline=due)
            self.covered = due - _OVERDUE_SECONDS

    def _look(self, now: float) -> float:
        """Name or give up the attempts that are overdue, and return the time of the next look."""
        attempts = list(self._attempts())
        self._named.intersection_update(attempts)
        again = now + _OVERDUE_SECONDS
        return min((self._looks.take(partial(self._look_at, live, now), again) for live in attempts), default=math.inf)

    def _look_at(self, live: LiveAttempt, now: float) -> float:
        if live.lane is None or not live.lane.in_trio:
            return math.inf
        if live.scope is None:
            return now + live.limit + _OVERDUE_SECONDS
        deadline = live.scope.deadline
        due = max(deadline, self._watch.blocked_until) + (
            _CLEAN_UP_SECONDS if live in self._named else _OVERDUE_SECONDS
        )
        if now < due:
            silence = live.rollout.config.unresponsive_seconds
            return due if silence is None else min(due, now + _OVERDUE_SECONDS)
        if live not in self._named:
            self._named.add(live)
            self._warn(live, now - deadline)
            if live.owner is not None and may_end(live.owner, live.outer_nurseries):
                return max(deadline + _CLEAN_UP_SECONDS, now)
        self._give_up(live)
        return math.inf

    def _warn(self, live: LiveAttempt, seconds: float) -> None:
        logger.warning(
            "rollout %s (agent %s) still runs %.1f s after it was cancelled at its deadline%s; a deadline does not "
            "reach a shielded scope, or a thread without trio.to_thread.run_sync(…, abandon_on_cancel=True)",
            live.rollout.rollout_id,
            live.recorder.agent_name,
            seconds,
            line_of(self._locate(live)),
        )
