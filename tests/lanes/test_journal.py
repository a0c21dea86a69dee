"""The journal of a worker process: small ones are sent, large ones read from the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lightning_trio import Span
from lightning_trio._spans import LARGE
from lightning_trio.lanes._process._journal import SENT_AT_MOST, Journal, read_frames, read_journal

SMALL = [Span.from_attributes(attributes={"n": number}) for number in range(3)]
LONG = Span.from_attributes(attributes={"a": "x" * 2 * LARGE, "b": "ä" * (LARGE + 1)})


def journal_of(spans: list[Span], file: int) -> Journal:
    journal = Journal(file, "at-1")
    journal.extend(spans)
    return journal


def opened(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)


def test_a_small_one_is_sent(tmp_path: Path) -> None:
    frames = journal_of(SMALL, opened(tmp_path / "j")).close()

    assert (frames.in_file, read_frames(frames.data, "at-1")) == (0, SMALL)
    assert read_journal(tmp_path / "j", "at-1") == SMALL


def test_a_large_one_is_read_from_the_file(tmp_path: Path) -> None:
    frames = journal_of([*SMALL, LONG, *SMALL], opened(tmp_path / "j")).close()

    assert (frames.data, frames.in_file) == (b"", (tmp_path / "j").stat().st_size)
    assert read_journal(tmp_path / "j", "at-1") == [*SMALL, LONG, *SMALL]
    assert read_journal(tmp_path / "j", "at-2") == []


@pytest.mark.parametrize("before", [[], SMALL, [LONG]], ids=["first", "small", "large"])
def test_without_room_on_the_disk_all_is_sent(tmp_path: Path, before: list[Span]) -> None:
    file = opened(tmp_path / "j")
    journal = journal_of(before, file)
    os.close(file)
    journal.extend([LONG, *SMALL])

    frames = journal.close()

    assert len(frames.data) > SENT_AT_MOST
    assert read_frames(frames.data, "at-1") == [*before, LONG, *SMALL]


def test_a_span_whose_pieces_are_not_all_there_is_left_out(tmp_path: Path) -> None:
    journal_of([*SMALL, LONG], opened(tmp_path / "j")).close()
    os.truncate(tmp_path / "j", LARGE)

    assert read_journal(tmp_path / "j", "at-1") == SMALL


def test_a_missing_file_has_no_spans(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "gone", "at-1") == []
