"""The base of records, which tells users of pydantic models what to write instead of their methods.

The records of Agent-lightning 0.3 were pydantic models; those of this package are frozen attrs classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn


class _Instead:
    """A method that the class does not have; reading it raises an error that says what to write."""

    def __init__(self, instead: str) -> None:
        self._instead = instead
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type[Any]) -> NoReturn:
        raise AttributeError(
            f"{owner.__name__} has no {self._name}, because it is a frozen attrs class and no pydantic model; write: "
            f"{self._instead.format(record=owner.__name__)}. Programs that import lightning_trio.compat can call it",
            # Without the object, because Python would then suggest a name of its own.
            name=self._name,
        )


class PlainRecord:
    """The base of records.

    Its attributes are descriptors and no ``__getattr__``, which would make each attribute of a record slower to read.
    `lightning_trio.compat` replaces them by methods.
    """

    __slots__ = ()

    if not TYPE_CHECKING:
        model_copy = _Instead("attrs.evolve(record, name=…)")
        model_dump = _Instead("attrs.asdict(record)")
        model_dump_json = _Instead("json.dumps(attrs.asdict(record))")
        model_validate = _Instead("{record}(**fields)")
        model_validate_json = _Instead("{record}(**json.loads(text))")
