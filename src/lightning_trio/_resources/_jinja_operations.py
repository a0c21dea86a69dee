"""Jinja's own filters, and the methods of texts and numbers: the size of a result is known before it is made."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

from jinja2.exceptions import SecurityError

from ._rendering import (
    RenderingStopped,
    check_size,
    counted,
    current_budget,
    percent_size,
    replaced_size,
    text_size,
)


def _batch(value: object, linecount: int, fill_with: object = None) -> int:
    return linecount


def _slice(value: object, slices: int, fill_with: object = None) -> int:
    return slices


def _center(value: object, width: int = 80) -> int:
    return width


def _format(value: object, *args: object, **kwargs: object) -> int:
    return percent_size(str(value), kwargs or args)


def _replace(s: object, old: object, new: object, count: int | None = None) -> int:
    return replaced_size(str(s), str(old), str(new), count)


def _lines(text: object) -> int:
    return str(text).count("\n") + 1


def _indent(s: object, width: int | str = 4, first: bool = False, blank: bool = False) -> int:
    return text_size(s) + _lines(s) * (len(width) if isinstance(width, str) else width)


def _wordwrap(
    s: object,
    width: int = 79,
    break_long_words: bool = True,
    wrapstring: str | None = None,
    break_on_hyphens: bool = True,
) -> int:
    lines = _lines(s) + 2 * text_size(s) // max(width, 1)
    return text_size(s) + lines * len(wrapstring or "\n")


def _round(value: object, precision: int = 0, method: str = "common") -> int:
    if abs(precision) > 1000:
        raise RenderingStopped(f"it rounds to {precision} digits")
    return 0


def _tojson(value: object, indent: int | None = None, **options: object) -> int:
    return text_size(value) * (1 + (indent or 0))


def _urlize(value: object, *args: object, **kwargs: object) -> int:
    return text_size(value) * (1 + text_size([*args, *kwargs.values()]) // 8)


_RESULT_SIZES: Final[Mapping[str, Callable[..., int]]] = {
    "batch": _batch,
    "center": _center,
    "format": _format,
    "indent": _indent,
    "replace": _replace,
    "round": _round,
    "slice": _slice,
    "tojson": _tojson,
    "urlize": _urlize,
    "wordwrap": _wordwrap,
}
"""The sizes of the results of filters that enlarge their value, from the filters' own arguments."""

_CONSTANT = frozenset({"attr", "count", "d", "default", "first", "items", "last", "length", "random", "safe"})
"""Filters that look at no more than an item."""

_PER_CHARACTER = frozenset({"pprint", "striptags", "title", "tojson", "urlize", "wordcount", "wordwrap"})
"""Filters of texts that are not as fast as the methods of `str`."""


def guard(name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that counts as steps, and that makes nothing too large."""
    if name in _CONSTANT:
        return fn
    place = int(hasattr(fn, "jinja_pass_arg"))
    result_size = _RESULT_SIZES.get(name)
    per_step = 20 if name in _PER_CHARACTER else 2000

    def guarded(*args: Any, **kwargs: Any) -> Any:
        budget = current_budget()
        if len(args) > place:
            value = args[place]
            if isinstance(value, str):
                budget.step(1 + len(value) // per_step)
            elif isinstance(value, list | tuple | dict | set | range):
                budget.step(1 + len(value) // 20)
                if name in _AS_TEXT:
                    check_size(text_size(value))
            else:
                budget.step()
                if hasattr(value, "__next__") or (name in _OF_ALL_ITEMS and not hasattr(value, "__len__")):
                    args = (*args[:place], counted(value), *args[place + 1 :])
        if result_size is not None:
            check_size(result_size(*args[place:], **kwargs))
        return fn(*args, **kwargs)

    return functools.update_wrapper(guarded, fn)


_OF_ALL_ITEMS = frozenset(
    {
        *("batch", "groupby", "list", "map", "max", "min", "reject", "rejectattr", "select", "selectattr", "slice"),
        *("sort", "sum", "unique"),
    }
)
"""Filters that read their value to its end, which an endless one does not have."""

_AS_TEXT = frozenset(
    {
        *("capitalize", "center", "e", "escape", "forceescape", "indent", "lower", "pprint", "replace", "string"),
        *("striptags", "title", "trim", "truncate", "upper", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr"),
    }
)
"""Filters that make a text of whatever they get."""


def check_method(
    owner: str | bytes | bytearray | int, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Return the arguments for a method of a text or a number, whose result is not too large."""
    if name == "translate":
        raise SecurityError("the method 'translate' is not available")
    if isinstance(owner, int):
        check_size(sum(abs(arg) for arg in (*args, *kwargs.values()) if isinstance(arg, int)))
        return args
    current_budget().step(1 + len(owner) // 2000)
    if name == "join" and args:
        return (_checked_items(owner, args[0]),)
    if name in ("center", "ljust", "rjust", "zfill") and args:
        check_size(int(args[0]))
    elif name == "expandtabs":
        width = (*args, *kwargs.values(), 8)[0]
        check_size(len(owner) + owner.count("\t" if isinstance(owner, str) else b"\t") * width)  # type: ignore[arg-type]
    elif name == "replace" and len(args) > 1:
        check_size(replaced_size(owner, args[0], args[1], (*args[2:], *kwargs.values(), -1)[0]))
    return args


def _checked_items(separator: Any, items: Any) -> list[Any]:
    found = list(counted(items))
    check_size(sum(text_size(item) for item in found) + len(found) * len(separator))
    return found
