"""How an attempt ended: which ending an exception stands for, and what is recorded of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import trio

import lightning_trio as agl
from lightning_trio._errors import Terminated
from lightning_trio._runner._ending import (
    RETURNED,
    Cancelled,
    Ending,
    Raised,
    Silent,
    TimedOut,
    ending_of,
    settle,
)

LATE = "The attempt's deadline had passed when this was raised."
REFUSED = "Its return value was refused because it came too late."
ABANDONED = "Its thread could not be stopped and was abandoned."


class Abandoned:
    kind: ClassVar[str] = "thread"

    def when_ended(self, fn: Callable[[], None]) -> None:
        raise AssertionError


@pytest.fixture
async def cancelled() -> trio.Cancelled:
    """A cancellation of Trio's, which only Trio can make."""
    caught: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as exc:
            caught.append(exc)
            raise
    return caught[0]


def notes(exc: BaseException | None) -> list[str]:
    return list(getattr(exc, "__notes__", ()))


# What is recorded.

ENDINGS: dict[str, tuple[Callable[[], Ending], str, type[BaseException] | None, str]] = {
    "returned": (lambda: RETURNED, "succeeded", None, ""),
    "raised": (lambda: Raised(KeyError("tea")), "failed", KeyError, "'tea'"),
    "timed out": (lambda: TimedOut(agl.AttemptTimedOut.at_deadline(2.0)), "timeout", agl.AttemptTimedOut, "after 2 s"),
    "timed out, returned": (
        lambda: TimedOut(agl.AttemptTimedOut.returned_late(2.0), returned=True),
        "timeout",
        agl.AttemptTimedOut,
        "returned after its deadline",
    ),
    "silent": (lambda: Silent(3.0), "unresponsive", agl.AttemptTimedOut, "recorded nothing for 3 s"),
    "silent, returned": (lambda: Silent(3.0, returned=True), "unresponsive", agl.AttemptTimedOut, "nothing for 3 s"),
    "cancelled": (lambda: Cancelled(None), "cancelled", agl.RolloutCancelled, "cancelled while it ran"),
    "cancelled, with an error": (lambda: Cancelled(None, KeyError("tea")), "cancelled", KeyError, "'tea'"),
    "interrupted": (lambda: Cancelled(KeyboardInterrupt()), "cancelled", agl.RolloutCancelled, "cancelled"),
}
OWN_ERROR = {"raised", "cancelled, with an error"}
RETURNED_LATE = {"timed out, returned", "silent, returned"}


@pytest.mark.parametrize("abandoned", [False, True], ids=["all ended", "abandoned"])
@pytest.mark.parametrize("late", [False, True], ids=["in time", "late"])
@pytest.mark.parametrize("name", ENDINGS)
def test_an_ending_has_its_status_its_error_and_its_notes(name: str, late: bool, abandoned: bool) -> None:
    make, status, kind, message = ENDINGS[name]

    verdict = settle(make(), late=late, abandoned=Abandoned() if abandoned else None)

    assert verdict.status == status
    assert type(verdict.exception) is (kind or type(None))
    assert message in str(verdict.exception)
    expected = [LATE] if late and name in OWN_ERROR else []
    expected += [REFUSED] if name in RETURNED_LATE else []
    expected += [ABANDONED] if abandoned and kind is not None else []
    assert notes(verdict.exception) == expected


def test_the_agents_own_error_is_recorded_itself() -> None:
    error = KeyError("tea")

    assert settle(Raised(error), late=False, abandoned=None).exception is error
    assert settle(Cancelled(None, error), late=False, abandoned=None).exception is error


# Which ending an exception stands for.


def test_an_error_is_the_attempts_own() -> None:
    error = KeyError("tea")

    ending = ending_of(error, None, cancelled=False)

    assert isinstance(ending, Raised)
    assert ending.exception is error


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Terminated()], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_propagates(stop: BaseException) -> None:
    ending = ending_of(stop, None, cancelled=False)

    assert isinstance(ending, Cancelled)
    assert ending.stop is stop
    assert ending.exception is None


def test_a_group_with_a_signal_is_split_into_that_and_the_agents_error() -> None:
    error = KeyError("tea")

    ending = ending_of(BaseExceptionGroup("", [KeyboardInterrupt(), error]), None, cancelled=False)

    assert isinstance(ending, Cancelled)
    assert isinstance(ending.stop, BaseExceptionGroup)
    assert [type(each) for each in ending.stop.exceptions] == [KeyboardInterrupt]
    assert isinstance(ending.exception, BaseExceptionGroup)
    assert ending.exception.exceptions == (error,)


