"""The spans of an attempt in a worker process, also written to a file, so that a kill loses none."""

from __future__ import annotations

import io
import os
import pickle
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from ..._resources import knows_keys, span_without_keys
from ..._spans import LARGE, LongText, Span, join_pieces, with_long_texts, without_long_texts


def journal_path(directory: str, pid: int) -> Path:
    """Return the file that a worker process writes its spans to."""
    return Path(directory, f"{pid}.spans")


SENT_AT_MOST: Final = LARGE
"""The most bytes of frames that a worker process sends; the runner reads more from the file, in slices."""


class _CutSpan(NamedTuple):
    """A span whose long texts are in the frames before it.

    `places` has the event, the name and the number of pieces of each.
    """

    span: Span
    places: list[tuple[int | None, str, int]]


class Frames(NamedTuple):
    """The frames of an attempt; without them, how many bytes of the file they take."""

    data: bytes
    in_file: int = 0


class Journal(list[Span]):
    """The spans of one attempt, each pickled when it is added, and written to a file if there is one.

    After a kill the file holds the attempt's id, then a frame for each span, after frames for the pieces of its long
    texts. Spans may be added in any thread.
    """

    def __init__(self, file: int, attempt_id: str) -> None:
        super().__init__()
        self._file = file
        self._attempt_id = attempt_id
        self._frames: list[bytes] = []
        """The frames, until they are too large to be sent."""
        self._size = 0
        self._lock = threading.Lock()

    def append(self, span: Span, /) -> None:
        """Add a span, without the API keys that this process knows: a file outlives a process."""
        if knows_keys():
            span = span_without_keys(span)
        frames = _frames_of(span)
        with self._lock:
            super().append(span)
            if not self._size:
                frames.insert(0, pickle.dumps(self._attempt_id))
            if self._file >= 0:
                self._write(frames)
            self._size += sum(map(len, frames))
            if self._size <= SENT_AT_MOST or self._file < 0:
                self._frames += frames
            else:
                self._frames.clear()

    def _write(self, frames: list[bytes]) -> None:
        try:
            if not self._size:
                os.ftruncate(self._file, 0)
            for frame in frames:
                _write_all(self._file, frame)
        except OSError:
            # A full disk is not the agent's fault, and the result carries the spans as well.
            self._file = -1
            if self._size > SENT_AT_MOST:
                self._frames = [pickle.dumps(self._attempt_id)]
                self._frames += [frame for span in self[:-1] for frame in _frames_of(span)]

    def extend(self, spans: Iterable[Span], /) -> None:
        """Add spans."""
        for span in spans:
            self.append(span)

    def close(self) -> Frames:
        """Return the frames, and stop writing to the file, which the next attempt uses."""
        with self._lock:
            in_file = self._file >= 0 and self._size > SENT_AT_MOST
            self._file = -1
            return Frames(b"", self._size) if in_file else Frames(b"".join(self._frames))


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _frames_of(span: Span) -> list[bytes]:
    short, texts = without_long_texts(span)
    frames = [_pickled(piece) for text in texts for piece in text.pieces()]
    frames.append(
        _pickled(_CutSpan(short, [(each.event, each.name, each.number) for each in texts]) if texts else span)
    )
    return frames


def _pickled(value: object) -> bytes:
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def read_frames(data: bytes, attempt_id: str) -> list[Span]:
    """Return the spans of an attempt, without a frame that was incomplete when the worker process was killed."""
    return list(_read(io.BytesIO(data), attempt_id))


def read_journal(path: Path, attempt_id: str) -> list[Span]:
    """Return the spans of an attempt from its file, in slices, as `read_frames` does; none if there is no file."""
    try:
        with path.open("rb") as stream:
            return list(_read(stream, attempt_id))
    except OSError:
        return []


def _read(stream: IO[bytes], attempt_id: str) -> Iterator[Span]:
    pieces: list[str] = []
    try:
        if pickle.load(stream) != attempt_id:
            return
        while True:
            frame: Any = pickle.load(stream)
            if type(frame) is str:
                pieces.append(frame)
            elif type(frame) is _CutSpan:
                yield _whole(frame, pieces)
                pieces = []
            else:
                yield frame
    except (EOFError, pickle.UnpicklingError, ValueError, IndexError):
        return


def _whole(cut: _CutSpan, pieces: list[str]) -> Span:
    texts: list[LongText] = []
    for event, name, number in cut.places:
        texts.append(LongText(event, name, join_pieces(islice(pieces, number))))
        del pieces[:number]
    return with_long_texts(cut.span, texts)
