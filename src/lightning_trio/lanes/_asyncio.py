"""The asyncio lane: agents written for asyncio run on one event loop in a side thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._bridge import AsyncioBridge


class AsyncioLane:
    """Run async functions on an asyncio loop that starts with the first call and ends with `aclose`."""

    def __init__(self) -> None:
        self._bridge: AsyncioBridge | None = None

    async def run(self, fn: Callable[..., Coroutine[Any, Any, Any]], task: Any, arguments: Mapping[str, Any]) -> Any:
        """Call the function on the loop; cancelling the caller cancels the call and waits for its clean-up."""
        if self._bridge is None:
            # asyncio takes 20 ms to import, and Trio's agents do without it.
            from ._bridge import AsyncioBridge

            self._bridge = AsyncioBridge()
        return await self._bridge.run(fn, task, arguments)

    async def aclose(self) -> None:
        """Stop the loop, if it was ever started."""
        bridge, self._bridge = self._bridge, None
        if bridge is not None:
            await bridge.aclose()
