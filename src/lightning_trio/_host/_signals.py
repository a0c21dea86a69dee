"""Signal handlers shared by all runners open in the main thread: the first runner installs them, the last removes them.

A handler replaces only Python's or Trio's own, never one of the host program's. Python calls handlers in the main
thread only, so runners in other threads have none. A forked child process has no runner, so the replaced handlers are
put back there: it ends at a SIGTERM like any other.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Generic, TypeVar

import trio

T = TypeVar("T")


class SharedHandler(Generic[T]):
    """Handle signals for all members together.

    Args:
        handle: called in the main thread, between any two bytecodes, with the signal, the interrupted frame, and the
            current members.
        replaces: for each signal, whether the handler in place may be replaced.
    """

    def __init__(
        self,
        handle: Callable[[int, FrameType | None, Sequence[T]], None],
        replaces: Mapping[int, Callable[[object], bool]],
    ) -> None:
        self._handle = handle
        self._replaces = replaces
        self.members: list[T] = []
        self.replaced: dict[int, Any] = {}
        """The previous handlers, by signal."""
        self.received: int = 0
        """How many signals have come."""
        self._masks = threading.local()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._before_fork,
                after_in_parent=self._after_fork,
                after_in_child=self._after_fork_in_child,
            )

    @contextmanager
    def joined(self, member: T) -> Generator[None]:
        """Handle the signals for `member` as well until the block ends, if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.members.append(member)
        self._install()
        try:
            yield
        finally:
            self.members.remove(member)
            if not self.members:
                self._uninstall()

    def handles(self, signum: int) -> bool:
        """Whether the handler of a signal is this one."""
        return signum in self.replaced and signal.getsignal(signum) == self._handler

    def _install(self) -> None:
        for signum, may_replace in self._replaces.items():
            present = signal.getsignal(signum)
            if signum not in self.replaced and may_replace(present):
                self.replaced[signum] = present
                signal.signal(signum, self._handler)

    def _uninstall(self) -> None:
        while self.replaced:
            signum, before = self.replaced.popitem()
            # A handler that the host program has installed meanwhile stays.
            if signal.getsignal(signum) == self._handler:
                signal.signal(signum, before)

    def _handler(self, signum: int, frame: FrameType | None) -> None:
        self.received += 1
        self._handle(signum, frame, tuple(self.members))

    # Around a fork, in the thread that forks.

    def _before_fork(self) -> None:
        # Python discards what arrives in a child before the next function runs; a blocked signal is kept until then.
        if self.replaced:
            self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, tuple(self.replaced))

    def _after_fork(self) -> None:
        before = vars(self._masks).pop("before", None)
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _after_fork_in_child(self) -> None:
        if self.members:
            # Trio's: a signal to the child would wake the loop of its parent.
            signal.set_wakeup_fd(-1)
            self.members.clear()
        self.replaced = {signum: _without_trio(before) for signum, before in self.replaced.items()}
        self._uninstall()
        self._after_fork()


def is_trios(handler: object) -> bool:
    """Whether a handler of SIGINT is Trio's."""
    # It is a function inside a method; only its module identifies it.
    return getattr(handler, "__module__", None) == "trio._core._ki"


def _without_trio(handler: Any) -> Any:
    # Trio's handler reports to a loop that does not run in a child.
    return signal.default_int_handler if is_trios(handler) else handler


def is_default(handler: object) -> bool:
    """Whether a signal has the system's default effect."""
    return handler is signal.SIG_DFL


# SIGUSR1: print the running attempts.


# A Ctrl-C waits until it has returned, so what is caught is not one.
@trio.lowlevel.enable_ki_protection
def _print_descriptions(signum: int, frame: FrameType | None, describes: Sequence[Callable[[], str]]) -> None:
    # From the handler itself, not through Trio's loop, which the agent in question may be blocking.
    try:
        _write("".join(f"{describe()}\n" for describe in describes))
    except BaseException as exc:
        # Raised here, it would appear in whatever code is interrupted. An agent may have replaced standard error.
        with suppress(BaseException):
            _write(f"describing the open runners failed with {exc!r}\n")


def _write(text: str) -> None:
    """Write to stderr past its buffer, which the interrupted code may be using."""
    try:
        file = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        # A replacement for stderr, such as a notebook's, has no file descriptor; without a stderr it is None.
        if sys.stderr is not None:
            sys.stderr.write(text)
        return
    data = text.encode(sys.stderr.encoding or "utf-8", "backslashreplace")
    while data:
        data = data[os.write(file, data) :]


STATUS_SIGNAL: SharedHandler[Callable[[], str]] = SharedHandler(
    _print_descriptions, {signal.SIGUSR1: is_default} if hasattr(signal, "SIGUSR1") else {}
)
"""``kill -USR1`` prints the running attempts of all open runners."""
