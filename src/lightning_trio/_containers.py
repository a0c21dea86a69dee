"""Copies of users' lists and dicts, for holders that must not share one."""

from __future__ import annotations

from typing import Any, Final

from ._public import public_in

_KINDS: Final = frozenset({dict, list})


@public_in("lightning_trio.store")
def copy_containers(value: Any) -> Any:
    """Return a copy of nested lists and dicts; every other object, also of their subclasses, is shared.

    An agent that changes its copy changes no other attempt's. `copy.deepcopy` takes several times as long, and fails
    on objects that cannot be copied, such as clients. A value that contains itself is returned as it is.

    >>> task = {"options": ["a", "b"]}
    >>> copy_containers(task)["options"].pop()
    'b'
    >>> task
    {'options': ['a', 'b']}
    """
    if type(value) not in _KINDS:
        return value
    try:
        return _copied(value)
    except RecursionError:
        return value


def _copied(value: Any) -> Any:
    # Checking the types here saves a call for each leaf, which would take most of the time.
    if type(value) is dict:
        return {key: _copied(inner) if type(inner) in _KINDS else inner for key, inner in value.items()}
    return [_copied(inner) if type(inner) in _KINDS else inner for inner in value]
