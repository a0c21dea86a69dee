"""Calls that wait for a slot while all attempts with slots may be waiting for them: named in a warning.

An attempt that calls a runner lends its slot to what it waits for (`_sub_rollouts`). A request that it sends to another
task of the program, which calls the runner for it, belongs to no rollout that the runner knows. If all slots are held
like this, both wait for ever. The attempts may as well be slow, so it is a warning and not an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

import trio

from .._log import Log
from ..lanes import RunningTask, calling_task, line_of, waits_for_tasks
from ._live_attempt import LiveAttempt
from ._looks import Looks
from ._slots import Slots, Waiting

logger = Log("lightning_trio.runner")

_LOOK_SECONDS = 5.0
"""How often to look whether attempts end or record something, while a call waits for a slot."""

_STILL_SECONDS = 10.0
"""How long a call waits before the first warning if all attempts wait for other tasks, and none does anything."""

_SLOW_SECONDS = 60.0
"""How long if some are in threads, in other processes, or wait for a reply: they may be slow."""

_SERVED_SECONDS = 600.0
"""How long a call waits whose own attempts run: as a rule it has more tasks than there are slots, and its attempts wait
for something else, such as a person's approval. Should they wait for each other, it is named after all."""

_GROWTH = 4
"""How many times as long it takes until the next warning of a runner."""

_MOST_GROWTH = 256

_GIVE_UP_SECONDS = 86_400.0
"""After so long without any change there are no more looks: a virtual clock would jump from look to look for ever."""

_MOST_SHOWN = 5
"""The most calls and the most attempts to name."""


class Progress(NamedTuple):
    """Numbers that change while attempts begin, end or record something."""

    begun: int
    running: int
    abandoned: int
    recorded: int


class SlotWatch:
    """Look at the calls that wait for a slot; costs nothing while none does.

    Args:
        agent_name: the name of the runner's agent.
        slots: the slots.
        attempts: returns the running attempts.
        progress: returns how far they are.
        locate: returns the current line of an attempt.
        has_calls: whether an attempt waits for a runner that it has called.
    """

    def __init__(  # what it looks at
        self,
        agent_name: str,
        slots: Slots,
        attempts: Callable[[], Collection[LiveAttempt]],
        progress: Callable[[], Progress],
        locate: Callable[[LiveAttempt], RunningTask | None],
        has_calls: Callable[[LiveAttempt], bool],
    ) -> None:
        self._agent_name = agent_name
        self._slots = slots
        self._attempts = attempts
        self._progress = progress
        self._locate = locate
        self._has_calls = has_calls
        self._pause = trio.CancelScope()
        """The scope of the wait for the next look."""
        self._looks = Looks[float]("the calls that wait for a slot")
        self._growth = 1
        self._last = progress()
        """What was found at the last look."""
        self._still_since = 0.0
        """Since when that is so, on Trio's clock."""
        self._quiet_since = 0.0
        """The same, or the time of the last warning if that is later."""
        slots.on_wait = self._expect

    def _expect(self) -> None:
        """Look at the call that begins to wait, if it still does some seconds later."""
        if self._pause.deadline == math.inf:
            now = trio.current_time()
            self._last, self._still_since, self._quiet_since = self._progress(), now, now
            self._pause.deadline = now + _LOOK_SECONDS

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            with self._pause:
                await trio.sleep_forever()
            now = trio.current_time()
            due = self._looks.take(partial(self._look, now), now + _LOOK_SECONDS)
            self._pause = trio.CancelScope(deadline=due)

    def _look(self, now: float) -> float:
        """Warn if nothing has changed for long, and return the time of the next look."""
        waiting = self._slots.waiting()
        if not waiting:
            return math.inf
        progress = self._progress()
        if progress != self._last:
            self._last, self._still_since, self._quiet_since = progress, now, now
        elif now - self._quiet_since >= _STILL_SECONDS * self._growth and (stuck := self._find_stuck(waiting, now)):
            self._warn(stuck, now)
            self._quiet_since = now
            self._growth = min(self._growth * _GROWTH, _MOST_GROWTH)
        return now + _LOOK_SECONDS if now - self._still_since < _GIVE_UP_SECONDS else math.inf

    def _find_stuck(
        self, waiting: Sequence[tuple[trio.lowlevel.Task, Waiting]], now: float
    ) -> list[trio.lowlevel.Task]:
        """Return the tasks of the calls that have waited for long, and for which all attempts with slots may wait."""
        attempts = self._attempts()
        known = len(attempts) >= self._slots.taken and all(self._waits_for_tasks(live, now) for live in attempts)
        since = now - (_STILL_SECONDS if known else _SLOW_SECONDS) * self._growth
        if self._quiet_since > since:
            return []
        # A call with attempts of its own waits for the end of these, as far as is known.
        served_since = now - _SERVED_SECONDS * self._growth if known else -math.inf
        return [task for task, call in waiting if call.since <= (served_since if self._is_served(call) else since)]

    def _is_served(self, call: Waiting) -> bool:
        return call.seat is not self._slots.spare or (call.running is not None and len(call.running.child_tasks) > 0)

    def _waits_for_tasks(self, live: LiveAttempt, now: float) -> bool:
        if live.lane is None or not live.lane.in_trio or live.owner is None or self._has_calls(live):
            return False
        return waits_for_tasks(live.owner, live.outer_nurseries, now + _SLOW_SECONDS)

    def _warn(self, stuck: Sequence[trio.lowlevel.Task], now: float) -> None:
        attempts = list(self._attempts())
        holders = [self._name(live, now) for live in attempts[:_MOST_SHOWN]]
        if (ended := self._slots.taken - len(attempts)) > 0:
            holders.append(f"{ended} whose outcomes are being stored, or whose calls are abandoned")
        logger.warning(
            "the runner of %s has had no free slot for %.0f s, and no attempt has ended or recorded anything since. "
            "Waiting for a slot: %s. Holding the slots: %s. If these attempts wait for those calls, neither can go on; "
            "write: a larger max_concurrency (n_runners), agl.carry_context(fn) for a thread that an agent starts, or "
            "RolloutConfig(timeout_seconds=…) to end such attempts",
            self._agent_name,
            now - self._still_since,
            _listed([calling_task(task) for task in stuck[:_MOST_SHOWN]], len(stuck)),
            _listed(holders, len(holders) + len(attempts[_MOST_SHOWN:])),
        )

    def _name(self, live: LiveAttempt, now: float) -> str:
        line = line_of(self._locate(live))
        return f"rollout {live.rollout.rollout_id} (for {now - live.started:.0f} s{line})"


def _listed(names: Sequence[str], number: int) -> str:
    left_out = number - len(names)
    return "; ".join(names) + (f"; and {left_out} more" if left_out else "")
