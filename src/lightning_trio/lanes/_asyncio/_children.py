"""The tasks that an agent creates, and which of them are its rollout's own work."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys

_ASYNCIO = os.path.dirname(asyncio.__file__) + os.sep
_HERE = os.path.dirname(__file__) + os.sep
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

CHILD: contextvars.ContextVar[Child | None] = contextvars.ContextVar("lightning_trio_asyncio_child", default=None)
"""The child whose code is running, None in the agent's own task; threads and tasks that a child starts inherit it."""


class Child:
    """A task that an agent, or another child, created: what created it, and whether it has recorded a span."""

    __slots__ = ("creator", "ends_at_span", "parent", "recorded")

    def __init__(self, parent: Child | None, creator: tuple[str, str] | None) -> None:
        self.parent = parent
        self.creator = creator
        """The file and the module of the line that created it, None if that was asyncio itself."""
        self.recorded = False
        """Whether it, or a task that it created, has recorded a span of its rollout."""
        self.ends_at_span = False
        """Whether it goes on after its rollout was stopped, until it wants to record."""

    def note_span(self) -> None:
        """Note that the child has recorded a span."""
        child: Child | None = self
        while child is not None and not child.recorded:
            child.recorded = True
            child = child.parent

    def is_by(self, module: str) -> bool:
        """Whether the program's own code created it, or the package of `module`."""
        if self.creator is None:
            return False
        file, creator = self.creator
        return not _is_installed(file) or creator.partition(".")[0] == module.partition(".")[0]


def find_creator() -> tuple[str, str] | None:
    """Return the file and the module of the line that creates a task, which the task factory was called for."""
    frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]  # documented
    while frame.f_code.co_filename.startswith(_ASYNCIO):
        if frame.f_back is None:
            return None
        frame = frame.f_back
    file = frame.f_code.co_filename
    # A callback of asyncio's own was called by the loop's thread.
    return None if file.startswith(_HERE) else (file, frame.f_globals.get("__name__", ""))


def _is_installed(file: str) -> bool:
    return file.startswith(_STANDARD_LIBRARY) or any(part in file for part in _INSTALLED)
