"""The worker processes of an open process lane: each runs one call at a time and is reused unless it is killed."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import shutil
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

from ..._concurrency import FlatNursery, compute_in_thread, run_in_thread, split_stop
from ..._errors import RemoteAgentError, UnsupportedLane, UsageError, WorkerDied, WorkerTraceback
from ..._exception_text import set_cause
from ..._host import kill_family, kill_group
from ...tracing import AttemptRecorder
from .._lane import Call, OpenLane
from ._journal import SENT_AT_MOST, journal_path, read_frames, read_journal
from ._journal_folder import make_journals, remove_stale_journals
from ._messages import RemoteError, WorkerCall, WorkerReport
from ._worker import prepare_worker, run_in_worker

if TYPE_CHECKING:
    import trio_parallel  # type: ignore[import-untyped]


_GRACE_SECONDS = 1.0
"""How long an idle worker process may take to exit before it is killed."""


_START_SECONDS = 30.0
"""How long a worker process may take to start: importing the largest frameworks takes ten seconds on a cold disk."""


# Any async context manager serves, see trio_parallel.run_sync; the runner's slots limit the worker processes.
_UNLIMITED: Any = nullcontext()


@attrs.define(eq=False)
class WorkerProcess:
    """One worker process at a time; a killed one is replaced."""

    context: trio_parallel.WorkerContext
    pid: int = 0


class OpenProcessLane(OpenLane):
    """Call agents in worker processes, which start with the first attempts and end with the lane.

    There are as many as attempts run at a time; the runner limits that number.
    """

    def __init__(self, nursery: trio.Nursery, leave_out: frozenset[str]) -> None:
        self._nursery = nursery
        self._leave_out = leave_out
        self._idle: list[WorkerProcess] = []
        self._closing = trio.Event()
        self._directory: str | None = None
        self._has_started = False
        self._exit_code_at_start: int | None = None
        """The exit code of the first worker process if it exited while it started; no other is started then."""

    has_workers = True

    async def get_ready(self, call: Call) -> None:
        """Wait for a worker process that is ready; starting one takes 0.3 s or more.

        Raises:
            WorkerDied: it ended while it started, or took too long to start.
        """
        if self._idle:
            call.state = self._idle.pop()
        else:
            # Shielded: to a caller that is cancelled, Trio does not hand over the task, which then waits for the lane's
            # end while the lane's end waits for the caller. This takes no time; the process starts later.
            with trio.CancelScope(shield=True):
                call.state = await self._nursery.start(self._keep_worker)
        worker: WorkerProcess = call.state
        # A worker process that died while it was idle is replaced here.
        if worker.context.statistics().idle_workers == 0:
            await self._start_process(worker, call.bound.name)

    def release(self, call: Call) -> None:
        """Make the worker process available to other calls."""
        if call.state is not None:
            self._idle.append(call.state)

    async def run(self, call: Call) -> Any:
        """Run the attempt in its worker process; when cancelled, kill that.

        Raises:
            WorkerDied: the worker process ended before the agent did.
        """
        # Optional, like the lane: the extra `process`.
        import trio_parallel

        worker: WorkerProcess = call.state
        recorder = call.recorder
        data = self._pack(call)
        recorder.remote_activity = partial(self._journal_size, worker.pid)
        try:
            report = WorkerReport.decode(
                await worker.context.run_sync(run_in_worker, data, kill_on_cancel=True, limiter=_UNLIMITED)
            )
        except trio_parallel.BrokenWorkerError as exc:
            await self._recover(worker, recorder)
            if hasattr(os, "killpg") and not hasattr(os, "pidfd_open"):
                kill_group(worker.pid)
            raise WorkerDied.while_running(call.bound.name, worker.pid, _exit_code(exc)) from None
        except trio.Cancelled:
            await self._recover(worker, recorder)
            raise
        for _ in range(report.late_spans):
            recorder.tracer.count_late_span()
        attempt_id = recorder.rollout.attempt.attempt_id
        if report.in_file:
            spans = await compute_in_thread(read_journal, self._journal(worker.pid), attempt_id)
            recorder.add_remote_spans(spans, report.sequence_id)
        elif report.frames:
            recorder.add_remote_spans(read_frames(report.frames, attempt_id), report.sequence_id)
        if report.error is not None:
            raise _to_local(report.error)
        return report.value

    def _pack(self, call: Call) -> bytes:
        recorder = call.recorder
        message = WorkerCall(
            call.bound.prepared,
            recorder.rollout,
            recorder.trace_id,
            recorder.root_id,
            recorder.next_sequence_id(),
            recorder.limit,
        )
        try:
            return message.encode()
        except (Exception, SystemExit) as exc:
            raise UnsupportedLane.task_not_picklable(recorder.rollout.input, exc) from exc

    # Worker processes.

    async def _keep_worker(self, *, task_status: trio.TaskStatus[WorkerProcess]) -> None:
        import trio_parallel

        directory = self._make_directory()
        # Without fixing the program's, which would then be refused to set it.
        start_method = multiprocessing.get_start_method(allow_none=True)
        # Shielded: a cancelled call kills its worker process itself, and the others end with the lane.
        with trio.CancelScope(shield=True):
            try:
                async with trio_parallel.open_worker_context(
                    idle_timeout=math.inf,
                    init=partial(prepare_worker, directory, self._leave_out, start_method),
                    grace_period=_GRACE_SECONDS,
                ) as context:
                    _adapt_workers(context)
                    task_status.started(WorkerProcess(context))
                    await self._closing.wait()
            except trio_parallel.BrokenWorkerError:
                # It was killed because it did not end in time, or it ended by itself; no attempt runs in it.
                pass

    async def _start_process(self, worker: WorkerProcess, agent: str) -> None:
        import trio_parallel

        if self._exit_code_at_start is not None:
            raise WorkerDied.while_starting(agent, self._exit_code_at_start)
        try:
            with trio.move_on_after(_START_SECONDS):
                worker.pid = await worker.context.run_sync(os.getpid, kill_on_cancel=True, limiter=_UNLIMITED)
                self._has_started = True
                self._nursery.start_soon(_kill_orphans_of, worker.pid, name="lightning_trio worker watch")
                return
        except trio_parallel.BrokenWorkerError as exc:
            exit_code = _exit_code(exc)
            if not self._has_started and exit_code is not None and exit_code >= 0:
                # It exited by itself; others would do the same, each after as long.
                self._exit_code_at_start = exit_code
            raise WorkerDied.while_starting(agent, exit_code) from None
        raise WorkerDied.too_slow_to_start(agent, _START_SECONDS)

    def _make_directory(self) -> str:
        if self._directory is None:
            self._directory = make_journals()
        return self._directory

    def _journal(self, pid: int) -> Path:
        assert self._directory is not None
        return journal_path(self._directory, pid)

    def _journal_size(self, pid: int) -> int:
        try:
            return self._journal(pid).stat().st_size
        except OSError:
            return 0

    async def _recover(self, worker: WorkerProcess, recorder: AttemptRecorder) -> None:
        """Record the spans that a killed worker process has written to its journal."""
        journal, attempt_id = self._journal(worker.pid), recorder.rollout.attempt.attempt_id
        if self._journal_size(worker.pid) > SENT_AT_MOST:
            spans = await compute_in_thread(read_journal, journal, attempt_id)
        else:
            spans = read_journal(journal, attempt_id)
        with suppress(OSError):
            journal.unlink(missing_ok=True)
        if spans:
            recorder.add_remote_spans(spans, max(span.sequence_id for span in spans) + 1)

    def close(self) -> None:
        """Stop all worker processes; the nursery waits for them."""
        self._closing.set()

    def remove_files(self) -> None:
        """Remove the journals."""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


def _adapt_workers(context: trio_parallel.WorkerContext) -> None:
    """Let worker processes start without Ctrl-C, and be killed with their descendants."""
    # There is no public API for this.
    make_worker: Any = context._worker_class  # pyright: ignore[reportPrivateUsage]

    def make_adapted_worker(*args: Any) -> Any:
        worker = make_worker(*args)
        if hasattr(signal, "pthread_sigmask"):
            _block_interrupts(worker.proc)
        if hasattr(os, "killpg"):
            worker.kill = partial(_kill, worker.proc)
        if hasattr(os, "pidfd_open"):
            worker.wait = partial(_wait_ended, worker.proc, worker.wait)
        return worker

    # The context is frozen, but its dict can be changed.
    vars(context)["_worker_class"] = make_adapted_worker


def _block_interrupts(process: Any) -> None:
    """Block SIGINT in a worker process while it starts: a Ctrl-C before it ignores it would print a traceback."""
    # A worker process inherits the mask of the thread that starts it, which is one of Trio's and serves other calls
    # afterwards, so that thread's mask is restored.
    start = process.start

    def start_quietly() -> None:
        # The process object pickles itself, and this attribute must not be included.
        del process.start
        # Starting multiprocessing's own helper process later would unblock SIGINT.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    process.start = start_quietly


def _kill(process: BaseProcess) -> None:
    if process.pid is None:
        process.kill()
    elif process.exitcode is None:
        kill_family(process.pid)


async def _wait_ended(process: BaseProcess, otherwise: Callable[[], Awaitable[int | None]]) -> int | None:
    """Wait for the end of a worker process and return its exit code."""
    # trio-parallel waits for a pipe, which a descendant that is out of reach may hold open.
    if process.pid is None or process.exitcode is not None or not await _has_ended(process.pid):
        return await otherwise()
    process.join()
    return process.exitcode


async def _has_ended(pid: int) -> bool:
    """Wait for the end of a child process; return at once whether it can be waited for."""
    try:
        file = os.pidfd_open(pid)
    except (AttributeError, OSError):
        # Another system than Linux, or a sandbox.
        return False
    try:
        await trio.lowlevel.wait_readable(file)
    finally:
        os.close(file)
    return True


async def _kill_orphans_of(pid: int) -> None:
    """Kill what a worker process leaves behind however it ends; they may also hide its end from trio-parallel."""
    # Shielded: a worker process ends with the lane at the latest.
    with trio.CancelScope(shield=True):
        if await _has_ended(pid):
            kill_group(pid)


def _exit_code(exc: BaseException) -> int | None:
    """Return the exit code of a broken worker process, negative for a signal; None if it is unknown."""
    code: int | None = getattr(exc.args[-1], "exitcode", None) if exc.args else None
    return code


def _to_local(error: RemoteError) -> BaseException:
    exception: BaseException | None = None
    if error.pickled is not None:
        try:
            exception = pickle.loads(error.pickled)
        except BaseException:
            exception = None
    if exception is None or split_stop(exception)[0] is not None:
        # An exception that stops a program must not stop this one.
        exception = RemoteAgentError(error.type, error.message, error.names)
    set_cause(exception, WorkerTraceback(error.traceback))
    return exception


@asynccontextmanager
async def open_pool(*, leave_out: frozenset[str]) -> AsyncGenerator[OpenProcessLane]:
    """Open a process lane; at the end its worker processes are stopped, and killed if they do not end.

    Args:
        leave_out: SDKs whose calls are not recorded in the worker processes.

    Raises:
        UsageError: this is a worker process that runs the main program's file to find the agent.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # multiprocessing itself uses this attribute for its own check.
        raise UsageError.in_worker_process()
    # In a thread: a temporary directory may have many entries.
    await run_in_thread(remove_stale_journals)
    lane: OpenProcessLane | None = None
    try:
        async with FlatNursery() as nursery:
            lane = OpenProcessLane(nursery, leave_out)
            try:
                yield lane
            finally:
                lane.close()
    finally:
        if lane is not None:
            lane.remove_files()
