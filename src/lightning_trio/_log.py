"""The package's loggers, which raise nothing: filters, handlers and record factories are the program's or an agent's.

A message is logged by the code that runs all attempts. An error in a filter would end it, and every rollout with it.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable

import trio

from ._exception_text import class_name


class Log:
    """A logger whose filters and handlers fail the message and not its caller.

    Args:
        name: the name of a logger of the `logging` module.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, message: str, *args: object) -> None:
        """Log a message for those who look for a fault of the package."""
        self._log(logging.DEBUG, message, args)

    def info(self, message: str, *args: object) -> None:
        """Log a message that asks for nothing."""
        self._log(logging.INFO, message, args)

    def warning(self, message: str, *args: object, exc_info: BaseException | bool | None = None) -> None:
        """Log a message about what the program's author may want to change."""
        self._log(logging.WARNING, message, args, exc_info)

    def error(self, message: str, *args: object, exc_info: BaseException | bool | None = None) -> None:
        """Log a message about something that was lost."""
        self._log(logging.ERROR, message, args, exc_info)

    def exception(self, message: str, *args: object, exc_info: BaseException | bool = True) -> None:
        """Log a message with the traceback of an exception, by default the current one."""
        self._log(logging.ERROR, message, args, exc_info)

    def log(self, level: int, message: str, *args: object) -> None:
        """Log a message with a level."""
        self._log(level, message, args)

    def is_enabled_for(self, level: int) -> bool:
        """Whether messages of a level are logged."""
        return self._logger.isEnabledFor(level)

    def _log(
        self, level: int, message: str, args: tuple[object, ...], exc_info: BaseException | bool | None = None
    ) -> None:
        signals = _count_signals()
        try:
            # The caller's line, two frames above, is that of the record.
            self._logger.log(level, message, *args, exc_info=exc_info, stacklevel=3)
        except BaseException as exc:
            if _stops_the_caller(exc, signals):
                raise
            _report(self._logger.name, message, exc, signals)


def _unknown() -> int | None:
    return None


_count_signals: Callable[[], int | None] = _unknown


def count_signals_by(count: Callable[[], int | None]) -> None:
    """Tell a Ctrl-C from what a filter raises by the number of signals.

    Args:
        count: returns how many signals have come so far, None if the handler in place does not count them.
    """
    global _count_signals
    _count_signals = count


def _stops_the_caller(exc: BaseException, signals: int | None) -> bool:
    """Whether an exception is a cancellation, or may come from a signal since there were so many."""
    if isinstance(exc, trio.Cancelled):
        # From a checkpoint; there is none while Trio's own thread logs, and a filter has kept it from another one.
        return not trio.lowlevel.in_trio_run()
    if not isinstance(exc, KeyboardInterrupt | SystemExit):
        return False
    if threading.current_thread() is not threading.main_thread():
        # Python calls the handlers of signals in the main thread.
        return False
    now = _count_signals()
    if signals is None or now is None:
        # Trio raises no Ctrl-C in code that it protects.
        protected = trio.lowlevel.in_trio_run() and trio.lowlevel.currently_ki_protected()
        return isinstance(exc, KeyboardInterrupt) and not protected
    return now > signals


def _report(name: str, message: str, exc: BaseException, signals: int | None) -> None:
    """Write to standard error that a message is lost, unless the program has switched off such reports."""
    if not logging.raiseExceptions:
        return
    try:
        # Without the message's values: the filter that removes api keys from them may not have run.
        sys.stderr.write(
            f"a filter or handler of the logger {name} raised {class_name(exc)}, and a message is lost: {message!r}\n"
        )
    except BaseException as failure:
        # Python may have no standard error, or a closed one, or an agent has put something else in its place.
        if _stops_the_caller(failure, signals):
            raise
