"""Models of pydantic, which is not imported: what one has besides its fields, and one made again as it was."""

from __future__ import annotations

from typing import Any, Final


def is_model(kind: type[Any]) -> bool:
    """Whether a class is a pydantic model."""
    return hasattr(kind, "model_fields") and hasattr(kind, "model_construct")


_REST_OF_MODEL: Final = ("__pydantic_extra__", "__pydantic_private__", "__pydantic_fields_set__")
"""What a pydantic model has besides its fields."""


def rest_of_model(value: Any) -> dict[str, Any]:
    """Return what a model has besides its fields, nothing if that is what its class would have as well."""
    if not is_model(type(value)):
        return {}
    rest = {name: getattr(value, name, None) for name in _REST_OF_MODEL}
    extra, private, given = rest.values()
    return rest if extra or private or given != value.__dict__.keys() else {}


def read_model(kind: type[Any], fields: dict[str, Any], rest: dict[str, Any]) -> Any:
    """Return a model with these fields and with `rest`; neither `__init__` nor validators run a second time."""
    made: Any = object.__new__(kind)
    # What the class got only later is as it is by default.
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
