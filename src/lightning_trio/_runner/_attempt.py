"""One attempt: its context, its root span, the agent in its lane, and the one place where failure becomes data."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import outcome
import trio
from opentelemetry import context as otel_context

from .._agents import BoundAgent, record_return
from .._concurrency import split_stop, without_strays
from .._errors import AgentError, AttemptTimedOut, RolloutCancelled
from .._lifecycle import Allowance
from .._records import (
    AttemptedRollout,
    AttemptOutcome,
    AttemptStatus,
    CompletedRollout,
    ErrorRecord,
    LaneName,
    RolloutConfig,
    RolloutStatus,
)
from .._resources import NamedResources
from .._spans import Link, find_final_reward, sum_usage
from ..lanes import AbandonedCall, AsyncioLane, WorkerThread, run_in_thread, run_natively
from ..tracing import CURRENT, AttemptRecorder, Tracer
from ._hooks import Hook, call_hooks
from ._redaction import redact

if TYPE_CHECKING:
    from .._agents import LitAgent
    from ..lanes._process import ProcessLane, Worker
    from ._runner import Runner


logger = logging.getLogger("lightning_trio.attempt")

_END_HOOKS_SECONDS = 2.0
"""How long the closing hooks of a cancelled attempt may take."""

_LOOKS = 10
"""How often an attempt is looked at within its `unresponsive_seconds`."""


@attrs.frozen
class Surroundings:
    """What all attempts of a runner share."""

    agent: LitAgent[Any]
    runner: Runner
    tracer: Tracer
    hooks: Sequence[Hook]
    asyncio_lane: AsyncioLane
    process_lane: ProcessLane | None


@attrs.define(eq=False)
class EndedAttempt:
    """An attempt that has ended and is not committed yet.

    `stop` is the cancellation or Ctrl-C that ended it and that must go on up once the outcome is safe.
    """

    rollout: AttemptedRollout
    outcome: AttemptOutcome
    stop: BaseException | None
    abandoned: AbandonedCall | None

    def refuse(self) -> None:
        """Take back what the attempt came to, since its rollout had been ended through the store meanwhile."""
        self.outcome = attrs.evolve(self.outcome, status="cancelled", error=None, final_reward=None)

    def completed(self, status: RolloutStatus) -> CompletedRollout:
        """Give the records for a caller, with the rollout's status after the commit."""
        outcome = self.outcome
        attempt = attrs.evolve(
            self.rollout.attempt,
            status=outcome.status,
            end_time=outcome.end_time,
            error=outcome.error,
            final_reward=outcome.final_reward,
            duration=outcome.duration,
            usage=outcome.usage,
        )
        rollout = attrs.evolve(self.rollout, status=status, end_time=outcome.end_time, attempt=attempt)
        return CompletedRollout(rollout, attempt, outcome.spans)


@attrs.define(eq=False)
class Progress:
    """How an attempt goes, filled in on the way; what looks at running attempts looks here."""

    rollout: AttemptedRollout
    lane: LaneName | None
    started: float
    """On Trio's clock."""
    allowance: Allowance | None = None
    """How long it may run; None leaves that to `timeout_seconds` alone."""
    recorder: AttemptRecorder | None = None
    owner: trio.lowlevel.Task | None = None
    """The task that runs the attempt."""
    scope: trio.CancelScope | None = None
    """What its deadline stands on."""
    task: trio.lowlevel.Task | None = None
    """The task that a native agent runs in, and how many of its nurseries are not the agent's."""
    nurseries: int = 0
    thread: WorkerThread | None = None
    timed_out: bool = False
    returned_late: bool = False
    """It returned when it should have been stopped: it never yielded, or swallowed its cancellation."""
    unresponsive: bool = False
    error: BaseException | None = None
    stop: BaseException | None = None
    stopped: bool = False
    abandoned: AbandonedCall | None = None
    worker: Worker | None = None

    @property
    def limit(self) -> float:
        """How many seconds it may run; 0 if it must not begin."""
        if self.allowance is not None:
            return self.allowance.seconds
        seconds = self.rollout.config.timeout_seconds
        return math.inf if seconds is None else seconds

    def fail(self, exc: BaseException) -> None:
        """Take in an exception: split off what must go on up, keep the rest as the attempt's error.

        Raises:
            GeneratorExit: the attempt's own coroutine is being closed.
        """
        if isinstance(exc, GeneratorExit):
            exc = self._raised_generator_exit(exc)
        cancelled = trio.current_effective_deadline() == -math.inf
        self.stop, rest = split_stop(exc if cancelled else without_strays(exc))
        self.error = rest if rest is not None else self.error
        # An agent may answer its cancellation with an error of its own; it was stopped all the same.
        self.stopped = self.stop is not None or cancelled

    def _raised_generator_exit(self, exc: GeneratorExit) -> AgentError:
        # Trio, when it crashes, and the garbage collector close coroutines while their tasks do not run.
        if not (trio.lowlevel.in_trio_task() and trio.lowlevel.current_task() is self.owner):
            raise exc
        # As it is it would be taken for such a close wherever `step` raises it.
        error = AgentError("the agent raised GeneratorExit")
        error.__cause__ = exc
        return error

    @property
    def status(self) -> AttemptStatus:
        if self.stopped:
            return "cancelled"
        if self.error is not None:
            return "failed"
        if self.timed_out:
            return "unresponsive" if self.unresponsive else "timeout"
        return "succeeded"


