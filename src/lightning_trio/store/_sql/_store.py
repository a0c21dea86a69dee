"""A store over a SQL database, whose primitives call operations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec
import trio

from ..._concurrency import compute_in_thread
from ..._errors import StoreClosed, StoreFormatError
from ..._records import (
    AttemptedRollout,
    AttemptOutcome,
    Change,
    EnqueueRolloutRequest,
    Expiry,
    PaginatedResult,
    ResourcesUpdate,
    RolloutChange,
    RolloutConfig,
    RolloutStatus,
    Run,
    RunSummary,
    StoreStatistics,
    Worker,
)
from ..._resources import spans_without_keys
from ..._serialization import encode_config, is_large
from ..._spans import MANY, Span, size_of_all
from .._primitives import Record
from .._query import Query
from .._rollout_ids import RolloutIdCipher
from .._store import LightningStore
from . import _changes, _claims, _counts, _faults, _outcomes, _queries, _queue, _records_by_id, _spans, _workers
from ._group_commit import GroupCommit, Operation
from ._readers import Readers
from ._texts import check_text
from ._transaction import CommitSummary, Connection
from ._wakeups import Waiter, Wakeups

T = TypeVar("T")

MAX_PAYLOAD_BYTES: Final = 64 * 1024 * 1024

_SIZE_AT_ONCE: Final = 1 << 20
"""How many bytes of spans are encoded in Trio's thread at once, which takes some milliseconds; more are in another."""


