"""A page of query results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar, overload

import attrs

from .._plain_record import PlainRecord
from .._public import public
from .._repr import counted, one_line

T_co = TypeVar("T_co", covariant=True)


@public
@attrs.frozen
class PaginatedResult(PlainRecord, Sequence[T_co], Generic[T_co]):
    """A page of query results that is also a plain sequence; `limit` -1 means all."""

    items: Sequence[T_co]
    limit: int
    offset: int
    total: int

    @one_line
    def __repr__(self) -> str:
        what = type(self.items[0]).__name__ if self.items else "item"
        return f"<PaginatedResult: {len(self.items):,} of {counted(self.total, what)}, from {self.offset:,}>"

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | Sequence[T_co]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T_co]:
        return iter(self.items)
