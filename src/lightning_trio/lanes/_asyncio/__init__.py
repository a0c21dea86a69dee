"""The asyncio lane."""

from ._lane import AsyncioLane as AsyncioLane
from ._lane import open_asyncio_lane as open_asyncio_lane
