"""A runner in blocking code: scripts, notebooks, the threads of a server."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import trio

from .._errors import DatasetError, NestedTrioRun, RunnerClosed, UsageError
from .._log import Log
from .._public import public_in
from .._records import CompletedRollout, FitResult, RolloutMode, RunnerStatistics
from .._repr import one_line
from .._resources import NamedResources
from .._runner import Runner
from ..algorithms import Dataset, check_tasks
from ._host import CANCEL_SECONDS, Job, TrioHost, check_runner
from ._outside_stream import Answer, OutsideStream, raise_failure, read_task

logger = Log("lightning_trio.embed")

T = TypeVar("T")

_ENTERING = "with embed.open_blocking(runner) as r"


@public_in("lightning_trio.embed")
def open_blocking(runner: Runner) -> BlockingRunner:
    """Open a runner in blocking code, as ``with embed.open_blocking(runner) as r: r.step(task)``.

    The runner lives in one Trio thread from the start of the block to its end, and several threads may use it at
    once. It works in a notebook, too, whose event loop waits during each call. Leaving the block cancels running
    rollouts, waits until they are recorded, closes the runner and ends the thread.

    Args:
        runner: the runner to open. The block raises its error if it cannot be opened or fails later.

    >>> async def double(task: int) -> float:
    ...     return task * 2.0
    >>> with open_blocking(Runner(double)) as r:
    ...     r.step(21).final_reward
    42.0
    """
    return BlockingRunner(check_runner(runner, "open_blocking"))


@public_in("lightning_trio.embed")
class BlockingRunner:
    """A runner whose calls block the calling thread; made by `open_blocking`."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._host: TrioHost | None = None
        self._ended = threading.Event()

    @one_line
    def __repr__(self) -> str:
        return f"<BlockingRunner: {'closed' if self._host is None else 'open'}, {self._runner!r}>"

    def __enter__(self) -> Self:
        if self._host is not None:
            raise UsageError.open_already(_ENTERING)
        _check_no_trio()
        opened, ended = threading.Event(), threading.Event()

        def end() -> None:
            ended.set()
            opened.set()

        host = TrioHost(self._runner, opened.set, end)
        try:
            opened.wait()
        except BaseException:
            close_host(host, ended)
            raise
        if ended.is_set():
            close_host(host, ended)
        self._host, self._ended = host, ended
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        assert self._host is not None
        host, self._host = self._host, None
        close_host(host, self._ended)

    def _opened(self, call: str) -> TrioHost:
        _check_no_trio()
        if self._host is None:
            raise RunnerClosed.not_open(call, entering=_ENTERING)
        return self._host

    def step(
        self, task: Any, *, resources: NamedResources | None = None, mode: RolloutMode | None = None
    ) -> CompletedRollout:
        """Run one task and return its completed rollout, as `Runner.step` does.

        Args:
            task: the input.
            resources: the resources to use instead of the runner's own.
            mode: ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            Exception: what the agent raised in its last attempt, once it is recorded (an `AgentError` for an exception
                that would end the program, such as SystemExit).
            RunnerClosed: outside the block, or if the block ends meanwhile.
            NestedTrioRun: Trio runs in this thread.
            KeyboardInterrupt: on Ctrl-C, once the rollout is recorded as cancelled; on a second one immediately.
        """
        host = self._opened("r.step(task)")
        return wait_blocking(host, partial(self._runner.step, task, resources=resources, mode=mode))

    def stream(
        self, tasks: Iterable[Any], *, resources: NamedResources | None = None, mode: RolloutMode | None = None
    ) -> Generator[CompletedRollout]:
        """Run the tasks of an iterable, as ``for done in r.stream(tasks):``.

        Yields each `CompletedRollout` as it finishes; failures are data, too. The tasks are read in the thread that
        reads the results, no further ahead than `max_concurrency` rollouts that run or wait to be read. Leaving the
        loop early, or closing the generator, cancels running rollouts.

        Args:
            tasks: the inputs; may be endless.
            resources: the resources to use instead of the runner's own.
            mode: ``"train"``, ``"val"`` or ``"test"``.
        """
        host = self._opened("for done in r.stream(tasks): …")
        check_tasks("tasks", tasks)
        if not isinstance(tasks, Iterable):
            raise DatasetError.not_iterable_here(tasks)
        return _read_stream(host, self._runner, iter(tasks), resources, mode)

    def fit(
        self,
        train_dataset: Dataset[Any] | None = None,
        val_dataset: Dataset[Any] | None = None,
        *,
        repeats: int = 1,
        resume: bool | str = False,
        retry_failed: bool | Sequence[type[BaseException] | str] = False,
        force_resume: bool = False,
    ) -> FitResult:
        """Run the algorithm over the datasets and return its result, as `Runner.fit` does.

        On Ctrl-C finished rollouts are kept and running ones are put back in the queue.
        """
        host = self._opened("r.fit(train_dataset)")
        fit = partial(
            self._runner.fit,
            train_dataset,
            val_dataset,
            repeats=repeats,
            resume=resume,
            retry_failed=retry_failed,
            force_resume=force_resume,
        )
        return wait_blocking(host, fit)

    def statistics(self) -> RunnerStatistics:
        """Return the counts of rollouts that run, wait and are done."""
        return self._runner.statistics()


