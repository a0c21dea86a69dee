"""The package's loggers, which raise nothing: filters, handlers and record factories are the program's or an agent's.

A message is logged by the code that runs all attempts. An error in a filter would end it, and every rollout with it.
"""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import suppress

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
        try:
            # The caller's line, two frames above, is that of the record.
            self._logger.log(level, message, *args, exc_info=exc_info, stacklevel=3)
        except BaseException as exc:
            if _stops_the_caller(exc):
                raise
            _report(self._logger.name, message, exc)


def _stops_the_caller(exc: BaseException) -> bool:
    """Whether an exception is a cancellation, or may be a Ctrl-C that came while the message was logged."""
    if isinstance(exc, KeyboardInterrupt):
        # Python raises it in the main thread, and Trio not in code that it protects.
        protected = trio.lowlevel.in_trio_run() and trio.lowlevel.currently_ki_protected()
        return threading.current_thread() is threading.main_thread() and not protected
    return isinstance(exc, trio.Cancelled)


def _report(name: str, message: str, exc: BaseException) -> None:
    """Write to standard error that a message is lost, unless the program has switched off such reports."""
    if not logging.raiseExceptions:
        return
    # Without the message's values: the filter that removes api keys from them may not have run. Python may have no
    # standard error, or a closed one.
    with suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(
            f"a filter or handler of the logger {name} raised {class_name(exc)}, and a message is lost: {message!r}\n"
        )
