"""What happens in a worker process: the attempt's context is rebuilt, the agent runs, its spans are sent back.

Spans are also written to a file as they come, so that those of a worker that is killed are not lost.
"""

from __future__ import annotations

import atexit
import functools
import io
import multiprocessing
import multiprocessing.connection
import operator
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple, cast

import attrs
import trio
from opentelemetry import context as otel_context
from opentelemetry import trace

from .._errors import AgentError
from .._exception_names import names_of_members
from .._groups import sole_exception
from .._packing import PackedAgent, unpack_agent
from .._records import Attempt, AttemptedRollout, RolloutConfig
from .._returns import record_return
from .._rewards import is_number
from .._signature import is_async_function
from .._span import Span
from ..tracing import Tracer
from ..tracing._current import CURRENT
from ..tracing._recorder import AttemptRecorder

_ATTEMPT_FIELDS = tuple(field.name for field in attrs.fields(Attempt))
_ROLLOUT_FIELDS = tuple(
    field.name for field in attrs.fields(AttemptedRollout) if field.name not in ("attempt", "config")
)
_attempt_values = operator.attrgetter(*_ATTEMPT_FIELDS)
_rollout_values = operator.attrgetter(*_ROLLOUT_FIELDS)


class WorkerCall(NamedTuple):
    """One attempt, as it is sent to a worker."""

    packed: bytes
    rollout: AttemptedRollout
    trace_id: str
    root_id: str
    sequence_id: int

    def encode(self) -> bytes:
        """Pickle it; the records go as the values of their fields, which takes a fifth of the time."""
        packed, rollout, *ids = self
        values = (packed, _dump_config(rollout.config), _rollout_values(rollout), _attempt_values(rollout.attempt), ids)
        return pickle.dumps(values, pickle.HIGHEST_PROTOCOL)

    @classmethod
    def decode(cls, data: bytes) -> WorkerCall:
        """Read what `encode` made."""
        packed, config, rollout_values, attempt_values, ids = pickle.loads(data)
        attempt = Attempt(**dict(zip(_ATTEMPT_FIELDS, attempt_values, strict=True)))
        fields = dict(zip(_ROLLOUT_FIELDS, rollout_values, strict=True))
        return cls(packed, AttemptedRollout(**fields, config=_load_config(config), attempt=attempt), *ids)


# Most rollouts of a runner share one configuration.


@functools.lru_cache(maxsize=64)
def _dump_config(config: RolloutConfig) -> bytes:
    return pickle.dumps(config)


@functools.lru_cache(maxsize=64)
def _load_config(data: bytes) -> RolloutConfig:
    config: RolloutConfig = pickle.loads(data)
    return config


class RemoteError(NamedTuple):
    """What an agent raised in a worker; `pickled` is the exception itself where it can be pickled.

    `names` is what retries go by where it cannot, see `names_of_members`.
    """

    type: str
    message: str
    traceback: str
    names: tuple[frozenset[str], ...]
    pickled: bytes | None


class WorkerReport(NamedTuple):
    """How an attempt went in a worker: what it returned or raised, and the frames of its spans."""

    value: object
    error: RemoteError | None
    frames: bytes
    sequence_id: int

    def encode(self) -> bytes:
        """Pickle it."""
        return pickle.dumps(tuple(self), pickle.HIGHEST_PROTOCOL)

    @classmethod
    def decode(cls, data: bytes) -> WorkerReport:
        """Read what `encode` made."""
        return cls(*pickle.loads(data))


_process_lifetime = ExitStack()
_tracer = Tracer()
_journal_file = -1


def prepare_worker(directory: str, instrument_openai: bool) -> None:
    """Set the process up; called once, before its first attempt."""
    threading.Thread(target=_end_with_parent, name="lightning_trio parent watch", daemon=True).start()
    if hasattr(signal, "pthread_sigmask"):
        # Ctrl-C is the parent's matter. It was held back while this process started, and is ignored from here on.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    global _journal_file
    path = journal_path(directory, os.getpid())
    _journal_file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC, 0o600)
    if instrument_openai:
        # Optional: the extra `openai`; the module does nothing where it is not installed.
        from ..tracing._openai import open_openai_instrumentation
        from ..tracing._resolving import AttemptTracerProvider

        _process_lifetime.enter_context(open_openai_instrumentation(AttemptTracerProvider()))
        atexit.register(_process_lifetime.close)


