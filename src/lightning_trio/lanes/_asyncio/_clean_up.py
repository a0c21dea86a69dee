"""The clean-up of a stopped call, which may end what other calls wait for and make them fail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

from ..._concurrency import is_kind, leaves
from ..._exception_text import cause_of, context_of

_AT_ONCE = 10
"""How many passes of the loop an agent that was woken needs at most until it fails because of that.

What it raises may pass through a child, a group, `asyncio.wait_for` and the lock of a condition: each takes a pass.
"""

_MOST_ERRORS = 100
"""How many exceptions to look at behind one error."""


class Disturbed(Protocol):
    """A call that waits for what the clean-up of another one ends."""

    disturbances: list[Disturbance] | None

    @property
    def is_ending(self) -> bool:
        """Whether its agent has returned or raised."""
        ...


class CleanUp:
    """What a call does from its cancellation to its end.

    Args:
        rollout: the call's rollout, as text for a log.
    """

    __slots__ = ("_is_over", "_rollout", "_watched")

    def __init__(self, rollout: str) -> None:
        self._rollout = rollout
        self._is_over = False
        # By identity, and with the methods of asyncio: the class of a future may be an agent's, without a hash.
        self._watched: dict[tuple[int, int], tuple[asyncio.Future[object], Watch]] = {}

    def watch(self, future: asyncio.Future[object], call: Disturbed) -> None:
        """Note it as a disturbance of a call if what it waits for is done before the clean-up is over."""
        key = (id(future), id(call))
        if key not in self._watched and issubclass(type(future), asyncio.Future):
            watch = Watch(self, call)
            self._watched[key] = (future, watch)
            asyncio.Future.add_done_callback(future, watch)

    def end(self) -> None:
        """End it: what is done from now on is no longer its doing."""
        self._is_over = True
        watched = list(self._watched.values())
        self._watched.clear()
        for future, watch in watched:
            # It compares the callbacks, which may be of an agent's class.
            with suppress(Exception):
                asyncio.Future.remove_done_callback(future, watch)

    def disturb(self, future: asyncio.Future[object], call: Disturbed) -> None:
        """Note a disturbance of a call."""
        if not self._is_over:
            call.disturbances = [*(call.disturbances or ()), Disturbance(self._rollout, future, call)]


class Watch:
    """A callback of what another call waits for; it is not one that waits."""

    __slots__ = ("_call", "_clean_up")

    def __init__(self, clean_up: CleanUp, call: Disturbed) -> None:
        self._clean_up = clean_up
        self._call = call

    def __call__(self, future: asyncio.Future[object]) -> None:
        """Note that the future is done."""
        self._clean_up.disturb(future, self._call)


class Disturbance:
    """Something that a call waited for and that the clean-up of another one ended.

    Args:
        rollout: the rollout that was cleaned up.
        future: what has been done.
        call: the call that waited for it.
    """

    __slots__ = ("_call", "_error", "_is_recent", "rollout")

    def __init__(self, rollout: str, future: asyncio.Future[object], call: Disturbed) -> None:
        self.rollout = rollout
        self._error = _error_of(future)
        self._call = call
        self._is_recent = True
        self._pass(_AT_ONCE)

    def _pass(self, left: int) -> None:
        if self._call.is_ending:
            return
        if left:
            asyncio.get_running_loop().call_soon(self._pass, left - 1)
        else:
            self._is_recent = False

    def made_fail(self, exc: BaseException) -> bool:
        """Whether what the call raised stems from it: it was raised at once, or with its error behind it."""
        if self._is_recent:
            return True
        if self._error is None:
            return False
        if is_kind(self._error, asyncio.CancelledError):
            return any(is_kind(each, asyncio.CancelledError) for each in _errors_behind(exc))
        caused = {id(each) for each in leaves(self._error)}
        return any(id(each) in caused for each in _errors_behind(exc))


def _error_of(future: asyncio.Future[object]) -> BaseException | None:
    if asyncio.Future.cancelled(future):
        return asyncio.CancelledError()
    return asyncio.Future.exception(future)


def _errors_behind(exc: BaseException) -> Iterator[BaseException]:
    """Yield the members of an error, of its causes, and of theirs."""
    errors: list[BaseException | None] = [exc]
    for each in errors:
        if each is None:
            continue
        for leaf in leaves(each):
            yield leaf
            if len(errors) < _MOST_ERRORS:
                errors += (cause_of(leaf), context_of(leaf))
        if is_kind(each, BaseExceptionGroup) and len(errors) < _MOST_ERRORS:
            errors += (cause_of(each), context_of(each))
