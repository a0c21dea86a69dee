"""One attempt: its context, its root span, the agent's call, and the one place where failure becomes data."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import outcome
import trio

from .._agents import LitAgent
from .._concurrency import find_interruption, split
from .._containers import copy_fields
from .._errors import AttemptTimedOut
from .._host import Interruptions, exit_without_interrupted
from .._records import AttemptedRollout, AttemptStatus, ErrorRecord
from .._resources import knows_keys
from .._spans import MANY, Span
from ..lanes import AbandonedCall, Call, OpenLane, explain, record_return
from ..tracing import Tracer
from ._closing import close_bare, close_large_trace, close_trace, has_large_texts, record_error
from ._ending import RETURNED, Cancelled, Ending, Raised, Silent, TimedOut, ending_of, is_closing, settle
from ._live_attempt import EndedAttempt, LiveAttempt
from ._loop_watch import LoopWatch

_END_HOOKS_SECONDS = 2.0
"""How long the closing hooks of a cancelled attempt may take."""

_LOOKS = 10
"""How often an attempt's activity is checked within its `unresponsive_seconds`."""


class AttemptHooks(Protocol):
    """The hooks around an attempt, in the order of its life.

    `agent` is the copy of the agent that the attempt runs, None if attempts share the agent.
    """

    async def begin(self, agent: LitAgent[Any] | None, rollout: AttemptedRollout) -> None:
        """Call the hooks for the start."""
        ...

    async def end_trace(self, agent: LitAgent[Any] | None, rollout: AttemptedRollout) -> None:
        """Call the hooks that run after the agent, inside the trace."""
        ...

    async def end(self, agent: LitAgent[Any] | None, rollout: AttemptedRollout, spans: Sequence[Span]) -> None:
        """Call the hooks that receive the whole trace."""
        ...


@attrs.frozen
class AttemptParts:
    """The parts that all attempts of a runner share."""

    agent_name: str
    tracer: Tracer
    lanes: Mapping[str, OpenLane]
    hooks: AttemptHooks | None
    clock: trio.abc.Clock
    watch: LoopWatch
    interruptions: Interruptions
    limit: int | None
    """How many bytes the spans of an attempt may take in the store."""


async def run_attempt(live: LiveAttempt, parts: AttemptParts, ending: Ending | None = None) -> EndedAttempt | None:
    """Run one attempt to its end, however it ends, in a context that belongs to it.

    It raises nothing but the `GeneratorExit` that closes it. What follows the agent's call reads what the agent has
    raised and recorded, whose classes may do anything. Where that fails, the attempt ends with a bare record, and its
    slot is released like any other's.

    Args:
        live: the attempt.
        parts: what it shares with others.
        ending: how it ends without its task, which was given up; that task's own call returns None.
    """
    try:
        if ending is None:
            ending = await _reach_ending(live, parts)
            live.scope = None
            if live.owner is None:
                return None
        return await _end(live, parts, ending)
    except BaseException as exc:
        if is_closing(exc, live.owner):
            raise
        return _end_bare(live, parts, exc)


async def _end(live: LiveAttempt, parts: AttemptParts, ending: Ending) -> EndedAttempt:
    """Call the closing hooks of an attempt, close its trace, and make its outcome."""
    recorder, hooks = live.recorder, parts.hooks
    live.ending = ending
    duration = live.duration
    if duration is None:
        live.duration = duration = parts.clock.current_time() - live.started
    if hooks is not None:
        live.ending = ending = await _close(live, parts, ending, hooks.end_trace(live.agent, _seen_by_hooks(live)))
    status: AttemptStatus = "succeeded"
    error = abandoned = None
    if ending is not RETURNED:
        abandoned = None if live.call is None else live.call.abandoned
        recorder.abandoned = abandoned is not None
        status, error = await _settle(live, ending, late=duration >= live.limit, abandoned=abandoned)
    if len(recorder.spans) > MANY or (knows_keys() and has_large_texts(recorder)):
        closed = await close_large_trace(recorder, status, error, duration)
    else:
        closed = close_trace(recorder, status, error, duration)
    if hooks is not None:
        ending = await _close(live, parts, ending, hooks.end(live.agent, _seen_by_hooks(live), closed.spans))
    if ending is RETURNED:
        return EndedAttempt(recorder.rollout, closed)
    stop = ending.stop if isinstance(ending, Cancelled) else None
    if stop is not None and find_interruption(stop) is not None:
        exit_without_interrupted(stop)
    return EndedAttempt(recorder.rollout, closed, stop, abandoned)


