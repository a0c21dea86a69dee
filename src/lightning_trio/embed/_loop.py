"""The asyncio side of a host: an event loop that waits for jobs in Trio's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from .._errors import UsageError
from .._log import Log
from .._runner import Runner
from ._host import CANCEL_SECONDS, Job, TrioHost

logger = Log("lightning_trio.embed")

T = TypeVar("T")


class LoopHost:
    """A host and the event loop that it was opened on. It must be made and used on that loop."""

    def __init__(self, runner: Runner) -> None:
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.create_future()
        self._ended = self._loop.create_future()
        self._host = TrioHost(
            runner,
            lambda: self.post(_resolve, self._opened),
            lambda: self.post(_resolve, self._ended, self._opened),
        )

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        """Call `fn` on the loop, from any thread; do nothing if the loop is closed, because it has no waiting tasks."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(fn, *args)

    async def wait_opened(self) -> None:
        """Wait until the runner is open; raise its error if it cannot be opened."""
        try:
            await asyncio.shield(self._opened)
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if self._ended.done():
            await self.aclose()

    async def aclose(self) -> None:
        """Cancel running rollouts, wait for their commits and for the thread; raise the runner's error if it failed."""
        self._host.close()
        try:
            await asyncio.shield(self._ended)
        except asyncio.CancelledError:
            if await settle(self._ended):
                self._host.join()
            else:
                logger.warning("the runner is still open after %g s; not waiting for it any longer", CANCEL_SECONDS)
            raise
        self._host.join()
        if self._host.error is not None:
            raise self._host.error

    def check_loop(self) -> None:
        """Raise if this is not the loop that the host was opened on.

        Raises:
            UsageError: with what to use instead.
        """
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not self._loop:
            raise UsageError.other_loop()

    def start(self, fn: Callable[[], Awaitable[T]]) -> LoopCall[T]:
        """Start a job in the calling task's context."""
        self.check_loop()
        return LoopCall(self, self._host, fn)


class LoopCall(Generic[T]):
    """A job whose result is awaited on the loop."""

    def __init__(self, owner: LoopHost, host: TrioHost, fn: Callable[[], Awaitable[T]]) -> None:
        self._host = host
        self._done = asyncio.get_running_loop().create_future()
        self.job: Job[T] = host.submit(Job(fn, lambda: owner.post(_resolve, self._done)))

    async def wait(self) -> T:
        """Wait for the job and return its result; a cancelled caller cancels the job and waits until it has ended."""
        try:
            await asyncio.shield(self._done)
        except asyncio.CancelledError:
            await self.cancel()
            raise
        assert self.job.result is not None
        return self.job.result.unwrap()

    async def cancel(self) -> None:
        """Cancel the job and wait until its rollouts are recorded, for at most `CANCEL_SECONDS`."""
        self._host.cancel(self.job)
        if not await settle(self._done):
            logger.warning("a cancelled rollout still runs after %g s; not waiting for it any longer", CANCEL_SECONDS)


async def await_job(host: TrioHost, fn: Callable[[], Awaitable[T]]) -> T:
    """Run a job and wait for its result on the running loop, whichever that is; a cancelled caller cancels the job."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def wake() -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, done)

    job = host.submit(Job(fn, wake))
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        host.cancel(job)
        await settle(done)
        raise
    assert job.result is not None
    return job.result.unwrap()


async def settle(future: asyncio.Future[Any]) -> bool:
    """Wait for the future in spite of cancellations, for at most `CANCEL_SECONDS`; return whether it is done."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CANCEL_SECONDS
    while not future.done() and (left := deadline - loop.time()) > 0:
        # AnyIO's scopes cancel repeatedly until their task has ended.
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future], timeout=left)
    return future.done()


def _resolve(*futures: asyncio.Future[None]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
