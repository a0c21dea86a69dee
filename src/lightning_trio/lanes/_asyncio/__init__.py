"""The asyncio lane: agents written for asyncio run on one event loop in a thread of its own."""

from ._lane import AsyncioLane as AsyncioLane