async def test_a_cancellation_propagates(cancelled: trio.Cancelled) -> None:
    ending = ending_of(cancelled, None, cancelled=True)

    assert isinstance(ending, Cancelled)
    assert ending.stop is cancelled


async def test_an_error_beside_a_cancellation_is_kept(cancelled: trio.Cancelled) -> None:
    group = BaseExceptionGroup("", [cancelled, BaseExceptionGroup("", [KeyError("tea")])])

    ending = ending_of(group, None, cancelled=True)

    assert isinstance(ending, Cancelled)
    assert isinstance(ending.stop, BaseExceptionGroup)
    assert ending.stop.exceptions == (cancelled,)
    assert isinstance(ending.exception, BaseExceptionGroup)


def test_an_error_that_answers_a_cancellation_does_not_undo_it() -> None:
    error = KeyError("tea")

    ending = ending_of(error, None, cancelled=True)

    assert isinstance(ending, Cancelled)
    assert ending.stop is None
    assert ending.exception is error


async def test_a_stray_cancellation_is_an_error_of_the_agent(cancelled: trio.Cancelled) -> None:
    ending = ending_of(cancelled, None, cancelled=False)

    assert isinstance(ending, Raised)
    assert isinstance(ending.exception, agl.AgentError)
    assert ending.exception.__cause__ is cancelled


async def test_of_a_group_with_a_stray_cancellation_the_rest_counts(cancelled: trio.Cancelled) -> None:
    error = KeyError("tea")

    ending = ending_of(BaseExceptionGroup("", [cancelled, error]), None, cancelled=False)

    assert isinstance(ending, Raised)
    assert isinstance(ending.exception, BaseExceptionGroup)
    assert ending.exception.exceptions == (error,)


async def test_a_signal_beside_a_stray_cancellation_propagates(cancelled: trio.Cancelled) -> None:
    ending = ending_of(BaseExceptionGroup("", [cancelled, KeyboardInterrupt()]), None, cancelled=False)

    assert isinstance(ending, Cancelled)
    assert isinstance(ending.stop, BaseExceptionGroup)
    assert [type(each) for each in ending.stop.exceptions] == [KeyboardInterrupt]


async def test_generator_exit_in_the_attempts_own_task_is_an_error_of_the_agent() -> None:
    exc = GeneratorExit()

    ending = ending_of(exc, trio.lowlevel.current_task(), cancelled=False)

    assert isinstance(ending, Raised)
    assert isinstance(ending.exception, agl.AgentError)
    assert ending.exception.__cause__ is exc


def test_generator_exit_from_outside_closes_the_attempt() -> None:
    with pytest.raises(GeneratorExit):
        ending_of(GeneratorExit(), None, cancelled=False)


async def test_generator_exit_while_another_task_runs_closes_the_attempt() -> None:
    """The garbage collector may close a coroutine in any task."""
    async with trio.open_nursery() as nursery:
        other = await nursery.start(report_task)

        with pytest.raises(GeneratorExit):
            ending_of(GeneratorExit(), other, cancelled=False)

        nursery.cancel_scope.cancel()


async def report_task(task_status: trio.TaskStatus[trio.lowlevel.Task]) -> None:
    task_status.started(trio.lowlevel.current_task())
    await trio.sleep_forever()


# What a closing hook lets through, after the attempt has ended.


async def test_a_cancellation_after_an_error_keeps_the_error(cancelled: trio.Cancelled) -> None:
    error = KeyError("tea")

    ending = ending_of(cancelled, None, cancelled=True, before=Raised(error))

    assert isinstance(ending, Cancelled)
    assert ending.stop is cancelled
    assert ending.exception is error


async def test_a_cancellation_after_a_return_has_no_error(cancelled: trio.Cancelled) -> None:
    ending = ending_of(cancelled, None, cancelled=True, before=RETURNED)

    assert isinstance(ending, Cancelled)
    assert ending.exception is None


def test_an_error_after_an_error_is_the_later_one() -> None:
    later = ValueError("later")

    ending = ending_of(later, None, cancelled=False, before=Raised(KeyError("tea")))

    assert isinstance(ending, Raised)
    assert ending.exception is later
