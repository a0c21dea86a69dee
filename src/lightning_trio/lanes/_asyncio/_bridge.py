"""The bridge from Trio to an asyncio event loop in a thread of its own.

Compared with AnyIO's portal, a call costs half as much, and cancellation is asyncio's own: it is delivered once, at the
next await, so an agent's ``finally`` may await.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import outcome
import trio

from ._call import LEFTOVER_SECONDS, AsyncioCall, create_task, names_of
from ._daemon_executor import DaemonExecutor

logger = logging.getLogger("lightning_trio.lanes")

_AT_ONCE = 256
"""The most callers to wake in one batch; Trio's loop serves other tasks in between."""


class AsyncioBridge:
    """An asyncio loop in a thread of its own, which runs until `stop` or until it dies.

    Args:
        on_death: called in Trio's thread when the loop has ended without `stop`.
    """

    def __init__(self, on_death: Callable[[AsyncioBridge, BaseException | None], None]) -> None:
        self.calls: set[AsyncioCall] = set()
        """Calls whose callers wait; used in Trio's thread only."""
        self.abandoned: set[AsyncioCall] = set()
        self.ended = trio.Event()
        self.retired = False
        """Whether new calls go to another loop; this one stops after its last call."""
        self.warned = False
        self._on_death = on_death
        self._loop = asyncio.new_event_loop()
        # The stubs require keyword parameters that a function with **options does not satisfy.
        self._loop.set_task_factory(cast("Any", create_task))
        self._loop.set_default_executor(DaemonExecutor())
        self._token = trio.lowlevel.current_trio_token()
        self._stopping = False
        self._pinged_at: float | None = None
        self._starting: deque[tuple[AsyncioCall, list[None]]] = deque()
        self._will_start = False
        self._reports: deque[tuple[AsyncioCall, outcome.Outcome[Any]]] = deque()
        self._will_report = False
        self.thread = threading.Thread(target=self._run, name="lightning_trio-asyncio", daemon=True)
        self.thread.start()

    # In Trio's thread.

    def submit(self, call: AsyncioCall, ticket: list[None]) -> None:
        """Start a call on the loop.

        Raises:
            RuntimeError: the loop is closed.
        """
        # Calls submitted together wake the loop once.
        self._starting.append((call, ticket))
        if not self._will_start:
            self._will_start = True
            self._loop.call_soon_threadsafe(self._start_all)

    def call_soon(self, fn: Callable[[], object]) -> None:
        """Call `fn` in the loop's thread; do nothing if the loop is closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(fn)

    def ping(self) -> None:
        """Send a ping to the loop, unless one is still unanswered."""
        if self._pinged_at is None:
            self._pinged_at = time.monotonic()
            self.call_soon(self._answer_ping)

    def silence(self) -> float:
        """Return the seconds since the unanswered ping, 0 if there is none."""
        # The real clock: a virtual one does not measure how long a thread takes.
        pinged_at = self._pinged_at
        return 0.0 if pinged_at is None else time.monotonic() - pinged_at

    def stop(self) -> None:
        """Stop the loop after its current callback."""
        self._stopping = True
        self.call_soon(self._loop.stop)

    def location(self) -> str:
        """Return the current line of the loop's thread and the call it belongs to, for messages."""
        task = None if self._loop.is_closed() else asyncio.current_task(self._loop)
        calls = [*self.calls, *self.abandoned]
        call = next((call for call in calls if task is not None and call.owns(task)), None)
        owner = "no agent's task" if call is None else f"the agent of {call}"
        frame = sys._current_frames().get(self.thread.ident or 0)  # pyright: ignore[reportPrivateUsage]  # documented
        if frame is None:
            return owner
        lines = traceback.extract_stack(frame)
        # The agent's own line says more than a line of the library it called.
        own = [line for line in lines if call is not None and line.filename == call.filename]
        line = (own or lines)[-1]
        return f"{owner}, in {line.name} at {line.filename}:{line.lineno}: {line.line}"

    def _deliver(self) -> None:
        self._will_report = False
        for _ in range(_AT_ONCE):
            if not self._reports:
                return
            call, result = self._reports.popleft()
            call.finish(result)
        self._report_soon()

    # In the loop's thread.

    def report(self, call: AsyncioCall, result: outcome.Outcome[Any]) -> None:
        """Report a call's result to Trio's thread."""
        self._reports.append((call, result))
        self._report_soon()

    def abandon_soon(self, call: AsyncioCall) -> None:
        """Abandon a cancelled call whose agent has ended while some of its tasks have not."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(lambda: call.abandon() if call in self.calls else None)

    def _report_soon(self) -> None:
        if not self._will_report:
            self._will_report = True
            # If Trio has ended without waiting for the loop, no caller waits for the result.
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._deliver)

    def _start_all(self) -> None:
        self._will_start = False
        while self._starting:
            call, ticket = self._starting.popleft()
            # The call belongs to the thread that takes its ticket: Trio withdraws calls from a loop that is late.
            if ticket:
                with suppress(IndexError):
                    ticket.pop()
                    call.start(self._loop)

    def _answer_ping(self) -> None:
        self._pinged_at = None

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        death: BaseException | None = None
        try:
            self._serve()
        except BaseException as exc:
            death = exc
        died = not self._stopping
        with suppress(trio.RunFinishedError):
            if died:
                self._token.run_sync_soon(self._on_death, self, death)
        try:
            if not died:
                self._end_tasks()
        except BaseException as exc:
            logger.warning("the agents' asyncio loop ended with an error: %r", exc)
        finally:
            self._loop.close()
            asyncio.set_event_loop(None)
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self.ended.set)

    def _serve(self) -> None:
        while not self._stopping:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # Raised by a task that an agent created; it is also the task's result, so nothing is lost.
                continue
            if not self._stopping:
                logger.warning(
                    "an agent called stop() on the asyncio loop that it shares with others; the loop keeps running"
                )

    def _end_tasks(self) -> None:
        loop = self._loop
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = loop.run_until_complete(asyncio.wait(tasks, timeout=LEFTOVER_SECONDS))
            if pending:
                logger.warning(
                    "the agents' asyncio loop is closed although some tasks ignore their cancellation: %s",
                    names_of(pending),
                )
        loop.run_until_complete(loop.shutdown_asyncgens())
