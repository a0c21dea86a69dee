"""A base class for stores that forward to another store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

from .._public import public_in
from .._records import (
    AttemptedRollout,
    AttemptOutcome,
    Change,
    EnqueueRolloutRequest,
    Expiry,
    PaginatedResult,
    ResourcesUpdate,
    RolloutConfig,
    RolloutStatus,
    RunSummary,
    StoreStatistics,
)
from .._repr import one_line
from .._spans import Span
from ._primitives import Record
from ._query import Query
from ._store import LightningStore


@public_in("lightning_trio.store")
class ForwardingStore(LightningStore):
    """Forward every primitive to `store`; a subclass overrides those that differ.

    The familiar calls go through this store's primitives, so that an overridden `enqueue` also applies to
    `enqueue_rollout`. Opening and closing it opens and closes `store`, and it is open whenever `store` is.

    >>> import trio
    >>> from lightning_trio import EnqueueRolloutRequest, InMemoryLightningStore
    >>> class Counting(ForwardingStore):
    ...     tasks = 0
    ...     async def enqueue(self, requests, **options):
    ...         self.tasks += len(requests)
    ...         return await super().enqueue(requests, **options)
    >>> counting = Counting(InMemoryLightningStore())
    >>> _ = trio.run(counting.enqueue_many_rollouts, [EnqueueRolloutRequest("a"), EnqueueRolloutRequest("b")])
    >>> counting.tasks
    2
    """

    def __init__(self, store: LightningStore) -> None:
        self._store = store

    @one_line
    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self._store!r}>"

    # Opening and closing.

    @property
    def is_open(self) -> bool:
        return self._store.is_open

    async def on_open(self) -> None:
        await self._store.__aenter__()

    async def on_close(self) -> None:
        await self._store.__aexit__(None, None, None)

    # Primitives.

    async def enqueue(
        self,
        requests: Sequence[EnqueueRolloutRequest],
        *,
        run_id: str | None = None,
        status: Literal["queuing", "cancelled"] = "queuing",
    ) -> list[str]:
        return await self._store.enqueue(requests, run_id=run_id, status=status)

    async def start(
        self,
        rollouts: Sequence[EnqueueRolloutRequest | str],
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        return await self._store.start(rollouts, run_id=run_id, worker_id=worker_id, default_config=default_config)

    async def claim(
        self,
        limit: int,
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        return await self._store.claim(limit, run_id=run_id, worker_id=worker_id, default_config=default_config)

    async def wait_claimable(self, *, run_id: str | None = None) -> None:
        await self._store.wait_claimable(run_id=run_id)

    async def add_spans(self, spans: Sequence[Span]) -> list[Span]:
        return await self._store.add_spans(spans)

    async def finish(self, outcomes: Sequence[AttemptOutcome]) -> list[RolloutStatus | None]:
        return await self._store.finish(outcomes)

    async def update(self, changes: Sequence[Change]) -> None:
        await self._store.update(changes)

    async def expire(self) -> Expiry:
        return await self._store.expire()

    async def put(self, records: Sequence[Record]) -> list[Record]:
        return await self._store.put(records)

    async def find(self, query: Query) -> PaginatedResult[Any]:
        return await self._store.find(query)

    async def wait_finished(self, rollout_ids: Collection[str], *, count: int | None = None) -> list[str]:
        return await self._store.wait_finished(rollout_ids, count=count)

    async def summarize(self, run_id: str | None = None) -> RunSummary:
        return await self._store.summarize(run_id)

    # Methods with a default.

    @property
    def max_payload_bytes(self) -> int | None:
        return self._store.max_payload_bytes

    @property
    def persistent(self) -> bool:
        return self._store.persistent

    def queued_nowait(self) -> int | None:
        return self._store.queued_nowait()

    def holding(self, run_id: str | None = None) -> AbstractContextManager[None]:
        return self._store.holding(run_id)

    async def statistics(self) -> StoreStatistics:
        return await self._store.statistics()

    async def find_faults(self, run_id: str | None = None) -> Sequence[str]:
        return await self._store.find_faults(run_id)

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        return await self._store.get_latest_resources()

    async def vacuum(self) -> None:
        await self._store.vacuum()
