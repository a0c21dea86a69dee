"""A process with all its descendants, and how to kill them together."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NoReturn

from ._identity import PROC, read_stat

_FREEZE_ROUNDS: Final = 10
"""How often the tree is searched for processes that were started before their parent was stopped."""


def found_family() -> None:
    """Make this process the head of a process group and a session of its own, which `kill_family` kills.

    In a session of its own, not only a group: a background process that reads from the terminal would be stopped.
    """
    # It leads a group already, which serves.
    with suppress(OSError, AttributeError):
        os.setsid()


def kill_family(head: int) -> None:
    """Kill a process, its descendants, and those in its process group, at once.

    Out of reach are descendants in a group of their own whose parent has ended, and, where there is no ``/proc``, all
    in a group of their own.
    """
    members = _freeze({head})
    kill_group(head)
    _send(signal.SIGKILL, members)


def kill_descendants() -> None:
    """Kill the descendants of this process."""
    _send(signal.SIGKILL, _freeze(_children(os.getpid())))


def kill_own_family() -> NoReturn:
    """Kill this process and its descendants."""
    kill_descendants()
    if os.getpgrp() == os.getpid():
        kill_group(os.getpid())
    os._exit(1)


def kill_group(head: int) -> None:
    """Kill what is left in the process group of a process, which may have ended."""
    # There is none if the process was killed before it founded one.
    with suppress(OSError):
        os.killpg(head, signal.SIGKILL)


def _freeze(processes: set[int]) -> set[int]:
    """Stop processes and their descendants, so that they start no others, and return them all."""
    frozen = set[int]()
    found = processes
    for _ in range(_FREEZE_ROUNDS):
        if not found:
            break
        _send(signal.SIGSTOP, found)
        frozen |= found
        found = {child for process in frozen for child in _children(process)} - frozen
    return frozen | found


def _send(signum: int, processes: Iterable[int]) -> None:
    for process in processes:
        with suppress(OSError):
            os.kill(process, signum)


def _children(process: int) -> set[int]:
    if not _kernel_lists_children():
        return _children_by_parent(process)
    found = set[int]()
    # A thread or the process may end meanwhile.
    with suppress(OSError):
        for thread in (PROC / str(process) / "task").iterdir():
            with suppress(OSError):
                found.update(map(int, (thread / "children").read_text(encoding="ascii").split()))
    return found


@functools.cache
def _kernel_lists_children() -> bool:
    return (PROC / "thread-self/children").exists()


def _children_by_parent(process: int) -> set[int]:
    try:
        names = os.listdir(PROC)
    except OSError:
        return set()
    stats = ((int(name), read_stat(int(name))) for name in names if name.isdecimal())
    return {child for child, stat in stats if stat is not None and stat[1] == str(process)}
