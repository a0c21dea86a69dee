"""The host: a thread that runs Trio, with an open runner in it.

Callers outside send it jobs. A job is a task of the host's nursery, with the caller's context and a cancel scope of its
own; its result goes back the way the caller is woken.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import outcome
import trio

from .._concurrency import FlatNursery
from .._errors import AgentError, RolloutCancelled, RunnerClosed, UsageError
from .._runner import Runner

T = TypeVar("T")

CANCEL_SECONDS = 5.0
"""How long a cancelled caller waits until what it started is recorded as cancelled."""


class Job(Generic[T]):
    """One call from outside. `result` is there once `wake` has been called, from Trio's thread."""

    def __init__(self, fn: Callable[[], Awaitable[T]], wake: Callable[[], object]) -> None:
        self.result: outcome.Outcome[T] | None = None
        self.scope: trio.CancelScope = trio.CancelScope()
        self._fn = fn
        self._wake = wake

    async def run(self) -> None:
        """Run in Trio, to the end, whatever the end is."""
        # Captured, a cancellation by the host too: the task ends here, and who waits is in another thread. Outside the
        # scope: an error that meets the caller's cancellation leaves the scope alone, and inside is in a group with it.
        self.end(await outcome.acapture(self._run))

    async def _run(self) -> T:
        with self.scope:
            return await self._fn()
        raise RolloutCancelled.by_caller()

    def end(self, result: outcome.Outcome[T]) -> None:
        """Give the result to the caller."""
        self.result = outcome.Error(_seen_outside(result.error)) if isinstance(result, outcome.Error) else result
        self._wake()


def _seen_outside(error: BaseException) -> Exception:
    """Turn what would end the caller's loop or thread, such as an agent's SystemExit, into an error of one call."""
    if isinstance(error, Exception):
        return error
    stop = error.split(trio.Cancelled)[0] if isinstance(error, BaseExceptionGroup) else error
    if isinstance(stop, trio.Cancelled | BaseExceptionGroup):
        return RunnerClosed.meanwhile("the `with` block that opened it")
    wrapped = AgentError.raised(repr(error))
    wrapped.__cause__ = error
    return wrapped


class TrioHost:
    """A Trio thread with an open runner, from here on until `close`.

    Args:
        runner: what to open in it.
        opened: called in the thread when the runner is open.
        ended: called in the thread as the last thing it does; `error` is there then.
    """

    def __init__(self, runner: Runner, opened: Callable[[], object], ended: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        """What the runner could not be opened or kept open for."""
        self._runner = runner
        self._opened = opened
        self._ended = ended
        self._whole = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._accepting = False
        self._token: trio.lowlevel.TrioToken | None = None
        started = threading.Event()
        # A daemon: a process that is made to exit in the middle must not wait for it.
        self._thread = threading.Thread(target=self._run, args=(started,), name="lightning_trio-host", daemon=True)
        self._thread.start()
        # Until Trio has made its pipes, a millisecond; from then on it can be spoken to.
        started.wait()

    # From other threads.

    def submit(self, job: Job[T]) -> Job[T]:
        """Start the job in the caller's context; one that comes too late ends as `RunnerClosed`."""
        try:
            if self._token is None:
                raise trio.RunFinishedError
            self._token.run_sync_soon(self._start, job, contextvars.copy_context())
        except trio.RunFinishedError:
            self._refuse(job)
        return job

    def cancel(self, job: Job[Any]) -> None:
        """Cancel the job, wherever it is; it ends once its rollouts are recorded."""
        self._call_soon(job.scope.cancel)

    def close(self) -> None:
        """Cancel what runs and have the thread end, once everything is committed and the runner is closed."""
        self._call_soon(self._close)

    def join(self) -> None:
        """Wait for the thread, which has called `ended`: microseconds."""
        self._thread.join()

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
            self._refuse(job)

    def _refuse(self, job: Job[Any]) -> None:
        closed = RunnerClosed.too_late()
        closed.__cause__ = self.error
        job.end(outcome.Error(closed))

    def _close(self) -> None:
        # While the runner is being opened, its opening is given up; later its jobs are, and it closes as ever.
        scope = self._whole if self._nursery is None else self._nursery.cancel_scope
        scope.cancel()


def check_runner(runner: object, call: str) -> Runner:
    """Refuse what is no runner.

    Raises:
        UsageError: showing how to make one.
    """
    if not isinstance(runner, Runner):
        raise UsageError.not_a_runner(call, runner)
    return runner
