"""A stream of results: tasks are started as results are read."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, Self, TypeAlias

import trio

from .._concurrency import FlatNursery
from .._errors import DatasetError, NotStorable, UsageError
from .._public import public
from .._records import CompletedRollout, EnqueueRolloutRequest
from .._repr import counted, one_line
from ..algorithms import check_tasks
from ._engine import Engine
from ._sub_rollouts import Admission

Tasks: TypeAlias = Iterable[Any] | AsyncIterable[Any]


@public
class RolloutStream:
    """Results as they finish; made by `Runner.stream`, to be entered with ``async with``."""

    def __init__(
        self,
        engine: Engine,
        tasks: Tasks,
        prepare: Callable[[], Awaitable[str | None]],
        request: Callable[[Any, str | None], EnqueueRolloutRequest],
        ahead: int,
    ) -> None:
        check_tasks("tasks", tasks)
        if not isinstance(tasks, Iterable | AsyncIterable):
            raise DatasetError.not_iterable(tasks)
        self._engine = engine
        self._tasks = tasks
        self._prepare = prepare
        self._request = request
        # A rollout holds a place from its start until its result is read, which limits reading ahead of the source.
        self._places = trio.Semaphore(ahead, max_value=ahead)
        self._send, self._receive = trio.open_memory_channel[CompletedRollout](ahead)
        self._stack: AsyncExitStack | None = None
        self._entered = False
        self._read = trio.Event()
        self._refused = False
        """Whether a task could not be stored."""

    @one_line
    def __repr__(self) -> str:
        if self._stack is None:
            return f"<RolloutStream: {'left' if self._entered else 'not entered yet'}>"
        return f"<RolloutStream: entered, {counted(self._receive.statistics().current_buffer_used, 'result')} to read>"

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        if self._entered:
            raise UsageError.entered_twice("runner.stream(tasks)")
        self._entered = True
        self._engine.check_open()
        resources_id = await self._prepare()
        self._stack = AsyncExitStack()
        nursery = await self._stack.enter_async_context(FlatNursery())
        self._stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(self._start_all, resources_id)
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        assert self._stack is not None
        stack, self._stack = self._stack, None
        self._receive.close()
        return await stack.__aexit__(kind, exc, tb)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CompletedRollout:
        if self._stack is None:
            raise UsageError.not_entered("runner.stream(tasks)")
        try:
            completed = await self._receive.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        self._places.release()
        self._read.set()
        return completed

    async def _start_all(self, resources_id: str | None) -> None:
        # Closed by plain `with`: the checkpoint in `async with` could replace an error of the source by a cancellation.
        with self._send, self._engine.shutdown.stoppable() as call, trio.CancelScope() as scope:
            async with FlatNursery() as nursery:
                with call.claiming(scope):
                    await self._start_each(resources_id, nursery)
            while call.stopping and self._receive.statistics().current_buffer_used:
                self._read = trio.Event()
                await self._read.wait()
            await call.wait_others()

    async def _start_each(self, resources_id: str | None, nursery: trio.Nursery) -> None:
        # A place is taken before a task is read, so that no task is read that cannot be started soon.
        await self._places.acquire()
        if isinstance(self._tasks, AsyncIterable):
            async for task in self._tasks:
                await self._start(task, resources_id, nursery)
        else:
            for task in self._tasks:
                await self._start(task, resources_id, nursery)

    async def _start(self, task: Any, resources_id: str | None, nursery: trio.Nursery) -> None:
        request = self._request(task, resources_id)
        admission = await self._engine.acquire_slot(nursery)
        nursery.start_soon(self._run, request, admission)
        await self._places.acquire()

    async def _run(self, request: EnqueueRolloutRequest, admission: Admission | None) -> None:
        try:
            completed = await self._engine.run_new(request, admission)
        except NotStorable:
            # The tasks of a source are alike, and several may be refused at once; callers expect no group of errors.
            if self._refused:
                return
            self._refused = True
            raise
        # The channel has room for every place. A result that arrives after the block was left has no reader.
        with suppress(trio.BrokenResourceError):
            self._send.send_nowait(completed)
