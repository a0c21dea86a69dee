"""Whether this process can open files."""

from __future__ import annotations

import errno
import os

_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


def lacks_descriptors(count: int = 4) -> bool:
    """Whether fewer than `count` more files can be opened: this process, or the system, has too many open."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as exc:
        return exc.errno in _NO_DESCRIPTOR
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return False