async def run_attempt(
    shared: Surroundings,
    rollout: AttemptedRollout,
    resources: NamedResources,
    bound: BoundAgent | Exception,
    host: Link | None,
    progress: Progress,
) -> EndedAttempt:
    """Run one attempt to its end, whatever the end is; raises nothing.

    Args:
        shared: what all attempts of the runner share.
        rollout: the rollout with its new attempt.
        resources: what the agent is given.
        bound: the agent with its arguments, or the error that tells why there are none.
        host: a link to the host program's span that this was started in.
        progress: where to note how it goes.
    """
    recorder = progress.recorder = AttemptRecorder(shared.tracer, rollout, resources, shared.agent.name, host)
    token = CURRENT.set(recorder)
    otel_token = otel_context.attach(recorder.context())
    progress.owner = trio.lowlevel.current_task()
    started = progress.started
    limit = progress.limit
    value: object = None
    duration: float | None = None
    try:
        try:
            if shared.hooks:
                await _opening_hooks(shared, rollout)
                started = progress.started = trio.current_time()
            if shared.process_lane is not None and isinstance(bound, BoundAgent) and limit > 0:
                # The start of a worker process is none of the agent's time.
                progress.worker = await shared.process_lane.take(shared.agent.name)
                started = progress.started = trio.current_time()
            # The boundary stands outside the scope: a child that fails while the deadline cancels it leaves
            # the scope as its error alone, and inside as a group with Cancelled in it.
            with trio.CancelScope(deadline=started + limit) as scope:
                progress.scope = scope
                # An agent that never yields would not hear that everything has been cancelled before it began.
                await trio.lowlevel.checkpoint_if_cancelled()
                if limit > 0:
                    value = await _call(shared, recorder, bound, progress, scope)
                    duration = trio.current_time() - started
                    # By the clock: to the scope nothing has happened if nobody heard of the cancellation.
                    progress.returned_late = duration >= limit or progress.unresponsive
            if scope.cancelled_caught or progress.returned_late or limit <= 0:
                progress.timed_out = True
            else:
                record_return(recorder, value)
        except BaseException as exc:
            progress.fail(exc)
        if progress.worker is not None and shared.process_lane is not None:
            shared.process_lane.put_back(progress.worker)
        if duration is None:
            duration = trio.current_time() - started
        if shared.hooks:
            await _closing_hook(progress, "on_trace_end", shared, rollout, tracer=shared.tracer)
        status = progress.status
        error = None if status == "succeeded" else _error(progress, rollout.config, duration)
        recorder.abandoned = progress.abandoned is not None
        spans = recorder.close(status, None if error is None else f"{error.type}: {error.message}")
        error, spans = redact(error, spans)
        if shared.hooks:
            await _closing_hook(progress, "on_rollout_end", shared, rollout, spans=spans)
    finally:
        otel_context.detach(otel_token)
        CURRENT.reset(token)
    report = AttemptOutcome(
        rollout.rollout_id,
        rollout.attempt.attempt_id,
        status,
        time.time(),
        spans,
        error,
        find_final_reward(spans),
        duration,
        usage=sum_usage(spans),
    )
    return EndedAttempt(rollout, report, progress.stop, progress.abandoned)


