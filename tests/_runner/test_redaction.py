"""Api keys that agents raise or record as parts of texts reach no record, file, log or exporter."""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus, urlencode

import attrs
import pytest
import trio
import trio.testing
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import lightning_trio as agl
from lightning_trio import LLM, Event, Link, OtelResource, Runner, Span, SpanContext, SqliteLightningStore
from lightning_trio._plain_values import json_text
from lightning_trio._records import ErrorRecord
from lightning_trio._resources import _api_keys, register_keys, span_without_keys
from lightning_trio._runner._redaction import redact
from lightning_trio._spans import LARGE

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
    context = SpanContext("1" * 32, "2" * 16, trace_state={"vendor": text})
    span = attrs.evolve(
        span,
        events=(Event(text, {"key": text}),),
        links=(Link(context, {"key": text}),),
        resource=OtelResource({"host": text}, text),
    )
    _, [found] = redact(None, [span])

    assert found.events == (Event(clean, {"key": clean}),)
    assert found.links == (Link(attrs.evolve(context, trace_state={"vendor": clean}), {"key": clean}),)
    assert found.resource == OtelResource({"host": clean}, clean)
    assert (found.name, found.status.description) == (clean, clean)
    assert found.attributes == {
        "s": clean,
        "n": 1,
        "l": [clean, "c"],
        "t": (clean,),
        "d": {"deep": [clean]},
        "same": ["c"],
    }


def test_a_key_in_a_name_of_an_attribute_is_taken_out_at_every_depth_and_no_value_is_lost() -> None:
    _api_keys.register_key("sk-0123456789")
    attributes = {
        "a sk-0123456789": 1,
        "a [api key]": 2,
        "n": {"sk-0123456789": {b"sk-0123456789": 3}},
        "l": [{KEY: 4}],
    }
    _, [found] = redact(None, [Span.from_attributes(attributes=attributes)])

    assert found.attributes == {
        "a [api key] (2)": 1,
        "a [api key]": 2,
        "n": {"[api key]": {b"[api key]": 3}},
        "l": [{KEY: 4}],
    }


def test_a_key_is_taken_out_of_bytes_sets_and_classes_of_the_agents_own() -> None:
    class Text(str):
        def __contains__(self, text: object) -> bool:
            return False

    _api_keys.register_key("sk-0123456789")
    values = {"b": b"\xff sk-0123456789", "s": {"sk-0123456789"}, "t": Text("sk-0123456789"), "same": Text("text")}
    _, [found] = redact(None, [Span.from_attributes(attributes=values)])

    assert found.attributes == {"b": b"\xff [api key]", "s": {"[api key]"}, "t": "[api key]", "same": "text"}
    assert found.attributes["same"] is values["same"]


def basic(user: str) -> Callable[[str], str]:
    return lambda key: f"Basic {base64.b64encode(f'{user}:{key}, and more'.encode()).decode()}"


WRITERS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "quote": quote,
    "quote everything": lambda key: quote(key, safe=""),
    "quote_plus": quote_plus,
    "quote in lower case": lambda key: re.sub("%..", lambda match: match[0].lower(), quote(key, safe="")),
    "quote twice": lambda key: quote(quote(key, safe=""), safe=""),
    "query": lambda key: urlencode({"key": key}),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 without padding": lambda key: base64.b64encode(key.encode()).decode().rstrip("="),
    "base64 for addresses": lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
    "base64 quoted": lambda key: quote(base64.b64encode(key.encode()).decode(), safe=""),
    "base64 of JSON": lambda key: base64.b64encode(json.dumps({"key": key}).encode()).decode(),
    "Basic, first alignment": basic("us"),
    "Basic, second alignment": basic("use"),
    "Basic, third alignment": basic("user"),
    "JSON": json.dumps,
    "JSON as UTF-8": lambda key: json.dumps(key, ensure_ascii=False),
    "JSON in JSON": lambda key: json.dumps(json.dumps({"key": key})),
    "JSON with escaped slashes": lambda key: json.dumps(key).replace("/", "\\/"),
    "JSON for HTML": lambda key: (
        json.dumps(key).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    ),
    "JSON of bytes": lambda key: json_text({"key": key.encode()}),
    "repr": repr,
    "ascii": ascii,
    "repr of a repr": lambda key: repr([repr([key])]),
    "repr of bytes": lambda key: repr(key.encode()),
    "repr of a header": lambda key: repr({"Authorization": f"Bearer {key}".encode()}),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("key", ["sk-proj-0123456789abcdef", "s/k+p=&r o\"j'\\<é>?~%ß", "12345678", "//++//++//++"])
