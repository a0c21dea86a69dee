"""Commits: outcomes of many attempts go into the store together.

Whatever has ended while the store was busy goes into the next commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import attrs
import trio

from .._errors import NotStorable, RunnerClosed
from .._records import RolloutStatus
from ..store import LightningStore
from ._live_attempt import EndedAttempt
from ._storable import finish_storable

logger = logging.getLogger("lightning_trio.runner")

_LAST_COMMIT_SECONDS = 30.0
"""How long committing may take once the runner is being closed or cancelled."""


@attrs.define(eq=False)
class _Waiter:
    """A caller that waits for a commit and wants the rollout's status."""

    committed: trio.Event = attrs.field(factory=trio.Event)
    status: RolloutStatus | None = None


class Commits:
    """Commit what attempts come to.

    Args:
        store: where outcomes go.
        on_commit: called for each with the rollout's status then, None where the store refused it as too late.
    """

    def __init__(self, store: LightningStore, on_commit: Callable[[EndedAttempt, RolloutStatus | None], None]) -> None:
        self._store = store
        self._on_commit = on_commit
        self._uncommitted: list[tuple[EndedAttempt, _Waiter | None]] = []
        self._arrival: trio.Event | None = None
        """What the committing task waits for while there is nothing to commit."""
        self._idle = trio.Event()
        """Set when nothing is left to commit; made anew by whoever waits for that."""
        self._committing = False
        self._expecting = 0
        self._closing = False
        self._failed = False

    def submit(self, ended: EndedAttempt) -> None:
        """Commit an outcome with the next ones."""
        self._uncommitted.append((ended, None))
        if self._arrival is not None:  # asked here too, to save a call for most outcomes
            self._wake()

    def _wake(self) -> None:
        if self._arrival is not None:
            self._arrival.set()
            self._arrival = None

    async def commit(self, ended: EndedAttempt) -> RolloutStatus | None:
        """Commit an outcome and return the rollout's status then, None if it was refused.

        The commit is waited for also when the caller is cancelled; then the cancellation goes on.

        Raises:
            RunnerClosed: the store has failed, and the error is raised where the runner was opened.
        """
        waiter = _Waiter()
        self._uncommitted.append((ended, waiter))
        self._wake()
        with trio.CancelScope(shield=True):
            await waiter.committed.wait()
        if ended.stop is not None:
            raise ended.stop
        if self._failed:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise RunnerClosed.by_store()
        return waiter.status

    @contextmanager
    def expecting(self) -> Generator[None]:
        """Keep committing at least until the block ends, for outcomes that come from it."""
        self._expecting += 1
        try:
            yield
        finally:
            self._expecting -= 1
            self._wake()

    def close(self) -> None:
        """Let `run` end once everything is committed."""
        self._closing = True
        self._wake()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Commit outcomes until `close`, then what is left. To be run in a task of its own."""
        batch: list[tuple[EndedAttempt, _Waiter | None]] = []
        try:
            with trio.CancelScope(shield=True) as scope:
                while self._uncommitted or self._expecting or not self._closing:
                    if not self._uncommitted:
                        self._arrival = trio.Event()
                        await self._arrival.wait()
                    if self._closing:
                        scope.deadline = min(scope.deadline, trio.current_time() + _LAST_COMMIT_SECONDS)
                    batch, self._uncommitted = self._uncommitted, []
                    self._committing = True
                    await self._commit(batch)
                    self._committing = False
                    batch = []
                    if not self._uncommitted:
                        self._idle.set()
        finally:
            self._idle.set()
            self._release_waiters([*batch, *self._uncommitted])

    async def wait_idle(self) -> None:
        """Wait until all attempts that have ended are committed, or cannot be."""
        while (self._uncommitted or self._committing) and not self._failed:
            if self._idle.is_set():
                self._idle = trio.Event()
            await self._idle.wait()

    async def _commit(self, batch: Sequence[tuple[EndedAttempt, _Waiter | None]]) -> None:
        try:
            statuses = await self._store.finish([ended.outcome for ended, _ in batch])
        except NotStorable:
            # Nothing of the call is stored; the others must not suffer for the one whose payload it is.
            statuses = []
            for ended, _ in batch:
                ended.outcome, status = await finish_storable(self._store, ended.outcome)
                statuses.append(status)
        for (ended, waiter), status in zip(batch, statuses, strict=True):
            self._on_commit(ended, status)
            if waiter is not None:
                waiter.status = status
                waiter.committed.set()

    def _release_waiters(self, lost: Sequence[tuple[EndedAttempt, _Waiter | None]]) -> None:
        """Let the callers go whose commit will not come."""
        if not lost:
            return
        self._failed = True
        logger.error("%d outcomes could not be committed: the store failed or took too long", len(lost))
        for _, waiter in lost:
            if waiter is not None:
                waiter.committed.set()
