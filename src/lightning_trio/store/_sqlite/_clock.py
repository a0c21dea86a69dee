"""The clock of a file: the time by which its leases and waits end, which no setting of the wall clock changes."""

from __future__ import annotations

import time
from typing import Final

from ..._host import boot_id
from .._sql import READY
from ._connection import SqliteConnection

_BOOT: Final = "clock_boot"
_AHEAD: Final = "clock_ahead"


def start_clock(connection: SqliteConnection) -> None:
    """Set a connection's `ahead`, in the transaction that opens the store.

    The clock is the machine's monotonic one, which all its processes share, plus a number in the file that brings it to
    the wall clock's time when the file was first opened since the machine started. Neither runs while the machine is
    suspended. Times before that start mean nothing: no process of then is alive, so leases and waits are over.
    """
    boot = boot_id()
    if boot is None:
        # Another system than Linux: the wall clock.
        return
    rows = connection.select({"name": "text", "value": "text"}, f"FROM meta WHERE name IN ('{_BOOT}', '{_AHEAD}')")
    known = dict(rows)
    if known.get(_BOOT) == boot:
        connection.ahead = float(known[_AHEAD])
        return
    connection.ahead = time.time() - time.monotonic()
    for name, value in (_BOOT, boot), (_AHEAD, repr(connection.ahead)):
        connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))
    if _BOOT in known:
        now = connection.steady_now()
        connection.execute("UPDATE workers SET lease_until = ? WHERE lease_until IS NOT NULL", (now,))
        connection.execute("UPDATE rollouts SET available_at = ? WHERE available_at > 0", (READY,))