def _call(
    shared: Surroundings,
    recorder: AttemptRecorder,
    bound: BoundAgent | Exception,
    progress: Progress,
    scope: trio.CancelScope,
) -> Awaitable[Any]:
    if isinstance(bound, Exception):
        raise bound
    limit = recorder.rollout.config.unresponsive_seconds
    if limit is None:
        return _call_in_lane(shared, recorder, bound, progress)
    return _call_watched(shared, recorder, bound, progress, scope, limit)


async def _call_watched(
    shared: Surroundings,
    recorder: AttemptRecorder,
    bound: BoundAgent,
    progress: Progress,
    scope: trio.CancelScope,
    limit: float,
) -> Any:
    # Captured, because the nursery would put the agent's error into a group with the watcher's cancellation.
    result: outcome.Outcome[Any] | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, recorder, limit, progress, scope)
            result = await outcome.acapture(_call_in_lane, shared, recorder, bound, progress)
            nursery.cancel_scope.cancel()
    except BaseException:
        if result is None:
            raise
    assert result is not None
    return result.unwrap()


def _call_in_lane(
    shared: Surroundings, recorder: AttemptRecorder, bound: BoundAgent, progress: Progress
) -> Awaitable[Any]:
    task = recorder.rollout.input
    arguments = bound.arguments(recorder) if bound.live else bound.fixed
    if bound.lane == "trio":
        assert progress.owner is not None
        progress.task = progress.owner
        progress.nurseries = len(progress.owner.child_nurseries)
        return run_natively(bound.name, bound.fn, task, arguments)
    if bound.lane == "process":
        assert shared.process_lane is not None
        assert progress.worker is not None
        return shared.process_lane.run(progress.worker, recorder, bound)

    def abandon(call: AbandonedCall) -> None:
        progress.abandoned = call

    if bound.lane == "asyncio":
        return shared.asyncio_lane.run(bound.name, bound.fn, task, arguments, abandon)
    progress.thread = WorkerThread()
    return run_in_thread(bound.fn, task, arguments, progress.thread, abandon)


async def _watch(recorder: AttemptRecorder, limit: float, progress: Progress, scope: trio.CancelScope) -> None:
    """Stop the attempt when it has recorded nothing for `limit` seconds, to a tenth of it."""
    seen, silent = recorder.count_activity(), 0
    # An event for every span would cost each of them more than this look now and then.
    while silent < _LOOKS:
        await trio.sleep(limit / _LOOKS)
        now = recorder.count_activity()
        seen, silent = now, silent + 1 if seen == now else 0
    progress.unresponsive = True
    scope.cancel()


async def _opening_hooks(shared: Surroundings, rollout: AttemptedRollout) -> None:
    common = {"agent": shared.agent, "runner": shared.runner, "rollout": rollout}
    await call_hooks(shared.hooks, "on_rollout_start", **common)
    await call_hooks(shared.hooks, "on_trace_start", tracer=shared.tracer, **common)


async def _closing_hook(
    progress: Progress, name: Any, shared: Surroundings, rollout: AttemptedRollout, **more: Any
) -> None:
    """Call the hooks for the end; those of a cancelled attempt get a little time of their own."""
    stopped = progress.stopped
    with trio.CancelScope(shield=stopped) as scope:
        scope.deadline = trio.current_time() + _END_HOOKS_SECONDS if stopped else math.inf
        try:
            await call_hooks(shared.hooks, name, agent=shared.agent, runner=shared.runner, rollout=rollout, **more)
        except BaseException as exc:
            if stopped:
                raise
            progress.fail(exc)


def _error(progress: Progress, config: RolloutConfig, duration: float) -> ErrorRecord:
    exception = progress.error
    if exception is not None:
        if duration >= progress.limit:
            exception.add_note("The attempt's deadline had passed when this was raised.")
    elif progress.stopped:
        exception = RolloutCancelled("cancelled while it ran")
    elif progress.unresponsive:
        exception = AttemptTimedOut(f"stopped, for it recorded nothing for {config.unresponsive_seconds:g} s")
    elif progress.allowance is not None:
        exception = AttemptTimedOut(progress.allowance.reason)
    elif progress.returned_late:
        exception = AttemptTimedOut(f"returned after its deadline of {config.timeout_seconds:g} s")
    else:
        exception = AttemptTimedOut(f"stopped at its deadline after {config.timeout_seconds:g} s")
    if progress.returned_late:
        exception.add_note("What it returned was refused, for it came too late.")
    if progress.abandoned is not None:
        exception.add_note(f"Its {progress.abandoned.kind} could not be stopped and was abandoned.")
    return ErrorRecord.from_exception(exception)
