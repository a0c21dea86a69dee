"""Values that a store cannot keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

from .._exception_text import bare_name, class_name, message_of
from .._plain_values import without_surrogates
from ._base import compose, public
from ._usage import UsageError

_PLAIN: Final = ("to_dict", "to_dicts", "to_pylist", "tolist", "to_list")
"""Methods of tables, rows and arrays that return plain values."""


@public
class NotStorable(UsageError, TypeError, ValueError):
    """A task, resource or other value cannot be stored; the message has the path to the part that cannot."""

    path: str | None = None
    """The path to the part that cannot be stored: ``task['images'][0]``."""

    rollout_id: str | None = None
    """The rollout whose spans cannot be stored."""

    @classmethod
    def kind(cls, path: str, kind: type) -> Self:
        """Return the error for an object of a class that has no stored form."""
        plain = next((f"its {method}(), " for method in _PLAIN if hasattr(kind, method)), "")
        message = (
            f"{path}: object of type {kind.__module__}.{kind.__qualname__} cannot be stored; a store keeps what JSON "
            "has, tuples, sets, bytes, dates, enums, dataclasses, attrs classes, msgspec structs, pydantic models and "
            f"NumPy's arrays. Put {plain}a path, bytes or a plain value in its place, or use InMemoryLightningStore, "
            "which keeps any object"
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
    def unfindable_class(cls, path: str, kind: type) -> Self:
        """Return the error for an object whose class is not in its module under its name."""
        message = (
            f"{path}: the module {kind.__module__} has no class {kind.__qualname__}, so that another process could not "
            "find it; pass a dict in its place (_asdict() of a named tuple, model_dump() of a model)"
        )
        return compose(cls, message, path=path)

    @classmethod
    def unreadable(cls, path: str, value: object, error: BaseException) -> Self:
        """Return the error for an object that could not be made again from what a store would keep of it."""
        message = (
            f"{path}: this {class_name(value)} could be stored and not read again ({_described(error)}); pass a "
            "dict of what matters in its place"
        )
        return compose(cls, message, path=path)

    @classmethod
    def raising(cls, path: str, kind: type, error: BaseException) -> Self:
        """Return the error for an object whose own methods raise while it is read."""
        message = (
            f"{path}: this {bare_name(kind)} cannot be stored, because reading it raised {_described(error)}; pass a "
            "dict of what matters in its place"
        )
        return compose(cls, message, path=path)

    @classmethod
    def array(cls, path: str, dtype: object) -> Self:
        """Return the error for an array of a type that its description does not say all about."""
        return compose(cls, f"{path}: an array of type {dtype} cannot be stored; pass its tolist()", path=path)

    @classmethod
    def resource_with_more(cls, path: str, kind: type, attributes: Sequence[str]) -> Self:
        """Return the error for a resource with attributes that are not among its fields."""
        message = (
            f"{path}: the resource {kind.__qualname__} holds {', '.join(attributes)}, and a store keeps only fields; "
            f"write:\n    @attrs.frozen\n    class {kind.__name__}(Resource):\n"
            f"        {attributes[0]}: …"
        )
        return compose(cls, message, path=path)

    @classmethod
    def too_deep(cls, path: str) -> Self:
        """Return the error for a value that contains itself or is nested too deeply."""
        return compose(cls, f"{path} contains itself or is nested too deeply to be stored", path=path)

    @classmethod
    def spans(cls, rollout_id: str, why: BaseException) -> Self:
        """Return the error for spans with an attribute that cannot be encoded."""
        message = f"the spans of rollout {rollout_id} cannot be stored ({_described(why)})"
        return compose(cls, message, rollout_id=rollout_id)

    @classmethod
    def outcome(cls, rollout_id: str, why: BaseException) -> Self:
        """Return the error for an outcome that a store fails on, and not on others."""
        message = (
            f"the outcome of rollout {rollout_id} cannot be stored ({_described(why)}), so its spans "
            "and its reward are lost; the store fails on something that the agent recorded or returned"
        )
        return compose(cls, message, rollout_id=rollout_id)

    @classmethod
    def name(cls, name: str) -> Self:
        """Return the error for a name, a key or an id that UTF-8 cannot encode."""
        message = (
            f"the name {name!r} has a lone surrogate, which a store keeps in tasks and other values, not in "
            r"names, keys and ids; write its escape: name.encode('utf-8', 'backslashreplace').decode()"
        )
        return compose(cls, message)

    @classmethod
    def not_text(cls, name: str, value: object) -> Self:
        """Return the error for a name, a key or an id that is not a string."""
        kind = type(value).__qualname__
        message = f"{name} is of type {kind}, and names, keys and ids are strings; write: {name}=str(…)"
        return compose(cls, message, path=name)

    @classmethod
    def not_integer(cls, name: str, value: object) -> Self:
        """Return the error for a number of a record that is not an integer."""
        message = f"{name} is of type {type(value).__qualname__}, not int; write 0 to have the store number it"
        return compose(cls, message, path=name)

    @classmethod
    def by_postgres(cls, said: str) -> Self:
        """Return the error for a value that PostgreSQL rejects."""
        return compose(cls, f"PostgreSQL cannot keep a value ({said}); remove what it names")


def _described(error: BaseException) -> str:
    # A log cannot write a lone surrogate.
    return without_surrogates(f"{class_name(error)}: {message_of(error)}")


@public
class PayloadTooLarge(NotStorable):
    """A value takes more bytes than its store accepts."""

    size: int | None = None
    """The size of the value in bytes."""

    limit: int | None = None
    """The store's `max_payload_bytes`."""

    @classmethod
    def value(cls, path: str, size: int, limit: int, *, at_least: bool = False) -> Self:
        """Return the error for a task, a resource or another single value."""
        takes = f"{path} takes {'at least ' if at_least else ''}{size:,} bytes"
        message = (
            f"{takes}, the store's limit is {limit:,}; keep large data in files and store their paths, or raise the "
            "limit with max_payload_bytes=…"
        )
        return compose(cls, message, path=path, size=size, limit=limit)

    @classmethod
    def all_spans(cls, rollout_id: str, number: int, size: int, limit: int) -> Self:
        """Return the error for all spans of one attempt."""
        message = (
            f"{number} spans of rollout {rollout_id} take {size:,} bytes, the store's limit is {limit:,}; record less, "
            "or raise the limit with max_payload_bytes=…"
        )
        return compose(cls, message, rollout_id=rollout_id, size=size, limit=limit)

    @classmethod
    def while_recording(cls, rollout_id: str, size: int, limit: int) -> Self:
        """Return the error for the span with which those of one attempt exceed the limit."""
        message = (
            f"the spans of rollout {rollout_id} take at least {size:,} bytes with this one, the store's limit is "
            f"{limit:,}; record less, or raise the limit with max_payload_bytes=…"
        )
        return compose(cls, message, rollout_id=rollout_id, size=size, limit=limit)
