"""The process lane: agents run in worker processes, which are killed at their deadline and reused otherwise."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from ..._resources import NamedResources, register_keys
from .._bound_agent import BoundAgent
from .._lane import Lane, LaneOptions, OpenLane
from ._pickling import pack_agent


class ProcessLane(Lane):
    """Run functions, sync or async, in worker processes."""

    name = "process"
    copies_agents = False

    def check(self, agent: str, fn: Callable[..., Any]) -> None:
        """Accept every function; `prepare` raises if it cannot be pickled."""

    def capacity(self, wanted: int, options: LaneOptions) -> int:
        """Return the number of worker processes: no call waits for one on the agent's time."""
        return min(wanted, options.max_processes or os.cpu_count() or 1)

    def prepare(self, bound: BoundAgent, resources: NamedResources) -> bytes:
        """Pickle the agent with its resources."""
        register_keys(resources)
        return pack_agent(bound, resources)

    @asynccontextmanager
    async def open(self, options: LaneOptions) -> AsyncGenerator[OpenLane]:
        """Open the lane; its worker processes are stopped at the end of the block."""
        # multiprocessing and the extra `process` are needed only where the lane is used.
        from ._pool import open_pool

        async with open_pool(leave_out=options.leave_out) as lane:
            yield lane
