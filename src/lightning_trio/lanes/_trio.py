"""The Trio lane: an async agent runs in the attempt's own task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from .._errors import AsyncioAgentError

_SIGNS = (
    "no running event loop",
    "no current event loop",
    "unrecognized yield message",
    "Timeout should be used inside",
    # What asyncio's Queue, Event, Lock and Semaphore come to without a loop.
    "'NoneType' object has no attribute 'create_future'",
)


@trio.lowlevel.disable_ki_protection
async def run_natively(name: str, fn: Callable[..., Awaitable[Any]], task: Any, arguments: Mapping[str, Any]) -> Any:
    """Call the agent here.

    Raises:
        AsyncioAgentError: it called asyncio, which has no event loop here.
    """
    try:
        return await fn(task, **arguments)
    except (RuntimeError, TypeError, AttributeError, ExceptionGroup) as exc:
        sign = _find_sign(exc)
        if sign is None:
            raise
        raise AsyncioAgentError(
            f"the agent {name} is written for asyncio ({sign}) and ran in Trio. Declare it with "
            f'@agl.rollout(runs_in="asyncio"), or call trio.sleep, trio.open_nursery and the like instead of '
            "asyncio's"
        ) from exc


def _find_sign(exc: BaseException) -> BaseException | None:
    """Find what a call of asyncio raised, also in the group of an agent's own nursery."""
    if isinstance(exc, BaseExceptionGroup):
        return next((found for inner in exc.exceptions if (found := _find_sign(inner)) is not None), None)
    is_one = isinstance(exc, RuntimeError | TypeError | AttributeError) and any(sign in str(exc) for sign in _SIGNS)
    return exc if is_one else None
