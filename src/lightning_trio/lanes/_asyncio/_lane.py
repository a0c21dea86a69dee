"""The asyncio lane: agents written for asyncio run on one event loop of the process, in a thread of its own.

While calls are outstanding the loop is pinged. A warning says which agent blocks a loop that does not answer; if a
cancellation does not reach the loop either, the attempt is abandoned like a worker thread, and later calls go to a new
loop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import trio

from ..._concurrency import FlatNursery
from ..._errors import AgentError, UnsupportedLane
from ..._log import Log
from .._lane import Call, Lane, LaneOptions, OpenLane
from .._trio import check_async
from .._wrong_loop import WRONG_LOOP_ERRORS, find_trio_sign

if TYPE_CHECKING:
    from ._bridge import AsyncioBridge
    from ._call import AsyncioCall


logger = Log("lightning_trio.lanes")

_CHECK_SECONDS = 0.25
"""The interval between checks of the loop while there are calls."""

_BLOCKED_SECONDS = 1.0
"""A loop that does not answer for this long is blocked; a cancellation may also take this long to reach it."""

_REPLACE_SECONDS = 10.0
"""A loop that does not answer for this long gets no new calls, whether or not a call was abandoned."""

_CLEAN_UP_SECONDS = 10.0
"""How long a cancelled agent may take to clean up before it is abandoned."""

_CLOSE_SECONDS = 0.2
"""How long closing waits for abandoned calls, which the lane has waited for already."""


class AsyncioLane(Lane):
    """Run async functions that are written for asyncio."""

    name = "asyncio"

    def check(self, agent: str, fn: Callable[..., Any]) -> None:
        """Raise `UnsupportedLane` if the function is not async."""
        check_async(agent, fn, self.name)

    @asynccontextmanager
    async def open(self, options: LaneOptions) -> AsyncGenerator[OpenLane]:
        """Open the lane; at the end of the block its calls have ended or are left behind, and the loop goes on."""
        async with FlatNursery() as nursery:
            lane = OpenAsyncioLane(nursery)
            try:
                yield lane
            finally:
                await lane.aclose()


class OpenAsyncioLane(OpenLane):
    """Call async functions on the process's asyncio loop, which starts with the first call."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._current: AsyncioBridge | None = None
        self._bridges: list[AsyncioBridge] = []
        self._called = trio.Event()
        self._is_watched = False
        # Shielded, because calls that cannot be stopped are abandoned while everything around is being cancelled.
        self._watching = trio.CancelScope(shield=True)

    async def run(self, call: Call) -> Any:
        """Call the agent on the loop; when cancelled, cancel the call and wait for its clean-up.

        Raises:
            UnsupportedLane: the agent called Trio.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        # asyncio takes 20 ms to import, and agents in Trio do not need it.
        from ._call import AsyncioCall

        made = AsyncioCall(call.bound.fn, call.recorder.rollout.input, call.arguments())
        self._submit(made)
        try:
            return await made.wait()
        except WRONG_LOOP_ERRORS as exc:
            sign = find_trio_sign(exc)
            if sign is None:
                raise
            raise UnsupportedLane.calls_trio(call.bound.name, str(sign)) from exc
        except trio.Cancelled:
            if not made.ended and made.raise_cancel is not None:
                call.abandoned = made
            raise
        finally:
            call.disturbed_by = made.disturbed_by

    def _submit(self, call: AsyncioCall) -> None:
        bridge = self._current or self._open_bridge()
        try:
            call.submit(bridge)
        except RuntimeError:
            # The loop is closed, and `_on_death` has not been called yet.
            call.withdraw()
            self._move(bridge)
            call.submit(self._current or self._open_bridge())
        if not self._called.is_set():
            self._called.set()

    def _open_bridge(self) -> AsyncioBridge:
        from ._bridge import AsyncioBridge

        if not self._is_watched:
            self._is_watched = True
            self._nursery.start_soon(self._watch, name="lightning_trio asyncio lane")
        bridge = self._current = AsyncioBridge(self._move, self._on_death)
        self._bridges.append(bridge)
        return bridge

    def _move(self, bridge: AsyncioBridge) -> None:
        """Let later calls, and those that a retired loop has not started, go to another loop."""
        if self._current is bridge:
            self._current = None
        for call in list(bridge.calls):
            if call.withdraw():
                self._submit(call)
        bridge.leave()

    def _on_death(self, bridge: AsyncioBridge, exc: BaseException | None) -> None:
        import outcome

        self._move(bridge)
        for call in bridge.owners:
            error = AgentError.loop_died(exc)
            error.__cause__ = exc
            call.finish(outcome.Error(error))

    # Watching.

    async def _watch(self) -> None:
        with self._watching:
            while True:
                self._bridges = [bridge for bridge in self._bridges if not bridge.left.is_set()]
                if not any(bridge.calls for bridge in self._bridges):
                    self._called = trio.Event()
                    await self._called.wait()
                for bridge in self._bridges:
                    bridge.loop.ping()
                await trio.sleep(_CHECK_SECONDS)
                for bridge in list(self._bridges):
                    self._check(bridge)

    def _check(self, bridge: AsyncioBridge) -> None:
        loop = bridge.loop
        silence = loop.silence()
        if silence < _BLOCKED_SECONDS:
            loop.warned = False
        elif not loop.warned and bridge.calls:
            loop.warned = True
            logger.warning(
                "the agents' asyncio loop has been blocked for %.1f s, with %d rollouts on it, by %s; run an agent "
                'that blocks with @agl.rollout(runs_in="thread"), or await asyncio.to_thread(…) in it',
                silence,
                loop.count_calls(),
                loop.location(),
            )
        for call in [call for call in bridge.calls if _is_stuck(call, blocked=silence >= _BLOCKED_SECONDS)]:
            call.abandon()
        if silence >= _REPLACE_SECONDS or (silence >= _BLOCKED_SECONDS and _is_blocked_for(bridge)):
            bridge.replace_loop()

    async def aclose(self) -> None:
        """Leave the loop; abandoned calls that do not end now are left behind with a warning."""
        self._watching.cancel()
        for bridge in self._bridges:
            for call in bridge.abandoned:
                call.cancel_again()
            bridge.leave()
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            for bridge in self._bridges:
                await bridge.left.wait()
        for bridge in self._bridges:
            if not bridge.left.is_set():
                self._leave_behind(bridge)
        self._bridges.clear()
        self._current = None

    def _leave_behind(self, bridge: AsyncioBridge) -> None:
        logger.warning(
            "%s did not stop within %g s and is left behind on the asyncio loop (it does not keep the process alive); "
            "the loop runs %s",
            ", ".join(f"the agent of {call}" for call in bridge.abandoned),
            _CLOSE_SECONDS,
            bridge.loop.location(),
        )
        if _is_blocked_for(bridge):
            bridge.replace_loop()
        bridge.leave_now()


def _is_blocked_for(bridge: AsyncioBridge) -> bool:
    """Whether a call was abandoned because its cancellation did not reach the loop, or because it blocks the loop."""
    return any(not call.cancelled_there or call.runs_now() for call in bridge.abandoned)


def _is_stuck(call: AsyncioCall, *, blocked: bool) -> bool:
    if call.cancelled_at is None:
        return False
    waited = monotonic() - call.cancelled_at
    cleans_up = call.cancelled_there and not (blocked and call.runs_now())
    return waited >= (_CLEAN_UP_SECONDS if cleans_up else _BLOCKED_SECONDS)
