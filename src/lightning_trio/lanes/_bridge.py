"""The bridge from Trio to an asyncio event loop in a side thread.

Our own rather than AnyIO's portal: half the cost a call, and it keeps asyncio's own way of cancelling,
once and at the next await, so that an agent's ``finally`` may await.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import outcome
import trio

from .._errors import AgentError


class AsyncioBridge:
    """An asyncio loop in a thread of its own; it runs from here on until `aclose`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ended = trio.Event()
        token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(
            target=_run_loop, args=(self._loop, token, self._ended), name="lightning_trio-asyncio", daemon=True
        )
        self._thread.start()

    async def run(self, fn: Callable[..., Coroutine[Any, Any, Any]], task: Any, arguments: Mapping[str, Any]) -> Any:
        """Call the function on the loop; cancelling the caller cancels the call and waits for its clean-up."""
        return await _Call(self._loop).wait(fn, task, arguments)

    async def aclose(self) -> None:
        """Stop the loop; gives up on one that is blocked after a second."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        with trio.move_on_after(1.0, shield=True):
            await self._ended.wait()
            # Saying so was the last thing the thread did: this waits for microseconds.
            self._thread.join()


def _run_loop(loop: asyncio.AbstractEventLoop, token: trio.lowlevel.TrioToken, ended: trio.Event) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        leftover = asyncio.all_tasks(loop)
        for task in leftover:
            task.cancel()
        if leftover:
            loop.run_until_complete(asyncio.gather(*leftover, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        loop.close()
        # Where the runner gave up on a blocked loop, it is gone by now.
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(ended.set)


class _Call:
    """One call from Trio to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._token = trio.lowlevel.current_trio_token()
        self._caller = trio.lowlevel.current_task()
        self._task: asyncio.Task[outcome.Outcome[Any]] | None = None
        self._cancelled = False

    async def wait(self, fn: Callable[..., Coroutine[Any, Any, Any]], task: Any, arguments: Mapping[str, Any]) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        raise_cancel: trio.lowlevel.RaiseCancelT | None = None

        def abort(raise_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = raise_
            self._loop.call_soon_threadsafe(self._cancel)
            # Not yet: the call's own clean-up runs first, and its end wakes us.
            return trio.lowlevel.Abort.FAILED

        self._loop.call_soon_threadsafe(self._start, fn, task, arguments, context=contextvars.copy_context())
        result: outcome.Outcome[Any] = await trio.lowlevel.wait_task_rescheduled(abort)
        if (
            raise_cancel is not None
            and isinstance(result, outcome.Error)
            and isinstance(result.error, asyncio.CancelledError)
        ):
            raise_cancel()
        return result.unwrap()

    # In the loop's thread.

    def _start(self, fn: Callable[..., Coroutine[Any, Any, Any]], task: Any, arguments: Mapping[str, Any]) -> None:
        if self._cancelled:
            self._wake(outcome.Error(asyncio.CancelledError()))
            return
        self._task = self._loop.create_task(_captured(fn, task, arguments))
        self._task.add_done_callback(self._done)

    def _cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def _done(self, task: asyncio.Task[outcome.Outcome[Any]]) -> None:
        # Cancelled before its first step, a task never comes to capture anything.
        self._wake(outcome.Error(asyncio.CancelledError()) if task.cancelled() else task.result())

    def _wake(self, result: outcome.Outcome[Any]) -> None:
        # Where Trio ended without waiting for the loop, nobody is left to be told.
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(trio.lowlevel.reschedule, self._caller, outcome.Value(result))


async def _captured(
    fn: Callable[..., Coroutine[Any, Any, Any]], task: Any, arguments: Mapping[str, Any]
) -> outcome.Outcome[Any]:
    # BaseException too: a SystemExit that leaves a task would stop the loop with all its other calls.
    try:
        return outcome.Value(await fn(task, **arguments))
    except KeyboardInterrupt as exc:
        # Ctrl-C reaches the main thread only, so this is the agent's own and must not stop the program.
        error = AgentError("the agent raised KeyboardInterrupt")
        error.__cause__ = exc
        return outcome.Error(error)
    except BaseException as exc:
        return outcome.Error(exc)
