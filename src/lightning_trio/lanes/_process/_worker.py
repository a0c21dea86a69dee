"""The code of a worker process: it rebuilds the attempt's context, runs the agent, and returns its spans."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import multiprocessing.connection
import multiprocessing.util
import os
import pickle
import signal
import threading
from collections.abc import Collection
from contextlib import ExitStack, suppress
from types import FrameType
from typing import cast

import attrs
import trio
from opentelemetry import trace

from ..._concurrency import sole_exception
from ..._errors import AgentError, UnsupportedLane
from ..._exception_text import class_name, message_of, traceback_of
from ..._host import found_family, kill_descendants, kill_own_family, leave_trio
from ..._records import names_of_members
from ..._resources import register_keys, value_without_keys, without_keys
from ..._spans import finding_traces, is_number
from ...tracing import AttemptRecorder, Tracer, enter_attempt, leave_attempt, refusing_finalisers
from ...tracing.instrumentation import AttemptTracerProvider, open_instrumentations
from .._explanations import explain
from .._returns import record_return
from ._journal import Journal, journal_path
from ._messages import RemoteError, WorkerCall, WorkerReport
from ._pickling import PackedAgent, unpack_agent

_agents: dict[type, object] = {}
"""The agents that are classes, by class: each is kept for all rollouts of this process, like its state."""

_recorders: dict[str, AttemptRecorder] = {}
"""That of the attempt that runs, by its id."""

_process_lifetime = ExitStack()
_tracer = Tracer()
_reported_late_spans = 0
_journal_file = -1


def prepare_worker(directory: str, leave_out: Collection[str], start_method: str | None) -> None:
    """Set up the process; called once, before its first attempt.

    Args:
        directory: where its journal is written.
        leave_out: SDKs whose calls are not recorded.
        start_method: that of multiprocessing in the parent process, None for the system's default.
    """
    found_family()
    threading.Thread(target=_end_with_parent, name="lightning_trio parent watch", daemon=True).start()
    _ignore_interrupts()
    _allow_children(start_method)
    global _journal_file
    path = journal_path(directory, os.getpid())
    _journal_file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC, 0o600)
    _process_lifetime.enter_context(open_instrumentations(leave_out))
    _process_lifetime.enter_context(refusing_finalisers(_tracer))
    _process_lifetime.enter_context(finding_traces(_recorders.get))
    atexit.register(_process_lifetime.close)


def _end_with_parent() -> None:
    """Exit when the parent process has ended: a parent that is killed does not stop its worker processes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        # Not PR_SET_PDEATHSIG, which reports the end of the thread that started this process: Trio's threads end early.
        multiprocessing.connection.wait([parent.sentinel])
        if hasattr(os, "killpg"):
            kill_own_family()
        os._exit(1)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent process, which kills this one if need be."""
    # By a function, since children would inherit SIG_IGN, which trio-parallel has set: an agent could not interrupt a
    # program that it runs.
    signal.signal(signal.SIGINT, _do_nothing)
    if hasattr(signal, "siginterrupt"):
        signal.siginterrupt(signal.SIGINT, False)
    if hasattr(signal, "pthread_sigmask"):
        # It was blocked while this process started.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork_in_child)


def _do_nothing(signum: int, frame: FrameType | None) -> None:
    pass


def _after_fork_in_child() -> None:
    leave_trio()
    # An async agent's Trio: a signal to the child would wake the loop of its parent.
    signal.set_wakeup_fd(-1)
    if signal.getsignal(signal.SIGINT) is _do_nothing:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _allow_children(start_method: str | None) -> None:
    """Let the agent start processes as in its parent; those it leaves are killed when this process ends."""
    # trio-parallel starts daemonic processes, which multiprocessing allows no children, and forces its start method.
    multiprocessing.current_process().daemon = False
    multiprocessing.set_start_method(start_method, force=True)
    if hasattr(os, "killpg"):
        # After the finalizers of open pools, and before multiprocessing waits for its processes.
        multiprocessing.util.Finalize(None, kill_descendants, exitpriority=0)


def run_in_worker(data: bytes) -> bytes:
    """Run one attempt and return its report."""
    try:
        call = WorkerCall.decode(data)
    except BaseException as exc:
        return WorkerReport(None, _to_remote(UnsupportedLane.task_not_loaded(exc)), b"", 0, 0, 0).encode()
    attempt_id = call.rollout.attempt.attempt_id
    journal = Journal(_journal_file, attempt_id)
    sequence_id, value, error = call.sequence_id, None, None
    try:
        agent = _load(call.packed)
        recorder = AttemptRecorder(_tracer, call.rollout, agent.resources, agent.bound.name, None, call.limit)
        recorder.continue_trace(call.trace_id, call.root_id, sequence_id)
        recorder.spans = journal
        _recorders[attempt_id] = recorder
        try:
            value = _call_in_context(recorder, agent)
        finally:
            del _recorders[attempt_id]
            recorder.end_open_spans("in its worker process")
            sequence_id = recorder.next_sequence_id()
    except BaseException as exc:
        error = _to_remote(exc)
    return WorkerReport(value, error, *journal.close(), sequence_id, _count_late_spans()).encode()


def _count_late_spans() -> int:
    global _reported_late_spans
    before, _reported_late_spans = _reported_late_spans, _tracer.statistics().late_spans
    return _reported_late_spans - before


@functools.lru_cache(maxsize=64)
def _load(packed: bytes) -> PackedAgent:
    agent = unpack_agent(packed)
    register_keys(agent.resources)
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        # The agent's module has set no provider, so OpenTelemetry's global calls in this process can be recorded too.
        trace.set_tracer_provider(AttemptTracerProvider())
    return _with_own_state(agent)


def _with_own_state(packed: PackedAgent) -> PackedAgent:
    """Return a packed agent with the object that this process has of its class, whatever resources it came with."""
    bound = packed.bound
    owner: object = getattr(bound.fn, "__self__", None)
    if bound.method is None or owner is None:
        return packed
    own = _agents.setdefault(type(owner), owner)
    return packed if own is owner else packed._replace(bound=attrs.evolve(bound, fn=getattr(own, bound.method)))


def _call_in_context(recorder: AttemptRecorder, agent: PackedAgent) -> object:
    context = enter_attempt(recorder)
    try:
        value = _call(recorder, agent)
        recorder.check_room()
        if value is None or (value.__class__ is list and not value):
            return value
        if is_number(value):
            # As a plain float: its class may not be picklable. A number that no float can hold is refused below.
            with suppress(OverflowError, ValueError):
                return float(cast("float", value))
        # Recorded here: spans need not be picklable, and a refused value is not sent.
        record_return(recorder, value)
        return None
    finally:
        leave_attempt(context)


def _call(recorder: AttemptRecorder, agent: PackedAgent) -> object:
    bound = agent.bound
    call = functools.partial(bound.fn, recorder.rollout.input, **bound.arguments(recorder))
    try:
        return trio.run(call) if agent.is_async else call()
    except KeyboardInterrupt as exc:
        # Ctrl-C is ignored here, so the agent raised this itself.
        raise AgentError.raised("KeyboardInterrupt") from exc


def _to_remote(exc: BaseException) -> RemoteError:
    # Here, because its causes are not pickled.
    explain(exc, "process")
    sole = sole_exception(exc)
    texts = (class_name(sole), message_of(sole), traceback_of(exc))
    # Here, because only this process may know a key: one that the agent has made or read.
    kind, message, formatted = map(without_keys, texts)
    return RemoteError(kind, message, formatted, _names(exc), _pickled(exc) if message is texts[1] else None)


def _pickled(exc: BaseException) -> bytes | None:
    """Return a pickled exception, or None if it cannot be pickled, or holds a key."""
    try:
        pickled = pickle.dumps(exc, pickle.HIGHEST_PROTOCOL)
        # An exception that changes its arguments can be pickled, but not always unpickled.
        pickle.loads(pickled)
    except BaseException:
        return None
    # Its texts stand in there as they are: arguments, notes and the values of attributes.
    return pickled if value_without_keys(pickled) is pickled else None


def _names(exc: BaseException) -> tuple[frozenset[str], ...]:
    # The main module has another name here, see multiprocessing.spawn.
    return tuple(
        frozenset(name.replace("__mp_main__.", "__main__.", 1) for name in names) for names in names_of_members(exc)
    )
