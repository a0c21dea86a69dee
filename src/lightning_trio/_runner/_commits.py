"""Group commits: the outcomes of many attempts are written to the store together.

Attempts that end while the store is busy go into the next commit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import attrs
import trio

from .._errors import RunnerClosed
from .._log import Log
from .._records import RolloutStatus
from ..store import LightningStore
from ..tracing import as_runner
from ._live_attempt import EndedAttempt
from ._storable import finish_bare, is_fault_of_store

logger = Log("lightning_trio.runner")

_LAST_COMMIT_SECONDS = 30.0
"""How long the last commits may take once the runner is closed or cancelled."""


@attrs.define(eq=False)
class _Waiter:
    """A caller that waits for a commit and wants the rollout's status."""

    committed: trio.Event = attrs.field(factory=trio.Event)
    status: RolloutStatus | None = None


class Commits:
    """Commit the outcomes of attempts.

    Args:
        store: where outcomes are written.
        on_commit: called for each outcome with the rollout's status, None if the store refused the outcome as late.
    """

    def __init__(self, store: LightningStore, on_commit: Callable[[EndedAttempt, RolloutStatus | None], None]) -> None:
        self._store = store
        self._on_commit = on_commit
        self._uncommitted: list[tuple[EndedAttempt, _Waiter | None]] = []
        self._batch: list[tuple[EndedAttempt, _Waiter | None]] = []
        """What is being committed."""
        self._arrival: trio.Event | None = None
        """The event that the committing task waits for while there is nothing to commit."""
        self._idle = trio.Event()
        """Set when nothing is left to commit; `wait_idle` replaces it."""
        self._scope = trio.CancelScope(shield=True)
        """The scope of `run`."""
        self._committing = False
        self._expecting = 0
        self._closing = False
        self._ended = False
        self._failed = False

    def submit(self, ended: EndedAttempt) -> None:
        """Commit an outcome with the next ones."""
        self._uncommitted.append((ended, None))
        if self._arrival is not None or self._ended:  # asked here too, to save a call for most outcomes
            self._wake()

    def _wake(self) -> None:
        if self._ended:
            self._release_waiters()
        elif self._arrival is not None:
            self._arrival.set()
            self._arrival = None

    async def commit(self, ended: EndedAttempt) -> RolloutStatus | None:
        """Commit an outcome and return the rollout's status, None if the outcome was refused.

        A cancelled caller waits for the commit as well, before the cancellation propagates, but not forever.

        Raises:
            RunnerClosed: the store has failed; its error is raised where the runner was opened.
        """
        waiter = _Waiter()
        self._uncommitted.append((ended, waiter))
        self._wake()
        try:
            await waiter.committed.wait()
        except trio.Cancelled:
            with trio.move_on_after(_LAST_COMMIT_SECONDS, shield=True) as scope:
                await waiter.committed.wait()
            if scope.cancelled_caught:
                raise
            # Trio raises the cancellation again at the next checkpoint.
        if ended.stop is not None:
            raise ended.stop
        if self._failed:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise RunnerClosed.by_store()
        return waiter.status

    @contextmanager
    def expecting(self) -> Generator[None]:
        """Keep `run` committing until the block ends, whose attempts may still end."""
        self._expecting += 1
        try:
            yield
        finally:
            self._expecting -= 1
            self._wake()

    def close(self) -> None:
        """Stop `run` once everything is committed."""
        self._closing = True
        if self._committing:
            self._limit_time()
        self._wake()

    def _limit_time(self) -> None:
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + _LAST_COMMIT_SECONDS)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Commit outcomes until `close`, then the remaining ones; runs in a task of its own."""
        try:
            with self._scope, as_runner():
                while self._uncommitted or self._expecting or not self._closing:
                    if not self._uncommitted:
                        self._arrival = trio.Event()
                        await self._arrival.wait()
                        if not self._uncommitted:
                            continue
                    if self._closing:
                        self._limit_time()
                    self._batch, self._uncommitted = self._uncommitted, []
                    self._committing = True
                    await self._commit(len(self._batch))
                    self._committing = False
                    if not self._uncommitted:
                        self._idle.set()
        finally:
            self._ended, self._committing = True, False
            self._uncommitted[:0] = self._batch
            self._release_waiters()
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until all ended attempts are committed, or the store has failed."""
        while self._uncommitted or self._committing:
            if self._idle.is_set():
                self._idle = trio.Event()
            await self._idle.wait()

    async def _commit(self, number: int) -> None:
        """Commit the first outcomes of the batch and take them out of it, so that the batch is what is left to do.

        If the store fails on one of them, it has stored none: it gets half of them, and so on down to the one.
        """
        part = self._batch[:number]
        statuses: Sequence[RolloutStatus | None]
        try:
            statuses = await self._store.finish([ended.outcome for ended, _ in part])
        except BaseException as exc:
            if is_fault_of_store(exc):
                raise
            if number > 1:
                half = number // 2
                await self._commit(half)
                await self._commit(number - half)
                return
            ended = part[0][0]
            ended.outcome, status = await finish_bare(self._store, ended.outcome, exc)
            statuses = [status]
        for (ended, waiter), status in zip(part, statuses, strict=True):
            self._on_commit(ended, status)
            if waiter is not None:
                waiter.status = status
                waiter.committed.set()
        del self._batch[:number]

    def _release_waiters(self) -> None:
        """Wake the callers whose outcomes cannot be committed, because `run` has ended."""
        lost, self._uncommitted = self._uncommitted, []
        if not lost:
            return
        self._failed = True
        logger.error("%d outcomes could not be committed: the store failed or took too long", len(lost))
        for _, waiter in lost:
            if waiter is not None:
                waiter.committed.set()
