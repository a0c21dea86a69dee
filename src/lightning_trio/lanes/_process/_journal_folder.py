"""The folders for the journals of worker processes, and those that killed programs have left behind."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..._host import is_before_boot, is_dead, own_process, process_here

_PREFIX: Final = "lightning_trio-"
_OWNER: Final = "owner.json"
_JOURNALS: Final = "*.spans"

_DAY: Final = 24 * 60 * 60.0


def make_journals() -> str:
    """Return a new folder in the temporary directory, which names its process as the owner."""
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    Path(folder, _OWNER).write_text(json.dumps(own_process()), encoding="utf-8")
    return folder


def remove_stale_journals() -> None:
    """Remove this user's folders whose owner has ended without removing them, such as after ``kill -9``.

    A folder stays if its owner is a process of another machine or container: whether such a process has ended cannot be
    told here. A folder that names no owner, because its program was killed as it made it, stays for a day.
    """
    for folder in _own_folders():
        if _is_stale(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _own_folders() -> Iterator[Path]:
    user = os.getuid() if hasattr(os, "getuid") else None
    try:
        with os.scandir(tempfile.gettempdir()) as entries:
            found = [entry for entry in entries if entry.name.startswith(_PREFIX)]
    except OSError:
        return
    for entry in found:
        try:
            # Not what a link points to, which anybody may have made.
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode) and user in (None, status.st_uid):
            yield Path(entry.path)


def _is_stale(folder: Path) -> bool:
    owner = _read_owner(folder)
    if not owner:
        return _is_unowned(folder)
    process = process_here(owner)
    return is_before_boot(owner) if process is None else is_dead(process, owner.get("started"))


def _is_unowned(folder: Path) -> bool:
    """Whether a folder without an owner's name holds nothing but journals, if anything, and is a day old."""
    try:
        inside = list(folder.iterdir())
        changed = max(path.stat(follow_symlinks=False).st_mtime for path in (folder, *inside))
    except OSError:
        return False
    return time.time() - changed > _DAY and all(path.name == _OWNER or path.match(_JOURNALS) for path in inside)


def _read_owner(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
