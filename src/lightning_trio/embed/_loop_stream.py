"""A stream whose tasks and results are read on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import outcome

from .._errors import DatasetError, UsageError
from .._records import CompletedRollout, RolloutMode
from .._repr import one_line
from .._resources import NamedResources
from .._runner import Runner, Tasks
from ..algorithms import check_tasks
from ._loop import LoopCall, LoopHost, settle
from ._outside_stream import Answer, OutsideStream, raise_failure, read_task


class LoopStream:
    """Completed rollouts as they finish; made by `AsyncioRunner.stream` and entered with ``async with``."""

    def __init__(
        self, host: LoopHost, runner: Runner, tasks: Tasks, resources: NamedResources | None, mode: RolloutMode | None
    ) -> None:
        check_tasks("tasks", tasks)
        if not isinstance(tasks, Iterable | AsyncIterable):
            raise DatasetError.not_iterable(tasks)
        self._tasks = aiter(tasks) if isinstance(tasks, AsyncIterable) else iter(tasks)
        self._host = host
        self._stream = OutsideStream(runner, lambda answer: host.post(self._ask, answer), resources, mode)
        self._serving: LoopCall[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._left = False
        self._unread: list[CompletedRollout] = []

    @one_line
    def __repr__(self) -> str:
        return f"<LoopStream: {'left' if self._left else 'not entered yet' if self._serving is None else 'entered'}>"

    async def __aenter__(self) -> Self:
        if self._serving is not None:
            raise UsageError.entered_twice("r.stream(tasks)")
        self._serving = self._host.start(self._stream.serve)
        try:
            await self._host.start(self._stream.wait_entered).wait()
        except BaseException:
            await self._leave(self._serving)
            raise
        if self._serving.job.result is not None:
            await self._leave(self._serving)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._serving is not None
        await self._leave(self._serving)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CompletedRollout:
        if self._serving is None:
            raise UsageError.not_entered("r.stream(tasks)")
        if self._unread:
            return self._unread.pop()
        reading = self._host.start(self._stream.read)
        try:
            completed = await reading.wait()
        except asyncio.CancelledError:
            # A result that has arrived meanwhile is returned by the next call.
            if isinstance(reading.job.result, outcome.Value) and reading.job.result.value is not None:
                self._unread.append(reading.job.result.value)
            raise
        if completed is None:
            await self._leave(self._serving)
            raise StopAsyncIteration
        return completed

    async def _leave(self, serving: LoopCall[None]) -> None:
        """Cancel running rollouts and wait for their records; raise the error of reading the tasks, if any."""
        if self._left:
            return
        self._left = True
        if self._reading is not None:
            self._reading.cancel()
            await settle(self._reading)
        await serving.cancel()
        raise_failure(serving.job)

    # Tasks are read on the loop.

    def _ask(self, answer: Answer) -> None:
        if self._left:
            return
        if isinstance(self._tasks, Iterator):
            answer(read_task(self._tasks))
        else:
            self._reading = asyncio.ensure_future(self._read(self._tasks, answer))

    async def _read(self, tasks: AsyncIterator[Any], answer: Answer) -> None:
        try:
            answer(outcome.Value(await anext(tasks)))
        except asyncio.CancelledError:
            if not self._left:
                answer(outcome.Error(UsageError.tasks_cancelled()))
            raise
        except Exception as exc:
            answer(outcome.Error(exc))
