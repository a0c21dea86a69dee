"""Values that a store cannot keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from ._base import compose, public
from ._usage import UsageError


@public
class NotStorable(UsageError, TypeError, ValueError):
    """A task, resource or other value cannot be kept beyond the process; the message has the path to what cannot."""

    path: str | None = None
    """Where it is, from what was given to the store: ``task['images'][0]``."""

    rollout_id: str | None = None
    """The rollout whose spans cannot be kept."""

    @classmethod
    def kind(cls, path: str, kind: type) -> Self:
        """Return the error for an object of a class that has no stored form."""
        message = (
            f"{path}: object of type {kind.__module__}.{kind.__qualname__} cannot be stored; a store keeps what JSON "
            "has, tuples, sets, bytes, dates, enums, dataclasses, attrs classes, msgspec structs and pydantic models. "
            "Put a path, bytes or a plain value in its place, or use InMemoryLightningStore, which keeps any object"
        )
        return compose(cls, message, path=path)

    @classmethod
    def local_class(cls, path: str, kind: type) -> Self:
        """Return the error for an object whose class another process could not import."""
        message = (
            f"{path}: the class {kind.__qualname__} is defined inside a function, so that another process could not "
            "find it; define it at the top of its module"
        )
        return compose(cls, message, path=path)

    @classmethod
    def resource_with_more(cls, path: str, kind: type, attributes: Sequence[str]) -> Self:
        """Return the error for a resource with attributes that are not among its fields."""
        message = (
            f"{path}: the resource {kind.__qualname__} holds {', '.join(attributes)}, which no store would keep, for a "
            f"store keeps fields; write:\n    @attrs.frozen\n    class {kind.__name__}(Resource):\n"
            f"        {attributes[0]}: …"
        )
        return compose(cls, message, path=path)

    @classmethod
    def too_deep(cls, path: str) -> Self:
        """Return the error for a value that has no end, or none in sight."""
        return compose(cls, f"{path} contains itself or is nested too deeply to be stored", path=path)

    @classmethod
    def spans(cls, rollout_id: str, why: object) -> Self:
        """Return the error for spans with an attribute that cannot be written."""
        message = f"the spans of rollout {rollout_id} cannot be stored: {why}"
        return compose(cls, message, rollout_id=rollout_id)

    @classmethod
    def by_postgres(cls, said: str) -> Self:
        """Return the error for a value that PostgreSQL does not take."""
        return compose(cls, f"PostgreSQL cannot keep a value ({said}); leave out what it names")


@public
class PayloadTooLarge(NotStorable):
    """A value takes more bytes than its store keeps in one piece."""

    size: int | None = None
    """How many bytes it takes."""

    limit: int | None = None
    """How many the store keeps: its `max_payload_bytes`."""

    @classmethod
    def value(cls, path: str, size: int, limit: int) -> Self:
        """Return the error for a task, a resource or the like."""
        message = (
            f"{path} takes {size:,} bytes, the store's limit is {limit:,}; keep large data in files and put their "
            "paths into it, or raise the limit with max_payload_bytes=…"
        )
        return compose(cls, message, path=path, size=size, limit=limit)

    @classmethod
    def all_spans(cls, rollout_id: str, number: int, size: int, limit: int) -> Self:
        """Return the error for the spans of one attempt together."""
        message = (
            f"{number} spans of rollout {rollout_id} take {size:,} bytes, the store's limit is {limit:,}; record less, "
            "or raise the limit with max_payload_bytes=…"
        )
        return compose(cls, message, rollout_id=rollout_id, size=size, limit=limit)
