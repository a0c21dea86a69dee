"""Stopping: the first Ctrl-C or SIGTERM lets attempts finish for a while, the second does not.

It concerns `fit`, `serve` and `stream` of runners open in the main thread; where none of these goes on, a signal has
the effect it had without us. The handler itself only notes the signal and asks Trio's loop to act on it. A loop that
does not come to it within a second is kept by code that never yields; then the interruption is raised in that code,
if it is not protected (see `trio.lowlevel.enable_ki_protection`), as Trio itself does with every Ctrl-C.
"""

from __future__ import annotations

import _thread
import logging
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType

import trio

from .._errors import Terminated
from ._signals import SharedHandler, is_default

logger = logging.getLogger("lightning_trio.runner")

_UNNOTICED_SECONDS = 1.0
"""How long a signal may go without Trio's loop acting on it."""


class StoppableCall:
    """A call that begins attempts: first of all it must not begin more."""

    def __init__(self) -> None:
        self._claims: trio.CancelScope | None = None
        self._attempts: trio.CancelScope | None = None
        self._deadline = float("inf")
        self._ended = trio.Event()

    @property
    def stopping(self) -> bool:
        """Whether a signal has come."""
        return self._deadline < float("inf")

    @contextmanager
    def claiming(self, attempts: trio.CancelScope) -> Generator[None]:
        """Begin attempts within the block, to run within `attempts`; a signal leaves the block at once."""
        self._attempts = attempts
        with trio.CancelScope() as self._claims:
            if self.stopping:
                self.stop_by(self._deadline)
            yield

    def stop_within(self, scope: trio.CancelScope) -> None:
        """Let the end of the grace period, or a second signal, cancel `scope`."""
        self._attempts = scope
        if self.stopping:
            self.stop_by(self._deadline)

    async def wait_others(self) -> None:
        """Wait until all calls in the program have ended their attempts, for the first to leave cancels the others.

        Returns at once if no signal has come, and at the end of the grace period.
        """
        self.end()
        if not self.stopping:
            return
        with trio.CancelScope(deadline=self._deadline) as self._attempts:
            for shutdown in STOP_SIGNALS.members:
                for call in tuple(shutdown.calls):
                    await call.wait_ended()

    async def wait_ended(self) -> None:
        """Wait until its attempts have ended."""
        if self._claims is not None:
            await self._ended.wait()

    def end(self) -> None:
        """Note that its attempts have ended."""
        self._ended.set()

    def stop_by(self, deadline: float) -> None:
        """Begin no more, and cancel what runs at `deadline`."""
        self._deadline = deadline
        if self._claims is not None:
            self._claims.cancel()
        if self._attempts is not None:
            self._attempts.deadline = min(self._attempts.deadline, deadline)


class GracefulShutdown:
    """How an open runner is stopped by signals.

    Args:
        grace_seconds: how long attempts may run on after the first signal.
        running: tells how many attempts run.
    """

    def __init__(self, grace_seconds: float, running: Callable[[], int]) -> None:
        self._grace_seconds = grace_seconds
        self._running = running
        self.calls: set[StoppableCall] = set()
        """What there is to stop."""
        self._signum: int | None = None
        self._deadline = float("inf")
        self.token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self.signals: int = 0
        """How many signals have come since there is something to stop."""

    @contextmanager
    def stoppable(self) -> Generator[StoppableCall]:
        """Let signals stop what goes on within the block; its end raises what they stand for.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
            Terminated: SIGTERM came.
        """
        call = StoppableCall()
        if self._signum is not None:
            call.stop_by(self._deadline)
        self.calls.add(call)
        try:
            yield call
            if self._signum is not None:
                raise exception_for(self._signum)
        finally:
            self.calls.discard(call)
            call.end()
            if not self.calls:
                self._signum, self._deadline, self.signals = None, float("inf"), 0

    def begin(self, signum: int) -> None:
        """Begin nothing more, and give what runs its time."""
        self._signum = signum
        self._log(signum)
        self._stop_by(trio.current_time() + self._grace_seconds)

    def cancel_now(self, signum: int) -> None:
        """Cancel what runs at once."""
        self._signum = signum
        self._stop_by(trio.current_time())

    def _stop_by(self, deadline: float) -> None:
        self._deadline = deadline
        for call in self.calls:
            call.stop_by(deadline)

    def _log(self, signum: int) -> None:
        running = self._running()
        if not running:
            return
        logger.warning(
            "%s: %d attempt%s; %s",
            "interrupted" if signum == signal.SIGINT else "terminated",
            running,
            " still runs" if running == 1 else "s still run",
            f"waiting up to {self._grace_seconds:g} s for {'it' if running == 1 else 'them'}, "
            f"{'Ctrl-C' if signum == signal.SIGINT else 'SIGTERM'} again stops at once"
            if self._grace_seconds
            else "stopped at once",
        )


def exception_for(signum: int) -> BaseException:
    """Give what a signal stands for."""
    return KeyboardInterrupt() if signum == signal.SIGINT else Terminated()


# In the handler.


def _on_signal(signum: int, frame: FrameType | None, shutdowns: Sequence[GracefulShutdown]) -> None:
    working = [shutdown for shutdown in shutdowns if shutdown.calls]
    if not working:
        _act_as_replaced(signum, frame)
        return
    again = any(shutdown.signals for shutdown in working)
    for shutdown in working:
        shutdown.signals += 1
    if again and not trio.lowlevel.currently_ki_protected():
        raise exception_for(signum)
    _request(working, signum, again=again)


def _act_as_replaced(signum: int, frame: FrameType | None) -> None:
    before = STOP_SIGNALS.replaced.get(signum, signal.SIG_DFL)
    if callable(before):
        before(signum, frame)
    else:
        signal.signal(signum, before)
        signal.raise_signal(signum)


def _request(shutdowns: Sequence[GracefulShutdown], signum: int, *, again: bool) -> None:
    noticed = _thread.allocate_lock()
    noticed.acquire()

    def act() -> None:
        noticed.release()
        working = [shutdown for shutdown in shutdowns if shutdown.calls]
        for shutdown in working:
            if again:
                shutdown.cancel_now(signum)
            else:
                shutdown.begin(signum)
        if not working and not again:
            # What was to be stopped has ended by itself since; the signal is for the rest of the program, then.
            signal.raise_signal(signum)

    # All runners open in the main thread run in the same loop.
    shutdowns[0].token.run_sync_soon(act)
    # Not `threading.Thread`: it takes locks, which the code that was interrupted may hold.
    _thread.start_new_thread(_raise_again_unless_noticed, (noticed, signum))


def _raise_again_unless_noticed(noticed: _thread.LockType, signum: int) -> None:
    if noticed.acquire(timeout=_UNNOTICED_SECONDS):
        return
    if hasattr(signal, "pthread_kill"):
        # To that thread, so that it leaves a system call it may be blocked in.
        signal.pthread_kill(threading.main_thread().ident or 0, signum)
    else:
        signal.raise_signal(signum)


def _is_replaceable(handler: object) -> bool:
    if handler is signal.default_int_handler:
        return True
    # Trio's is a function within a method and can be told by its module only.
    return getattr(handler, "__module__", None) == "trio._core._ki"


STOP_SIGNALS: SharedHandler[GracefulShutdown] = SharedHandler(
    _on_signal, {signal.SIGINT: _is_replaceable, signal.SIGTERM: is_default}
)
"""Ctrl-C and SIGTERM stop all runners that are open in the main thread."""
