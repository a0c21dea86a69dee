"""Exceptions made from plain data, so that they can be generated, shown, kept, and sent to worker processes."""

from __future__ import annotations

import asyncio
import collections
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import attrs


@attrs.frozen
class ExceptionSpec:
    """What an exception is made from.

    Args:
        kind: the name of its base class.
        odd: what its odd methods and attributes do, each by the name of one of `EFFECTS`.
        text: its argument.
        notes: its notes, None for none.
        cause: its cause: another one, "itself", or None.
        members: the members of a group.
    """

    kind: str = "ValueError"
    odd: Mapping[str, str] = attrs.field(factory=dict[str, str])
    text: str = "x"
    notes: Sequence[Any] | None = None
    cause: ExceptionSpec | str | None = None
    members: Sequence[ExceptionSpec] = ()

    def dump(self) -> str:
        """Return it as JSON."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def load(cls, text: str) -> ExceptionSpec:
        """Return what `dump` wrote."""
        return cls._of(json.loads(text))

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> ExceptionSpec:
        cause = values["cause"]
        members = [cls._of(each) for each in values["members"]]
        return cls(**{**values, "cause": cls._of(cause) if isinstance(cause, dict) else cause, "members": members})

    def make(self) -> BaseException:
        """Return the exception."""
        if self.members:
            exc = odd_class(BaseExceptionGroup, self.odd)(self.text, [each.make() for each in self.members])
        else:
            exc = odd_class(KINDS[self.kind], self.odd)(self.text)
        if self.notes is not None:
            _try_to_set(exc, "__notes__", list(self.notes))
        if self.cause is not None:
            _try_to_set(exc, "__cause__", exc if isinstance(self.cause, str) else self.cause.make())
        return exc


def _try_to_set(exc: BaseException, name: str, value: object) -> None:
    # Its own class may refuse this.
    try:
        setattr(exc, name, value)
    except BaseException:
        return


KINDS: Mapping[str, type[BaseException]] = {
    each.__name__: each
    for each in (
        ValueError,
        KeyError,
        OSError,
        SyntaxError,
        ImportError,
        AttributeError,
        StopIteration,
        RuntimeError,
        MemoryError,
        SystemExit,
        KeyboardInterrupt,
        GeneratorExit,
        asyncio.CancelledError,
        BaseException,
    )
}


def _exit() -> NoReturn:
    raise SystemExit(1)


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


def _fail() -> NoReturn:
    raise ValueError("odd")


def _cancel() -> NoReturn:
    raise asyncio.CancelledError


def _recurse() -> NoReturn:
    _recurse()
    raise AssertionError


def _group() -> NoReturn:
    raise BaseExceptionGroup("odd", [KeyboardInterrupt(), ValueError("odd")])


EFFECTS: Mapping[str, Callable[[], Any]] = {
    "exits": _exit,
    "interrupts": _interrupt,
    "fails": _fail,
    "cancels": _cancel,
    "recurses": _recurse,
    "raises a group": _group,
    "returns None": lambda: None,
    "returns 5": lambda: 5,
    "returns bytes": lambda: b"\xff",
    "returns a surrogate": lambda: "\ud800\x00",
    "returns another exception": lambda: KeyError("another"),
}

METHODS = (
    "__str__",
    "__repr__",
    "__eq__",
    "__hash__",
    "__bool__",
    "__len__",
    "__iter__",
    "__reduce__",
    "__reduce_ex__",
    "__setattr__",
    "__setstate__",
    "add_note",
    "with_traceback",
    "derive",
    "split",
    "subgroup",
)
PROPERTIES = ("__notes__", "__cause__", "__context__", "__class__", "__traceback__", "__dict__", "args", "exceptions")


def odd_class(base: type[BaseException], odd: Mapping[str, str]) -> Any:
    """Return a subclass some of whose methods and attributes are odd."""
    if not odd:
        return base
    body: dict[str, Any] = {"__module__": __name__}
    for name, effect in odd.items():
        body[name] = _method(EFFECTS[effect]) if name in METHODS else property(_method(EFFECTS[effect]))
    made = type(f"Odd{base.__name__}", (base,), body)
    # Unpickling finds the last one of this name.
    setattr(sys.modules[__name__], made.__name__, made)
    return made


def _method(effect: Callable[[], Any]) -> Callable[..., Any]:
    return lambda self, *args, **kwargs: effect()


class Odd:
    """An object that refuses what anybody wants of it."""

    def __repr__(self) -> str:
        raise SystemExit(1)

    def __eq__(self, other: object) -> bool:
        raise SystemExit(2)

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: object) -> Any:
        raise SystemExit(3)


class OddStr(str):
    """A string with methods of its own."""

    __slots__ = ()

    def __str__(self) -> str:
        raise SystemExit(4)

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        raise SystemExit(5)


def _nest() -> Any:
    value: Any = []
    for _ in range(20_000):
        value = [value]
    return value


def _contain_itself() -> Any:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


STAND_INS: Mapping[str, Callable[[], Any]] = {
    "<an odd object>": Odd,
    "<an odd string>": lambda: OddStr("odd"),
    "<a huge integer>": lambda: 10**5000,
    "<a deep list>": _nest,
    "<a dict that contains itself>": _contain_itself,
    "<an exception>": lambda: ValueError("x"),
    "<a generator>": lambda: (n for n in ()),
}
"""Values that Hypothesis cannot show, and the texts that stand for them."""


def make_value(value: Any) -> Any:
    """Return a value with what is in it instead of the texts that stand for it."""
    if isinstance(value, str) and value in STAND_INS:
        return STAND_INS[value]()
    if isinstance(value, dict):
        return {key: make_value(each) for key, each in value.items()}
    if type(value) in (list, tuple, collections.deque):
        return type(value)(make_value(each) for each in value)
    return value
