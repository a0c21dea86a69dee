"""The asyncio lane: agents written for asyncio run on one event loop in a side thread."""

from ._lane import AsyncioLane as AsyncioLane
