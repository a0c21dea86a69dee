"""The asyncio lane: agents written for asyncio run on one event loop in a side thread.

While calls are outstanding the loop is asked now and then whether it is alive. One that is blocked is named in a
warning; when it does not even hear of a cancellation, the attempt is given up like a worker thread, and later calls get
a fresh loop.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import trio

from ..._concurrency import FlatNursery
from ..._errors import AgentError, UnsupportedLane
from .._lane import Call, Lane, LaneOptions, OpenLane
from .._trio import check_async
from .._wrong_loop import WRONG_LOOP_ERRORS, find_trio_sign

if TYPE_CHECKING:
    from ._bridge import AsyncioBridge
    from ._call import AsyncioCall


logger = logging.getLogger("lightning_trio.lanes")

_CHECK_SECONDS = 0.25
"""How often the loop is looked at while there are calls."""

_BLOCKED_SECONDS = 1.0
"""A loop that does not answer for this long is blocked; so long it may also take to hear of a cancellation."""

_REPLACE_SECONDS = 10.0
"""A loop that does not answer for this long gets no new calls, whether or not one was given up."""

_CLEAN_UP_SECONDS = 10.0
"""How long a cancelled agent may take to clean up before it is given up."""

_CLOSE_SECONDS = 2.0
"""How long closing waits for the loops."""

_CLOSE_STUCK_SECONDS = 0.2
"""The same where every loop has a call it did not let go of."""


class AsyncioLane(Lane):
    """Run async functions that are written for asyncio."""

    name = "asyncio"

    def check(self, agent: str, fn: Callable[..., Any]) -> None:
        """Raise if the function is not async."""
        check_async(agent, fn, self.name)

    @asynccontextmanager
    async def open(self, options: LaneOptions) -> AsyncGenerator[OpenLane]:
        """Open the lane; at the end its loops are stopped."""
        async with FlatNursery() as nursery:
            lane = OpenAsyncioLane(nursery)
            try:
                yield lane
            finally:
                await lane.aclose()


class OpenAsyncioLane(OpenLane):
    """Call async functions on an asyncio loop that starts with the first call."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._current: AsyncioBridge | None = None
        self._bridges: list[AsyncioBridge] = []
        self._called = trio.Event()
        self._is_watched = False
        # Shielded: a call that cannot be cancelled is given up while everything around is being cancelled.
        self._watching = trio.CancelScope(shield=True)

    async def run(self, call: Call) -> Any:
        """Call the agent on the loop; cancelling the caller cancels the call and waits for its clean-up.

        Raises:
            UnsupportedLane: the agent called Trio.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        # asyncio takes 20 ms to import, and Trio's agents do without it.
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

    def _submit(self, call: AsyncioCall) -> None:
        bridge = self._current or self._open_bridge()
        try:
            call.submit(bridge)
        except RuntimeError:
            # Closed, and the news of it is still on its way.
            call.withdraw()
            self._replace(bridge)
            call.submit(self._current or self._open_bridge())
        if not self._called.is_set():
            self._called.set()

    def _open_bridge(self) -> AsyncioBridge:
        from ._bridge import AsyncioBridge

        if not self._is_watched:
            self._is_watched = True
            self._nursery.start_soon(self._watch, name="lightning_trio asyncio lane")
        bridge = self._current = AsyncioBridge(self._on_death)
        self._bridges.append(bridge)
        return bridge

    def _replace(self, bridge: AsyncioBridge) -> None:
        """Let later calls, and those the loop has not started, go to another loop."""
        bridge.retired = True
        if self._current is bridge:
            self._current = None
        for call in list(bridge.calls):
            if call.withdraw():
                self._submit(call)
        if not bridge.calls and not bridge.abandoned:
            bridge.stop()

    def _on_death(self, bridge: AsyncioBridge, exc: BaseException | None) -> None:
        import outcome

        logger.error("the asyncio loop of the agents died with %r; later calls get another", exc)
        self._replace(bridge)
        for call in [*bridge.calls, *bridge.abandoned]:
            error = AgentError.loop_died(exc)
            error.__cause__ = exc
            call.finish(outcome.Error(error))

    # Watching.

    async def _watch(self) -> None:
        with self._watching:
            while True:
                self._bridges = [bridge for bridge in self._bridges if not bridge.ended.is_set()]
                if not any(bridge.calls for bridge in self._bridges):
                    self._called = trio.Event()
                    await self._called.wait()
                for bridge in self._bridges:
                    bridge.ping()
                await trio.sleep(_CHECK_SECONDS)
                for bridge in list(self._bridges):
                    self._check(bridge)

    def _check(self, bridge: AsyncioBridge) -> None:
        silence = bridge.silence()
        if silence < _BLOCKED_SECONDS:
            bridge.warned = False
        elif not bridge.warned and bridge.calls:
            bridge.warned = True
            logger.warning(
                "the asyncio loop of the agents has been blocked for %.1f s, with %d rollouts on it, by %s; an agent "
                'that blocks belongs into @agl.rollout(runs_in="thread"), or await asyncio.to_thread(…) there',
                silence,
                len(bridge.calls),
                bridge.location(),
            )
        stuck = [call for call in bridge.calls if _is_stuck(call)]
        for call in stuck:
            call.give_up()
        if not bridge.retired and (silence >= _REPLACE_SECONDS or (stuck and silence >= _BLOCKED_SECONDS)):
            self._replace(bridge)

    async def aclose(self) -> None:
        """Stop the loops; one that does not stop in time is named in a warning and left alone."""
        self._watching.cancel()
        for bridge in self._bridges:
            bridge.stop()
        # A loop that did not let go of a call has been waited for already.
        seconds = _CLOSE_SECONDS if any(not bridge.abandoned for bridge in self._bridges) else _CLOSE_STUCK_SECONDS
        with trio.move_on_after(seconds, shield=True):
            for bridge in self._bridges:
                await bridge.ended.wait()
                # Saying so was the last thing the thread did: this waits for microseconds.
                bridge.thread.join()
        for bridge in self._bridges:
            if not bridge.ended.is_set():
                logger.warning(
                    "the asyncio loop of the agents did not stop within %g s and is left behind (it does not keep the "
                    "process alive); it runs %s",
                    seconds,
                    bridge.location(),
                )
        self._bridges.clear()
        self._current = None


def _is_stuck(call: AsyncioCall) -> bool:
    if call.cancelled_at is None:
        return False
    waited = monotonic() - call.cancelled_at
    return waited >= (_CLEAN_UP_SECONDS if call.cancelled_there else _BLOCKED_SECONDS)
