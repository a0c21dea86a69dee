"""The spans of an attempt in a worker process, also written to a file, so that a kill loses none."""

from __future__ import annotations

import io
import os
import pickle
import threading
from collections.abc import Iterable
from pathlib import Path

from ..._resources import knows_keys, span_without_keys
from ..._spans import Span


def journal_path(directory: str, pid: int) -> Path:
    """Return the file that a worker process writes its spans to."""
    return Path(directory, f"{pid}.spans")


class Journal(list[Span]):
    """The spans of one attempt, each pickled when it is added, and written to a file if there is one.

    After a kill the file holds the attempt's id, then a frame for each span. Spans may be added in any thread.
    """

    def __init__(self, file: int, attempt_id: str) -> None:
        super().__init__()
        self._file = file
        self._attempt_id = attempt_id
        self._frames: list[bytes] = []
        self._lock = threading.Lock()

    def append(self, span: Span, /) -> None:
        """Add a span, without the API keys that this process knows: a file outlives a process."""
        if knows_keys():
            span = span_without_keys(span)
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
            # A full disk is not the agent's fault, and the result carries the spans as well.
            self._file = -1

    def extend(self, spans: Iterable[Span], /) -> None:
        """Add spans."""
        for span in spans:
            self.append(span)

    def close(self) -> bytes:
        """Return the frames, and stop writing to the file, which the next attempt uses."""
        with self._lock:
            self._file = -1
            return b"".join((pickle.dumps(self._attempt_id), *self._frames)) if self._frames else b""


def read_frames(data: bytes, attempt_id: str) -> list[Span]:
    """Return the spans of an attempt, without a frame that was incomplete when the worker process was killed."""
    stream, spans = io.BytesIO(data), list[Span]()
    try:
        if pickle.load(stream) == attempt_id:
            while True:
                spans.append(pickle.load(stream))
    except (EOFError, pickle.UnpicklingError, ValueError, IndexError):
        pass
    return spans
