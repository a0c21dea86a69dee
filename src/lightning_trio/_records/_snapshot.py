"""A resources snapshot."""

from __future__ import annotations

import attrs

from .._plain_record import PlainRecord
from .._public import public
from .._resources import NamedResources


@public
@attrs.frozen
class ResourcesUpdate(PlainRecord):
    """A resources snapshot: a versioned mapping of names to resources."""

    resources_id: str
    create_time: float
    update_time: float
    version: int
    resources: NamedResources
