"""Failures of agents."""

from __future__ import annotations

from typing import Self

from ._base import LightningTrioError, compose, public, shortened

_RETURNS = "a number (the reward), None, or a list of ReadableSpan, Span or SpanCoreFields"


@public
class AgentError(LightningTrioError):
    """An agent made its attempt fail."""

    @classmethod
    def raised(cls, what: str) -> Self:
        """Return the replacement for an exception that would end more than the attempt, such as SystemExit."""
        return compose(cls, f"the agent raised {what}")

    @classmethod
    def left_open(cls, agent: str) -> Self:
        """Return the error for a native agent that entered a nursery or a cancel scope and did not leave it."""
        return compose(
            cls,
            f"the agent {agent} returned with a nursery or a cancel scope that it had entered and not left: a client "
            "opened by hand and not closed, or an async generator that was dropped. Write async with for each, and "
            "close async generators with contextlib.aclosing(…)",
        )

    @classmethod
    def unreadable(cls, what: str, raised: str) -> Self:
        """Return the error for an attempt whose records cannot be read, because of what the agent raised or recorded.

        Args:
            what: how the attempt ended.
            raised: the class of the exception that reading them raised.
        """
        return compose(
            cls,
            f"the agent {what}, but what it raised or recorded cannot be read: reading it raised {raised}. Its spans "
            "are lost; raise exceptions, and emit and return values, whose methods do not raise",
        )

    @classmethod
    def stray_cancellation(cls) -> Self:
        """Return the replacement for a `trio.Cancelled` that no cancel scope of the agent requested."""
        return compose(
            cls,
            "the agent raised a cancellation that was not meant for it: a trio.Cancelled from another task, from an "
            "earlier rollout, or from a trio.run() of its own. Let every trio.Cancelled propagate in the task that it "
            "was raised in, and do not store it",
        )

    @classmethod
    def stray_asyncio_cancellation(cls) -> Self:
        """Return the replacement for an `asyncio.CancelledError` of a call that was not cancelled."""
        return compose(
            cls,
            "the agent raised asyncio.CancelledError although its rollout was not cancelled; it cancelled its own "
            "task, or awaited a task that was cancelled",
        )

    @classmethod
    def cancelled_with_another(cls, rollout: str) -> Self:
        """Return the replacement for an `asyncio.CancelledError` that stems from the end of another rollout.

        Args:
            rollout: the other one, such as ``"rollout ro-… (agent)"``.
        """
        return compose(
            cls,
            f"the agent awaited a task or a future that was cancelled with {rollout}, which was stopped; let a task of "
            "its own do what serves several rollouts, and shield it: await asyncio.shield(task)",
        )

    @classmethod
    def recursion(cls, depth: int) -> Self:
        """Return the error for an agent or a hook that calls a runner from a sub-rollout that is too deep."""
        return compose(
            cls,
            f"this rollout is a sub-rollout at depth {depth} and cannot have one of its own; an agent or a hook calls "
            "its runner without end. Call it for some tasks only, such as: if rollout.input != …: await runner.step(…)",
        )

    @classmethod
    def loop_died(cls, error: BaseException | None) -> Self:
        """Return the error for each call on an asyncio loop that ended with an error."""
        return compose(cls, f"the asyncio loop that the agent ran on died: {error!r}")


