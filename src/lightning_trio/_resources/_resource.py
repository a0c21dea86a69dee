"""The base of resources, and the registry of their types."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MemberDescriptorType
from typing import Any, ClassVar, TypeAlias

import attrs

from .._errors import ResourceError
from .._plain_record import PlainRecord
from .._public import public

_resource_types: dict[str, type[Resource]] = {}


@public
@attrs.frozen
class Resource(PlainRecord):
    """The base of resources.

    A subclass is a frozen attrs class with a type name, by which stores and wire formats identify it; by default, the
    class name in snake case.

    >>> @attrs.frozen
    ... class Rubric(Resource, resource_type="rubric"):
    ...     criteria: tuple[str, ...]
    >>> Rubric(("short", "polite")).resource_type
    'rubric'
    """

    resource_type: ClassVar[str] = "resource"

    def __init_subclass__(cls, *, resource_type: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # attrs builds a slotted class a second time; the name from the first time is kept.
        if isinstance(cls.__dict__.get("resource_type"), MemberDescriptorType):
            raise ResourceError.type_as_field(cls)
        name: str = resource_type or cls.__dict__.get("resource_type") or _snake_case(cls.__name__)
        known = _resource_types.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ResourceError.type_taken(name, cls, known)
        cls.resource_type = name
        _resource_types[name] = cls

    def _check_type_name(self, given: str | None) -> None:
        """Raise an error if `given`, as in ``LLM(resource_type="llm", …)``, is not the class's own type name."""
        if given is not None and given != self.resource_type:
            raise ResourceError.other_type(type(self).__qualname__, self.resource_type, given)


NamedResources: TypeAlias = Mapping[str, Resource]


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def resource_class(resource_type: str) -> type[Resource]:
    """Return the class registered as `resource_type`, or `UnknownResource`."""
    return _resource_types.get(resource_type, UnknownResource)


@public
@attrs.frozen
class UnknownResource(Resource, resource_type="unknown"):
    """A stored resource whose class this process does not define."""

    stored_type: str
    fields: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)


def check_resources(resources: object, where: str) -> NamedResources:
    """Return a copy of `resources`.

    Raises:
        ResourceError: it is not a mapping of names to resources.
    """
    if not isinstance(resources, Mapping):
        raise ResourceError.not_a_mapping(where, resources)
    for name, resource in resources.items():
        if not isinstance(name, str):
            raise ResourceError.name_not_a_string(where, name)
        if not isinstance(resource, Resource):
            raise ResourceError.not_a_resource(where, name, resource)
    return dict(resources)
