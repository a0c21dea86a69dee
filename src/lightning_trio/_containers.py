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


def copy_in_steps(value: Any) -> Generator[None, None, Any]:
    """Return `copy_containers` of a large value; each step copies 1,000 items at most."""
    if type(value) not in _KINDS:
        return value
    try:
        return (yield from _copy_in_steps(value))
    except (Exception, SystemExit):
        # As in `copy_containers`, which can copy what is nested more deeply.
        return copy_containers(value)


def _copy_in_steps(value: Any) -> Generator[None, None, Any]:
    if type(value) is dict:
        entries: dict[Any, Any] = {}
        for key, inner in value.items():
            entries[key] = (yield from _copy_in_steps(inner)) if type(inner) in _KINDS else inner
            if len(entries) % _ITEMS_IN_A_STEP == 0:
                yield
        yield
        return entries
    items: list[Any] = []
    for inner in value:
        items.append((yield from _copy_in_steps(inner)) if type(inner) in _KINDS else inner)
        if len(items) % _ITEMS_IN_A_STEP == 0:
            yield
    yield
    return items


_ITEMS_IN_A_STEP: Final = 1000


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
