"""Exception groups: nurseries raise them, and callers expect the exception inside.

The groups of agents are of any class and depth, so their own methods are not relied on, and nothing is recursive.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias, TypeGuard, TypeVar, cast, overload

import trio

from .._errors import AgentError, Terminated
from .._exception_text import members_of

Kinds: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]

E = TypeVar("E", bound=BaseException)

_STOPS = (trio.Cancelled, KeyboardInterrupt, Terminated)


@overload
def is_kind(exc: BaseException, kinds: type[E]) -> TypeGuard[E]: ...
@overload
def is_kind(exc: BaseException, kinds: tuple[type[BaseException], ...]) -> bool: ...
def is_kind(exc: BaseException, kinds: Kinds) -> bool:
    """Whether an exception is of a class; `isinstance` also asks its ``__class__``, which may be any property."""
    return issubclass(type(exc), kinds)


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions inside nested groups in order, each once, or the exception itself if it is no group."""
    waiting, seen = [exc], set[int]()
    while waiting:
        each = waiting.pop()
        # A group that several others share could have more paths to it than can be walked.
        if id(each) in seen:
            continue
        seen.add(id(each))
        if is_kind(each, BaseExceptionGroup):
            waiting.extend(reversed(members_of(each)))
        else:
            yield each


def sole_exception(exc: BaseException) -> BaseException:
    """Return the only exception inside nested groups, or the group if there are several."""
    inner = exc
    while is_kind(inner, BaseExceptionGroup):
        members = members_of(inner)
        if len(members) != 1:
            return exc
        inner = members[0]
    return inner


class Split(NamedTuple):
    """The part of an exception that is of some classes, and the rest; None for what there is not."""

    matching: BaseException | None
    rest: BaseException | None


def split(exc: BaseException, kinds: Kinds) -> Split:
    """Split an exception, which need not be a group, like `BaseExceptionGroup.split`."""
    matching: list[BaseException] = []
    rest: list[BaseException] = []
    for each in leaves(exc):
        (matching if is_kind(each, kinds) else rest).append(each)
    if not matching:
        return Split(None, exc)
    if not rest:
        return Split(exc, None)
    try:
        return Split(*BaseExceptionGroup.split(cast("BaseExceptionGroup[BaseException]", exc), kinds))
    except BaseException:
        # It calls `derive`, which a class of groups may define, and its depth is limited.
        return Split(BaseExceptionGroup("of a group", matching), BaseExceptionGroup("of a group", rest))


def split_stop(exc: BaseException) -> Split:
    """Split an exception into what must propagate (cancellation, Ctrl-C, SIGTERM), and the remaining exceptions."""
    return split(exc, _STOPS)


def without_strays(exc: BaseException) -> BaseException:
    """Remove every `trio.Cancelled` from an exception that was raised where no scope is cancelled.

    A `trio.Cancelled` that was kept and raised again elsewhere belongs to no scope there: a nursery would take it for
    its own and end without an error. Returns the other exceptions, or an `AgentError` if there are none.
    """
    stray, rest = split(exc, trio.Cancelled)
    if stray is None:
        return exc
    if rest is not None:
        return rest
    error = AgentError.stray_cancellation()
    error.__cause__ = exc
    return error


def note(exc: BaseException, text: str) -> None:
    """Add a note to an exception once; one that accepts no notes, such as a frozen dataclass, is left as it is."""
    try:
        if text not in getattr(exc, "__notes__", ()):
            exc.add_note(text)
    except BaseException:
        # Notes explain an error; they must not replace it.
        return


def find_interruption(exc: BaseException) -> BaseException | None:
    """Return a new `KeyboardInterrupt` or `Terminated` if `exc` contains one."""
    for each in leaves(exc):
        if is_kind(each, Terminated):
            return Terminated()
        if is_kind(each, KeyboardInterrupt):
            return KeyboardInterrupt()
    return None


def flat(exc: BaseException) -> BaseException:
    """Return a new Ctrl-C or SIGTERM if an exception contains one, else its only exception, else itself."""
    return find_interruption(exc) or sole_exception(exc)
