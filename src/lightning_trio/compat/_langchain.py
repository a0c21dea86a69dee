"""A callback handler that records what LangChain does in an attempt: chains, tools, retrievers and models."""

from __future__ import annotations

import importlib.util
from typing import Any
from uuid import UUID

from .. import semconv
from .._spans import OK_STATUS, Event, TraceStatus, exception_attributes, flatten_value, sanitize_attributes
from ..semconv import LightningSpanAttributes as Keys
from ..tracing import OpenSpan, find_recorder


def langchain_handler(tags: list[str]) -> Any:
    """Return the handler; None where LangChain is not installed."""
    if importlib.util.find_spec("langchain_core") is None:
        return None
    # 300 ms, and only for programs that use it.
    from langchain_core.callbacks import BaseCallbackHandler

    class LightningCallbackHandler(_Recording, BaseCallbackHandler):
        """Records LangChain's runs as operations of the attempt that makes them."""

        run_inline = True

    return LightningCallbackHandler(tags)


class _Recording:
    """The callbacks: each run is a span, from its start to its end or error."""

    def __init__(self, tags: list[str]) -> None:
        super().__init__()
        self._tags = tags
        self._open: dict[UUID, OpenSpan] = {}

    def _start(self, kind: str, serialized: Any, inputs: Any, run_id: UUID, name: str) -> None:
        recorder = find_recorder()
        if recorder is None or recorder.closed:
            return
        known = serialized or {}
        title = name or known.get("name") or (known.get("id") or [kind])[-1]
        attributes = {
            Keys.OPERATION_NAME.value: f"{kind} {title}",
            **flatten_value(Keys.OPERATION_INPUT.value, inputs),
            **sanitize_attributes({"langchain.tags": self._tags} if self._tags else {}),
        }
        self._open[run_id] = recorder.start_span(semconv.AGL_OPERATION, attributes)

    def _end(self, run_id: UUID, outputs: Any) -> None:
        span = self._open.pop(run_id, None)
        if span is not None:
            span.attributes.update(flatten_value(Keys.OPERATION_OUTPUT.value, outputs))
            span.end(OK_STATUS)

    def _fail(self, run_id: UUID, error: BaseException) -> None:
        span = self._open.pop(run_id, None)
        if span is not None:
            span.events.append(Event("exception", exception_attributes(error)))
            span.end(TraceStatus("ERROR", f"{type(error).__name__}: {error}"))

    def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: UUID, name: str = "", **_: Any) -> None:
        self._start("chain", serialized, inputs, run_id, name)

    def on_tool_start(self, serialized: Any, input_str: str, *, run_id: UUID, name: str = "", **_: Any) -> None:
        self._start("tool", serialized, input_str, run_id, name)

    def on_retriever_start(self, serialized: Any, query: str, *, run_id: UUID, name: str = "", **_: Any) -> None:
        self._start("retriever", serialized, query, run_id, name)

    def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: UUID, name: str = "", **_: Any) -> None:
        self._start("model", serialized, prompts, run_id, name)

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, name: str = "", **_: Any) -> None:
        self._start("model", serialized, [[_message(each) for each in batch] for batch in messages], run_id, name)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        self._end(run_id, outputs)

    def on_tool_end(self, output: Any, *, run_id: UUID, **_: Any) -> None:
        self._end(run_id, output)

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **_: Any) -> None:
        self._end(run_id, [getattr(each, "page_content", each) for each in documents])

    def on_llm_end(self, response: Any, *, run_id: UUID, **_: Any) -> None:
        self._end(run_id, [[each.text for each in batch] for batch in response.generations])

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._fail(run_id, error)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._fail(run_id, error)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._fail(run_id, error)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._fail(run_id, error)


def _message(message: Any) -> dict[str, Any]:
    return {"role": message.type, "content": message.content}
