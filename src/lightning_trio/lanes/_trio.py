"""The Trio lane: an async agent runs in the attempt's own task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from .._agents import SIGNALLING, LitAgent, find_asyncio_sign
from .._errors import AsyncioAgentError


@trio.lowlevel.disable_ki_protection
async def run_natively(name: str, fn: Callable[..., Awaitable[Any]], task: Any, arguments: Mapping[str, Any]) -> Any:
    """Call the agent here.

    Raises:
        AsyncioAgentError: it called asyncio, which has no event loop here.
    """
    try:
        return await fn(task, **arguments)
    except SIGNALLING as exc:
        sign = find_asyncio_sign(exc)
        if sign is None:
            raise
        is_method = isinstance(getattr(fn, "__self__", None), LitAgent)
        how = 'Set runs_in = "asyncio" in its class' if is_method else 'Declare it with @agl.rollout(runs_in="asyncio")'
        raise AsyncioAgentError(
            f"the agent {name} is written for asyncio ({sign}) and ran in Trio. {how}, or call trio.sleep, "
            "trio.open_nursery and the like instead of asyncio's"
        ) from exc
