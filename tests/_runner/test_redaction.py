"""Api keys that agents raise or record as parts of texts reach no record, file, log or exporter."""

from __future__ import annotations

import logging
from pathlib import Path

import attrs
import pytest
import trio
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import lightning_trio as agl
from lightning_trio import LLM, Event, Runner, Span, SqliteLightningStore
from lightning_trio._records import ErrorRecord
from lightning_trio._resources import _api_keys
from lightning_trio._runner._redaction import redact

KEY = 'sk-real"key\\-é0123456789\n'
"""A key as read from a file, with a newline at its end and characters that reprs and JSON escape differently."""


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_api_keys, "_known", {})
    monkeypatch.setattr(_api_keys, "_written", ())


@agl.rollout
async def tells_its_key(task: str, llm: LLM) -> float:
    key = llm.api_key
    assert key == KEY
    agl.emit_message(f"key {key}")
    agl.emit_annotation({"keys": [key, "other"], "repr": repr(key)})
    agl.emit_object({"headers": {"Authorization": key}})
    try:
        with agl.operation(name=f"call with {key}"):
            raise ValueError(key)
    except ValueError as exc:
        agl.emit_exception(exc)
    raise RuntimeError(f"Illegal header value {f'Bearer {key}'.encode()!r}")


def read_all(folder: Path) -> list[str]:
    return [file.read_bytes().decode(errors="replace") for file in sorted(folder.iterdir())]


@pytest.mark.parametrize("by_env", [False, True])
def test_a_key_that_an_agent_leaks_appears_nowhere(
    tmp_path: Path, by_env: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TESTS_KEY", KEY)
    llm = LLM("e", "m", api_key_env="TESTS_KEY") if by_env else LLM("e", "m", api_key=KEY)
    tracer, exporter = agl.Tracer(), InMemorySpanExporter()
    tracer.add_exporter(exporter)
    store = SqliteLightningStore(tmp_path / "s.db")
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        async with store:
            runner = Runner(tells_its_key, store=store, resources={"llm": llm}, tracer=tracer)
            result = await runner.fit(["task"])
            assert result.counts["failed"] == 1
            [rollout] = await store.query_rollouts()
            [attempt] = await store.query_attempts(rollout.rollout_id)
            assert attempt.error is not None
            assert attempt.error.message == "Illegal header value b'Bearer [api key]\\n'"
            assert "[api key]" in attempt.error.traceback
            # Its log as well, which is removed when the store is closed.
            texts.extend(read_all(tmp_path))

    texts: list[str] = []
    trio.run(main)
    texts += [*read_all(tmp_path), caplog.text]
    texts += [span.to_json() for span in exporter.get_finished_spans()]
    assert len(texts) == 3 + 1 + 1 + 6
    assert [text for text in texts if "[api key]" in text]
    assert not [text for text in texts if "sk-real" in text or "0123456789" in text]


def test_a_key_is_taken_out_of_every_text_of_a_span() -> None:
    _api_keys.register_key("sk-0123456789")
    text, clean = "a sk-0123456789 b", "a [api key] b"
    span = Span.from_attributes(
        attributes={"s": text, "n": 1, "l": [text, "c"], "t": (text,), "d": {"deep": [text]}, "same": ["c"]},
        name=text,
        status=agl.TraceStatus("ERROR", text),
    )
    span = attrs.evolve(span, events=(Event(text, {"key": text}),))
    _, [found] = redact(None, [span])

    assert found.events == (Event(clean, {"key": clean}),)
    assert (found.name, found.status.description) == (clean, clean)
    assert found.attributes == {
        "s": clean,
        "n": 1,
        "l": [clean, "c"],
        "t": (clean,),
        "d": {"deep": [clean]},
        "same": ["c"],
    }


def test_what_has_no_key_is_returned_unchanged() -> None:
    spans = [Span.from_attributes(attributes={"a": "text", "l": ["x"]})]
    error = ErrorRecord("ValueError", "bad", "Traceback")
    assert redact(error, spans) == (error, spans)
    _api_keys.register_key("sk-0123456789")
    same, [span] = redact(error, spans)

    assert same == error
    assert span is spans[0]


def test_a_key_within_another_leaves_nothing_of_it() -> None:
    _api_keys.register_key("sk-01234")
    _api_keys.register_key("sk-0123456789")

    assert _api_keys.without_keys("x sk-0123456789 y sk-01234") == "x [api key] y [api key]"


@pytest.mark.parametrize("key", ["", "-", "local", "none", "any", "1234567"])
def test_placeholders_are_no_keys(key: str) -> None:
    LLM("e", "m", api_key=key)

    assert not _api_keys.knows_keys()


def test_keys_are_forgotten_when_there_are_too_many_and_known_again_when_read() -> None:
    first = LLM("e", "m", api_key="sk-number-first")
    for number in range(300):
        LLM("e", "m", api_key=f"sk-number-{number}")
    assert _api_keys.without_keys("sk-number-first") == "sk-number-first"
    assert first.api_key == "sk-number-first"

    assert _api_keys.without_keys("sk-number-first") == "[api key]"
