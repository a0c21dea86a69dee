"""The value of parameters that are not given, where None is a value."""

from __future__ import annotations

from .._public import public_in


@public_in("lightning_trio.store")
class Unset:
    """The type of `UNSET`, the value of parameters that are not given, where None is a value."""

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET = Unset()