def _end_with_parent() -> None:
    """End this process when its parent is gone, for nobody else would: a parent that was killed ends no workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        # Not PR_SET_PDEATHSIG, which goes by the thread that started this process, and Trio's threads come and go.
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def run_in_worker(data: bytes) -> bytes:
    """Run one attempt and give its report."""
    call = WorkerCall.decode(data)
    journal = Journal(_journal_file, call.rollout.attempt.attempt_id)
    sequence_id, value, error = call.sequence_id, None, None
    try:
        agent = _load(call.packed)
        recorder = AttemptRecorder(_tracer, call.rollout, agent.resources, agent.bound.name, None)
        recorder.continue_trace(call.trace_id, call.root_id, sequence_id)
        recorder.spans = journal
        try:
            value = _call_in_context(recorder, agent)
        finally:
            recorder.end_open_spans("in its worker process")
            sequence_id = recorder.next_sequence_id()
    except BaseException as exc:
        error = _to_remote(exc)
    return WorkerReport(value, error, journal.close(), sequence_id).encode()


@functools.lru_cache(maxsize=64)
def _load(packed: bytes) -> PackedAgent:
    agent = unpack_agent(packed)
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        # The process is ours and the agent's module has set none, so OpenTelemetry's global calls may come here, too.
        from ..tracing._resolving import AttemptTracerProvider

        trace.set_tracer_provider(AttemptTracerProvider())
    return agent


def _call_in_context(recorder: AttemptRecorder, agent: PackedAgent) -> object:
    token = CURRENT.set(recorder)
    otel_token = otel_context.attach(recorder.context())
    try:
        value = _call(recorder, agent)
        if value is None or (value.__class__ is list and not value):
            return value
        if is_number(value):
            # As a plain one: its class may be one that cannot be sent. What no float holds is refused below.
            with suppress(OverflowError, ValueError):
                return float(cast("float", value))
        # Spans need not be picklable, and what is refused need not travel.
        record_return(recorder, value)
        return None
    finally:
        otel_context.detach(otel_token)
        CURRENT.reset(token)


def _call(recorder: AttemptRecorder, agent: PackedAgent) -> object:
    bound = agent.bound
    call = functools.partial(bound.fn, recorder.rollout.input, **bound.arguments(recorder))
    try:
        return trio.run(call) if is_async_function(bound.fn) else call()
    except KeyboardInterrupt as exc:
        # Ctrl-C is ignored here, so this is the agent's own.
        raise AgentError("the agent raised KeyboardInterrupt") from exc


def _to_remote(exc: BaseException) -> RemoteError:
    sole = sole_exception(exc)
    try:
        # A plain string, whose class can be sent, whatever the exception gives.
        message = "".join((str(sole),))
    except Exception as unprintable:
        message = f"<str() of it raised {type(unprintable).__name__}>"
    pickled: bytes | None = None
    try:
        pickled = pickle.dumps(exc, pickle.HIGHEST_PROTOCOL)
        # Exceptions that change their arguments can be pickled and not be read again.
        pickle.loads(pickled)
    except Exception:
        pickled = None
    formatted = "".join(traceback.format_exception(exc))
    return RemoteError(type(sole).__name__, message, formatted, _names(exc), pickled)


def _names(exc: BaseException) -> tuple[frozenset[str], ...]:
    # The main program's file goes by another name here, see multiprocessing.spawn.
    return tuple(
        frozenset(name.replace("__mp_main__.", "__main__.", 1) for name in names) for names in names_of_members(exc)
    )


# The journal.


def journal_path(directory: str, pid: int) -> Path:
    """Name the file a worker writes its spans to."""
    return Path(directory, f"{pid}.spans")


class Journal(list[Span]):
    """The spans of one attempt, each pickled when it is added and written to a file, if there is one.

    A kill leaves what was written: the attempt's id, then a frame for each span. Spans come from any thread.
    """

    def __init__(self, file: int, attempt_id: str) -> None:
        super().__init__()
        self._file = file
        self._attempt_id = attempt_id
        self._frames: list[bytes] = []
        self._lock = threading.Lock()

    def append(self, span: Span, /) -> None:
        """Add a span."""
        frame = pickle.dumps(span, pickle.HIGHEST_PROTOCOL)
        with self._lock:
            super().append(span)
            if self._file >= 0:
                self._write(frame)
            self._frames.append(frame)

    def _write(self, frame: bytes) -> None:
        try:
            if not self._frames:
                os.ftruncate(self._file, 0)
                os.write(self._file, pickle.dumps(self._attempt_id))
            os.write(self._file, frame)
        except OSError:
            # A full disk is no fault of the agent's, and the spans travel with the result.
            self._file = -1

    def extend(self, spans: Iterable[Span], /) -> None:
        """Add spans."""
        for span in spans:
            self.append(span)

    def close(self) -> bytes:
        """Write no more, for the file is the next attempt's, and give what was written."""
        with self._lock:
            self._file = -1
            return b"".join((pickle.dumps(self._attempt_id), *self._frames)) if self._frames else b""


def read_frames(data: bytes, attempt_id: str) -> list[Span]:
    """Read the spans of an attempt; a frame that was being written when its worker was killed is left out."""
    stream, spans = io.BytesIO(data), list[Span]()
    try:
        if pickle.load(stream) == attempt_id:
            while True:
                spans.append(pickle.load(stream))
    except (EOFError, pickle.UnpicklingError, ValueError, IndexError):
        pass
    return spans
