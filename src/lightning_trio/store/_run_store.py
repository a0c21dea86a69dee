"""A store bound to one run: rollouts enqueued through it belong to that run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Literal

import attrs

from .._errors import StaleAttempt, UnknownId
from .._lifecycle import UNFINISHED_ROLLOUT
from .._public import public_in
from .._records import (
    UNSET,
    AttemptedRollout,
    EnqueueRolloutRequest,
    ResourcesUpdate,
    RolloutChange,
    RolloutConfig,
    RolloutMode,
    RunSummary,
    Unset,
)
from .._repr import one_line
from .._resources import NamedResources
from ._forwarding_store import ForwardingStore
from ._primitives import Record
from ._query import Condition, Query
from ._store import LightningStore


@public_in("lightning_trio.store")
class RunStore(ForwardingStore):
    """Forward every call to `store` with the run's id.

    Args:
        store: the underlying store.
        run_id: the run.
        check: called with the resources of a publication (mode UNSET) or of a request; raises if the run's agent
            cannot run with them.
        max_rollouts: how many rollouts to run; further requests are recorded as cancelled at once.
        metadata: added to the metadata of every rollout.
    """

    def __init__(
        self,
        store: LightningStore,
        run_id: str,
        check: Callable[[RolloutMode | None | Unset, NamedResources], None],
        max_rollouts: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(store)
        self._metadata = metadata
        self._run_id = run_id
        self._check = check
        self._left = max_rollouts
        self._refusing = False
        self._checked: set[tuple[RolloutMode | None, str]] = set()

    async def on_open(self) -> None:
        """Leave the underlying store as it is: the run's runner has opened it."""

    async def on_close(self) -> None:
        """Leave the underlying store as it is."""

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run_id

    @one_line
    def __repr__(self) -> str:
        return f"<RunStore of {self._run_id} in {self._store!r}>"

    async def refuse(self) -> None:
        """Cancel the run's unfinished rollouts now, and rollouts enqueued later at once."""
        self._left = 0
        self._refusing = True
        rollouts = await self._store.query_rollouts(status_in=UNFINISHED_ROLLOUT, run_id_in={self._run_id})
        await self._cancel([rollout.rollout_id for rollout in rollouts])

    async def _cancel(self, rollout_ids: Sequence[str]) -> None:
        changes = [RolloutChange(rollout_id, status="cancelled") for rollout_id in rollout_ids]
        try:
            await self._store.update(changes)
        except StaleAttempt:
            # Another runner has ended some of them in the meantime.
            for change in changes:
                with suppress(StaleAttempt):
                    await self._store.update([change])

    async def enqueue(
        self,
        requests: Sequence[EnqueueRolloutRequest],
        *,
        run_id: str | None = None,
        status: Literal["queuing", "cancelled"] = "queuing",
    ) -> list[str]:
        requests = list(requests)
        await self._check_requests(requests)
        if self._metadata is not None:
            requests = [attrs.evolve(r, metadata={**(r.metadata or {}), **self._metadata}) for r in requests]
        if self._left is None or status == "cancelled":
            return await super().enqueue(requests, run_id=self._run_id, status=status)
        known = await self._known_keys(requests)
        before = self._left
        allowed = [self._may_start(request, known) for request in requests]
        counted = before - self._left
        started = [request for request, may_start in zip(requests, allowed, strict=True) if may_start]
        refused = [request for request, may_start in zip(requests, allowed, strict=True) if not may_start]
        try:
            ids = await super().enqueue(started, run_id=self._run_id, status=status)
        except BaseException:
            self._left = 0 if self._refusing else self._left + counted
            raise
        if self._refusing and ids:
            # `refuse` was called while these were being enqueued.
            await self._cancel(ids)
        if not refused:
            return ids
        of_started = iter(ids)
        of_refused = iter(await super().enqueue(refused, run_id=self._run_id, status="cancelled"))
        return [next(of_started if may_start else of_refused) for may_start in allowed]

    def _may_start(self, request: EnqueueRolloutRequest, known: Collection[str | None]) -> bool:
        """Whether a request may be started, counting it if it is new; a request with a known key is not."""
        assert self._left is not None
        if request.key is not None and request.key in known:
            return True
        if not self._left:
            return False
        self._left -= 1
        return True

    async def _known_keys(self, requests: Sequence[EnqueueRolloutRequest]) -> Collection[str | None]:
        keys = {request.key for request in requests if request.key is not None}
        if not keys:
            return ()
        must = [Condition("run_id", {self._run_id}), Condition("key", keys)]
        return {rollout.key for rollout in await self._store.find(Query("rollouts", must))}

    async def _check_requests(self, requests: Sequence[EnqueueRolloutRequest]) -> None:
        pairs: set[tuple[RolloutMode | None, str | None]] = {(r.mode, r.resources_id) for r in requests}
        for mode, resources_id in pairs:
            if (mode, resources_id) in self._checked:
                continue
            if resources_id is None:
                snapshot = await self._store.get_latest_resources()
            else:
                snapshot = await self._store.get_resources_by_id(resources_id)
                if snapshot is None:
                    raise UnknownId.resources(resources_id)
            self._check(mode, {} if snapshot is None else snapshot.resources)
            if resources_id is not None:
                self._checked.add((mode, resources_id))

    async def start(
        self,
        rollouts: Sequence[EnqueueRolloutRequest | str],
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        return await super().start(rollouts, run_id=self._run_id, worker_id=worker_id, default_config=default_config)

    async def claim(
        self,
        limit: int,
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        return await super().claim(limit, run_id=self._run_id, worker_id=worker_id, default_config=default_config)

    async def wait_claimable(self, *, run_id: str | None = None) -> None:
        await super().wait_claimable(run_id=self._run_id)

    async def put(self, records: Sequence[Record]) -> list[Record]:
        for record in records:
            if isinstance(record, ResourcesUpdate):
                self._check(UNSET, record.resources)
                self._checked.clear()
        return await super().put(records)

    async def summarize(self, run_id: str | None = None) -> RunSummary:
        return await super().summarize(self._run_id)

    def holding(self, run_id: str | None = None) -> AbstractContextManager[None]:
        return super().holding(self._run_id)

    async def prune(
        self, *, run_id: str | None = None, older_than_seconds: float = 0.0, unfinished_runs: bool = False
    ) -> int:
        return await self._store.prune(
            run_id=self._run_id, older_than_seconds=older_than_seconds, unfinished_runs=unfinished_runs
        )

    async def find_faults(self, run_id: str | None = None) -> Sequence[str]:
        return await super().find_faults(self._run_id)
