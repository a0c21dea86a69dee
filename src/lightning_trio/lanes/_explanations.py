"""Explanations of errors that an agent would not raise in another lane, as notes on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .._concurrency import is_kind, leaves, note
from .._errors import UsageError
from .._exception_text import cause_of, context_of
from ._wrong_loop import find_trio_sign

_MOST_LINKS = 20
"""How many exceptions of a chain of causes are looked at."""

_LONGEST_SIGN = 10_000
"""How many characters of a message are searched for a sign; searching a message of 60 MB would stop Trio's loop."""

_SIGNALS = (
    "Only the main thread can handle signals, and this agent runs in another one. In a worker process it runs in the "
    'main thread: write runs_in="process". To limit its time, write config=agl.RolloutConfig(timeout_seconds=…)'
)

_OTHER_LOOP = (
    "A client, session or lock of asyncio works only in the event loop that it was first used in, and asyncio.run "
    'makes a new loop for every rollout. Write an async def agent with runs_in="asyncio", which has one loop for all '
    "rollouts, or make the object in the function that asyncio.run runs"
)

_NOT_THE_LANES_LOOP = (
    "A client, session or lock of asyncio works only in the event loop that it was first used in. With "
    'runs_in="asyncio" that is the lane\'s loop: make and use the object in such agents only, and not with asyncio.run'
)

_ASYNCIO_IN_TRIO = (
    "Its cause is a call of asyncio, which does not run in Trio: a library that this agent uses is written for "
    'asyncio. Write runs_in="asyncio"'
)

_TRIO_IN_ASYNCIO = "Its cause is a call of Trio, which does not run in asyncio. Leave runs_in out"

_SECOND_LOOP = (
    "This agent runs in an event loop already. Await the coroutine instead, or run the call that starts a loop in a "
    "thread: await asyncio.to_thread(…), or write the agent as a plain def"
)

_SECOND_LOOP_SIGNS = ("cannot be called from a running event loop", "This event loop is already running")

_ONE_FORK_AT_A_TIME = (
    "filelock, which Hugging Face's libraries load, lets only one thread fork at a time. Start processes with "
    'multiprocessing.get_context("forkserver") or with subprocess, or write runs_in="process"'
)

_LOOP_SIGNS = ("Event loop is closed", "is bound to a different event loop", "attached to a different loop")


def explain(exc: BaseException, lane: str) -> None:
    """Add a note to an agent's error if another lane, or another place for an object, would avoid it.

    Args:
        exc: the error.
        lane: the lane that the agent ran in.
    """
    if is_kind(exc, UsageError):
        # Its message says what to write.
        return
    for each in _chain(exc):
        text = _explanation(each, lane)
        if text is not None:
            note(exc, text)
            return


def _explanation(exc: BaseException, lane: str) -> str | None:
    arguments = _args_of(exc)
    message = arguments[0] if arguments else None
    if type(exc) not in (RuntimeError, TypeError, ValueError, AttributeError) or type(message) is not str:
        # These are all built-in errors with a text; str() of others may run code of the agent's.
        return None
    message = message[:_LONGEST_SIGN]
    if "only works in main thread" in message and lane != "process":
        return _SIGNALS
    if "fork is unsafe while filelock" in message and lane != "process":
        return _ONE_FORK_AT_A_TIME
    if any(sign in message for sign in _LOOP_SIGNS):
        return _NOT_THE_LANES_LOOP if lane == "asyncio" else _OTHER_LOOP
    if lane == "asyncio" and any(sign in message for sign in _SECOND_LOOP_SIGNS):
        return _SECOND_LOOP
    if "trio.run received unrecognized yield message" in message:
        return _ASYNCIO_IN_TRIO
    if lane == "asyncio" and find_trio_sign(exc) is not None:
        return _TRIO_IN_ASYNCIO
    return None


# As `BaseException` defines it: an agent's class may have another.
_args_of: Callable[[BaseException], tuple[object, ...]] = vars(BaseException)["args"].__get__


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Yield an exception, the members of a group, and what they were raised from."""
    waiting, seen = [exc], set[int]()
    while waiting and len(seen) < _MOST_LINKS:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if is_kind(each, BaseExceptionGroup):
            waiting.extend(leaves(each))
        cause = cause_of(each)
        before = context_of(each) if cause is None else cause
        if before is not None:
            waiting.append(before)
