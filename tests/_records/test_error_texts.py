"""The texts of an error's record are bounded, however long those of the exception are."""

from __future__ import annotations

import pytest

from lightning_trio import InMemoryLightningStore, Runner
from lightning_trio._records import ErrorRecord


def raised(message: str, *notes: str) -> ErrorRecord:
    error = ValueError(message)
    for note in notes:
        error.add_note(note)
    return ErrorRecord.from_exception(error)


def test_of_a_long_message_the_head_the_tail_and_the_number_left_out_are_kept() -> None:
    record = raised("head" + "x" * 1_000_000 + "tail")

    assert len(record.message) <= 1 << 16
    assert record.message.startswith("headxxx")
    assert record.message.endswith("xxxtail")
    assert "\n[934,536 characters left out]\n" in record.message
    assert record.message in record.traceback


def test_a_long_note_is_cut_and_the_others_are_kept() -> None:
    record = raised("no tea", "before", "n" * 1_000_000, "after")

    assert record.message == "no tea"
    assert len(record.traceback) < 1 << 17
    assert "before\nnnn" in record.traceback
    assert record.traceback.endswith("nnn\nafter\n")


@pytest.mark.parametrize("kind", ["cause", "context", "member"])
def test_long_texts_of_the_exceptions_that_belong_to_one_are_cut(kind: str) -> None:
    long, error = KeyError("x" * 1_000_000), ExceptionGroup("outer", [ValueError("inner")])
    if kind == "cause":
        error.__cause__ = long
    if kind == "context":
        error.__context__ = long
    traceback = ErrorRecord.from_exception(error.derive([long]) if kind == "member" else error).traceback

    assert len(traceback) < 1 << 17
    assert "KeyError: 'xxx" in traceback
    assert "characters left out" in traceback


def test_of_a_long_traceback_the_head_and_the_tail_are_kept() -> None:
    traceback = raised("head", *["n" * 50_000] * 100, "tail").traceback

    assert len(traceback) <= 1 << 20
    assert traceback.startswith("ValueError: head\n")
    assert traceback.endswith("nnn\ntail\n")


def test_texts_at_the_limit_are_kept_as_they_are() -> None:
    assert raised("x" * (1 << 16)).message == "x" * (1 << 16)


async def test_the_description_of_a_root_span_is_as_long_as_the_message() -> None:
    async def agent(task: int) -> None:
        raise ValueError("x" * 1_000_000)

    store = InMemoryLightningStore()
    await Runner(agent, store=store).fit([1])
    [rollout] = await store.query_rollouts()
    [root] = await store.query_spans(rollout.rollout_id)

    assert root.status.description is not None
    assert len(root.status.description) <= len("ValueError: ") + (1 << 16)
