"""The base of records, which tells users of pydantic models what to write instead of their methods.

The records of Agent-lightning 0.3 were pydantic models; those of this package are frozen attrs classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn


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
            f"{owner.__name__} has no {self._name}, because it is a frozen attrs class and no pydantic model; write: "
            f"{self._instead.format(record=owner.__name__)}{compat}",
            # Without the object, because Python would then suggest a name of its own.
            name=self._name,
        )


class PlainRecord:
    """The base of records.

    Its attributes are descriptors and no ``__getattr__``, which would make each attribute of a record slower to read.
    `lightning_trio.compat` replaces them by methods, but for those by which libraries recognise a pydantic model.
    """

    __slots__ = ()

    if not TYPE_CHECKING:
        model_construct = _Instead("{record}(**fields)", in_compat=False)
        model_copy = _Instead("attrs.evolve(record, name=…)")
        model_dump = _Instead("attrs.asdict(record)")
        model_dump_json = _Instead("json.dumps(attrs.asdict(record))")
        model_fields = _Instead("attrs.fields_dict({record})", in_compat=False)
        # The hook is for fields with objects that JSON lacks, such as exceptions.
        model_json_schema = _Instead("msgspec.json.schema({record}, schema_hook=lambda kind: {{}})", in_compat=False)
        model_validate = _Instead("{record}(**fields)")
        model_validate_json = _Instead("{record}(**json.loads(text))")
