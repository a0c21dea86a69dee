"""What agents do that makes their attempts fail."""

from __future__ import annotations

from typing import Self

from ._base import LightningTrioError, compose, public, shortened

_RETURNS = "a number (the reward), None, or a list of ReadableSpan, Span or SpanCoreFields"


@public
class AgentError(LightningTrioError):
    """What an agent did made its attempt fail."""

    @classmethod
    def raised(cls, what: str) -> Self:
        """Return the error in place of an exception that would end more than the attempt, such as SystemExit."""
        return compose(cls, f"the agent raised {what}")

    @classmethod
    def stray_cancellation(cls) -> Self:
        """Return the error in place of a `trio.Cancelled` that no scope of the agent's asked for."""
        return compose(
            cls,
            "the agent raised a cancellation that was not meant for it: a trio.Cancelled from another task, from a "
            "rollout before, or from a trio.run() of its own. Let cancellations go on up, and keep the outcome of none "
            "for others",
        )

    @classmethod
    def stray_asyncio_cancellation(cls) -> Self:
        """Return the error in place of an `asyncio.CancelledError` of a call that nobody had cancelled."""
        return compose(
            cls,
            "the agent raised asyncio.CancelledError, and nobody had cancelled its rollout; it cancelled its own "
            "task, or awaited a task that was cancelled",
        )

    @classmethod
    def loop_died(cls, error: BaseException | None) -> Self:
        """Return the error for each call that ran on an asyncio loop that ended with an error."""
        return compose(cls, f"the asyncio loop that the agent ran on died: {error!r}")


@public
class AttemptTimedOut(AgentError, TimeoutError):
    """An attempt was stopped at its deadline."""

    seconds: float | None = None
    """The limit that was passed, in seconds."""

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
        """Return the error for an attempt that gave no sign of life."""
        message = f"stopped, for it recorded nothing for {seconds:g} s"
        return compose(cls, message, seconds=seconds, parameter="unresponsive_seconds")

    @classmethod
    def in_queue(cls, waited: float, limit: float) -> Self:
        """Return the error for a rollout that was claimed too late to be run at all."""
        message = f"not run, for it waited {waited:.3g} s in the queue; queue_timeout_seconds is {limit:g}"
        return compose(cls, message, seconds=limit, parameter="queue_timeout_seconds")

    @classmethod
    def in_total(cls, limit: float) -> Self:
        """Return the error for an attempt during which its rollout's time ran out."""
        message = f"stopped, for its rollout had taken {limit:g} s, its total_timeout_seconds"
        return compose(cls, message, seconds=limit, parameter="total_timeout_seconds")

    @classmethod
    def in_total_before(cls, spent: float, limit: float) -> Self:
        """Return the error for an attempt that is not run, since those before it used up the rollout's time."""
        message = f"not run, for the attempts before took {spent:.3g} s; total_timeout_seconds is {limit:g}"
        return compose(cls, message, seconds=limit, parameter="total_timeout_seconds")


@public
class InvalidReturn(AgentError, TypeError):
    """An agent returned something that is neither a reward, None nor a list of spans."""

    agent: str | None = None
    """The agent's name."""

    kind: str | None = None
    """The name of the class of what it returned."""

    @classmethod
    def coroutine(cls, agent: str) -> Self:
        """Return the error for a coroutine, which comes of an ``await`` that was forgotten."""
        message = (
            f"the agent {agent} returned a coroutine, which nobody runs; write async def and await it: "
            "async def agent(task): return await …"
        )
        return compose(cls, message, agent=agent, kind="coroutine")

    @classmethod
    def value(cls, agent: str, value: object) -> Self:
        """Return the error for an object that means nothing here."""
        kind = type(value).__name__
        message = (
            f"the agent {agent} returned {shortened(value)} of type {kind}; an agent returns {_RETURNS}. Record other "
            "results with emit_object(…)"
        )
        return compose(cls, message, agent=agent, kind=kind)

    @classmethod
    def items(cls, agent: str, items: list[object]) -> Self:
        """Return the error for a list of something else than spans, or of several kinds of them."""
        types = ", ".join(type(item).__name__ for item in items[:10])
        message = (
            f"the agent {agent} returned a list of {types}{', …' if len(items) > 10 else ''}; an agent returns "
            f"{_RETURNS}, all of one kind"
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
        message = f"the reward is {reward}, which no mean survives; return None where there is nothing to judge"
        return compose(cls, message, reward=reward)


@public
class RolloutCancelled(AgentError):
    """A rollout was cancelled while it ran, from outside or through the store."""

    @classmethod
    def while_running(cls) -> Self:
        """Return the error that is recorded for the attempt."""
        return compose(cls, "cancelled while it ran")

    @classmethod
    def by_caller(cls) -> Self:
        """Return the error for a call from outside Trio that its caller cancelled."""
        return compose(cls, "cancelled by its caller")
