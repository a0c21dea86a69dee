"""The identity of a process on this machine, and whether it is still alive."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")

_PLACE: Final = ("host", "boot", "namespace")
"""The entries of `own_process` that name the place in which the process id is unique."""


def own_process() -> dict[str, str | int]:
    """Return the identity of this process: its id, and the host, boot and namespace in which that id is unique.

    A process id is reused after a reboot, in another container, and once its process has ended. An entry that the
    system does not provide is left out.
    """
    process = os.getpid()
    found: dict[str, str | int | None] = {
        "host": socket.gethostname(),
        "process": process,
        "boot": boot_id(),
        "namespace": _namespace(),
        "started": _started(process),
    }
    return {name: value for name, value in found.items() if value is not None}


def is_dead(process: int, started: object = None) -> bool:
    """Whether a process has ended, including a zombie that its parent has not reaped yet.

    Args:
        process: its id, in this process's namespace.
        started: its start time as `own_process` returns it; None if that is unknown.
    """
    if os.name != "posix":
        # On Windows os.kill(pid, 0) would kill the process.
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        # It exists and belongs to another user, or the number is not a process id.
        return False
    stat = read_stat(process)
    if stat is None:
        return False
    return stat[0] in ("Z", "X") or (started is not None and stat[19] != str(started))


def is_stopped(process: int) -> bool:
    """Whether a process is stopped, by a signal such as SIGSTOP or Ctrl-Z, or by a debugger."""
    stat = read_stat(process)
    return stat is not None and stat[0] in ("T", "t")


def process_here(identity: Mapping[str, object]) -> int | None:
    """Return the id of a process from its `own_process`; None if it did not run on this machine, in this container."""
    own = own_process()
    process = identity.get("process")
    # A process id of another machine or container is meaningless here.
    if not isinstance(process, int) or any(identity.get(name) != own.get(name) for name in _PLACE):
        return None
    return process


def is_before_boot(identity: Mapping[str, object]) -> bool:
    """Whether a process, by its `own_process`, ran on this machine before it was last started, so that it has ended."""
    own, boot = own_process(), identity.get("boot")
    return isinstance(boot, str) and identity.get("host") == own["host"] and boot != own.get("boot", boot)


def read_stat(process: int) -> list[str] | None:
    """Return the fields of a process's ``stat`` from the third on; the name before them may contain any character."""
    try:
        text = (PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) > 19 else None


def _started(process: int) -> str | None:
    stat = read_stat(process)
    return None if stat is None else stat[19]


def boot_id() -> str | None:
    """Return the id of the time since this machine started, None where the system has none."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _namespace() -> str | None:
    try:
        return os.readlink(PROC / "self/ns/pid")
    except OSError:
        return None
