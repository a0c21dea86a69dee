"""A nursery that can be left although tasks in it do not end."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from ._exception_groups import flat

_CHECK_SECONDS = 0.05
"""How often a block that leaves tasks behind asks whether all others have ended: Trio does not say when one ends."""


_open: dict[trio.Nursery, LeavableNursery] = {}


class LeavableNursery:
    """A nursery, made by `open_leavable_nursery`, whose block ends although the tasks left behind do not."""

    def __init__(self) -> None:
        self.nursery: trio.Nursery
        self.error: BaseException | None = None
        """What its tasks raised."""
        self.body: trio.CancelScope = trio.CancelScope()
        """The scope of the block, which ends with the first task that raises."""
        self.opened: trio.Event = trio.Event()
        self._closing = trio.Event()
        self._changed = trio.Event()
        self._ended = False
        self._left: set[trio.lowlevel.Task] = set()

    def leave_behind(self, task: trio.lowlevel.Task) -> None:
        """Let the block end without a task."""
        self._left.add(task)
        self._changed.set()

    async def hold(self) -> None:
        """Keep the nursery open in a task of its own, until its last task has ended."""
        try:
            async with trio.open_nursery() as self.nursery:
                _open[self.nursery] = self
                self.opened.set()
                await self._wait_closing()
        except BaseException as exc:
            # Raised at the end of the block; leaving a system task, it would crash Trio.
            self.error = exc
        finally:
            del _open[self.nursery]
            self._ended = True
            self._changed.set()
            self.body.cancel()

    async def _wait_closing(self) -> None:
        try:
            await self._closing.wait()
        except trio.Cancelled:
            # A task has raised. The block may start tasks until it has ended, which are cancelled at once.
            self.body.cancel()
            with trio.CancelScope(shield=True):
                await self._closing.wait()
            raise

    async def wait_tasks(self) -> None:
        """Wait until all tasks have ended but those left behind."""
        self._closing.set()
        while not self._ended:
            if not self._left:
                await self._changed.wait()
            elif self.nursery.child_tasks <= self._left:
                return
            else:
                await trio.sleep(_CHECK_SECONDS)


def leave_behind(task: trio.lowlevel.Task) -> None:
    """Let the block of a task's nursery end without it, if that is possible; it must raise nothing when it ends."""
    parent = task.parent_nursery
    if parent is not None and (leavable := _open.get(parent)) is not None:
        leavable.leave_behind(task)


@asynccontextmanager
async def open_leavable_nursery() -> AsyncGenerator[LeavableNursery]:
    """Open a nursery whose block waits for all tasks but those marked by `leave_behind`.

    They are in a system task, so `trio.run` waits for what was left behind. A cancellation is passed on; deadlines
    around the block are not visible in its tasks. Like `FlatNursery`, it raises a single exception, Ctrl-C and SIGTERM
    in no group.
    """
    nursery = LeavableNursery()
    trio.lowlevel.spawn_system_task(nursery.hold, context=contextvars.copy_context(), name="lightning_trio attempts")
    # Shielded, because it takes microseconds, and everything else waits for this task.
    with trio.CancelScope(shield=True):
        await nursery.opened.wait()
    try:
        with nursery.body:
            try:
                yield nursery
                await nursery.wait_tasks()
            except BaseException:
                nursery.nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await nursery.wait_tasks()
                raise
    except BaseException as exc:
        if nursery.error is None:
            raise
        flattened = flat(BaseExceptionGroup("tasks failed", [exc, nursery.error]))
        raise flattened from flattened.__cause__
    if nursery.error is not None:
        raise flat(nursery.error)
