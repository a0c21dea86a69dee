"""How an attempt ended, as one value, and what follows from it.

Nothing here waits or looks at a clock: `ending_of` sorts out what was raised, `settle` says what is recorded of it.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import attrs
import trio

from .._concurrency import split_stop, without_strays
from .._errors import AgentError, AttemptTimedOut, RolloutCancelled
from .._records import AttemptStatus
from ..lanes import AbandonedCall


@attrs.frozen
class Returned:
    """The agent returned in time, and what it returned is recorded."""


@attrs.frozen(eq=False)
class Raised:
    """The agent raised `exception`, or it is why the agent could not be called or its return value was refused."""

    exception: BaseException


@attrs.frozen(eq=False)
class TimedOut:
    """The time was up.

    Args:
        error: the error for its record.
        final: whether there is no time left for another attempt.
        returned: whether the agent returned all the same: it never yielded, or it swallowed its cancellation.
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
        stop: the cancellation or Ctrl-C, which must go on up once the outcome is safe; None if the agent took it.
        exception: the agent's own error, if it answered with one.
    """

    stop: BaseException | None
    exception: BaseException | None = None


Ending: TypeAlias = Returned | Raised | TimedOut | Silent | Cancelled

RETURNED: Final = Returned()


def ending_of(
    exc: BaseException, owner: trio.lowlevel.Task | None, *, cancelled: bool, before: Ending = RETURNED
) -> Ending:
    """Return the ending that an exception stands for: what must go on up is told apart from the attempt's own error.

    Args:
        exc: what came out of the attempt.
        owner: the task that runs the attempt.
        cancelled: whether everything around the attempt has been cancelled.
        before: how the attempt had ended when this was raised, as it may have been by a hook.

    Raises:
        GeneratorExit: the attempt's own coroutine is being closed.
    """
    if isinstance(exc, GeneratorExit):
        exc = _raised_generator_exit(exc, owner)
    stop, rest = split_stop(exc if cancelled else without_strays(exc))
    error = rest if rest is not None else _exception_of(before)
    # An agent may answer its cancellation with an error of its own; it was stopped all the same.
    if stop is not None or cancelled or error is None:
        return Cancelled(stop, error)
    return Raised(error)


def _exception_of(ending: Ending) -> BaseException | None:
    return ending.exception if isinstance(ending, Raised | Cancelled) else None


def _raised_generator_exit(exc: GeneratorExit, owner: trio.lowlevel.Task | None) -> AgentError:
    # Trio, when it crashes, and the garbage collector close coroutines while their tasks do not run.
    if not (trio.lowlevel.in_trio_task() and trio.lowlevel.current_task() is owner):
        raise exc
    # As it is it would be taken for such a close wherever `step` raises it.
    error = AgentError.raised("GeneratorExit")
    error.__cause__ = exc
    return error


class Verdict(NamedTuple):
    """What is recorded of an ending."""

    status: AttemptStatus
    exception: BaseException | None


SUCCEEDED: Final = Verdict("succeeded", None)


def settle(ending: Ending, *, late: bool, abandoned: AbandonedCall | None) -> Verdict:
    """Return the status of an attempt that ended so, and the exception for its error record, with notes.

    Args:
        ending: how the attempt ended.
        late: whether its deadline had passed by then.
        abandoned: what still runs of it.
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
        exception.add_note("The attempt's deadline had passed when this was raised.")
    if isinstance(ending, TimedOut | Silent) and ending.returned:
        exception.add_note("What it returned was refused, for it came too late.")
    if abandoned is not None:
        exception.add_note(f"Its {abandoned.kind} could not be stopped and was abandoned.")
    return verdict
