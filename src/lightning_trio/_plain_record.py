"""The base of records, which tells users of pydantic models what to write instead of their methods.

The records of Agent-lightning 0.3 were pydantic models; those of this package are frozen attrs classes.
"""

from __future__ import annotations

import inspect
import itertools
from typing import TYPE_CHECKING, Any, NoReturn

import attrs


class _Instead:
    """A method that the class does not have; reading it raises an error that says what to write."""

    def __init__(self, instead: str, *, in_compat: bool = True) -> None:
        self._instead = instead
        self._in_compat = in_compat
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type[Any]) -> NoReturn:
        compat = ". Programs that import lightning_trio.compat can call it" if self._in_compat else ""
        raise AttributeError(
            f"{owner.__name__} has no {self._name}, because it is an attrs class and no pydantic model; write: "
            f"{self._instead.format(record=owner.__name__)}{compat}",
            # Without the object, because Python would then suggest a name of its own.
            name=self._name,
        )


def _new_of_subclass(cls: type[Any], *args: object, **fields: object) -> Any:
    """Return a new object, unless it gets fields that its class declares as pydantic models do, without a decorator."""
    if fields and not _is_decorated(cls):
        for kind in itertools.takewhile(lambda each: not _is_decorated(each), cls.__mro__):
            # A class may take them in an `__init__` of its own.
            if "__init__" in vars(kind):
                break
            known = {field.name for field in attrs.fields(cls)}
            for name in inspect.get_annotations(kind):
                if name in fields and name not in known:
                    raise TypeError(_undecorated(kind, name))
    return object.__new__(cls)


def _is_decorated(kind: type) -> bool:
    return not vars(kind).keys().isdisjoint(("__attrs_attrs__", "__dataclass_fields__"))


def _undecorated(kind: type, field: str) -> str:
    bases = ", ".join(base.__name__ for base in kind.__bases__)
    return (
        f"{kind.__name__} has no field {field}, because it is no pydantic model: a subclass of an attrs class needs a "
        f"decorator; write:\n    @attrs.define(kw_only=True)\n    class {kind.__name__}({bases}):\n        {field}: …"
    )


class PlainRecord:
    """The base of records.

    Its attributes are descriptors and no ``__getattr__``, which would make each attribute of a record slower to read.
    `lightning_trio.compat` replaces them by methods, but for those by which libraries recognise a pydantic model.
    """

    __slots__ = ()

    if not TYPE_CHECKING:

        def __init_subclass__(cls, **options: Any) -> None:
            super().__init_subclass__(**options)
            # For classes of users only: Python creates objects of a class with a `__new__` more slowly.
            if not cls.__module__.startswith(f"{__package__}.") and cls.__new__ is object.__new__:
                cls.__new__ = staticmethod(_new_of_subclass)

        model_construct = _Instead("{record}(**fields)", in_compat=False)
        model_copy = _Instead("attrs.evolve(record, name=…)")
        model_dump = _Instead("attrs.asdict(record)")
        model_dump_json = _Instead("json.dumps(attrs.asdict(record))")
        model_fields = _Instead("attrs.fields_dict({record})", in_compat=False)
        # The hook is for fields with objects that JSON lacks, such as exceptions.
        model_json_schema = _Instead("msgspec.json.schema({record}, schema_hook=lambda kind: {{}})", in_compat=False)
        model_validate = _Instead("{record}(**fields)")
        model_validate_json = _Instead("{record}(**json.loads(text))")
