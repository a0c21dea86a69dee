"""Graceful shutdown: the first Ctrl-C or SIGTERM gives running attempts time to finish, the second cancels them.

It applies to `fit`, `serve` and `stream` of runners open in the main thread. While none of these runs, a signal has its
previous effect. The handler itself only counts the signal and asks Trio's loop to act on it. If the loop does not act
within a second, code that never yields is blocking it; the exception is then raised in that code, unless that is
protected (see `trio.lowlevel.enable_ki_protection`), as Trio does with every Ctrl-C.
"""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType

import trio

from .._errors import Terminated
from .._log import Log, count_signals_by
from ._signals import SharedHandler, is_default, is_trios

logger = Log("lightning_trio.runner")

_UNNOTICED_SECONDS = 1.0
"""How long Trio's loop may take to act on a signal before the exception is raised in the code that blocks it."""


class StoppableCall:
    """One call of `fit`, `serve` or `stream`: a shutdown first stops its claims, then cancels its attempts."""

    def __init__(self) -> None:
        self._claims: trio.CancelScope | None = None
        self._attempts: trio.CancelScope | None = None
        self._deadline = float("inf")
        self._ended = trio.Event()

    @property
    def stopping(self) -> bool:
        """Whether a signal has been received."""
        return self._deadline < float("inf")

    @contextmanager
    def claiming(self, attempts: trio.CancelScope) -> Generator[None]:
        """Start attempts within the block, which a signal leaves at once; `attempts` ends with the grace period."""
        self._attempts = attempts
        with trio.CancelScope() as self._claims:
            if self.stopping:
                self.stop_by(self._deadline)
            yield

    def stop_within(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` at the end of the grace period or at a second signal."""
        self._attempts = scope
        if self.stopping:
            self.stop_by(self._deadline)

    async def wait_others(self) -> None:
        """Wait until all calls in the program have ended their attempts: the first to raise would cancel the others.

        Returns at once if there was no signal, and at the latest at the end of the grace period.
        """
        self.end()
        if not self.stopping:
            return
        with trio.CancelScope(deadline=self._deadline) as self._attempts:
            for shutdown in STOP_SIGNALS.members:
                for call in tuple(shutdown.calls):
                    await call.wait_ended()

    async def wait_ended(self) -> None:
        """Wait until the call's attempts have ended."""
        if self._claims is not None:
            await self._ended.wait()

    def end(self) -> None:
        """Mark the call's attempts as ended."""
        self._ended.set()

    def stop_by(self, deadline: float) -> None:
        """Start no more attempts, and cancel those that run at `deadline`."""
        self._deadline = deadline
        if self._claims is not None:
            self._claims.cancel()
        if self._attempts is not None:
            self._attempts.deadline = min(self._attempts.deadline, deadline)


class GracefulShutdown:
    """The shutdown of an open runner by signals.

    Args:
        grace_seconds: how long attempts may run on after the first signal.
        running: returns the number of running attempts.
    """

    def __init__(self, grace_seconds: float, running: Callable[[], int]) -> None:
        self._grace_seconds = grace_seconds
        self._running = running
        self.calls: set[StoppableCall] = set()
        """The calls to stop."""
        self._signum: int | None = None
        self._deadline = float("inf")
        self.token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self.signals: int = 0
        """The number of signals received while there were calls to stop."""

    @contextmanager
    def stoppable(self) -> Generator[StoppableCall]:
        """Make the block stoppable by signals; at its end, raise the exception of the signal that stopped it.

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
        """Start no more attempts, and cancel those that run after the grace period."""
        self._signum = signum
        self._log(signum)
        self._stop_by(trio.current_time() + self._grace_seconds)

    def cancel_now(self, signum: int) -> None:
        """Cancel running attempts at once."""
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
    """Return the exception that a signal stands for."""
    return KeyboardInterrupt() if signum == signal.SIGINT else Terminated()


# In the handler.


def _on_signal(signum: int, frame: FrameType | None, shutdowns: Sequence[GracefulShutdown]) -> None:
    working = [shutdown for shutdown in shutdowns if shutdown.calls]
    if not working:
        _call_replaced(signum, frame)
        return
    again = any(shutdown.signals for shutdown in working)
    for shutdown in working:
        shutdown.signals += 1
    if again and not trio.lowlevel.currently_ki_protected():
        raise exception_for(signum)
    _request_shutdown(working, signum, again=again)


def _call_replaced(signum: int, frame: FrameType | None) -> None:
    before = STOP_SIGNALS.replaced.get(signum, signal.SIG_DFL)
    if callable(before):
        before(signum, frame)
    else:
        signal.signal(signum, before)
        signal.raise_signal(signum)


def _request_shutdown(shutdowns: Sequence[GracefulShutdown], signum: int, *, again: bool) -> None:
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
            # All calls have ended by themselves meanwhile, so the signal is meant for the rest of the program.
            signal.raise_signal(signum)

    # All runners open in the main thread share one loop.
    shutdowns[0].token.run_sync_soon(act)
    # Not `threading.Thread`, which takes locks that the interrupted code may hold.
    _thread.start_new_thread(_raise_again_unless_noticed, (noticed, signum))


def _raise_again_unless_noticed(noticed: _thread.LockType, signum: int) -> None:
    if noticed.acquire(timeout=_UNNOTICED_SECONDS):
        return
    if hasattr(signal, "pthread_kill"):
        # Sent to the main thread, so that it leaves a blocking system call.
        signal.pthread_kill(threading.main_thread().ident or 0, signum)
    else:
        signal.raise_signal(signum)


def _is_replaceable(handler: object) -> bool:
    return handler is signal.default_int_handler or is_trios(handler)


STOP_SIGNALS: SharedHandler[GracefulShutdown] = SharedHandler(
    _on_signal, {signal.SIGINT: _is_replaceable, signal.SIGTERM: is_default}
)
"""Ctrl-C and SIGTERM stop all runners that are open in the main thread."""


def _count_signals() -> int | None:
    # A handler of the host's own may raise whatever it likes.
    return STOP_SIGNALS.received if STOP_SIGNALS.handles(signal.SIGINT) else None


count_signals_by(_count_signals)


class Interruptions:
    """The interruptions of a call: Ctrl-C, by the signals since this was made, or raised by the code itself."""

    def __init__(self) -> None:
        self._before = STOP_SIGNALS.received

    def may_have_come(self) -> bool:
        """Whether an interruption that surfaces in this thread may come from a signal."""
        if threading.current_thread() is not threading.main_thread():
            # Python raises them in the main thread.
            return False
        # A handler of the host's own may raise whatever it likes.
        return STOP_SIGNALS.received > self._before or not STOP_SIGNALS.handles(signal.SIGINT)
