"""Agent-lightning 0.3's emitters: those of lightning_trio, which another active tracer can replace.

Inside a rollout they record natively. With a tracer of the program's own (the rollout's, or that of
`set_active_tracer`) they ask it for the span, as those of 0.3 did.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from .. import emitter, semconv
from .._public import public_in
from .._spans import (
    OK_STATUS,
    UNSET_STATUS,
    SpanCoreFields,
    annotation_attributes,
    exception_attributes,
    get_message_value,
    get_object_value,
    input_attributes,
    message_attributes,
    object_attributes,
    reward_attributes,
    sanitize_attributes,
)
from ..semconv import LightningSpanAttributes as Keys
from ..tracing import Tracer as NativeTracer
from ..tracing import after_calls, around_calls, find_recorder
from ._attributes import attributes_of_value
from ._modules import module
from ._overrides import overridden
from ._tracers import DummySpanRecordingContext, DummyTracer, OpenOperation

__all__ = ["get_message_value", "get_object_value"]

P = ParamSpec("P")
T = TypeVar("T")


def _other_tracer(path: str, propagate: bool, method: str = "create_span") -> Any:
    """Return the active tracer if the program's own `method` of it makes the span.

    It is looked up in the 0.3 module of the emitter, where programs' tests replace it.
    """
    if not propagate:
        return _UNRECORDED
    tracer = module(path).get_active_tracer()
    # A tracer of lightning_trio records into the current attempt, or says that there is none.
    return None if isinstance(tracer, NativeTracer) and not _makes_spans(tracer, method) else tracer


def _makes_spans(tracer: NativeTracer, method: str) -> bool:
    if overridden(tracer, [method]):
        return True
    # One that is given to a runner records natively, because the rollout's rewards would be lost.
    recorder = find_recorder()
    return isinstance(tracer, DummyTracer) and (recorder is None or recorder.tracer is not tracer)


_UNRECORDED = DummyTracer()


def emit_annotation(annotation: Mapping[str, Any], propagate: bool = True) -> SpanCoreFields:
    """Record attributes, as `lightning_trio.emit_annotation` does."""
    tracer = _other_tracer("emitter.annotation", propagate)
    if tracer is None:
        return emitter.emit_annotation(annotation)
    made: SpanCoreFields = tracer.create_span(
        semconv.AGL_ANNOTATION, attributes=annotation_attributes(annotation), status=OK_STATUS
    )
    return made


def emit_message(message: str, attributes: Mapping[str, Any] | None = None, propagate: bool = True) -> None:
    """Record a message, as `lightning_trio.emit_message` does."""
    laid_out = message_attributes(message, attributes)
    tracer = _other_tracer("emitter.message", propagate)
    if tracer is None:
        emitter.emit_message(message, attributes)
    else:
        tracer.create_span(semconv.AGL_MESSAGE, attributes=laid_out, status=UNSET_STATUS)


def emit_object(object: Any, attributes: Mapping[str, Any] | None = None, propagate: bool = True) -> SpanCoreFields:
    """Record a value, as `lightning_trio.emit_object` does."""
    tracer = _other_tracer("emitter.object", propagate)
    if tracer is None:
        return emitter.emit_object(object, attributes)
    made: SpanCoreFields = tracer.create_span(
        semconv.AGL_OBJECT, attributes=object_attributes(object, attributes), status=OK_STATUS
    )
    return made


def encode_object(object: Any) -> dict[str, Any]:
    """Return the attributes of a value, as `emit_object` records them."""
    return object_attributes(object)


def emit_exception(
    exception: BaseException, attributes: Mapping[str, Any] | None = None, propagate: bool = True
) -> None:
    """Record an exception, as `lightning_trio.emit_exception` does."""
    laid_out = exception_attributes(exception, attributes)
    tracer = _other_tracer("emitter.exception", propagate)
    if tracer is None:
        emitter.emit_exception(exception, attributes)
    else:
        tracer.create_span(semconv.AGL_EXCEPTION, attributes=laid_out, status=OK_STATUS)


def emit_reward(
    reward: float | Mapping[str, float],
    *,
    primary_key: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    propagate: bool = True,
) -> SpanCoreFields:
    """Record a reward, as `lightning_trio.emit_reward` does."""
    flat = reward_attributes(reward, primary_key, None)
    dimensions = [
        {"name": flat[f"{Keys.REWARD.value}.{index}.name"], "value": flat[f"{Keys.REWARD.value}.{index}.value"]}
        for index in range(len(flat) // 2)
    ]
    annotation = {**sanitize_attributes(attributes), Keys.REWARD.value: dimensions}
    made: SpanCoreFields = module("emitter.reward").emit_annotation(annotation, propagate=propagate)
    return made


def reward(fn: Callable[P, T]) -> Callable[P, T]:
    """Record what a sync or async function returns as a reward, then return it."""
    return after_calls(fn, emit_reward)


@public_in("lightning_trio.compat")
class OperationContext:
    """A step with an input and an output, as a block or around a function; made by `operation`.

    Args:
        name: the name of the span, of tracers other than lightning_trio's.
        attributes: the span's attributes.
        propagate: False records it nowhere.
    """

    def __init__(self, name: str, attributes: Mapping[str, Any], propagate: bool = True) -> None:
        self._name = name
        self._attributes = attributes
        self._propagate = propagate
        self._stack = ExitStack()
        self._recording: Any = None
        self._native: emitter.Operation | None = None
        self._span: SpanCoreFields | None = None

    def __call__(self, fn: Callable[P, T]) -> Callable[P, T]:
        """Return a sync or async function wrapped in the operation; its span has the arguments and the result."""
        signature = inspect.signature(fn)
        own = dict(self._attributes)
        own.setdefault(Keys.OPERATION_NAME.value, getattr(fn, "__name__", type(fn).__name__))

        def start(args: tuple[object, ...], kwargs: dict[str, object]) -> OperationContext:
            return OperationContext(self._name, {**own, **input_attributes(signature, args, kwargs)}, self._propagate)

        return around_calls(fn, start)

    def __enter__(self) -> OperationContext:
        tracer = _other_tracer("emitter.annotation", self._propagate, "operation_context")
        attributes = sanitize_attributes(self._attributes)
        if tracer is None:
            name = attributes.pop(Keys.OPERATION_NAME.value, None)
            own = inspect.currentframe()
            self._native = emitter.Operation(name, attributes, True).begin(None if own is None else own.f_back)
            self._stack.push(self._native)
        else:
            self._recording = self._stack.enter_context(tracer.operation_context(self._name, attributes))
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(self._recording, DummySpanRecordingContext):
            # The clock may not have ticked since the start.
            self._recording.end_time = max(time.time(), self._recording.start_time + 1e-6)
        self._stack.__exit__(kind, exc, tb)
        if self._native is not None:
            self._span = self._native.span()
        elif not isinstance(self._recording, DummySpanRecordingContext | OpenOperation):
            self._span = SpanCoreFields(self._name, OK_STATUS, dict(self._attributes))
        else:
            self._span = self._recording.get_recorded_span()

    def set_input(self, *args: object, **kwargs: object) -> None:
        """Record the step's input, positional values as ``args.0`` and so on."""
        if self._native is not None:
            self._native.set_input(*args, **kwargs)
            return
        for index, value in enumerate(args):
            self._note(f"{Keys.OPERATION_INPUT.value}.args.{index}", value)
        for name, value in kwargs.items():
            self._note(f"{Keys.OPERATION_INPUT.value}.{name}", value)

    def set_output(self, output: object) -> None:
        """Record the step's result."""
        if self._native is not None:
            self._native.set_output(output)
        else:
            self._note(Keys.OPERATION_OUTPUT.value, output)

    def _note(self, key: str, value: object) -> None:
        if self._recording is None or self._span is not None:
            raise RuntimeError(
                "the input and output of an operation are set inside its block; write: with operation(…) as op:"
            )
        self._recording.record_attributes(attributes_of_value(key, value))

    def span(self) -> SpanCoreFields:
        """Return the finished span.

        Raises:
            RuntimeError: the block has not ended.
        """
        if self._span is None:
            raise RuntimeError("Span is not ready yet: call span() after the operation's block has ended")
        return self._span


def operation(
    fn: Callable[..., Any] | None = None, *, propagate: bool = True, name: str | None = None, **attributes: Any
) -> Any:
    """Record a step of an agent, as `lightning_trio.operation` does."""
    # The same checks, with the same messages.
    emitter.operation(None if callable(fn) else fn, propagate=propagate, name=name, **attributes)
    if name is not None:
        attributes[Keys.OPERATION_NAME.value] = name
    made = OperationContext(semconv.AGL_OPERATION, attributes, propagate)
    return made if fn is None else made(fn)