def test_a_key_is_taken_out_however_it_is_written(key: str, writer: str) -> None:
    _api_keys.register_key(key)
    written = WRITERS[writer](key)
    [before, after] = _api_keys.without_keys(f"before {written} after").split("[api key]")

    assert key not in before + after
    assert before.startswith("before ")
    assert after.endswith(" after")
    # What has gone is all of the key.
    assert len(before + after) <= len("before  after") + len(written) - len(key)


def test_no_form_of_a_short_key_is_found_in_other_texts() -> None:
    _api_keys.register_key("aaaaaaaa")

    assert min(len(form) for form in _api_keys._known["aaaaaaaa"]) == 8
    assert _api_keys.without_keys("YWFh aaaaaaa QUFB") == "YWFh aaaaaaa QUFB"


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_key_in_a_span_or_in_metadata_that_is_given_to_the_store_is_taken_out(kind: str, tmp_path: Path) -> None:
    store = agl.InMemoryLightningStore() if kind == "memory" else SqliteLightningStore(tmp_path / "s.db")

    @agl.rollout
    async def adds(task: str, llm: LLM) -> None:
        ids = agl.current_rollout().rollout_id, agl.current_rollout().attempt.attempt_id
        for add in (store.add_span, lambda span: store.add_spans([span])):
            await add(Span.from_attributes(rollout_id=ids[0], attempt_id=ids[1], attributes={KEY: KEY}, name="added"))
        await store.update_attempt(*ids, metadata={"key": KEY})
        await store.update_rollout(ids[0], metadata={KEY: 1})

    async def main() -> None:
        async with store:
            await Runner(adds, store=store, resources={"llm": LLM("e", "m", api_key=KEY)}).fit(["task"])
            [rollout] = await store.query_rollouts()
            [attempt] = await store.query_attempts(rollout.rollout_id)
            spans = await store.query_spans(rollout.rollout_id, "latest")
            added = [span.attributes for span in spans if span.name == "added"]

        assert added == [{"[api key]\n": "[api key]\n"}] * 2
        assert attempt.metadata == {"key": "[api key]\n"}
        assert rollout.metadata == {"[api key]\n": 1}

    trio.run(main)


def test_a_key_in_the_error_of_a_hook_is_taken_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(agl.Hook):
        async def on_trace_start(self, **context: object) -> None:
            raise ValueError(f"rejected {KEY}")

    runner = Runner(tells_its_key, resources={"llm": LLM("e", "m", api_key=KEY)}, hooks=[Failing()])
    trio.run(runner.fit, ["task"])

    assert "rejected [api key]" in caplog.text
    assert "sk-real" not in caplog.text


def test_keys_are_taken_out_of_all_logs_of_the_package() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in Path(agl.__file__).parent.rglob("*.py"))
    names = set(re.findall(r'(?:getLogger|Log)\("lightning_trio\.(\w+)"\)', source))

    assert names == set(_api_keys._LOGGERS)
    assert "getLogger(__name__)" not in source


def test_a_log_message_that_cannot_be_formatted_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError

    _api_keys.register_key(KEY)
    monkeypatch.setattr(logging, "raiseExceptions", False)

    logging.getLogger("lightning_trio.runner").warning("%r", Bad())


async def test_a_key_in_the_name_of_a_span_is_taken_out_of_the_report_of_running_attempts() -> None:
    @agl.rollout
    async def waits(task: str, llm: LLM) -> None:
        with agl.operation(name=f"call with {llm.api_key}"):
            await trio.sleep_forever()

    async with Runner(waits, resources={"llm": LLM("e", "m", api_key=KEY)}) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, "task")
        await trio.testing.wait_all_tasks_blocked()
        report = runner.describe()
        nursery.cancel_scope.cancel()

    assert "[api key]" in report
    assert "sk-real" not in report


def test_keys_of_unpickled_resources_are_known_once_they_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    @attrs.frozen
    class Pair(agl.Resource, resource_type="pair of models"):
        second: LLM

    resources = {"a": LLM("e", "m", api_key="sk-01234567"), "b": Pair(LLM("e", "m", api_key_env="TESTS_KEY"))}
    monkeypatch.setattr(_api_keys, "_known", {})
    monkeypatch.setattr(_api_keys, "_written", ())
    monkeypatch.setenv("TESTS_KEY", "sk-76543210")
    register_keys(resources)

    assert set(_api_keys._known) == {"sk-01234567", "sk-76543210"}


def test_a_key_of_thousands_of_characters_is_taken_out_wherever_it_stands_in_a_long_text() -> None:
    key = "eyJ" + "aB3/" * 1_500
    LLM("e", "m", api_key=key)
    text = "x" * (LARGE - 10) + key + "y" * 10
    span = span_without_keys(Span.from_attributes(attributes={"text": text}))

    assert span.attributes["text"] == "x" * (LARGE - 10) + "[api key]" + "y" * 10


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
