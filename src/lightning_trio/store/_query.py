"""Queries for records: filter, sort, page. A store may translate them or run them on its records with `select`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import attrs

from .._public import public_in
from .._records import Attempt, PaginatedResult, ResourcesUpdate, Rollout, Run, Worker
from .._spans import Span

Table: TypeAlias = Literal["rollouts", "attempts", "spans", "resources", "workers", "runs"]
SortOrder: TypeAlias = Literal["asc", "desc"]
FilterLogic: TypeAlias = Literal["and", "or"]

_FIELDS: Final[Mapping[Table, frozenset[str]]] = {
    "rollouts": frozenset(attrs.fields_dict(Rollout)),
    "attempts": frozenset(attrs.fields_dict(Attempt)),
    "spans": frozenset(attrs.fields_dict(Span)),
    "resources": frozenset(attrs.fields_dict(ResourcesUpdate)),
    "workers": frozenset(attrs.fields_dict(Worker)),
    "runs": frozenset(attrs.fields_dict(Run)),
}


def _distinct(values: Collection[Any] | None) -> frozenset[Any] | None:
    if isinstance(values, str):
        # `in` would look for a substring.
        raise ValueError(f"a filter takes a collection of values, not the string {values!r}; write [{values!r}]")
    return None if values is None else frozenset(values)


@public_in("lightning_trio.store")
@attrs.frozen
class Condition:
    """Keep records whose `field` is one of `within`, or whose text has `contains` in it."""

    field: str
    within: Collection[Any] | None = attrs.field(default=None, converter=_distinct)
    contains: str | None = None

    def holds(self, record: object) -> bool:
        """Whether `record` meets the condition."""
        value = getattr(record, self.field)
        if self.within is not None:
            return value in self.within
        return value is not None and self.contains is not None and self.contains in value


@public_in("lightning_trio.store")
@attrs.frozen
class Query:
    """Describe which records of one table to return.

    A record meets all of `must`, and all of `conditions` or, with `logic` ``"or"``, any of them (no conditions: every
    record does). Records are in order of creation unless `sort_by` names a field. `limit` -1 means all.
    """

    table: Table
    must: Sequence[Condition] = ()
    conditions: Sequence[Condition] = ()
    logic: FilterLogic = "and"
    sort_by: str | None = None
    sort_order: SortOrder = "asc"
    limit: int = -1
    offset: int = 0

    def __attrs_post_init__(self) -> None:
        fields = _FIELDS.get(self.table)
        if fields is None:
            raise ValueError(f"table={self.table!r}; pass one of {', '.join(_FIELDS)}")
        if self.sort_by is not None and self.sort_by not in fields:
            raise ValueError(
                f"sort_by={self.sort_by!r} is not a field of {self.table}; pass one of {', '.join(sorted(fields))}"
            )
        for condition in (*self.must, *self.conditions):
            if condition.field not in fields:
                raise ValueError(f"{self.table} have no field {condition.field!r} to filter by")
        if self.logic not in ("and", "or"):
            raise ValueError(f"filter_logic={self.logic!r}; pass 'and' or 'or'")
        if self.sort_order not in ("asc", "desc"):
            raise ValueError(f"sort_order={self.sort_order!r}; pass 'asc' or 'desc'")
        if self.limit < -1:
            raise ValueError(f"limit={self.limit!r}; pass a number of records, or -1 for all")
        if self.offset < 0:
            raise ValueError(f"offset={self.offset!r}; pass 0 or more")

    def required(self, field: str) -> Collection[Any] | None:
        """Return the values of which `field` must be one, None for any; for stores that look records up."""
        required = [*self.must, *(self.conditions if self.logic == "and" or len(self.conditions) == 1 else ())]
        found = [condition.within for condition in required if condition.field == field]
        return next((values for values in found if values is not None), None)


@public_in("lightning_trio.store")
def select(records: Iterable[Any], query: Query) -> PaginatedResult[Any]:
    """Run `query` on records, given in order of creation."""
    found = [record for record in records if _matches(record, query)]
    if query.sort_by is not None:
        found.sort(key=lambda record: _sort_key(record, query))
    if query.sort_order == "desc":
        found.reverse()
    end = None if query.limit < 0 else query.offset + query.limit
    return PaginatedResult(found[query.offset : end], query.limit, query.offset, len(found))


def _matches(record: object, query: Query) -> bool:
    if not all(condition.holds(record) for condition in query.must):
        return False
    if not query.conditions:
        return True
    some = any if query.logic == "or" else all
    return some(condition.holds(record) for condition in query.conditions)


def _sort_key(record: object, query: Query) -> Any:
    field = query.sort_by
    assert field is not None
    value = getattr(record, field)
    if value is None:
        # A missing time sorts last, other missing values first; the flag keeps types apart.
        return (1, math.inf) if field.endswith("_time") else (0, 0)
    if not isinstance(value, str | int | float):
        raise ValueError(f"sort_by={field!r}: {query.table} cannot be sorted by a {type(value).__name__}")
    return (1, value)
