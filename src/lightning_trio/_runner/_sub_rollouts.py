"""Sub-rollouts: what runs when an agent calls a runner.

The parent waits for its sub-rollout, so its slot is free meanwhile, and the sub-rollout rides on it. Each attempt
offers one such seat for its own runner, and one for each runner that has an attempt among its ancestors. So a waiting
attempt always has a sub-rollout that runs or can start, however deep the recursion and however few the slots. Only the
first call into another runner has no seat to ride on; `Slots.lend_if_stuck` serves it if all wait for each other.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import attrs
import trio

from .. import semconv
from .._errors import AgentError
from .._spans import Link, SpanContext
from ..tracing import AttemptRecorder, find_recorder, host_link, refuse_abandoned
from ._slots import Seat, Slots, Taken

_MOST_DEEP = 250
"""How deep sub-rollouts may be; agents that call themselves without end would fill the memory."""

PARENT_ROLLOUT_ID = "parent_rollout_id"
"""The key of a sub-rollout's metadata with the rollout whose agent called the runner."""

PARENT_ATTEMPT_ID = "parent_attempt_id"
"""The same with its attempt."""


@attrs.define(eq=False)
class Caller:
    """A running attempt whose agent has called a runner.

    Args:
        recorder: its recorder.
        slots: the slots of its own runner.
        seat: the seat that it rides on, None if it has a slot.
        parent: the caller that it is a sub-rollout of.
    """

    recorder: AttemptRecorder
    slots: Slots
    seat: Seat | None = None
    parent: Caller | None = None
    calls: set[trio.CancelScope] = attrs.field(factory=set[trio.CancelScope], init=False)
    """The scopes of its calls of runners."""
    tasks: set[trio.CancelScope] = attrs.field(factory=set[trio.CancelScope], init=False)
    """The scopes of the tasks of its sub-rollouts, with the deadlines of the calls."""
    _seats: dict[Slots, Seat] = attrs.field(factory=dict[Slots, Seat], init=False)
    _stuck: int = attrs.field(default=0, init=False)
    """How many sub-rollouts below it wait for a spare seat, or it or they for rollouts in a store."""
    _ended: bool = attrs.field(default=False, init=False)
    _depth: int = attrs.field(init=False)
    _children: set[AttemptRecorder] = attrs.field(factory=set[AttemptRecorder], init=False)
    _past_activity: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._depth = 0 if self.parent is None else self.parent._depth + 1

    def metadata(self) -> dict[str, str]:
        """Return what sub-rollouts have in their metadata."""
        attempt = self.recorder.rollout.attempt
        return {PARENT_ROLLOUT_ID: attempt.rollout_id, PARENT_ATTEMPT_ID: attempt.attempt_id}

    def link(self) -> Link:
        """Return a link to the calling code's current span, or to the attempt's root span."""
        recorder = self.recorder
        link = host_link() or Link(SpanContext(recorder.trace_id, recorder.root_id))
        attempt = recorder.rollout.attempt
        keys = semconv.LightningResourceAttributes
        ids = {keys.ROLLOUT_ID.value: attempt.rollout_id, keys.ATTEMPT_ID.value: attempt.attempt_id}
        return attrs.evolve(link, attributes=ids)

    # Slots.

    async def take(self, slots: Slots, limit: int) -> Taken:
        """Wait for the caller's own slot or a free one, and take up to `limit`.

        Raises:
            AgentError: the sub-rollout would be too deep.
        """
        if self._depth >= _MOST_DEEP:
            raise AgentError.recursion(self._depth)
        for caller in self._chain():
            if caller.slots is slots:
                seat = self._seats.get(slots)
                if seat is None:
                    seat = self._seats[slots] = Seat(slots)
                return await slots.take_or_ride(limit, seat)
        if taken := slots.take_nowait(limit):
            await trio.lowlevel.cancel_shielded_checkpoint()
            return Taken(taken, None)
        self._count_stuck(1)
        try:
            # Soon: once this task waits.
            trio.lowlevel.current_trio_token().run_sync_soon(self._lend, slots)
            return await slots.take_or_ride(limit, slots.spare)
        finally:
            self._count_stuck(-1)

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Mark the attempt as one that waits for rollouts in a store, which may need a slot of its runner."""
        self._count_stuck(1)
        trio.lowlevel.current_trio_token().run_sync_soon(self._lend, self.slots)
        try:
            yield
        finally:
            self._count_stuck(-1)

    def _chain(self) -> Iterator[Caller]:
        caller: Caller | None = self
        while caller is not None:
            yield caller
            caller = caller.parent

    def _count_stuck(self, change: int) -> None:
        for caller in self._chain():
            before = caller._stuck > 0
            caller._stuck += change
            if caller.seat is None and not caller._ended:
                caller.slots.stuck += (caller._stuck > 0) - before

    def _lend(self, slots: Slots) -> None:
        slots.lend_if_stuck()
        for caller in self._chain():
            caller.slots.lend_if_stuck()

    def end(self) -> None:
        """Mark the attempt as ended; its slot is released, by `release`, once its outcome is committed."""
        if self._stuck and self.seat is None:
            self.slots.stuck -= 1
        self._ended = True

    def stop_calls(self) -> None:
        """Cancel its calls of runners, which do not end with it in other threads and event loops."""
        for scope in list(self.calls):
            scope.cancel()

    def release(self) -> None:
        """Release its slot, or leave it to the sub-rollout that rides on it still."""
        seat = self._seats.get(self.slots)
        if seat is not None and seat.taken:
            seat.inherited = self._release
        else:
            self._release()

    def _release(self) -> None:
        if self.seat is None:
            self.slots.give_back()
        else:
            self.seat.release()

    # Activity.

    def add_child(self, recorder: AttemptRecorder) -> None:
        """Count what a sub-rollout records as activity of this attempt, which is not silent while it waits for it."""
        self._children.add(recorder)
        self._past_activity += 1
        if self.recorder.remote_activity is None:
            self.recorder.remote_activity = self._count_activity

    def remove_child(self, recorder: AttemptRecorder) -> None:
        """Keep the count of a sub-rollout that has ended."""
        self._children.discard(recorder)
        self._past_activity += 1 + recorder.count_activity()

    def _count_activity(self) -> int:
        return self._past_activity + sum(child.count_activity() for child in list(self._children))


class Admission(NamedTuple):
    """The permission to start a sub-rollout: the attempt that called the runner, and the seat, None for a slot."""

    caller: Caller
    seat: Seat | None


class Callers(Protocol):
    """What knows the attempts of one open runner."""

    def caller_of(self, recorder: AttemptRecorder) -> Caller | None:
        """Return a running attempt as a caller, None if it does not run here."""
        ...


OPEN: list[Callers] = []
"""The attempts of all open runners of the program; replaced when it changes, because several threads read it."""


def find_caller() -> Caller | None:
    """Return the attempt whose code calls a runner, None outside of attempts and once the attempt has ended.

    Raises:
        AttemptAbandoned: the attempt was abandoned.
    """
    recorder = find_recorder()
    if recorder is None:
        return None
    refuse_abandoned(recorder)
    for callers in OPEN:
        if (caller := callers.caller_of(recorder)) is not None:
            return caller
    # An attempt of another process or of another thread's Trio waits for no slot of the runners here.
    return None if recorder.closed else Caller(recorder, Slots(0))