class SqlLightningStore(LightningStore):
    """The base of the stores over SQL databases."""

    def __init__(self, max_payload_bytes: int) -> None:
        if not isinstance(max_payload_bytes, int) or max_payload_bytes < 1:
            raise ValueError(
                f"max_payload_bytes={max_payload_bytes!r}; pass the size limit of a task, a snapshot or the spans "
                "of an attempt, in bytes"
            )
        self._limit = max_payload_bytes
        self._writer: GroupCommit | None = None
        self._opening = False
        self._readers: Readers | None = None
        self._wakeups: Wakeups | None = None
        self._ids = RolloutIdCipher()
        self._commits = 0
        self._plenty: set[str | None] = set()
        """Runs whose last claim left claimable rollouts behind."""
        self._token: trio.lowlevel.TrioToken | None = None

    # Specific to a database.

    @abstractmethod
    def _open_writer(self) -> Connection:
        """Open a writing connection and migrate the schema; called in a thread."""

    @abstractmethod
    def _open_reader(self) -> Connection:
        """Open a reading connection; called in a thread."""

    @abstractmethod
    async def _wait_foreign(self) -> None:
        """Return when another process may have committed."""

    _writers: int = 1
    """The number of writing threads, each with its own connection."""
    _most_readers: int = 8
    """The number of queries that run at a time."""

    @property
    @abstractmethod
    def _where(self) -> str:
        """The store as error messages call it."""

    # Opening and closing.

    @property
    def max_payload_bytes(self) -> int | None:
        return self._limit

    @property
    def persistent(self) -> bool:
        return True

    async def on_open(self) -> None:
        """Open the store; a store can be opened again after it was closed.

        Raises:
            StoreUnavailable: the file or server cannot be reached or used.
            StoreFormatError: the file or schema is not a store, or is a store of a newer version.
            StoreClosed: the store is open already.
        """
        if self._writer is not None or self._opening:
            raise StoreClosed.open_already(self._where)
        self._opening = True
        try:
            writer = GroupCommit(self._open_first, self._committed, self._writers)
            await writer.open()
        finally:
            self._opening = False
        self._token = trio.lowlevel.current_trio_token()
        self._readers = Readers(self._open_reader, self._most_readers)
        self._wakeups = Wakeups(self._wait_foreign)
        self._writer = writer

    async def on_close(self) -> None:
        """Wait for submitted calls and close the store."""
        writer, self._writer = self._writer, None
        readers, self._readers = self._readers, None
        if writer is None:
            return
        if self._wakeups is not None:
            # Waiting tasks look again, and find the store closed.
            self._wakeups.others_committed()
        if readers is not None:
            readers.close()
        await writer.aclose()

    def _open_first(self) -> Connection:
        connection = self._open_writer()
        try:
            rows = connection.select(
                {"name": "text", "value": "text"}, "FROM meta WHERE name IN ('id_factor', 'id_offset')"
            )
        except BaseException:
            connection.close()
            raise
        meta = dict(rows)
        try:
            self._ids = connection.ids = RolloutIdCipher(int(meta["id_factor"]), int(meta["id_offset"]))
        except (KeyError, ValueError):
            connection.close()
            raise StoreFormatError.without_id_cipher(self._where) from None
        return connection

    def _committed(self, summary: CommitSummary) -> None:
        self._commits += 1
        wakeups = self._wakeups
        if wakeups is None:
            return
        for rollout_id in summary.ended:
            wakeups.ended(rollout_id)
        if summary.queued:
            wakeups.queued()
        if summary.after_others:
            wakeups.others_committed()

    def _check_open(self) -> None:
        if self._writer is None:
            raise StoreClosed.not_open(self._where)
        if trio.lowlevel.current_trio_token() is not self._token:
            raise StoreClosed.open_elsewhere(self._where)

    async def _write(self, operation: Operation[T], argument: Any) -> T:
        self._check_open()
        assert self._writer is not None
        try:
            result: T = await self._writer.call(operation, argument)
        except msgspec.DecodeError as exc:
            raise self._damaged(exc) from exc
        return result

    async def _read(self, fn: Callable[..., T], *args: Any) -> T:
        self._check_open()
        assert self._readers is not None
        try:
            return await self._readers.read(lambda connection: fn(connection, *args))
        except msgspec.DecodeError as exc:
            raise self._damaged(exc) from exc

    def _damaged(self, exc: msgspec.DecodeError) -> StoreFormatError:
        # Composed only here: within a group of calls it is the error of one call and must not fail the others.
        return StoreFormatError.damaged_value(self._where, exc)

    # The primitives.

    async def enqueue(
        self,
        requests: Sequence[EnqueueRolloutRequest],
        *,
        run_id: str | None = None,
        status: Literal["queuing", "cancelled"] = "queuing",
    ) -> list[str]:
        # A list, because a caller's sequence may raise the second time.
        encoded = await self._encode(list(requests))
        return await self._write(_queue.enqueue, _queue.Enqueue(encoded, _stored(run_id), status))

    async def _encode(self, requests: Sequence[EnqueueRolloutRequest]) -> list[_queue.EncodedRequest]:
        if any(is_large(request.input) for request in requests):
            return await compute_in_thread(_queue.encode_large_requests, requests, self._limit)
        return [_queue.encode_request(request, self._limit) for request in requests]

    async def start(
        self,
        rollouts: Sequence[EnqueueRolloutRequest | str],
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        rollouts = list(rollouts)
        new = iter(await self._encode([each for each in rollouts if not isinstance(each, str)]))
        encoded = [each if isinstance(each, str) else next(new) for each in rollouts]
        check_text("worker_id", worker_id)
        argument = _claims.Start(encoded, _stored(run_id), worker_id, _config(default_config))
        return await self._write(_claims.start, argument)

    async def claim(
        self,
        limit: int,
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        default_config: RolloutConfig | None = None,
    ) -> list[AttemptedRollout]:
        check_text("run_id", run_id)
        check_text("worker_id", worker_id)
        argument = _claims.Claim(limit, run_id, worker_id, _config(default_config))
        claimed = await self._write(_claims.claim, argument)
        if claimed.more:
            self._plenty.add(run_id)
        return claimed.rollouts

    async def wait_claimable(self, *, run_id: str | None = None) -> None:
        self._check_open()
        if run_id in self._plenty:
            # The last claim left some: one claim in vain costs less than a query before each claim.
            self._plenty.discard(run_id)
            await trio.lowlevel.checkpoint()
            return
        wakeups = self._wakeups
        assert wakeups is not None
        waiter = Waiter()
        wakeups.add(waiter)
        try:
            while True:
                queued = await self._read(_queries.queue_state, run_id)
                if queued.ready:
                    return
                await wakeups.wait(waiter, queued.due_in)
        finally:
            wakeups.remove(waiter)

    async def add_spans(self, spans: Sequence[Span]) -> list[Span]:
        encoded = [_spans.encode_span(span, self._limit) for span in spans_without_keys(spans)]
        return await self._write(_spans.add_spans, encoded)

    async def finish(self, outcomes: Sequence[AttemptOutcome]) -> list[RolloutStatus | None]:
        sizes = [size_of_all(outcome.spans) for outcome in outcomes]
        if sum(sizes) > _SIZE_AT_ONCE:
            encoded = await compute_in_thread(_outcomes.encode_outcomes, outcomes, sizes, self._limit)
        else:
            encoded = _outcomes.encode_outcomes(outcomes, sizes, self._limit)
        return await self._write(_outcomes.finish, encoded)

    async def update(self, changes: Sequence[Change]) -> None:
        changes = list(changes)
        if any(isinstance(change, RolloutChange) and is_large(change.input) for change in changes):
            encoded = await compute_in_thread(_changes.encode_changes, changes, self._limit)
        else:
            encoded = _changes.encode_changes(changes, self._limit)
        await self._write(_changes.update, encoded)

    async def expire(self) -> Expiry:
        return await self._write(_workers.expire, None)

    async def put(self, records: Sequence[Record]) -> list[Record]:
        if any(_is_large(record) for record in records):
            encoded = await compute_in_thread(_records_by_id.encode_records, records, self._limit)
        else:
            encoded = _records_by_id.encode_records(records, self._limit)
        return await self._write(_records_by_id.put, encoded)

    async def find(self, query: Query) -> PaginatedResult[Any]:
        return await self._read(_queries.find, self._ids, query)

    async def wait_finished(self, rollout_ids: Collection[str], *, count: int | None = None) -> list[str]:
        self._check_open()
        wakeups = self._wakeups
        assert wakeups is not None
        pending = set(rollout_ids)
        wanted = len(pending) if count is None else min(count, len(pending))
        waiter = Waiter(pending, len(pending) - wanted)
        wakeups.add(waiter)
        try:
            while True:
                wakeups.keep_pending(waiter, await self._read(_queries.unfinished, self._ids, tuple(pending)))
                if len(pending) > waiter.enough and wanted > 0:
                    await wakeups.wait(waiter)
                if len(pending) <= waiter.enough or wanted <= 0:
                    return [rollout_id for rollout_id in rollout_ids if rollout_id in pending]
        finally:
            wakeups.remove(waiter)

    async def summarize(self, run_id: str | None = None) -> RunSummary:
        return await self._read(_counts.summarize, run_id)

    # Faster than over the primitives.

    async def statistics(self) -> StoreStatistics:
        return await self._read(_counts.statistics, type(self).__name__)

    async def find_faults(self, run_id: str | None = None) -> Sequence[str]:
        return await self._read(_faults.find_faults, self._ids, run_id)

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        return await self._read(_queries.latest_resources)


def _is_large(record: ResourcesUpdate | Worker | Run) -> bool:
    """Whether a record takes so long to encode that another thread should."""
    if isinstance(record, Run):
        return len(record.history) > MANY
    return isinstance(record, ResourcesUpdate) and is_large(dict(record.resources))


def _stored(run_id: str | None) -> str:
    check_text("run_id", run_id)
    if run_id == "":
        raise ValueError("run_id='' is empty; give the run a name, or None for no run")
    return run_id or ""


def _config(config: RolloutConfig | None) -> str | None:
    return None if config is None else encode_config(config)
