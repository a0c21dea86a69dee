"""A trace as a tree of text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .. import semconv
from .._plain_values import without_surrogates
from .._public import public
from ..semconv import LightningSpanAttributes as Keys
from ._rewards import get_reward_value
from ._span import Span

if TYPE_CHECKING:
    from .._chat_format import ToolCallPart

_SHOWN = (
    Keys.OPERATION_NAME,
    Keys.MESSAGE_BODY,
    Keys.OBJECT_LITERAL,
    Keys.OBJECT_JSON,
    semconv.EXCEPTION_TYPE,
    semconv.EXCEPTION_MESSAGE,
)
_TOKENS = (semconv.GEN_AI_USAGE_INPUT_TOKENS, semconv.GEN_AI_USAGE_OUTPUT_TOKENS)


@public
def format_trace(spans: Sequence[Span], *, width: int = 110) -> str:
    """Return an attempt's spans as a tree of text: name, duration, an error status, and the main content of each span.

    Args:
        spans: the spans of one attempt, as a `CompletedRollout` or a store returns them.
        width: the length, in characters, that longer lines are cut to.

    >>> from lightning_trio import Runner
    >>> import trio
    >>> async def main():
    ...     async with Runner(len) as runner:
    ...         return await runner.step("four")
    >>> print(format_trace(trio.run(main).spans))  # doctest: +ELLIPSIS
    invoke_agent len  ... ms
    └─ agentlightning.annotation  reward 4.0
    """
    ids = {span.span_id for span in spans}
    children: dict[str | None, list[Span]] = {}
    for span in spans:
        children.setdefault(span.parent_id if span.parent_id in ids else None, []).append(span)
    lines: list[str] = []
    for root in children.get(None, ()):
        lines.append(_line(root))
        lines += _below(root, children, "")
    # What UTF-8 cannot encode cannot be printed.
    shown = map(without_surrogates, lines)
    return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in shown)


def _below(span: Span, children: Mapping[str | None, Sequence[Span]], indent: str) -> Iterable[str]:
    inner = children.get(span.span_id, ())
    for child in inner:
        last = child is inner[-1]
        yield indent + ("└─ " if last else "├─ ") + _line(child)
        yield from _below(child, children, indent + ("   " if last else "│  "))


def _line(span: Span) -> str:
    parts = [span.name]
    if span.start_time is not None and span.end_time is not None and span.end_time > span.start_time:
        parts.append(f"{(span.end_time - span.start_time) * 1000:.1f} ms")
    if span.status.status_code == "ERROR":
        parts.append(f"ERROR {span.status.description or ''}".strip())
    reward = get_reward_value(span)
    if reward is not None:
        parts.append(f"reward {reward}")
    tokens = [str(span.attributes[key]) for key in _TOKENS if key in span.attributes]
    if tokens:
        parts.append(f"tokens {'→'.join(tokens)}")
    parts += [str(span.attributes[key]) for key in _SHOWN if key in span.attributes]
    if (answer := span.attributes.get(semconv.GEN_AI_OUTPUT_MESSAGES)) is not None:
        parts.append(_answer(answer))
    return "  ".join(" ".join(part.split()) for part in parts if part)


def _answer(messages: object) -> str:
    """Return the text and the tool calls of a model's messages; other values as their text."""
    # It needs msgspec; `to_json` has the reason for the late import.
    from .._chat_format import TextPart, decode_span_messages

    try:
        parts = [part for message in decode_span_messages(messages) for part in message.parts]
        shown = [part.content if isinstance(part, TextPart) else _call(part) for part in parts]
    except (ValueError, TypeError, RecursionError):
        # Another format, or values that are not JSON.
        return str(messages)
    return "  ".join(part for part in shown if part)


def _call(part: ToolCallPart) -> str:
    return f"{part.name}({', '.join(f'{name}={json.dumps(value)}' for name, value in part.arguments.items())})"
