"""The host: a thread that runs Trio, with an open runner or another open object in it.

Other threads submit jobs to it. A job is a task of the host's nursery, with the caller's context and a cancel scope of
its own; once it has ended, it wakes its caller, which reads the result.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Generic, TypeVar

import outcome
import trio

from .._concurrency import FlatNursery, split
from .._errors import AgentError, AttemptAbandoned, RolloutCancelled, RunnerClosed, UsageError
from .._exception_text import repr_of
from .._runner import Runner

T = TypeVar("T")

CANCEL_SECONDS = 5.0
"""How long a cancelled caller waits for its rollouts to be recorded as cancelled."""


class Job(Generic[T]):
    """One call from another thread. `result` is set before `wake` is called, in Trio's thread."""

    def __init__(self, fn: Callable[[], Awaitable[T]], wake: Callable[[], object]) -> None:
        self.result: outcome.Outcome[T] | None = None
        self.scope: trio.CancelScope = trio.CancelScope()
        self._fn = fn
        self._wake = wake

    async def run(self) -> None:
        """Run in Trio to the end and keep the result, errors included."""
        # A cancellation by the host is captured, too: the task ends here, and its caller waits in another thread.
        # Captured outside the scope, an error that meets the caller's cancellation is alone; inside, it would be in a
        # group with the cancellation.
        self.end(await outcome.acapture(self._run))

    async def _run(self) -> T:
        with self.scope:
            return await self._fn()
        raise RolloutCancelled.by_caller()

    def end(self, result: outcome.Outcome[T]) -> None:
        """Set the result and wake the caller."""
        self.result = outcome.Error(_as_call_error(result.error)) if isinstance(result, outcome.Error) else result
        self._wake()


def _as_call_error(error: BaseException) -> Exception | AttemptAbandoned:
    """Return an error of one call for one that would end the caller's loop or thread, such as a SystemExit."""
    # The caller itself is abandoned, and must stop.
    if isinstance(error, Exception | AttemptAbandoned):
        return error
    if split(error, trio.Cancelled).matching is not None:
        return RunnerClosed.meanwhile("the `with` block that opened it")
    wrapped = AgentError.raised(repr_of(error))
    wrapped.__cause__ = error
    return wrapped


class TrioHost:
    """A Trio thread with an open runner, from construction until `close`.

    Args:
        runner: the runner to open, or whatever else has to be open there.
        opened: called in the thread when the runner is open.
        ended: called in the thread at its very end, when `error` is set.
        name: the thread's name.
    """

    def __init__(
        self,
        runner: AbstractAsyncContextManager[object],
        opened: Callable[[], object],
        ended: Callable[[], object],
        name: str = "lightning_trio-host",
    ) -> None:
        self.error: BaseException | None = None
        """The error with which opening or running the runner failed."""
        self._runner = runner
        self._opened = opened
        self._ended = ended
        self._whole = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._accepting = False
        self._token: trio.lowlevel.TrioToken | None = None
        started = threading.Event()
        # A daemon thread, so that a process that exits meanwhile does not wait for it.
        self._thread = threading.Thread(target=self._run, args=(started,), name=name, daemon=True)
        self._thread.start()
        # A millisecond, until Trio has made its pipes and accepts calls from other threads.
        started.wait()

    # From other threads.

    def submit(self, job: Job[T]) -> Job[T]:
        """Start the job in the caller's context; after the host has closed, the job fails with `RunnerClosed`."""
        try:
            if self._token is None:
                raise trio.RunFinishedError
            self._token.run_sync_soon(self._start, job, contextvars.copy_context())
        except trio.RunFinishedError:
            self._reject(job)
        return job

    def cancel(self, job: Job[Any]) -> None:
        """Cancel the job at any stage; it ends once its rollouts are recorded."""
        self._call_soon(job.scope.cancel)

    def close(self) -> None:
        """Cancel all jobs; the thread ends once everything is committed and the runner is closed."""
        self._call_soon(self._close)

    def join(self) -> None:
        """Wait for the thread after it has called `ended`, which takes microseconds."""
        self._thread.join()

    def runs_here(self) -> bool:
        """Whether the calling task runs in the host."""
        return self._token is trio.lowlevel.current_trio_token()

    def _call_soon(self, fn: Callable[[], object]) -> None:
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(fn)

    # In the host's thread.

    def _run(self, started: threading.Event) -> None:
        try:
            trio.run(self._main, started)
        except BaseException as exc:
            self.error = exc
        finally:
            started.set()
            self._ended()

    async def _main(self, started: threading.Event) -> None:
        self._token = trio.lowlevel.current_trio_token()
        started.set()
        with self._whole:
            async with self._runner, FlatNursery() as self._nursery:
                self._accepting = True
                self._opened()
                try:
                    await trio.sleep_forever()
                finally:
                    self._accepting = False

    def _start(self, job: Job[Any], context: contextvars.Context) -> None:
        if self._accepting and self._nursery is not None:
            context.run(self._nursery.start_soon, job.run)
        else:
            self._reject(job)

    def _reject(self, job: Job[Any]) -> None:
        closed = RunnerClosed.too_late()
        closed.__cause__ = self.error
        job.end(outcome.Error(closed))

    def _close(self) -> None:
        # While the runner opens, its opening is cancelled; later only its jobs are, and it closes as usual.
        scope = self._whole if self._nursery is None else self._nursery.cancel_scope
        scope.cancel()


def check_runner(runner: object, call: str) -> Runner:
    """Return `runner` if it is a `Runner`.

    Raises:
        UsageError: it is not; the message shows how to make one.
    """
    if not isinstance(runner, Runner):
        raise UsageError.not_a_runner(call, runner)
    return runner
