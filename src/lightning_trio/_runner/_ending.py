"""How an attempt ended, as one value, and what follows from it.

Nothing here waits or reads a clock: `ending_of` classifies an exception, `settle` decides what is recorded.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import attrs
import trio

from .._concurrency import is_kind, leaves, note, split, split_stop, without_strays
from .._errors import AgentError, AttemptTimedOut, RolloutCancelled, Terminated
from .._exception_text import class_name
from .._records import AttemptStatus
from ..lanes import AbandonedCall


@attrs.frozen
class Returned:
    """The agent returned in time, and its return value is recorded."""


@attrs.frozen(eq=False)
class Raised:
    """The agent raised `exception`, or could not be called, or returned a value that was refused."""

    exception: BaseException


@attrs.frozen(eq=False)
class TimedOut:
    """The attempt's time ran out.

    Args:
        error: the error to record.
        final: whether there is no time left for another attempt.
        returned: whether the agent returned late because it never yielded, or swallowed its cancellation.
    """

    error: AttemptTimedOut
    final: bool = False
    returned: bool = False


@attrs.frozen
class Silent:
    """The agent recorded nothing for `seconds`; `returned` as for `TimedOut`."""

    seconds: float
    returned: bool = False


@attrs.frozen(eq=False)
class Cancelled:
    """The attempt was stopped from outside.

    Args:
        stop: the cancellation or Ctrl-C, which must propagate once the outcome is committed; None if the agent
            swallowed it.
        exception: the agent's own error, if it raised one in response.
    """

    stop: BaseException | None
    exception: BaseException | None = None


Ending: TypeAlias = Returned | Raised | TimedOut | Silent | Cancelled

RETURNED: Final = Returned()


def ending_of(
    exc: BaseException,
    owner: trio.lowlevel.Task | None,
    *,
    cancelled: bool,
    interrupted: bool = True,
    before: Ending = RETURNED,
) -> Ending:
    """Return the ending for an exception, with what must propagate separated from the attempt's own error.

    Args:
        exc: the exception that left the attempt.
        owner: the task that runs the attempt.
        cancelled: whether everything around the attempt has been cancelled.
        interrupted: whether a `KeyboardInterrupt` may come from Ctrl-C; otherwise the agent has raised it itself.
        before: how the attempt had ended when this was raised, if a hook raised it.

    Raises:
        GeneratorExit: the attempt's coroutine is being closed.
    """
    if is_closing(exc, owner):
        raise exc
    if is_kind(exc, GeneratorExit):
        # Raised as it is by `step`, it would be mistaken for such a close.
        exc = _replaced("GeneratorExit", exc)
    if not interrupted:
        exc = _without_own_interruption(exc)
    stop, rest = split_stop(exc if cancelled else without_strays(exc))
    error = rest if rest is not None else _exception_of(before)
    # An agent may respond to its cancellation with an error of its own; it still counts as cancelled.
    if stop is not None or cancelled or error is None:
        return Cancelled(stop or (before.stop if isinstance(before, Cancelled) else None), error)
    return Raised(error)


def is_closing(exc: BaseException, owner: trio.lowlevel.Task | None) -> bool:
    """Whether an exception closes the coroutine of an attempt; `owner` is the task that runs it.

    A crashing Trio and the garbage collector close coroutines while their tasks do not run.
    """
    runs = trio.lowlevel.in_trio_task() and trio.lowlevel.current_task() is owner
    return is_kind(exc, GeneratorExit) and not runs


def _without_own_interruption(exc: BaseException) -> BaseException:
    """Return an exception with an error of the agent for each `KeyboardInterrupt` that no signal has caused."""
    own, rest = split(exc, (KeyboardInterrupt, Terminated))
    if own is None:
        return exc
    error = _replaced(class_name(next(leaves(own))), exc)
    return error if rest is None else BaseExceptionGroup("an interruption of the agent's own", [error, rest])


def _replaced(name: str, exc: BaseException) -> AgentError:
    error = AgentError.raised(name)
    error.__cause__ = exc
    return error


def _exception_of(ending: Ending) -> BaseException | None:
    return ending.exception if isinstance(ending, Raised | Cancelled) else None


class Verdict(NamedTuple):
    """The status and error that are recorded for an ending."""

    status: AttemptStatus
    exception: BaseException | None


SUCCEEDED: Final = Verdict("succeeded", None)


def settle(ending: Ending, *, late: bool, abandoned: AbandonedCall | None) -> Verdict:
    """Return the status of an attempt, and the exception for its error record, with notes.

    Args:
        ending: how the attempt ended.
        late: whether its deadline had passed by then.
        abandoned: its abandoned call, if any.
    """
    match ending:
        case Returned():
            return SUCCEEDED
        case Raised(exception):
            verdict = Verdict("failed", exception)
        case TimedOut(error):
            verdict = Verdict("timeout", error)
        case Silent(seconds):
            verdict = Verdict("unresponsive", AttemptTimedOut.after_silence(seconds))
        case Cancelled(_, exception):
            verdict = Verdict("cancelled", exception or RolloutCancelled.while_running())
    exception = verdict.exception
    assert exception is not None
    if late and exception is _exception_of(ending):
        note(exception, "The attempt's deadline had passed when this was raised.")
    if isinstance(ending, TimedOut | Silent) and ending.returned:
        note(exception, "Its return value was refused because it came too late.")
    if abandoned is not None:
        note(exception, f"Its {abandoned.kind} could not be stopped and was abandoned.")
    return verdict