def _check_no_trio() -> None:
    if trio.lowlevel.in_trio_run():
        raise NestedTrioRun.by_blocking_runner()


def close_host(host: TrioHost, ended: threading.Event) -> None:
    """Cancel the host's jobs, wait for the end of its thread, and raise the error that it has failed with."""
    host.close()
    ended.wait()
    host.join()
    if host.error is not None:
        raise host.error


def wait_blocking(host: TrioHost, fn: Callable[[], Awaitable[T]]) -> T:
    """Run a job and return its result; a Ctrl-C cancels it and propagates once it has ended."""
    caller = _Caller(host)
    return caller.wait(caller.start(fn))


class _Caller:
    """A thread that waits for jobs, and meanwhile makes the calls that other threads request."""

    def __init__(self, host: TrioHost) -> None:
        self._host = host
        self._calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()

    def call_soon(self, fn: Callable[[], object]) -> None:
        """Make the thread call `fn` when it waits next; may be called from any thread."""
        self._calls.put(fn)

    def start(self, fn: Callable[[], Awaitable[T]]) -> Job[T]:
        return self._host.submit(Job(fn, lambda: self.call_soon(_wake)))

    def wait(self, job: Job[T]) -> T:
        """Wait for the job and return its result; a Ctrl-C cancels it and propagates once it has ended."""
        try:
            while job.result is None:
                self._calls.get()()
        except BaseException:
            self.cancel(job)
            raise
        return job.result.unwrap()

    def cancel(self, job: Job[Any]) -> None:
        """Cancel the job and wait until it has ended, for at most `CANCEL_SECONDS`."""
        self._host.cancel(job)
        if trio.lowlevel.in_trio_run():
            # The garbage collector closes a forgotten stream in any thread, perhaps in the one that runs the job.
            return
        deadline = time.monotonic() + CANCEL_SECONDS
        while job.result is None and (left := deadline - time.monotonic()) > 0:
            with suppress(queue.Empty):
                self._calls.get(timeout=left)
        if job.result is None:
            logger.warning("a cancelled rollout still runs after %g s; not waiting for it any longer", CANCEL_SECONDS)


def _wake() -> None:
    """Do nothing: the call makes the waiting thread check its job again."""


def _read_stream(
    host: TrioHost, runner: Runner, tasks: Iterator[Any], resources: NamedResources | None, mode: RolloutMode | None
) -> Generator[CompletedRollout]:
    caller = _Caller(host)

    def ask(answer: Answer) -> None:
        caller.call_soon(lambda: answer(read_task(tasks)))

    stream = OutsideStream(runner, ask, resources, mode)
    serving = caller.start(stream.serve)
    try:
        while (completed := caller.wait(caller.start(stream.read))) is not None:
            yield completed
    finally:
        caller.cancel(serving)
    raise_failure(serving)
