"""A runner in an asyncio program."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import trio

from .._errors import RunnerClosed, UsageError
from .._public import public_in
from .._records import CompletedRollout, FitResult, RolloutMode, RunnerStatistics
from .._repr import one_line
from .._resources import NamedResources
from .._runner import Runner, Tasks
from ..algorithms import Dataset
from ._host import check_runner

if TYPE_CHECKING:
    from ._loop import LoopHost
    from ._loop_stream import LoopStream


_ENTERING = "async with embed.open_asyncio(runner) as r"


@public_in("lightning_trio.embed")
def open_asyncio(runner: Runner) -> AsyncioRunner:
    """Open a runner in an asyncio program, as ``async with embed.open_asyncio(runner) as r: await r.step(task)``.

    The runner lives in one Trio thread from the start of the block to its end. Leaving the block, also by an error or
    a cancellation, cancels running rollouts, waits until they are recorded, closes the runner and ends the thread;
    calls that still wait raise `RunnerClosed`.

    Args:
        runner: the runner to open. The block raises its error if it cannot be opened or fails later.

    >>> import asyncio
    >>> async def double(task: int) -> float:
    ...     return task * 2.0
    >>> async def main() -> float | None:
    ...     async with open_asyncio(Runner(double)) as r:
    ...         return (await r.step(21)).final_reward
    >>> asyncio.run(main())
    42.0
    """
    return AsyncioRunner(check_runner(runner, "open_asyncio"))


@public_in("lightning_trio.embed")
class AsyncioRunner:
    """A runner whose calls are awaited on the event loop that opened it; made by `open_asyncio`."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._host: LoopHost | None = None

    @one_line
    def __repr__(self) -> str:
        return f"<AsyncioRunner: {'closed' if self._host is None else 'open'}, {self._runner!r}>"

    async def __aenter__(self) -> Self:
        if self._host is not None:
            raise UsageError.open_already(_ENTERING)
        if trio.lowlevel.in_trio_run():
            raise UsageError.asyncio_only()
        # asyncio takes 20 ms to import, and Trio programs do not need it.
        from ._loop import LoopHost

        host = LoopHost(self._runner)
        await host.wait_opened()
        self._host = host
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._host is not None
        host, self._host = self._host, None
        await host.aclose()

    def _opened(self, call: str) -> LoopHost:
        if self._host is None:
            raise RunnerClosed.not_open(call, entering=_ENTERING)
        return self._host

    async def step(
        self, task: Any, *, resources: NamedResources | None = None, mode: RolloutMode | None = None
    ) -> CompletedRollout:
        """Run one task and return its completed rollout, as `Runner.step` does.

        The agent sees the caller's context variables; its trace is separate and links to the caller's current span.

        Args:
            task: the input.
            resources: the resources to use instead of the runner's own.
            mode: ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            Exception: what the agent raised in its last attempt, once it is recorded (an `AgentError` for an exception
                that would end the loop, such as SystemExit).
            RunnerClosed: outside the block, or if the block ends meanwhile.
            UsageError: called on another event loop.

        If the caller is cancelled, the rollout is stopped and recorded as cancelled before the cancellation
        propagates; an agent that takes more than 5 s to stop is abandoned.
        """
        host = self._opened("await r.step(task)")
        return await host.start(partial(self._runner.step, task, resources=resources, mode=mode)).wait()

    def stream(
        self, tasks: Tasks, *, resources: NamedResources | None = None, mode: RolloutMode | None = None
    ) -> LoopStream:
        """Run the tasks of a sync or async iterable, as ``async with r.stream(tasks) as results:``.

        ``async for done in results:`` yields each `CompletedRollout` as it finishes; failures are data, too. The
        tasks are read on the caller's event loop, no further ahead than `max_concurrency` rollouts that run or wait to
        be read. Leaving the block cancels running rollouts.

        Args:
            tasks: the inputs; may be endless.
            resources: the resources to use instead of the runner's own.
            mode: ``"train"``, ``"val"`` or ``"test"``.
        """
        host = self._opened("async with r.stream(tasks) as results: …")
        from ._loop_stream import LoopStream

        return LoopStream(host, self._runner, tasks, resources, mode)

    async def fit(
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

        If the caller is cancelled, finished rollouts are kept and running ones are put back in the queue.
        """
        host = self._opened("await r.fit(train_dataset)")
        fit = partial(
            self._runner.fit,
            train_dataset,
            val_dataset,
            repeats=repeats,
            resume=resume,
            retry_failed=retry_failed,
            force_resume=force_resume,
        )
        return await host.start(fit).wait()

    def statistics(self) -> RunnerStatistics:
        """Return the counts of rollouts that run, wait and are done."""
        return self._runner.statistics()
