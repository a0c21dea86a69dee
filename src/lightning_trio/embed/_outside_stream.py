"""The Trio side of a stream whose tasks and results are read in another thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Self, TypeAlias

import outcome
import trio

from .._concurrency import sole_exception
from .._errors import RolloutCancelled, RunnerClosed
from .._records import CompletedRollout, RolloutMode
from .._resources import NamedResources
from .._runner import RolloutStream, Runner
from ._host import Job

Answer: TypeAlias = Callable[[outcome.Outcome[Any]], None]
Ask: TypeAlias = Callable[[Answer], object]


class OutsideStream:
    """A runner's stream that one job keeps open and other jobs read.

    Args:
        runner: an open runner.
        ask: called in Trio's thread when there is room for a task; it must have the task read in the other thread and
            then call the answer, from any thread.
        resources: the resources to use instead of the runner's own.
        mode: ``"train"``, ``"val"`` or ``"test"``.
    """

    def __init__(self, runner: Runner, ask: Ask, resources: NamedResources | None, mode: RolloutMode | None) -> None:
        self._runner = runner
        self._source = _Source(ask)
        self._resources = resources
        self._mode: RolloutMode | None = mode
        self._entered = trio.Event()
        self._results: RolloutStream | None = None

    async def serve(self) -> None:
        """Keep the stream open until cancelled; raise what reading the tasks raised."""
        try:
            stream = self._runner.stream(self._source, resources=self._resources, mode=self._mode)
            async with stream as self._results:
                self._entered.set()
                try:
                    await trio.sleep_forever()
                finally:
                    # After this block the stream can no longer be read.
                    self._results = None
        finally:
            self._entered.set()

    async def wait_entered(self) -> None:
        """Wait until results can be read, or the stream has failed to open."""
        await self._entered.wait()

    async def read(self) -> CompletedRollout | None:
        """Wait for the next result and return it; None at the end, or after an error, which `serve` raises."""
        await self._entered.wait()
        if self._results is None:
            return None
        try:
            return await anext(self._results, None)
        except trio.ClosedResourceError:
            # The stream was left during this wait.
            return None


class _Source:
    """The tasks, as an async iterator for Trio."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        token = trio.lowlevel.current_trio_token()
        answered = trio.Event()
        result: outcome.Outcome[Any] | None = None

        def take(given: outcome.Outcome[Any]) -> None:
            nonlocal result
            result = given
            answered.set()

        def answer(given: outcome.Outcome[Any]) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(take, given)

        self._ask(answer)
        await answered.wait()
        assert result is not None
        return result.unwrap()


def read_task(tasks: Iterator[Any]) -> outcome.Outcome[Any]:
    """Read the next task of a plain iterator; its end becomes `StopAsyncIteration`."""
    try:
        return outcome.Value(next(tasks))
    except StopIteration:
        return outcome.Error(StopAsyncIteration())
    except Exception as exc:
        return outcome.Error(exc)


def raise_failure(serving: Job[None]) -> None:
    """Raise the error that ended a stream's serving job, unless the stream was left or the runner closed."""
    if isinstance(serving.result, outcome.Error):
        # In a group of one if it met the cancellation by the reader.
        error = sole_exception(serving.result.error)
        if not isinstance(error, RolloutCancelled | RunnerClosed):
            raise error