async def _settle(
    live: LiveAttempt, ending: Ending, *, late: bool, abandoned: AbandonedCall | None
) -> tuple[AttemptStatus, ErrorRecord | None]:
    """Return the status of an attempt and its error record."""
    status, exception = settle(ending, late=late, abandoned=abandoned)
    if exception is None:
        return status, None
    if live.call is not None:
        explain(exception, live.call.bound.lane)
    return status, await record_error(exception)


def _end_bare(live: LiveAttempt, parts: AttemptParts, exc: BaseException) -> EndedAttempt:
    """Return the outcome of an attempt that could not be ended because of `exc`, without anything of the agent's."""
    recorder = live.recorder
    ending = live.ending or Raised(exc)
    status, _ = settle(ending, late=False, abandoned=None)
    if status == "succeeded":
        status = "failed"
    abandoned = None if live.call is None else live.call.abandoned
    recorder.abandoned = abandoned is not None
    duration = live.duration or parts.clock.current_time() - live.started
    outcome = close_bare(recorder, status, exc, duration)
    return EndedAttempt(recorder.rollout, outcome, ending.stop if isinstance(ending, Cancelled) else None, abandoned)


async def _reach_ending(live: LiveAttempt, parts: AttemptParts) -> Ending:
    """Run the agent and return how it ended; exceptions are caught here, outside the deadline's scope.

    If a child fails while the deadline cancels it, its error leaves the scope alone; inside the scope it is in a group
    with `trio.Cancelled`, which ``except Exception`` would miss.
    """
    clock = parts.clock
    has_worker = returned_late = False
    value: object = None
    raised: BaseException | None = None
    try:
        if parts.hooks is not None:
            await parts.hooks.begin(live.agent, live.rollout)
            live.started = clock.current_time()
        lane, call = live.lane, live.call
        if lane is None or call is None:
            assert live.refusal is not None
            raise live.refusal
        if lane.has_workers and live.limit > 0:
            has_worker = True
            await lane.get_ready(call)
            live.started = clock.current_time()
        if live.limit == math.inf and live.recorder.rollout.config.unresponsive_seconds is None:
            # A scope without a deadline would cost 3 µs.
            await trio.lowlevel.checkpoint_if_cancelled()
            value = await lane.run(call)
        else:
            with trio.CancelScope(deadline=live.started + live.limit) as live.scope:
                try:
                    # An agent that never yields would not notice a cancellation from before it began.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    limit = live.recorder.rollout.config.unresponsive_seconds
                    value = await (lane.run(call) if limit is None else _call_watched(live, lane, call, limit))
                except BaseException as exc:
                    # The scope would split a group, which calls methods of the agent's class.
                    raised = exc
                else:
                    # By the clock: the scope has caught nothing if the cancellation never reached the agent.
                    live.duration = duration = clock.current_time() - live.started
                    returned_late = live.ending is not None or (duration >= live.limit and _is_late(live, parts.watch))
            if raised is not None or returned_late:
                return time_is_up(live, returned=True) if raised is None else _ending_of(live, parts, raised)
        record_return(live.recorder, value)
        return RETURNED
    except BaseException as exc:
        return _ending_of(live, parts, exc)
    finally:
        # Its traceback has this frame: a cycle.
        raised = None
        if has_worker and live.lane is not None and live.call is not None:
            live.lane.release(live.call)


