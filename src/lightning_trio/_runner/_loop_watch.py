"""The watch over Trio's thread, which attempts in Trio share: who blocks it, and whose deadline must not pay for it.

A daemon thread asks Trio's loop for an answer while attempts run. A loop that does not answer for a second is blocked,
and a warning says by which rollout and at which line.

A *stretch* is the time between two looks of Trio's loop at its timers. Only what blocks can run then, so a long
stretch is not counted against the other attempts: their deadlines are moved before Trio looks at them. The thread looks
at what runs several times in a long stretch, and counts the time up to a look as that attempt's own.
The clocks are real ones: a virtual one does not measure how long a thread takes.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import Protocol

import trio

from .._log import Log
from ..lanes import line_of, running_place, runs_now
from ._live_attempt import LiveAttempt
from ._looks import Looks

logger = Log("lightning_trio.runner")

_LOOK_SECONDS = 0.2
"""How often the thread looks at Trio's loop."""

_BLOCKED_SECONDS = 1.0
"""A loop that does not answer for this long is blocked."""

_LONG_SECONDS = 0.5
"""A stretch of this length is not counted against the attempts that did not run in it; it has had two looks."""

_DELIVERY_SECONDS = 0.05
"""How long after a long stretch an agent in another thread may still deliver its result."""


class Watched(Protocol):
    """The attempts of one runner."""

    def attempts(self) -> Collection[LiveAttempt]:
        """Return those that run; called from any thread."""
        ...

    def extend(self, live: LiveAttempt, seconds: float) -> None:
        """Move the deadline of an attempt."""
        ...


class LoopWatch:
    """The watch over the loop of one Trio run; it starts nothing before an attempt needs it."""

    def __init__(self) -> None:
        self.members: tuple[Watched, ...] = ()
        self._loop_thread = threading.get_ident()
        self._token = trio.lowlevel.current_trio_token()
        self._closed: threading.Event | None = None
        """Ends the thread; None if there is none."""
        self._looks = Looks[None]("what Trio's thread runs")
        self._pinged_at: float | None = None
        self._warned = False
        self._stretches: Stretches | None = None
        self.watches: bool = False
        """Whether `watch` was called."""
        self.measures: bool = False
        """Whether `measure` was called."""

    # In Trio's thread.

    @contextmanager
    def joined(self, member: Watched) -> Generator[None]:
        """Watch the attempts of one more runner within the block."""
        self.members = (*self.members, member)
        try:
            yield
        finally:
            self.members = tuple(each for each in self.members if each is not member)
            if not self.members:
                self._end()

    def watch(self) -> None:
        """Watch the loop from now on, because an attempt runs in Trio's thread."""
        self.watches = True
        self._closed = threading.Event()
        threading.Thread(target=self._run, args=(self._closed,), name="lightning_trio-watch", daemon=True).start()

    def measure(self) -> None:
        """Measure stretches from now on, because an attempt has a deadline or may be silent."""
        if self.measures:
            return
        self.measures = True
        self._stretches = Stretches(self)
        trio.lowlevel.add_instrument(self._stretches)

    def _end(self) -> None:
        self.watches = self.measures = False
        if self._closed is not None:
            self._closed.set()
            self._closed = None
        if self._stretches is not None:
            # Trio has removed an instrument that raised.
            with suppress(KeyError):
                trio.lowlevel.remove_instrument(self._stretches)
            self._stretches = None

    def lag(self, live: LiveAttempt) -> float:
        """Return how many seconds of the current stretch are not the running attempt's own."""
        return 0.0 if self._stretches is None else self._stretches.lag(live)

    @property
    def blocked_until(self) -> float:
        """When the last long stretch ended, on Trio's clock."""
        return -math.inf if self._stretches is None else self._stretches.last_long_end

    @property
    def deadlines_checked_at(self) -> float:
        """When Trio looked at its timers last, on its clock."""
        return trio.current_time() if self._stretches is None else self._stretches.began_by_clock

    def _answer(self) -> None:
        self._pinged_at = None

    # In the watching thread.

    def _run(self, closed: threading.Event) -> None:
        looked_at = monotonic()
        while not closed.wait(_LOOK_SECONDS):
            now = monotonic()
            if now - looked_at > _BLOCKED_SECONDS and self._pinged_at is not None:
                # This thread could not run either: the whole process was stopped, or had no processor.
                self._pinged_at = now
            looked_at = now
            self._looks.take(partial(self._look, now, closed), None)

    def _look(self, now: float, closed: threading.Event) -> None:
        stretches = self._stretches
        if stretches is not None and stretches.is_due(now):
            stretches.charge(self._running(), now)
        pinged_at = self._pinged_at
        if pinged_at is None:
            self._warned = False
            if any(member.attempts() for member in self.members):
                self._ping(now, closed)
        elif now - pinged_at >= _BLOCKED_SECONDS and not self._warned:
            self._warned = True
            self._warn(now - pinged_at)

    def _ping(self, now: float, closed: threading.Event) -> None:
        self._pinged_at = now
        try:
            self._token.run_sync_soon(self._answer)
        except trio.RunFinishedError:
            closed.set()

    def _running(self) -> LiveAttempt | None:
        """Return the attempt whose task Trio's thread runs now."""
        # A thread sees the loop between two tasks as well, then there is none.
        for member in self.members:
            for live in list(member.attempts()):
                if live.owner is not None and runs_now(live.owner, live.outer_nurseries):
                    return live
        return None

    def _warn(self, seconds: float) -> None:
        live = self._running()
        frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage]  # documented
        owner = "no agent's code"
        if live is not None:
            owner = f"rollout {live.rollout.rollout_id} (agent {live.recorder.agent_name})"
        logger.warning(
            "Trio's thread has been blocked for %.1f s, with %d rollouts on it, by %s%s; await "
            "trio.to_thread.run_sync(…) for a call that blocks, or write the agent as a plain def, which runs in a "
            "thread",
            seconds,
            sum(len(member.attempts()) for member in self.members),
            owner,
            line_of(running_place(frame)),
        )


