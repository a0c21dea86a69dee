"""The meaning of an agent's return value."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any, cast

from .. import semconv
from .._errors import InvalidReturn
from .._log import Log
from .._spans import OK_STATUS, Span, SpanCoreFields, as_reward, is_number, malformed_field, reward_attributes
from ..tracing import AttemptRecorder

logger = Log("lightning_trio.agent")


def record_return(recorder: AttemptRecorder, value: object) -> None:
    """Record an agent's return value, which is a reward or spans.

    Raises:
        InvalidReturn: it is neither a reward nor spans nor None.
        InvalidReward: it is NaN or infinite, or its spans contain such a reward.
        PayloadTooLarge: the store would not take the attempt's spans, or those with this value.
    """
    if recorder.limit is not None:
        recorder.check_room()
    if value is None:
        return
    if isinstance(value, float) or is_number(value):
        recorder.record(semconv.AGL_ANNOTATION, reward_attributes(value), OK_STATUS, recorder.root_id)
    elif inspect.iscoroutine(value):
        # It never runs; once it is closed, Python does not warn about it.
        value.close()
        raise InvalidReturn.coroutine(recorder.agent_name)
    elif isinstance(value, list):
        _record_list(recorder, cast("list[object]", value))
    else:
        raise InvalidReturn.value(recorder.agent_name, value)


def _record_list(recorder: AttemptRecorder, items: list[object]) -> None:
    if not items:
        logger.warning("the agent %s returns an empty list; nothing is added to its spans", recorder.agent_name)
    elif all(isinstance(item, SpanCoreFields) for item in items):
        _adopt(recorder, [_owned(recorder, item) for item in cast("list[SpanCoreFields]", items)])
    elif all(isinstance(item, Span) for item in items):
        _adopt(recorder, cast("Sequence[Span]", items))
    elif all(map(_is_readable, items)):
        _adopt(recorder, [_converted(recorder, item) for item in items])
    else:
        raise InvalidReturn.items(recorder.agent_name, items)


def _adopt(recorder: AttemptRecorder, spans: Sequence[Span]) -> None:
    for index, span in enumerate(spans):
        if (field := malformed_field(span)) is not None:
            raise InvalidReturn.malformed_span(recorder.agent_name, index, field, getattr(span, field))
        value = span.attributes.get(semconv.PRIMARY_REWARD_VALUE)
        if is_number(value):
            as_reward(value)
    recorder.adopt(spans)


def _owned(recorder: AttemptRecorder, core: SpanCoreFields) -> Span:
    rollout = recorder.rollout
    try:
        span = Span.from_core_fields(
            core, rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id, sequence_id=0
        )
    except Exception as exc:
        raise InvalidReturn.unreadable_span(recorder.agent_name, exc) from exc
    return recorder.in_trace(span)


def _is_readable(item: object) -> bool:
    # An agent that returns a ReadableSpan has imported the SDK; others need not import it.
    sdk: Any = sys.modules.get("opentelemetry.sdk.trace")
    return sdk is not None and isinstance(item, sdk.ReadableSpan)


def _converted(recorder: AttemptRecorder, item: Any) -> Span:
    rollout = recorder.rollout
    try:
        return Span.from_opentelemetry(
            item, rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id, sequence_id=0
        )
    except Exception as exc:
        raise InvalidReturn.unreadable_span(recorder.agent_name, exc) from exc
