"""The bridge from one Trio run to the process's asyncio loop: an open lane's calls, and their results.

Compared with AnyIO's portal, a call costs half as much, and cancellation is asyncio's own: it is delivered once, at the
next await, so an agent's ``finally`` may await.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import outcome
import trio

from ._call import AsyncioCall, prepare_loop
from ._loop import join_loop, leave_loop, retire_loop

_AT_ONCE = 256
"""The most callers to wake in one batch; Trio's loop serves other tasks in between."""


class AsyncioBridge:
    """The calls of one open lane to one loop.

    Args:
        on_retired: called in Trio's thread when new calls are to go to another loop.
        on_death: called in Trio's thread when the loop has died.
    """

    def __init__(
        self,
        on_retired: Callable[[AsyncioBridge], None],
        on_death: Callable[[AsyncioBridge, BaseException | None], None],
    ) -> None:
        self.calls: set[AsyncioCall] = set()
        """Calls whose callers wait; changed in Trio's thread only."""
        self.abandoned: set[AsyncioCall] = set()
        self.left = trio.Event()
        """Set once the bridge has no calls and will get none."""
        self.is_leaving = False
        self._on_retired = on_retired
        self._on_death = on_death
        self._token = trio.lowlevel.current_trio_token()
        self._reports: deque[tuple[AsyncioCall, outcome.Outcome[Any]]] = deque()
        self._will_report = False
        self.loop = join_loop(self, prepare_loop)

    # In Trio's thread.

    def leave(self) -> None:
        """Leave the loop, after the last call if there still are some."""
        self.is_leaving = True
        if not self.calls and not self.abandoned:
            self.leave_now()

    def leave_now(self) -> None:
        """Leave the loop; calls that are still on it are left behind."""
        leave_loop(self.loop, self)
        self.left.set()

    def replace_loop(self) -> None:
        """Let later calls of all lanes go to another loop than this one, which is blocked."""
        retire_loop(self.loop)

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
        self._tell(lambda: call.abandon() if call in self.calls else None)

    def _report_soon(self) -> None:
        if not self._will_report:
            self._will_report = True
            # If Trio has ended without waiting for the loop, no caller waits for the result.
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._deliver)

    # In any thread.

    @property
    def owners(self) -> tuple[AsyncioCall, ...]:
        """The calls, also the abandoned ones."""
        return *self.calls, *self.abandoned

    def retire_soon(self) -> None:
        """Move the calls that the loop has not started to another loop."""
        self._tell(self._on_retired, self)

    def fail_soon(self, death: BaseException | None) -> None:
        """Fail the calls on the loop, which has died."""
        self._tell(self._on_death, self, death)

    def _tell(self, fn: Callable[..., object], *args: object) -> None:
        try:
            self._token.run_sync_soon(fn, *args)
        except trio.RunFinishedError:
            # Trio has ended without closing the lane, so no caller waits.
            leave_loop(self.loop, self)