class Stretches(trio.abc.Instrument):
    """Measure the stretches of Trio's loop, and move deadlines after long ones; about 1 µs for each turn of the loop.

    Args:
        watch: knows the attempts.
    """

    def __init__(self, watch: LoopWatch) -> None:
        self._watch = watch
        self._clock = trio.lowlevel.current_clock()
        self._began: float | None = monotonic()
        """The start of the current stretch; None while the loop waits."""
        self.began_by_clock: float = self._clock.current_time()
        self.last_long_end: float = -math.inf
        self._charged: dict[LiveAttempt | None, float] = {}
        """The seconds of the current stretch by the attempt that the thread saw running."""
        self._last: LiveAttempt | None = None
        self._last_look = 0.0

    # In Trio's thread.

    def after_io_wait(self, timeout: float) -> None:
        """Begin a stretch."""
        self._began = monotonic()
        self.began_by_clock = self._clock.current_time()

    def before_io_wait(self, timeout: float) -> None:
        """End a stretch, before Trio looks at its timers."""
        began, self._began = self._began, None
        if began is None or monotonic() - began < _LONG_SECONDS:
            if self._charged:
                self._charged = {}
            return
        now = self.last_long_end = self._clock.current_time()
        # By a virtual clock, little or no time has passed; a jump of it is no stretch.
        length = min(monotonic() - began, now - self.began_by_clock)
        self._charge_rest(None, began)
        for member in self._watch.members:
            for live in list(member.attempts()):
                if (seconds := self._seconds_back(live, now, length)) > 0:
                    member.extend(live, seconds)
        self._charged = {}

    def _seconds_back(self, live: LiveAttempt, now: float, length: float) -> float:
        if live.lane is not None and not live.lane.in_trio:
            return now + _DELIVERY_SECONDS - (live.started + live.limit)
        return min(length, now - live.started) - self._charged.get(live, 0.0)

    def lag(self, live: LiveAttempt) -> float:
        """Return how many seconds of the current stretch are not the running attempt's own."""
        if self._began is None or monotonic() - self._began < _LONG_SECONDS:
            return 0.0
        now = self._clock.current_time()
        length = min(monotonic() - self._began, now - self.began_by_clock, now - live.started)
        self._charge_rest(live, self._began)
        return length - self._charged.get(live, 0.0)

    def _charge_rest(self, unseen: LiveAttempt | None, began: float) -> None:
        """Charge the time since the last look to the attempt seen then, or to `unseen` if there was no look."""
        now = monotonic()
        if self._charged:
            self._charged[self._last] += now - self._last_look
        elif unseen is not None:
            self._charged[unseen] = now - began
            self._last = unseen
        self._last_look = now

    # In the watching thread.

    def is_due(self, now: float) -> bool:
        """Whether the current stretch is long enough for a look."""
        began = self._began
        return began is not None and now - began >= _LOOK_SECONDS / 2

    def charge(self, live: LiveAttempt | None, now: float) -> None:
        """Charge the time since the last look to the attempt that runs now."""
        began, charged = self._began, self._charged
        if began is None:
            return
        since = self._last_look if charged else began
        self._last, self._last_look = live, now
        charged[live] = charged.get(live, 0.0) + now - since


_watches: trio.lowlevel.RunVar[LoopWatch | None] = trio.lowlevel.RunVar("lightning_trio watch", None)


def current_watch() -> LoopWatch:
    """Return the watch of the current Trio run, which all its runners share."""
    watch = _watches.get()
    if watch is None:
        watch = LoopWatch()
        _watches.set(watch)
    return watch
