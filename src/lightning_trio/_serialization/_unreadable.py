"""What stands in place of stored values that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, final

from .._public import public_in


@public_in("lightning_trio.store")
@final
class Unreadable(Mapping[str, Any]):
    """Stands in place of a task, metadata or an algorithm's state that cannot be read, and says why.

    Such as a task with a set of objects whose class has lost its ``__hash__`` since it was stored. It is an empty
    mapping, because readers of metadata expect one. Recognise it by `type(task) is Unreadable`: `isinstance` asks an
    object what it is.

    >>> task = Unreadable("unhashable type: 'Room'")
    >>> task
    Unreadable("unhashable type: 'Room'")
    """

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason: str = reason

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason!r})"

    def __getitem__(self, key: str, /) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
