"""The spans of an attempt in a worker process, also in a file, so that a kill loses none."""

from __future__ import annotations

import io
import os
import pickle
import threading
from collections.abc import Iterable
from pathlib import Path

from ..._spans import Span

# The journal.


def journal_path(directory: str, pid: int) -> Path:
    """Name the file a worker writes its spans to."""
    return Path(directory, f"{pid}.spans")


class Journal(list[Span]):
    """The spans of one attempt, each pickled when it is added and written to a file, if there is one.

    A kill leaves what was written: the attempt's id, then a frame for each span. Spans come from any thread.
    """

    def __init__(self, file: int, attempt_id: str) -> None:
        super().__init__()
        self._file = file
        self._attempt_id = attempt_id
        self._frames: list[bytes] = []
        self._lock = threading.Lock()

    def append(self, span: Span, /) -> None:
        """Add a span."""
        frame = pickle.dumps(span, pickle.HIGHEST_PROTOCOL)
        with self._lock:
            super().append(span)
            if self._file >= 0:
                self._write(frame)
            self._frames.append(frame)

    def _write(self, frame: bytes) -> None:
        try:
            if not self._frames:
                os.ftruncate(self._file, 0)
                os.write(self._file, pickle.dumps(self._attempt_id))
            os.write(self._file, frame)
        except OSError:
            # A full disk is no fault of the agent's, and the spans travel with the result.
            self._file = -1

    def extend(self, spans: Iterable[Span], /) -> None:
        """Add spans."""
        for span in spans:
            self.append(span)

    def close(self) -> bytes:
        """Write no more, for the file is the next attempt's, and give what was written."""
        with self._lock:
            self._file = -1
            return b"".join((pickle.dumps(self._attempt_id), *self._frames)) if self._frames else b""


def read_frames(data: bytes, attempt_id: str) -> list[Span]:
    """Read the spans of an attempt; a frame that was being written when its worker was killed is left out."""
    stream, spans = io.BytesIO(data), list[Span]()
    try:
        if pickle.load(stream) == attempt_id:
            while True:
                spans.append(pickle.load(stream))
    except (EOFError, pickle.UnpicklingError, ValueError, IndexError):
        pass
    return spans