@public
class AttemptTimedOut(AgentError, TimeoutError):
    """An attempt was stopped at its deadline."""

    seconds: float | None = None
    """The limit that was exceeded, in seconds."""

    parameter: str | None = None
    """The option of `RolloutConfig` that sets the limit."""

    @classmethod
    def at_deadline(cls, seconds: float) -> Self:
        """Return the error for an attempt that was still running at its deadline."""
        return compose(
            cls, f"stopped at its deadline after {seconds:g} s", seconds=seconds, parameter="timeout_seconds"
        )

    @classmethod
    def returned_late(cls, seconds: float) -> Self:
        """Return the error for an attempt that could not be stopped and returned after its deadline."""
        return compose(
            cls, f"returned after its deadline of {seconds:g} s", seconds=seconds, parameter="timeout_seconds"
        )

    @classmethod
    def after_silence(cls, seconds: float) -> Self:
        """Return the error for an attempt that recorded nothing for too long."""
        message = f"stopped because it recorded nothing for {seconds:g} s"
        return compose(cls, message, seconds=seconds, parameter="unresponsive_seconds")

    @classmethod
    def in_queue(cls, waited: float, limit: float) -> Self:
        """Return the error for a rollout that was claimed too late to run."""
        message = f"not run because it waited {waited:.3g} s in the queue; queue_timeout_seconds is {limit:g}"
        return compose(cls, message, seconds=limit, parameter="queue_timeout_seconds")

    @classmethod
    def in_total(cls, limit: float) -> Self:
        """Return the error for an attempt that was running when its rollout's total time ran out."""
        message = f"stopped because its rollout had taken {limit:g} s, its total_timeout_seconds"
        return compose(cls, message, seconds=limit, parameter="total_timeout_seconds")

    @classmethod
    def in_total_before(cls, spent: float, limit: float) -> Self:
        """Return the error for an attempt that did not run because earlier ones used up the rollout's time."""
        message = f"not run because earlier attempts took {spent:.3g} s; total_timeout_seconds is {limit:g}"
        return compose(cls, message, seconds=limit, parameter="total_timeout_seconds")


@public
class InvalidReturn(AgentError, TypeError):
    """An agent returned something that is neither a reward, None nor a list of spans."""

    agent: str | None = None
    """The agent's name."""

    kind: str | None = None
    """The class name of the returned value."""

    @classmethod
    def coroutine(cls, agent: str) -> Self:
        """Return the error for a coroutine, the result of a forgotten ``await``."""
        message = (
            f"the agent {agent} returned a coroutine that was never awaited; write async def and await it: "
            "async def agent(task): return await …"
        )
        return compose(cls, message, agent=agent, kind="coroutine")

    @classmethod
    def value(cls, agent: str, value: object) -> Self:
        """Return the error for an object that is not a valid result."""
        kind = type(value).__name__
        message = (
            f"the agent {agent} returned {shortened(value)} of type {kind}; an agent returns {_RETURNS}. Record other "
            "results with emit_object(…)"
        )
        return compose(cls, message, agent=agent, kind=kind)

    @classmethod
    def items(cls, agent: str, items: list[object]) -> Self:
        """Return the error for a list of anything but spans, or of several kinds of spans."""
        types = ", ".join(type(item).__name__ for item in items[:10])
        message = (
            f"the agent {agent} returned a list of {types}{', …' if len(items) > 10 else ''}; an agent returns "
            f"{_RETURNS}, all of one kind"
        )
        return compose(cls, message, agent=agent, kind="list")

    @classmethod
    def unreadable_span(cls, agent: str, error: BaseException) -> Self:
        """Return the error for a returned span whose fields cannot be read."""
        message = (
            f"the agent {agent} returned a malformed span: {type(error).__name__} while its fields were read; return "
            "spans as OpenTelemetry's SDK or an emitter made them"
        )
        return compose(cls, message, agent=agent, kind="list")

    @classmethod
    def malformed_span(cls, agent: str, index: int, field: str, value: object) -> Self:
        """Return the error for a returned span with a field of the wrong type.

        Args:
            agent: the agent's name.
            index: the span's index in the list.
            field: the field's name.
            value: its value.
        """
        message = (
            f"the agent {agent} returned a malformed span: {field} of the span at index {index} is "
            f"{shortened(value)} of type {type(value).__name__}; return spans as OpenTelemetry's SDK or an emitter "
            "made them"
        )
        return compose(cls, message, agent=agent, kind="list")


@public
class InvalidReward(AgentError, ValueError):
    """A reward is not finite."""

    reward: str | None = None
    """The reward as text, such as ``"nan"``."""

    @classmethod
    def not_finite(cls, reward: str) -> Self:
        """Return the error for NaN, an infinity, or a number that no float can hold."""
        message = (
            f"the reward is {reward}, which makes every mean meaningless; return None if there is nothing to judge"
        )
        return compose(cls, message, reward=reward)


@public
class RolloutCancelled(AgentError):
    """A rollout was cancelled while it ran, from outside or through the store."""

    @classmethod
    def while_running(cls) -> Self:
        """Return the error to record for the attempt."""
        return compose(cls, "cancelled while it ran")

    @classmethod
    def by_caller(cls) -> Self:
        """Return the error for a call from outside Trio that was cancelled by its caller."""
        return compose(cls, "cancelled by its caller")
