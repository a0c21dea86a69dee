"""Lists and dicts of users: copied where two holders must not share one."""

from __future__ import annotations

from typing import Any, Final

from ._public import public_in

_KINDS: Final = frozenset({dict, list})


@public_in("lightning_trio.store")
def copy_containers(value: Any) -> Any:
    """Copy lists and dicts and those in them; everything else is kept as it is, subclasses of the two included.

    What an agent does to such a copy touches no other attempt's. `copy.deepcopy` takes several times as long, and
    fails where there is an object that cannot be copied, such as a client. What contains itself is kept as it is.

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
    # Looking at the types here saves a call for each leaf, which is most of the time.
    if type(value) is dict:
        return {key: _copied(inner) if type(inner) in _KINDS else inner for key, inner in value.items()}
    return [_copied(inner) if type(inner) in _KINDS else inner for inner in value]