def _ending_of(live: LiveAttempt, parts: AttemptParts, exc: BaseException) -> Ending:
    """Return the ending for an exception, which has left no scope of the attempt yet."""
    cancelled = _is_cancelled()
    if live.scope is not None and live.scope.cancel_called and not cancelled:
        stop, rest = split(exc, trio.Cancelled)
        if rest is None:
            return time_is_up(live, returned=False)
        if stop is not None:
            exc = rest
    return ending_of(exc, live.owner, cancelled=cancelled, interrupted=parts.interruptions.may_have_come())


def _is_cancelled() -> bool:
    """Whether everything around the attempt has been cancelled."""
    return trio.current_effective_deadline() == -math.inf


def _is_late(live: LiveAttempt, watch: LoopWatch) -> bool:
    """Whether an attempt that returns now ran too long itself, and was not held up by others in Trio's thread."""
    assert live.duration is not None
    live.limit += watch.lag(live)
    return live.duration >= live.limit


def time_is_up(live: LiveAttempt, *, returned: bool) -> TimedOut | Silent:
    """Return the ending of an attempt whose deadline has passed; `returned` if the agent returned all the same."""
    if isinstance(live.ending, Silent):
        return Silent(live.ending.seconds, returned)
    if live.allowance is not None:
        return TimedOut(live.allowance.make_error(), live.allowance.final, returned)
    limit = live.rollout.config.timeout_seconds
    assert limit is not None
    if returned:
        return TimedOut(AttemptTimedOut.returned_late(limit), returned=True)
    return TimedOut(AttemptTimedOut.at_deadline(limit))


async def _call_watched(live: LiveAttempt, lane: OpenLane, call: Call, limit: float) -> Any:
    # Captured, because the nursery would group the agent's error with the watcher's cancellation.
    result: outcome.Outcome[Any] | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, live, limit)
            try:
                result = outcome.Value(await lane.run(call))
            except BaseException as exc:
                # Not by `outcome.acapture`, which calls a method of the exception.
                result = outcome.Error(exc)
            nursery.cancel_scope.cancel()
    except BaseException:
        if result is None:
            raise
    assert result is not None
    return result.unwrap()


async def _watch(live: LiveAttempt, limit: float) -> None:
    """Stop the attempt when it has recorded nothing for `limit` seconds, to a tenth of it."""
    seen, silent = live.recorder.count_activity(), 0
    # Cheaper than an event that every span sets.
    while silent < _LOOKS:
        await trio.sleep(limit / _LOOKS)
        now = live.recorder.count_activity()
        seen, silent = now, silent + 1 if seen == now else 0
    assert live.scope is not None
    live.ending = Silent(limit)
    live.scope.deadline = min(live.scope.deadline, trio.current_time())
    live.scope.cancel()


async def _close(live: LiveAttempt, parts: AttemptParts, ending: Ending, hooks: Awaitable[None]) -> Ending:
    """Call closing hooks; for a cancelled attempt, shield them for up to two seconds."""
    stopped = isinstance(ending, Cancelled)
    if live.call is not None and live.call.abandoned is not None:
        # From now on, because its call goes on while the hooks wait.
        live.recorder.abandoned = True
    try:
        with trio.CancelScope(shield=stopped) as scope:
            scope.deadline = trio.current_time() + _END_HOOKS_SECONDS if stopped else math.inf
            await hooks
    except BaseException as exc:
        interrupted = parts.interruptions.may_have_come()
        cancelled = stopped or _is_cancelled()
        return ending_of(exc, live.owner, cancelled=cancelled, interrupted=interrupted, before=ending)
    return ending


def _seen_by_hooks(live: LiveAttempt) -> AttemptedRollout:
    # An abandoned call keeps its task, and may change it.
    return live.rollout if live.call is None or live.call.abandoned is None else copy_fields(live.rollout)
