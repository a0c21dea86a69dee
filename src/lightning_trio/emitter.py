"""Emitters: functions that an agent calls to record rewards, messages, objects, exceptions and operations.

They act on the rollout of the calling context: a native task, its child tasks and nested nurseries, a worker
thread. With ``propagate=False`` they build the span and record it nowhere, which works anywhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any, ParamSpec, TypeVar, cast, overload

import attrs
import trio

from . import semconv
from ._concurrency import sole_exception, split
from ._exception_text import class_name, message_of
from ._public import public
from ._records import AttemptedRollout
from ._repr import one_line
from ._resources import NamedResources
from ._spans import (
    OK_STATUS,
    UNSET_STATUS,
    Event,
    RewardDimension,
    Span,
    SpanCoreFields,
    TraceStatus,
    annotation_attributes,
    copy_attributes,
    exception_attributes,
    find_final_reward,
    find_reward_spans,
    flatten_value,
    get_message_value,
    get_object_value,
    get_reward_value,
    get_rewards_from_span,
    input_attributes,
    is_reward_span,
    message_attributes,
    object_attributes,
    reward_attributes,
    sanitize_attributes,
)
from .semconv import LightningSpanAttributes as Keys
from .tracing import CURRENT, AttemptRecorder, OpenSpan, after_calls, around_calls, current_recorder

__all__ = [
    "Emitter",
    "Operation",
    "RewardDimension",
    "current_emitter",
    "emit_annotation",
    "emit_exception",
    "emit_message",
    "emit_object",
    "emit_reward",
    "find_final_reward",
    "find_reward_spans",
    "get_message_value",
    "get_object_value",
    "get_reward_value",
    "get_rewards_from_span",
    "is_reward_span",
    "operation",
    "reward",
]

P = ParamSpec("P")
T = TypeVar("T")


# Not frozen: every call of an `emit_…` function makes one, and setting an attribute of a frozen class takes 0.2 µs.
@public
@attrs.define(eq=False)
class Emitter:
    """Record into one rollout, whatever the calling context.

    An agent receives it as a parameter named ``emitter``. Its methods are the functions of this module.
    """

    _recorder: AttemptRecorder

    @one_line
    def __repr__(self) -> str:
        rollout = self._recorder.rollout
        return f"<Emitter into {rollout.rollout_id}, attempt {rollout.attempt.attempt_id}>"

    def __eq__(self, other: object) -> bool:
        # `current_emitter` makes a new one at each call.
        return isinstance(other, Emitter) and self._recorder is other._recorder

    def __hash__(self) -> int:
        return id(self._recorder)

    @property
    def rollout(self) -> AttemptedRollout:
        """The rollout that this records into."""
        return self._recorder.rollout

    @property
    def resources(self) -> NamedResources:
        """The resources of that rollout, in a new mapping."""
        return dict(self._recorder.resources)

    def emit_reward(
        self,
        reward: float | Mapping[str, float],
        *,
        primary_key: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> SpanCoreFields:
        """Record a reward, see `lightning_trio.emit_reward`."""
        laid_out = reward_attributes(reward, primary_key, attributes)
        return self._record(semconv.AGL_ANNOTATION, laid_out, has_lists=bool(attributes))

    def emit_annotation(self, annotation: Mapping[str, Any]) -> SpanCoreFields:
        """Record attributes, see `lightning_trio.emit_annotation`."""
        return self._record(semconv.AGL_ANNOTATION, annotation_attributes(annotation), has_lists=True)

    def emit_message(self, message: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Record a message, see `lightning_trio.emit_message`."""
        self._recorder.record(semconv.AGL_MESSAGE, message_attributes(message, attributes), UNSET_STATUS)

    def emit_object(self, object: object, attributes: Mapping[str, Any] | None = None) -> SpanCoreFields:
        """Record a value, see `lightning_trio.emit_object`."""
        return self._record(semconv.AGL_OBJECT, object_attributes(object, attributes), has_lists=bool(attributes))

    def emit_exception(self, exception: BaseException, attributes: Mapping[str, Any] | None = None) -> None:
        """Record an exception, see `lightning_trio.emit_exception`."""
        self._recorder.record(semconv.AGL_EXCEPTION, exception_attributes(exception, attributes), OK_STATUS)

    def _record(self, name: str, attributes: dict[str, Any], *, has_lists: bool) -> SpanCoreFields:
        span = self._recorder.record(name, attributes, OK_STATUS)
        # A copy, so that the caller cannot change what is recorded.
        copied = copy_attributes(attributes) if has_lists else dict(attributes)
        return SpanCoreFields(name, OK_STATUS, copied, span.start_time, span.end_time)


