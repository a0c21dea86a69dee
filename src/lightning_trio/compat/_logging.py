"""Agent-lightning 0.3's set-up of logging, for the loggers of this package and of its old name."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ._tree import OLD_PACKAGE

_OURS = "lightning_trio"
_FORMAT = "%(asctime)s [%(levelname)s] (Process-%(process)d %(name)s)   %(message)s"


def setup_logging(  # noqa: PLR0913  # Agent-lightning 0.3's
    level: int | str = "INFO",
    *,
    console: bool = True,
    color: bool | Mapping[str, Any] = True,
    propagate: bool = False,
    disable_existing_loggers: bool = False,
    capture_warnings: bool = False,
    submodule_levels: Mapping[str, int | str] | None = None,
    extra_handlers: Sequence[logging.Handler] | None = None,
    formatter: logging.Formatter | None = None,
    apply_to: Sequence[str] | None = None,
    files: str | Mapping[str, str] | None = None,
) -> None:
    """Show the package's log records.

    Args:
        level: the least level, by name or number.
        console: write records to the terminal.
        color: with colours; or options for `rich.logging.RichHandler`.
        propagate: pass records on to the root logger as well.
        disable_existing_loggers: silence loggers that exist already.
        capture_warnings: log warnings as well.
        submodule_levels: levels of single loggers.
        extra_handlers: further handlers.
        formatter: the format of records, for handlers that have none.
        apply_to: further loggers to set up alike.
        files: a file for all records, or one for each logger.
    """
    if disable_existing_loggers:
        for each in list(logging.root.manager.loggerDict.values()):
            if isinstance(each, logging.Logger):
                each.disabled = True
    of_logger = {OLD_PACKAGE: files} if isinstance(files, str) else dict(files or {})
    for name in (OLD_PACKAGE, _OURS, *(apply_to or ())):
        made = setup_module_logging(level, name=name, console=console, color=color, propagate=propagate)
        for handler in extra_handlers or ():
            made.addHandler(handler)
        path = of_logger.get(name, of_logger.get(OLD_PACKAGE) if name == _OURS else None)
        if path is not None:
            made.addHandler(logging.FileHandler(path, encoding="utf-8", delay=True))
        for handler in made.handlers:
            if handler.formatter is None:
                handler.setFormatter(formatter or logging.Formatter(_FORMAT))
    for name, own_level in (submodule_levels or {}).items():
        logging.getLogger(name).setLevel(own_level)
    logging.captureWarnings(capture_warnings)


def setup_module_logging(
    level: int | str = "INFO",
    *,
    name: str = OLD_PACKAGE,
    console: bool = True,
    color: bool | Mapping[str, Any] = True,
    propagate: bool = False,
    disable_existing_loggers: bool = False,
) -> logging.Logger:
    """Show the log records of one logger, and return it; see `setup_logging`."""
    made = logging.getLogger(name)
    made.disabled = False
    made.setLevel(level)
    made.propagate = propagate
    for handler in list(made.handlers):
        made.removeHandler(handler)
    if console:
        made.addHandler(_console_handler(color))
    return made


def _console_handler(color: bool | Mapping[str, Any]) -> logging.Handler:
    if color is False:
        return logging.StreamHandler()
    # 50 ms, and programs that do not call this do not need it.
    from rich.logging import RichHandler

    options: dict[str, Any] = {} if color is True else dict(color)
    handler = RichHandler(**options)
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


def configure_logger(level: int = logging.INFO, name: str = OLD_PACKAGE) -> logging.Logger:
    """Show the log records of one logger; an older name of `setup_module_logging`."""
    warnings.warn("configure_logger() has been renamed: write setup_logging()", DeprecationWarning, stacklevel=2)
    return setup_module_logging(level, name=name)
