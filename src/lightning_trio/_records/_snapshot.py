"""A resources snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from .._resources import NamedResources


@attrs.frozen
class ResourcesUpdate:
    """A resources snapshot: a versioned mapping of names to resources."""

    resources_id: str
    create_time: float
    update_time: float
    version: int
    resources: NamedResources