class _NullRecorder:
    """The recorder with ``propagate=False``: it builds a span and does not record it."""

    def record(self, name: str, attributes: dict[str, Any], status: TraceStatus) -> SpanCoreFields:
        return SpanCoreFields(name, status, attributes)


_UNRECORDED = Emitter(cast("AttemptRecorder", _NullRecorder()))


class _ContextRecorder:
    """The recorder if our own variable has none: it looks for the attempt only when a span is recorded.

    That way a mistake in the arguments is reported before a missing rollout.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def record(self, name: str, attributes: dict[str, Any], status: TraceStatus) -> Span:
        return current_recorder(self._what).record(name, attributes, status)


def _emitter(what: str, propagate: bool) -> Emitter:
    if not propagate:
        return _UNRECORDED
    return Emitter(CURRENT.get() or cast("AttemptRecorder", _ContextRecorder(what)))


@public
def emit_reward(
    reward: float | Mapping[str, float],
    *,
    primary_key: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    propagate: bool = True,
) -> SpanCoreFields:
    """Record a reward; the last one recorded is the rollout's final reward.

    Args:
        reward: a finite number, or several named ones (dimensions).
        primary_key: of several dimensions, the one that counts as the reward.
        attributes: further attributes of the span; nested values are flattened.
        propagate: False builds the span without recording it.

    Raises:
        TypeError: the reward is not a number.
        ValueError: it is NaN or infinite, or `primary_key` is missing or unknown.
        NoActiveRollout: outside of any rollout, unless ``propagate=False``.

    >>> emit_reward({"correct": 1, "short": 0.5}, primary_key="correct", propagate=False).attributes
    ... # doctest: +NORMALIZE_WHITESPACE
    {'agentlightning.reward.0.name': 'correct', 'agentlightning.reward.0.value': 1.0,
     'agentlightning.reward.1.name': 'short', 'agentlightning.reward.1.value': 0.5}
    """
    return _emitter("emit_reward()", propagate).emit_reward(reward, primary_key=primary_key, attributes=attributes)


@public
def emit_annotation(annotation: Mapping[str, Any], propagate: bool = True) -> SpanCoreFields:
    """Record attributes: strings, bools, numbers and lists of one of these, possibly nested.

    Raises:
        ValueError: a value is something else.
        NoActiveRollout: outside of any rollout, unless ``propagate=False``.

    >>> emit_annotation({"source": {"page": 3}}, propagate=False).attributes
    {'source.page': 3}
    """
    return _emitter("emit_annotation()", propagate).emit_annotation(annotation)


@public
def emit_message(message: str, attributes: Mapping[str, Any] | None = None, propagate: bool = True) -> None:
    """Record a message, such as a line of a log.

    Raises:
        TypeError: `message` is not a string.
        NoActiveRollout: outside of any rollout, unless ``propagate=False``.

    >>> from lightning_trio import Runner
    >>> import trio
    >>> async def agent(task):
    ...     emit_message(f"looking at {task}")
    >>> async def main():
    ...     async with Runner(agent) as runner:
    ...         return await runner.step("tea")
    >>> get_message_value(trio.run(main).spans[1])
    'looking at tea'
    """
    _emitter("emit_message()", propagate).emit_message(message, attributes)


@public
def emit_object(object: object, attributes: Mapping[str, Any] | None = None, propagate: bool = True) -> SpanCoreFields:
    """Record a value: a primitive or bytes as it is, anything else as JSON.

    Raises:
        RuntimeError: the object cannot be written as JSON.
        NoActiveRollout: outside of any rollout, unless ``propagate=False``.

    >>> get_object_value(emit_object({"rooms": [101, 104]}, propagate=False))
    {'rooms': [101, 104]}
    """
    return _emitter("emit_object()", propagate).emit_object(object, attributes)


@public
def emit_exception(
    exception: BaseException, attributes: Mapping[str, Any] | None = None, propagate: bool = True
) -> None:
    """Record an exception that the agent caught, with its traceback.

    Raises:
        TypeError: `exception` is not an exception.
        NoActiveRollout: outside of any rollout, unless ``propagate=False``.

    >>> try:
    ...     int("four")
    ... except ValueError as exc:
    ...     emit_exception(exc, {"tried": "four"}, propagate=False)
    """
    _emitter("emit_exception()", propagate).emit_exception(exception, attributes)


@public
def current_emitter() -> Emitter:
    """Return the emitter of the rollout that the calling code runs for; it equals the one in a parameter ``emitter``.

    Raises:
        NoActiveRollout: outside of any rollout.

    >>> from lightning_trio import Runner
    >>> import trio
    >>> async def agent(task):
    ...     current_emitter().emit_reward(0.5)
    >>> trio.run(Runner(agent).fit, ["tea"]).mean_reward["train"]
    0.5
    """
    return Emitter(current_recorder("current_emitter()", emits=False))


@public
class Operation:
    """A step with an input and an output, as a block or around a function; made by `operation`."""

    def __init__(self, name: str | None, attributes: Mapping[str, Any], propagate: bool) -> None:
        self._name = name
        self._attributes = sanitize_attributes(attributes)
        self._propagate = propagate
        self._open: OpenSpan | None = None
        self._span: SpanCoreFields | None = None
        self._own: dict[str, Any] | None = None

    @one_line
    def __repr__(self) -> str:
        state = "not entered yet" if self._own is None else "open" if self._span is None else "ended"
        return f"<Operation {self._name or 'without a name'}: {state}>"

    def __call__(self, fn: Callable[P, T]) -> Callable[P, T]:
        """Return a sync or async function wrapped in the operation; its span has the arguments and the result.

        The operation of a generator lasts until its end, and has no result.
        """
        signature = inspect.signature(fn)
        name = self._name or getattr(fn, "__name__", type(fn).__name__)

        def start(args: tuple[object, ...], kwargs: dict[str, object]) -> Operation:
            inputs = input_attributes(signature, args, kwargs)
            return Operation(name, {**self._attributes, **inputs}, self._propagate)

        return around_calls(fn, start)

    def __enter__(self) -> Operation:
        own = inspect.currentframe()
        return self.begin(None if own is None else own.f_back)

    def begin(self, caller: FrameType | None) -> Operation:
        """Enter the block of `caller`, which the operation is not around while that is a generator at rest."""
        if self._own is not None:
            raise RuntimeError("this operation was already entered; make a new one, write: with operation(…) as op:")
        self._own = dict(self._attributes)
        if self._name is not None:
            self._own[Keys.OPERATION_NAME.value] = self._name
        if self._propagate:
            self._open = current_recorder("operation()").start_span(semconv.AGL_OPERATION, self._own)
            self._open.enter(caller)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(exc, GeneratorExit):
            # The block is in a generator whose caller needs no more of it, which is no failure.
            exc = None
        status = OK_STATUS if exc is None else _error_status(exc)
        assert self._own is not None
        if self._open is None:
            self._span = SpanCoreFields(semconv.AGL_OPERATION, status, self._own)
            return
        self._open.leave()
        if exc is not None:
            self._open.events.append(Event("exception", exception_attributes(exc)))
        span = self._open.end(status)
        self._open = None
        self._span = SpanCoreFields(span.name, status, span.attributes, span.start_time, span.end_time)

    def set_input(self, *args: object, **kwargs: object) -> None:
        """Record the step's input, positional values as ``args.0`` and so on.

        Raises:
            AttemptAbandoned: the attempt was abandoned.
        """
        for index, value in enumerate(args):
            self._note(f"{Keys.OPERATION_INPUT}.args.{index}", value)
        for name, value in kwargs.items():
            self._note(f"{Keys.OPERATION_INPUT}.{name}", value)

    def set_output(self, output: object) -> None:
        """Record the step's result.

        Raises:
            AttemptAbandoned: the attempt was abandoned.
        """
        self._note(Keys.OPERATION_OUTPUT.value, output)

    def _note(self, key: str, value: object) -> None:
        if self._own is None or self._span is not None:
            raise RuntimeError(
                "the input and output of an operation are set inside its block; write: with operation(…) as op:"
            )
        if self._open is not None and self._open.recorder.abandoned and self._open.recorder.has_abandoned_caller():
            self._open.recorder.check_open()
        self._own.update(flatten_value(key, value))

    def span(self) -> SpanCoreFields:
        """Return the finished span.

        Raises:
            RuntimeError: the block has not ended.
        """
        if self._span is None:
            raise RuntimeError("Span is not ready yet: call span() after the operation's block has ended")
        # A copy, so that the caller cannot change what is recorded.
        return attrs.evolve(self._span, attributes=copy_attributes(self._span.attributes))


def _error_status(exc: BaseException) -> TraceStatus:
    # A cancelled nursery inside the step raises a group of cancellations.
    failed = split(exc, trio.Cancelled).rest
    if failed is None:
        return TraceStatus("ERROR", "Cancelled")
    failed = sole_exception(failed)
    return TraceStatus("ERROR", f"{class_name(failed)}: {message_of(failed)}")


@overload
def operation(fn: Callable[P, T], /) -> Callable[P, T]: ...
@overload
def operation(
    fn: None = None, /, *, propagate: bool = True, name: str | None = None, **attributes: Any
) -> Operation: ...
@public
def operation(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    propagate: bool = True,
    name: str | None = None,
    **attributes: Any,
) -> Any:
    """Record a step of an agent, as ``@operation``, ``@operation(key=value)`` or ``with operation() as op:``.

    The decorator works on sync and async functions, at module level too: the rollout is looked up when the
    function is called. Spans recorded inside become children of the operation's.

    Args:
        fn: the function, when used bare.
        propagate: False builds the span, readable with ``op.span()``, without recording it.
        name: the name of the step; the decorator's default is the function's name.
        attributes: further attributes of the span.

    Raises:
        ValueError: a string was passed as `fn`.
        TypeError: the name is not a string.
        NoActiveRollout: on entering, outside of any rollout, unless ``propagate=False``.

    >>> with operation(name="search", propagate=False) as op:
    ...     op.set_output(3)
    >>> op.span().attributes["agentlightning.operation.output"]
    3
    """
    if fn is not None and not callable(fn):
        raise ValueError(
            f"operation({fn!r}): the span's name is always {semconv.AGL_OPERATION!r}; "
            f"write operation(name={fn!r}) to name the step"
        )
    if name is not None and not isinstance(name, str):
        raise TypeError(f"operation(name=…) takes a string, not {class_name(name)}; its attributes take any object")
    if name is not None and Keys.OPERATION_NAME in attributes:
        raise ValueError(f"Cannot specify both name={name!r} and the attribute {Keys.OPERATION_NAME.value!r}")
    made = Operation(name, attributes, propagate)
    return made if fn is None else made(fn)


@overload
def reward(fn: Callable[P, T], /) -> Callable[P, T]: ...
@overload
def reward(
    fn: None = None, /, *, primary_key: str | None = None, attributes: Mapping[str, Any] | None = None
) -> Callable[[Callable[P, T]], Callable[P, T]]: ...
@public
def reward(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    primary_key: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Any:
    """Record what a sync or async function returns as a reward, then return it.

    Args:
        fn: the function, when used bare.
        primary_key: as for `emit_reward`.
        attributes: as for `emit_reward`.

    >>> from lightning_trio import Runner
    >>> import trio
    >>> @reward
    ... def judge(answer):
    ...     return 1.0 if answer == "tea" else 0.0
    >>> async def agent(task):
    ...     judge(task)
    >>> trio.run(Runner(agent).fit, ["tea", "milk"]).mean_reward["train"]
    0.5
    """

    def emit(value: Any) -> None:
        emit_reward(value, primary_key=primary_key, attributes=attributes)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return after_calls(function, emit)

    return decorate if fn is None else decorate(fn)
