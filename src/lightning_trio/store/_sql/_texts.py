"""Names, keys and ids, which are columns of text: SQLite would keep other objects as bytes that no query can read."""

from __future__ import annotations

from ..._errors import NotStorable


def check_text(name: str, value: object) -> None:
    """Validate that a value is a string or None.

    Raises:
        NotStorable: it is something else.
    """
    if value is not None and not issubclass(type(value), str):
        raise NotStorable.not_text(name, value)
