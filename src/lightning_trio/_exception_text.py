"""Exceptions, and other objects of agents, as text. Each of their methods may raise, so none is relied on."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from types import TracebackType
from typing import Final

_MOST_FORMATTED = 1_000
"""How many exceptions of one are formatted: its causes and members, and theirs."""

LONGEST_MESSAGE: Final = 1 << 16
"""How many characters of a message, or of a note, are kept."""

_ROOM_TO_SAY: Final = 64
"""How many characters of a cut text say what is left out, at most."""

LONGEST_TRACEBACK: Final = 1 << 20
"""How many characters of a traceback are kept."""

# As `type` and `BaseException` define them: a metaclass or a class may have others.
bare_name: Callable[[type], str] = vars(type)["__name__"].__get__
"""Return the name of a class without its module."""

_qualname_of: Callable[[type], str] = vars(type)["__qualname__"].__get__
_module_of: Callable[[type], object] = vars(type)["__module__"].__get__
_class_dict_of: Callable[[type], Mapping[str, object]] = vars(type)["__dict__"].__get__
_mro_of: Callable[[type], tuple[type, ...]] = vars(type)["__mro__"].__get__
set_cause: Callable[[BaseException, BaseException | None], None] = vars(BaseException)["__cause__"].__set__
members_of: Callable[[BaseException], tuple[BaseException, ...]] = vars(BaseExceptionGroup)["exceptions"].__get__
cause_of: Callable[[BaseException], BaseException | None] = vars(BaseException)["__cause__"].__get__
context_of: Callable[[BaseException], BaseException | None] = vars(BaseException)["__context__"].__get__
_dict_of: Callable[[BaseException], dict[str, object]] = vars(BaseException)["__dict__"].__get__
_traceback_of: Callable[[BaseException], TracebackType | None] = vars(BaseException)["__traceback__"].__get__


def class_names(kind: type) -> Iterator[str]:
    """Yield the names of a class and its bases, each with and without its module.

    >>> list(class_names(Exception))[:2]
    ['Exception', 'builtins.Exception']
    """
    for each in _mro_of(kind):
        yield bare_name(each)
        yield qualified_name(each)


def qualified_name(kind: type) -> str:
    """Return the name of a class with its module.

    >>> qualified_name(KeyError)
    'builtins.KeyError'
    """
    module = _module_of(kind)
    return f"{module if type(module) is str else '?'}.{_qualname_of(kind)}"


def class_name(value: object) -> str:
    """Return the name of a value's class, whatever its metaclass has made of it.

    >>> class_name(KeyError())
    'KeyError'
    """
    return bare_name(type(value))


def message_of(exception: BaseException) -> str:
    """Return ``str(exception)`` as a plain string, cut if it is long, or a text that names what calling it raised.

    >>> message_of(ValueError("no tea"))
    'no tea'
    """
    try:
        return _cut("".join((str(exception),)), LONGEST_MESSAGE)
    except BaseException as exc:
        return f"<str() of it raised {class_name(exc)}>"


def repr_of(value: object) -> str:
    """Return ``repr(value)``, or a text that names what calling it raised.

    >>> repr_of(KeyError("tea"))
    "KeyError('tea')"
    """
    try:
        return repr(value)
    except BaseException as exc:
        return f"<{class_name(value)} whose repr() raised {class_name(exc)}>"


def traceback_of(exception: BaseException) -> str:
    r"""Return the traceback as Python prints it, or only the exception's own lines if that cannot be done.

    Long messages and notes are cut, and so is the whole.

    >>> traceback_of(ValueError("no tea"))
    'ValueError: no tea\n'
    """
    reason = _why_unformattable(exception)
    if reason is None:
        try:
            return _cut("".join(_formatted(exception)), LONGEST_TRACEBACK)
        except BaseException as exc:
            reason = class_name(exc)
    lines = _own_lines(exception)
    rest = f"(its causes, notes and members could not be formatted: {reason})\n"
    return _cut("".join([*lines, f"{class_name(exception)}: {message_of(exception)}\n", rest]), LONGEST_TRACEBACK)


def _own_lines(exception: BaseException) -> list[str]:
    """Return the lines of an exception's own traceback, without their text if that cannot be read."""
    own = _traceback_of(exception)
    try:
        return traceback.format_tb(own)
    except BaseException:
        # The names may be of an agent's class, too.
        plain = str.__str__
        places = ((frame.f_code, line) for frame, line in traceback.walk_tb(own))
        return [f'  File "{plain(code.co_filename)}", line {line}, in {plain(code.co_name)}\n' for code, line in places]


def _formatted(exception: BaseException) -> Iterator[str]:
    """Yield the lines of a traceback; its long texts are cut first, because formatting copies them several times."""
    whole = traceback.TracebackException.from_exception(exception, compact=True)
    waiting = [whole]
    while waiting:
        each = waiting.pop()
        parts = vars(each)
        if type(message := parts.get("_str")) is str:
            parts["_str"] = _cut(message, LONGEST_MESSAGE)
        if type(notes := parts.get("__notes__")) is list:
            parts["__notes__"] = [_cut(note, LONGEST_MESSAGE) if type(note) is str else note for note in notes]
        waiting.extend(
            link for link in (each.__cause__, each.__context__, *(each.exceptions or ())) if link is not None
        )
    return whole.format()


def _cut(text: str, most: int) -> str:
    """Return a text of at most `most` characters: the head and the tail of a longer one, and how much is left out."""
    if len(text) <= most:
        return text
    kept = (most - _ROOM_TO_SAY) // 2
    return f"{text[:kept]}\n[{len(text) - 2 * kept:,} characters left out]\n{text[-kept:]}"


def has_many_notes(exception: BaseException, number: int) -> bool:
    """Whether the exceptions that `traceback_of` formats have more than `number` notes."""
    notes = (_dict_of(each).get("__notes__") for each in islice(_formatted_with(exception), _MOST_FORMATTED))
    return sum(len(each) for each in notes if type(each) is list) > number


def _why_unformattable(exception: BaseException) -> str | None:
    """Return why Python's formatting might not end, None if it does."""
    for number, each in enumerate(_formatted_with(exception)):
        if number == _MOST_FORMATTED:
            return f"more than {_MOST_FORMATTED:,}"
        if _has_own_links(type(each)):
            return f"{class_name(each)} makes its own"
    return None


_LINKS: Final = frozenset({"__cause__", "__context__", "__suppress_context__", "__traceback__", "exceptions"})


def _has_own_links(kind: type[BaseException]) -> bool:
    own = (each for each in _mro_of(kind) if _module_of(each) != "builtins")
    return any(not _LINKS.isdisjoint(_class_dict_of(each)) for each in own)


def _formatted_with(exception: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that Python formats for one, which are endless where groups share members."""
    waiting, seen = [exception], set[int]()
    while waiting:
        each = waiting.pop()
        yield each
        seen.add(id(each))
        if issubclass(type(each), BaseExceptionGroup):
            waiting.extend(members_of(each))
        links = (cause_of(each), context_of(each))
        waiting.extend(link for link in links if link is not None and id(link) not in seen)
