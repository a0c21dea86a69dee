"""The bounds of one rendering of a template: its text, its steps, and the values that it makes on the way.

A template may be written by a model. One that would fill the memory, or keep its thread for minutes, is stopped.
"""

from __future__ import annotations

import re
import string
import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from fractions import Fraction
from typing import Any, Final, cast

MOST_TEXT: Final = 10_000_000
"""The most characters that a rendering may write, or that a text in it may have; about 2.5 million tokens."""

MOST_STEPS: Final = 100_000
"""The most iterations, calls, filters and operators of a rendering; large values count as several."""

MOST_BITS: Final = 2**14
"""The most bits of an integer that a template computes, about 5,000 digits."""

_MOST_SECONDS: Final = 2.0
"""The most processor time, for what the steps do not measure, such as comparisons of long lists."""

_ITEM: Final = 10
"""The characters that an item of a list, or a number, counts as."""

_CONTAINERS: Final[tuple[type, ...]] = (
    list,
    tuple,
    dict,
    set,
    frozenset,
    deque,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)
_TEXTS: Final = (str, bytes, bytearray)
_SEQUENCES: Final = (*_TEXTS, list, tuple, deque)


class RenderingStopped(Exception):
    """A rendering went beyond a bound, which the message names."""


class Budget:
    """What one rendering has used of its bounds."""

    __slots__ = ("_charges", "_started", "_steps", "_text")

    def __init__(self) -> None:
        self._steps = self._text = self._charges = 0
        self._started = time.thread_time()

    def step(self, cost: int = 1) -> None:
        """Count steps."""
        self._steps += cost
        self._charges += 1
        if self._steps > MOST_STEPS:
            raise RenderingStopped(f"it takes more than {MOST_STEPS:,} iterations, calls and filters")
        if not self._charges & 31 and time.thread_time() - self._started > _MOST_SECONDS:
            raise RenderingStopped(f"it takes more than {_MOST_SECONDS:g} s")

    def write(self, size: int) -> None:
        """Count characters that are written."""
        self._text += size
        if self._text > MOST_TEXT:
            check_size(self._text)


_current: ContextVar[Budget] = ContextVar("lightning_trio rendering")


@contextmanager
def rendering() -> Generator[None]:
    """Count what is rendered in the block."""
    token = _current.set(Budget())
    try:
        yield
    finally:
        _current.reset(token)


def current_budget() -> Budget:
    """Return the budget of the rendering that runs.

    Raises:
        LookupError: none runs: a template is being compiled.
    """
    return _current.get()


def counted(items: Iterable[Any]) -> Iterable[Any]:
    """Return an iterator over `items`, each of which is a step."""
    return _count(iter(items), _current.get())


def _count(items: Iterable[Any], budget: Budget) -> Generator[Any]:
    for item in items:
        budget.step()
        yield item


# Sizes, known before a value is made.


def check_size(size: int) -> None:
    """Raise if a text of this size is too large."""
    if size > MOST_TEXT:
        raise RenderingStopped(f"it makes more than {MOST_TEXT:,} characters of text or lists")


def text_size(value: object) -> int:
    """Return about how long `str(value)` is, for texts, containers and numbers; other objects' are their class's."""
    if isinstance(value, _TEXTS):
        return len(value)
    if not isinstance(value, _CONTAINERS):
        return _ITEM
    size, rest = 0, [value]
    # Not recursive, and not to the end: ten lines of a template can nest a list a thousand times over.
    while rest and size <= MOST_TEXT:
        each: Any = rest.pop()
        if isinstance(each, _TEXTS):
            size += len(each) + _ITEM
        elif isinstance(each, dict):
            rest += each.keys()
            rest += each.values()
            size += _ITEM
        elif isinstance(each, _CONTAINERS):
            rest += cast("Iterable[Any]", each)
            size += _ITEM
        else:
            size += _ITEM
    return size


def check_operation(operator: str, left: object, right: object) -> None:
    """Raise if the result of a binary operator would be too large."""
    size = _operation_size(operator, left, right)
    check_size(size)
    current_budget().step(1 + size // 2000)


def _operation_size(operator: str, left: object, right: object) -> int:
    if operator == "*":
        if isinstance(left, _SEQUENCES) and isinstance(right, int):
            return text_size(left) * max(right, 0)
        if isinstance(right, _SEQUENCES) and isinstance(left, int):
            return text_size(right) * max(left, 0)
        _check_bits(_bits(left) + _bits(right))
    elif operator == "**" and isinstance(right, int):
        _check_bits(_bits(left) * abs(right))
    elif operator == "+" and isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
        return (len(left) + len(right)) * (1 if isinstance(left, _TEXTS) else _ITEM)
    elif operator == "%" and isinstance(left, _TEXTS):
        return percent_size(left, right)
    return 0


def _bits(value: object) -> int:
    if isinstance(value, int):
        return value.bit_length()
    if isinstance(value, Fraction):
        return value.numerator.bit_length() + value.denominator.bit_length()
    return 0


def _check_bits(bits: int) -> None:
    if bits > MOST_BITS:
        raise RenderingStopped(f"it computes a number of more than {MOST_BITS:,} bits")


_PERCENT = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(\*|\d+)?(?:\.(\*|\d+))?")
_NUMBER = re.compile(r"\d+")


def percent_size(text: str | bytes | bytearray, values: object) -> int:
    """Return the most characters of ``text % values``."""
    if not isinstance(text, str):
        text = text.decode("latin-1")
    size = len(text)
    for width, precision in _PERCENT.findall(text):
        size += _widest(values) if "*" in (width, precision) else _number(width) + _number(precision)
        if not isinstance(values, tuple):
            # One value, or a mapping whose values may be named several times.
            size += text_size(values)
    return size + (text_size(values) if isinstance(values, tuple) else 0)


def format_size(text: str, args: tuple[object, ...], values: Mapping[str, object]) -> int:
    """Return the most characters of ``text.format(*args, **values)``."""
    given = (*args, *values.values())
    most, size = text_size(given), len(text)
    for _, field, spec, _ in string.Formatter().parse(text):
        if field is not None:
            size += most + (_widest(given) if spec and "{" in spec else spec_width(spec or ""))
    return size


def spec_width(spec: str) -> int:
    """Return the width and precision in a format specification, added up."""
    return sum(_number(number) for number in _NUMBER.findall(spec))


def _number(digits: str) -> int:
    # Python itself refuses to read a number of thousands of digits.
    return 0 if not digits or digits == "*" else int(digits[:20])


def _widest(values: object) -> int:
    given: Iterable[object] = (values,)
    if isinstance(values, dict | tuple):
        given = cast("Iterable[object]", values.values() if isinstance(values, dict) else values)
    return sum(_width(value) for value in given)


def _width(value: object) -> int:
    if isinstance(value, str):
        return spec_width(value)
    return abs(value) if isinstance(value, int) else 0


def replaced_size(text: str | bytes | bytearray, old: Any, new: Any, count: int | None = -1) -> int:
    """Return the size of ``text.replace(old, new, count)``."""
    found = text.count(old)
    if count is not None and count >= 0:
        found = min(found, count)
    return len(text) + found * (len(new) - len(old))
