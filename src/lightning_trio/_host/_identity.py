"""Processes of this machine: who one is, and whether it is gone."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


def own_process() -> dict[str, str | int]:
    """Say which process this is: its number, and what that number means something in.

    Numbers are given anew after a boot and in each container, and to a later process when one has ended; what tells
    these apart is left out where the system does not say it.
    """
    process = os.getpid()
    found: dict[str, str | int | None] = {
        "host": socket.gethostname(),
        "process": process,
        "boot": _boot(),
        "namespace": _namespace(),
        "started": _started(process),
    }
    return {name: value for name, value in found.items() if value is not None}


def is_dead(process: int, started: object = None) -> bool:
    """Tell whether a process is gone, or has only not been waited for yet.

    Args:
        process: its number, in this process's namespace.
        started: when it began, as `own_process` says it; None if that is not known.
    """
    if os.name != "posix":
        # Elsewhere os.kill would kill.
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        # It is there and belongs to somebody else, or is no number of a process.
        return False
    stat = _stat(process)
    if stat is None:
        return False
    return stat[0] in ("Z", "X") or (started is not None and stat[19] != str(started))


def _stat(process: int) -> list[str] | None:
    """Give the fields of a process's ``stat`` from the third on; before them is its name, with whatever is in it."""
    try:
        text = (_PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) > 19 else None


def _started(process: int) -> str | None:
    stat = _stat(process)
    return None if stat is None else stat[19]


def _boot() -> str | None:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _namespace() -> str | None:
    try:
        return os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return None
