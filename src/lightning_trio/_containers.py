"""Copies of users' lists and dicts, for holders that must not share one."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, TypeVar

import attrs

from ._public import public_in

T = TypeVar("T")

_KINDS: Final = frozenset({dict, list})


@public_in("lightning_trio.store")
def copy_containers(value: Any) -> Any:
    """Return a copy of nested lists and dicts; every other object, also of their subclasses, is shared.

    An agent that changes its copy changes no other attempt's. `copy.deepcopy` takes several times as long, and fails
    on objects that cannot be copied, such as clients. A value that contains itself is returned as it is, and so is one
    with a key that can no longer be hashed.

    >>> task = {"options": ["a", "b"]}
    >>> copy_containers(task)["options"].pop()
    'b'
    >>> task
    {'options': ['a', 'b']}
    """
    if type(value) not in _KINDS:
        return value
    for copied in _copied, _copied_while_changing:
        try:
            return copied(value)
        except (Exception, SystemExit):
            # Besides RecursionError, what a key's class raises.
            continue
    return value


def is_long_to_copy(value: Any) -> bool:
    """Whether `copy_containers` takes more than about a millisecond; looks at no more than it must.

    >>> is_long_to_copy([{"text": "x" * 1_000_000}])
    False
    >>> is_long_to_copy([{"text": "x"}] * 20_000)
    True
    """
    try:
        return type(value) in _KINDS and _left_after(value, _MANY_ITEMS) < 0
    except (Exception, SystemExit):
        # Such as one that contains itself.
        return False


def _left_after(value: Any, left: int) -> int:
    """Return how many of `left` items there are more than in a value, less than 0 if it has more."""
    left -= len(value)
    for inner in value.values() if type(value) is dict else value:
        if left < 0:
            break
        if type(inner) in _KINDS:
            left = _left_after(inner, left)
    return left


def copy_in_steps(value: Any) -> Generator[int, None, Any]:
    """Return `copy_containers` of a value; yield after each step how many items it has copied, 1,000 at most."""
    if type(value) not in _KINDS:
        return value
    try:
        return (yield from _copy_in_steps(value))
    except (Exception, SystemExit):
        # As in `copy_containers`, which can copy what is nested more deeply.
        return copy_containers(value)


def _copy_in_steps(value: Any) -> Generator[int, None, Any]:
    if type(value) is dict:
        entries: dict[Any, Any] = {}
        for key, inner in value.items():
            entries[key] = (yield from _copy_in_steps(inner)) if type(inner) in _KINDS else inner
            if len(entries) % _ITEMS_IN_A_STEP == 0:
                yield _ITEMS_IN_A_STEP
        yield len(entries) % _ITEMS_IN_A_STEP + 1
        return entries
    items: list[Any] = []
    for inner in value:
        items.append((yield from _copy_in_steps(inner)) if type(inner) in _KINDS else inner)
        if len(items) % _ITEMS_IN_A_STEP == 0:
            yield _ITEMS_IN_A_STEP
    yield len(items) % _ITEMS_IN_A_STEP + 1
    return items


_ITEMS_IN_A_STEP: Final = 1000
_MANY_ITEMS: Final = 10_000


@public_in("lightning_trio.store")
def copy_fields(record: T) -> T:
    """Return a record with copies of the lists and dicts in its fields, as `copy_containers` makes them.

    >>> from lightning_trio import Run
    >>> state = {"prompts": ["Hello"]}
    >>> stored = copy_fields(Run("run-1", state=state))
    >>> state["prompts"].append("Hi")
    >>> stored.state
    {'prompts': ['Hello']}
    """
    instance: Any = record
    copies = {
        name: copy
        for name, value in attrs.asdict(instance, recurse=False).items()
        if (copy := copy_containers(value)) is not value
    }
    changed: T = attrs.evolve(instance, **copies)
    return changed


def _copied(value: Any) -> Any:
    # Checking the types here saves a call for each leaf, which would take most of the time.
    if type(value) is dict:
        return {key: _copied(inner) if type(inner) in _KINDS else inner for key, inner in value.items()}
    # Of the list as it is now: another thread may append to it faster than it is read.
    return [_copied(inner) if type(inner) in _KINDS else inner for inner in value.copy()]


def _copied_while_changing(value: Any) -> Any:
    """Return a copy although another thread changes the value; slower, because each dict is copied twice."""
    if type(value) is dict:
        items = value.copy().items()
        return {key: _copied_while_changing(inner) if type(inner) in _KINDS else inner for key, inner in items}
    return [_copied_while_changing(inner) if type(inner) in _KINDS else inner for inner in value.copy()]
