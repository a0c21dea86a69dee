"""Pydantic models, read and restored without importing pydantic."""

from __future__ import annotations

from typing import Any, Final


def is_model(kind: type[Any]) -> bool:
    """Whether a class is a pydantic model."""
    return hasattr(kind, "model_fields") and hasattr(kind, "model_construct")


_REST_OF_MODEL: Final = ("__pydantic_extra__", "__pydantic_private__", "__pydantic_fields_set__")
"""The state of a pydantic model besides its fields."""


def rest_of_model(value: Any) -> dict[str, Any]:
    """Return the state of a model besides its fields; an empty dict if it is the default of its class."""
    if not is_model(type(value)):
        return {}
    rest = {name: getattr(value, name, None) for name in _REST_OF_MODEL}
    extra, private, given = rest.values()
    return rest if extra or private or given != value.__dict__.keys() else {}


def read_model(kind: type[Any], fields: dict[str, Any], rest: dict[str, Any]) -> Any:
    """Return a model with these fields and this further state; neither `__init__` nor validators run again."""
    made: Any = object.__new__(kind)
    # Fields that the class did not have when the model was stored get their defaults.
    later = {
        name: field.get_default(call_default_factory=True)
        for name, field in kind.model_fields.items()
        if name not in fields and not field.is_required()
    }
    has_extra = kind.model_config.get("extra") == "allow"
    object.__setattr__(made, "__dict__", {**fields, **later})
    object.__setattr__(made, "__pydantic_extra__", rest.get("__pydantic_extra__") or ({} if has_extra else None))
    object.__setattr__(made, "__pydantic_private__", rest.get("__pydantic_private__"))
    object.__setattr__(made, "__pydantic_fields_set__", rest.get("__pydantic_fields_set__", set(fields)))
    return made


def is_old_model(kind: type[Any]) -> bool:
    """Whether a class is a model of pydantic's first version."""
    return hasattr(kind, "__fields_set__") and hasattr(kind, "__fields__") and not is_model(kind)


def read_old_model(kind: type[Any], fields: dict[str, Any]) -> Any:
    """Return a model of pydantic's first version with these fields; neither `__init__` nor validators run again."""
    made: Any = object.__new__(kind)
    object.__setattr__(made, "__dict__", fields)
    object.__setattr__(made, "__fields_set__", set(fields))
    made._init_private_attributes()
    return made
