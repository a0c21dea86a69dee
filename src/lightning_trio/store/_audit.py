"""An audit of a store: whether its records agree with one another and with its counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import attrs

from .._errors import Evicted
from .._lifecycle import TERMINAL_ATTEMPT, TERMINAL_ROLLOUT
from .._public import public
from .._records import Attempt, AttemptedRollout, Rollout, RolloutStatus, RunStatus, RunSummary, StoreStatistics
from .._serialization import UNREADABLE, Unreadable
from .._spans import MOST, MOST_INT, NO_USAGE, Span, Usage, bounded
from ._query import Condition, Query
from ._store import LightningStore

_PAGE = 500
"""The number of rollouts read in one query."""

_WITH_SPANS = 50
"""The number of rollouts whose spans are in memory at once."""

_TRIES = 3
"""How often a rollout that keeps changing is read again before it is assumed to be correct."""

_LAST_ATTEMPT: Mapping[RolloutStatus, frozenset[str]] = {
    "succeeded": frozenset({"succeeded"}),
    "failed": frozenset({"failed", "timeout", "unresponsive"}),
    "cancelled": frozenset({"cancelled", "succeeded", "failed", "timeout", "unresponsive"}),
}
"""The possible statuses of a finished rollout's last attempt. A rollout may be cancelled while it waits for a retry."""


@public
@attrs.frozen
class Audit:
    """The result of `audit`: how many rollouts it read, and a sentence for each problem."""

    rollouts: int
    problems: Sequence[str]

    @property
    def clean(self) -> bool:
        """Whether there are no problems."""
        return not self.problems


@public
async def audit(store: LightningStore, *, run_id: str | None = None, finished: bool = True) -> Audit:
    """Check that a store's records agree with one another, and that every rollout has ended exactly once.

    All rollouts are read, page by page, which takes a while in a large store. Other processes may write meanwhile:
    apparent problems are read again, and sums need only lie between the store's counts before and after.

    Args:
        store: an open store.
        run_id: check only this run's rollouts; None for all.
        finished: whether every rollout and run should have ended; False during a run.

    >>> import trio
    >>> from lightning_trio import InMemoryLightningStore, Runner
    >>> store = InMemoryLightningStore()
    >>> result = trio.run(Runner(len, store=store).fit, ["a", "bc"])
    >>> trio.run(audit, store)
    Audit(rollouts=2, problems=[])
    """
    auditor = _Auditor(store, run_id, finished)
    await auditor.run()
    return Audit(auditor.found.total, auditor.problems)


@attrs.frozen
class _Books:
    """The store's own counts; `statistics` is None for the audit of one run."""

    summary: RunSummary
    statistics: StoreStatistics | None

    @property
    def ended(self) -> int:
        return sum(number for status, number in self.summary.counts.items() if status in TERMINAL_ROLLOUT)

    @property
    def rewarded(self) -> int:
        return sum(number for number, _ in self.summary.rewards.values())

    @property
    def reward_sum(self) -> float:
        return bounded(sum(total for _, total in self.summary.rewards.values()))


@attrs.define
class _Found:
    """Totals over the records that were read."""

    counts: Counter[RolloutStatus] = attrs.field(factory=Counter["RolloutStatus"])
    unfinished: Counter[str | None] = attrs.field(factory=Counter["str | None"])
    """The number of unfinished rollouts by run."""
    attempts: int = 0
    spans: int = 0
    rewarded: int = 0
    reward_sum: float = 0.0
    reward_size: float = 0.0
    """The sum of the rewards' absolute values, which bounds the rounding error of their sum."""
    usage: Usage = NO_USAGE
    usage_size: Usage = NO_USAGE
    """The same for the usage."""
    seconds: float = 0.0
    unreadable: int = 0

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def ended(self) -> int:
        return sum(number for status, number in self.counts.items() if status in TERMINAL_ROLLOUT)

    def add(self, rollout: Rollout, attempts: Sequence[Attempt], spans: int) -> None:
        self.counts[rollout.status] += 1
        if rollout.status not in TERMINAL_ROLLOUT:
            self.unfinished[rollout.run_id] += 1
        elif isinstance(rollout, AttemptedRollout) and (reward := rollout.attempt.final_reward) is not None:
            self.rewarded += 1
            self.reward_sum = bounded(self.reward_sum + reward)
            self.reward_size += abs(reward)
        self.attempts += len(attempts)
        self.spans += spans
        for attempt in attempts:
            usage = attempt.usage
            if usage != NO_USAGE:
                self.usage += usage
                self.usage_size += Usage(abs(usage.input_tokens), abs(usage.output_tokens), abs(usage.cost))
            self.seconds = bounded(self.seconds + (attempt.duration or 0.0))


@attrs.frozen
class _Checked:
    """A rollout with its attempts, the number of its spans, and its problems."""

    rollout: Rollout
    attempts: Sequence[Attempt]
    spans: int
    problems: Sequence[str]
    unreadable: bool


class _Auditor:
    """One audit of a store."""

    def __init__(self, store: LightningStore, run_id: str | None, finished: bool) -> None:
        self.problems: list[str] = []
        self.found = _Found()
        self._store = store
        self._run_id = run_id
        self._finished = finished
        self._runs: dict[str, RunStatus] | None = {}
        """Statuses by id; None if the runs cannot be read."""
        self._snapshots: dict[str, bool] = {}

    async def run(self) -> None:
        await self._read_runs()
        before = await self._books()
        offset = 0
        # Not an async generator: a cancelled one is closed only when it is garbage-collected.
        while True:
            page, read = await self._page(offset, _PAGE)
            if not read:
                break
            offset += read
            for start in range(0, len(page), _WITH_SPANS):
                await self._check_batch(page[start : start + _WITH_SPANS])
        after = await self._books()
        self.problems += await self._store.find_faults(self._run_id)
        self.problems += self._run_problems()
        if not self.found.unreadable:
            # Unreadable records are missing from the totals.
            self.problems += _count_problems(self.found, before, after)
            self.problems += _sum_problems(self.found, before, after)

    async def _check_batch(self, rollouts: Sequence[Rollout]) -> None:
        for each in await self._check(rollouts):
            self.found.add(each.rollout, each.attempts, each.spans)
            self.found.unreadable += each.unreadable
            if each.problems:
                self.problems += await self._confirm(each)

    async def _books(self) -> _Books:
        whole = self._run_id is None
        return _Books(await self._store.summarize(self._run_id), await self._store.statistics() if whole else None)

    # Reading.

    async def _page(self, offset: int, limit: int) -> tuple[Sequence[Rollout], int]:
        """Return the readable rollouts of a page, and how many rollouts the page has."""
        must = () if self._run_id is None else (Condition("run_id", {self._run_id}),)
        try:
            found = await self._store.find(Query("rollouts", must, limit=limit, offset=offset))
        except UNREADABLE as exc:
            if limit == 1:
                self.found.unreadable += 1
                self.problems.append(f"the rollout at place {offset} cannot be read: {exc}")
                return [], 1
        else:
            return found, len(found)
        half = limit // 2
        first, read = await self._page(offset, half)
        second, more = await self._page(offset + half, limit - half)
        return [*first, *second], read + more

    async def _records_of(
        self, table: Literal["attempts", "spans"], rollout_ids: Sequence[str]
    ) -> tuple[dict[str, list[Any]], dict[str, str]]:
        """Return records by rollout id, and a problem for each rollout whose records cannot be read."""
        query = Query(table, (Condition("rollout_id", set(rollout_ids)),), sort_by="sequence_id")
        try:
            return _by_rollout(await self._store.find(query)), {}
        except Evicted:
            return {}, {}
        except UNREADABLE as exc:
            if len(rollout_ids) == 1:
                return {}, {rollout_ids[0]: f"rollout {rollout_ids[0]}: its {table} cannot be read: {exc}"}
        half = len(rollout_ids) // 2
        records, unreadable = await self._records_of(table, rollout_ids[:half])
        more, worse = await self._records_of(table, rollout_ids[half:])
        return {**records, **more}, {**unreadable, **worse}

    async def _check(self, rollouts: Sequence[Rollout]) -> list[_Checked]:
        ids = [rollout.rollout_id for rollout in rollouts]
        attempts, no_attempts = await self._records_of("attempts", ids)
        spans, no_spans = await self._records_of("spans", ids)
        found: list[_Checked] = []
        for rollout in rollouts:
            rollout_id = rollout.rollout_id
            of_rollout = attempts.get(rollout_id, [])
            its_spans = spans.get(rollout_id, [])
            problems = [*_status_problems(rollout, self._finished), *await self._reference_problems(rollout)]
            problems += _unreadable_values(rollout, of_rollout)
            unreadable = [each[rollout_id] for each in (no_attempts, no_spans) if rollout_id in each]
            if unreadable:
                problems += unreadable
            else:
                problems += _attempt_problems(rollout, of_rollout)
                problems += _span_problems(rollout, of_rollout, its_spans)
            found.append(_Checked(rollout, of_rollout, len(its_spans), problems, bool(unreadable)))
        if len(keys := [(r.run_id, r.key) for r in rollouts if r.key is not None]) > len(set(keys)):
            twice = [key for key, number in Counter(keys).items() if number > 1]
            self.problems += [f"{run_id} has the key {key!r} more than once" for run_id, key in twice]
        return found

    async def _confirm(self, seen: _Checked) -> Sequence[str]:
        """Return the problems that persist: a rollout may change while its parts are read one after the other."""
        for _ in range(_TRIES):
            before = await self._reread(seen.rollout.rollout_id)
            if before is None:
                return ()
            [again] = await self._check([before])
            if not again.problems:
                return ()
            after = await self._reread(before.rollout_id)
            if after is not None and _state(after) == _state(before):
                return again.problems
        return ()

    async def _reread(self, rollout_id: str) -> Rollout | None:
        try:
            found = await self._store.find(Query("rollouts", (Condition("rollout_id", {rollout_id}),)))
        except Evicted:
            return None
        return found[0] if found else None

    # Runs and snapshots.

    async def _read_runs(self) -> None:
        try:
            runs = await self._store.query_runs()
            self._runs = {run.run_id: run.status for run in runs}
            self.problems += [run.state.reason for run in runs if type(run.state) is Unreadable]
        except UNREADABLE as exc:
            self._runs = None
            self.problems.append(f"the runs cannot be read: {exc}")

    async def _reference_problems(self, rollout: Rollout) -> list[str]:
        problems: list[str] = []
        run_id, resources_id = rollout.run_id, rollout.resources_id
        if run_id is not None and self._runs is not None and run_id not in self._runs:
            # The run may have started after the runs were read.
            run = await self._store.get_run_by_id(run_id)
            if run is None:
                problems.append(f"rollout {rollout.rollout_id} belongs to the run {run_id}, which does not exist")
            else:
                self._runs[run_id] = run.status
        if resources_id is not None and not await self._has_snapshot(resources_id):
            problems.append(f"rollout {rollout.rollout_id} has the resources {resources_id}, which do not exist")
        return problems

    async def _has_snapshot(self, resources_id: str) -> bool:
        known = self._snapshots.get(resources_id)
        if known is None:
            try:
                known = await self._store.get_resources_by_id(resources_id) is not None
            except UNREADABLE as exc:
                known = True
                self.problems.append(f"the resources {resources_id} cannot be read: {exc}")
            self._snapshots[resources_id] = known
        return known

    def _run_problems(self) -> Iterator[str]:
        for run_id, status in (self._runs or {}).items():
            if self._run_id not in (None, run_id):
                continue
            unfinished = self.found.unfinished[run_id]
            if status == "finished" and unfinished:
                yield f"{run_id} is finished, but {unfinished} of its rollouts are not"
            if status != "finished" and self._finished:
                yield f"{run_id} is {status} and has not finished"


def _by_rollout(records: Iterable[Any]) -> dict[str, list[Any]]:
    grouped: dict[str, list[Any]] = {}
    for record in records:
        grouped.setdefault(record.rollout_id, []).append(record)
    return grouped


def _state(rollout: Rollout) -> tuple[object, ...]:
    attempt = rollout.attempt if isinstance(rollout, AttemptedRollout) else None
    return (
        rollout.status,
        rollout.end_time,
        None if attempt is None else (attempt.attempt_id, attempt.status, attempt.end_time),
    )


def _status_problems(rollout: Rollout, finished: bool) -> Iterator[str]:
    if rollout.status not in get_args(RolloutStatus):
        yield f"rollout {rollout.rollout_id} is {rollout.status!r}, which is not a status"
        return
    terminal = rollout.status in TERMINAL_ROLLOUT
    if finished and not terminal:
        yield f"rollout {rollout.rollout_id} is {rollout.status} and has not ended"
    if terminal and rollout.end_time is None:
        yield f"rollout {rollout.rollout_id} is {rollout.status} without an end time"
    if not terminal and rollout.end_time is not None:
        yield f"rollout {rollout.rollout_id} is {rollout.status} and has an end time"


def _unreadable_values(rollout: Rollout, attempts: Sequence[Attempt]) -> Iterator[str]:
    if type(rollout.input) is Unreadable:
        yield rollout.input.reason
    for attempt in attempts:
        if type(attempt.metadata) is Unreadable:
            yield attempt.metadata.reason


def _attempt_end_problems(name: str, attempt: Attempt) -> Iterator[str]:
    if attempt.status in TERMINAL_ATTEMPT and attempt.end_time is None:
        yield f"{name}: attempt {attempt.attempt_id} is {attempt.status} without an end time"
    if attempt.status not in TERMINAL_ATTEMPT and attempt.end_time is not None:
        yield f"{name}: attempt {attempt.attempt_id} is {attempt.status} and has an end time"
    if attempt.status == "succeeded" and attempt.error is not None:
        yield f"{name}: attempt {attempt.attempt_id} has succeeded and has an error: {attempt.error.type}"


def _attempt_problems(rollout: Rollout, attempts: Sequence[Attempt]) -> Iterator[str]:
    name = f"rollout {rollout.rollout_id}"
    numbers = [attempt.sequence_id for attempt in attempts]
    if numbers != list(range(1, len(attempts) + 1)):
        yield f"{name} has attempts numbered {numbers}"
    for attempt in attempts[:-1]:
        if attempt.status not in TERMINAL_ATTEMPT:
            yield f"{name}: attempt {attempt.attempt_id} was superseded and is still {attempt.status}"
    for attempt in attempts:
        yield from _attempt_end_problems(name, attempt)
    if not attempts:
        if rollout.status in ("succeeded", "failed", "running", "preparing"):
            yield f"{name} is {rollout.status} but was never attempted"
        return
    yield from _last_attempt_problems(rollout, attempts)


def _last_attempt_problems(rollout: Rollout, attempts: Sequence[Attempt]) -> Iterator[str]:
    name, last = f"rollout {rollout.rollout_id}", attempts[-1]
    if rollout.status in _LAST_ATTEMPT and last.status not in _LAST_ATTEMPT[rollout.status]:
        yield f"{name} is {rollout.status}, but its last attempt is {last.status}"
    if rollout.status in ("running", "preparing") and last.status in TERMINAL_ATTEMPT:
        yield f"{name} is {rollout.status}, but its last attempt has ended: {last.status}"
    if not isinstance(rollout, AttemptedRollout):
        yield f"{name} has {len(attempts)} attempts, but does not name the latest, {last.attempt_id}"
    elif rollout.attempt.attempt_id != last.attempt_id:
        yield f"{name} names {rollout.attempt.attempt_id} as its latest attempt, which is {last.attempt_id}"


def _span_problems(rollout: Rollout, attempts: Sequence[Attempt], spans: Sequence[Span]) -> Iterator[str]:
    known = {attempt.attempt_id for attempt in attempts}
    for attempt_id, of_attempt in _by_attempt(spans).items():
        name = f"rollout {rollout.rollout_id}, attempt {attempt_id}"
        if attempt_id not in known:
            yield f"{name}: spans are stored, but no such attempt"
        ids = [span.span_id for span in of_attempt]
        if len(set(ids)) < len(ids):
            yield f"{name}: a span is stored twice"


def _by_attempt(spans: Sequence[Span]) -> dict[str, list[Span]]:
    grouped: dict[str, list[Span]] = {}
    for span in spans:
        grouped.setdefault(span.attempt_id, []).append(span)
    return grouped


# Records against counts. Other processes may have written between the first reading of the counts and the second.


def _count_problems(found: _Found, before: _Books, after: _Books) -> Iterator[str]:
    still = before == after
    counted = after.summary.counts
    statuses: set[RolloutStatus] = {*found.counts, *counted}
    for status in sorted(statuses):
        stored, number = found.counts.get(status, 0), counted.get(status, 0)
        # The counts of finished rollouts may be higher than their number: some are evicted or pruned.
        if stored > number and (still or status in TERMINAL_ROLLOUT):
            yield f"{stored} rollouts are {status}, but the store counts {number}"
        elif stored < number and still and status not in TERMINAL_ROLLOUT:
            yield f"the store counts {number} rollouts as {status}, but {stored} are"
    removed, removed_before = after.summary.removed, before.summary.removed
    # Each removal during the audit may hide another rollout, which moves up to a page that has been read.
    least = before.ended - removed - (removed - removed_before)
    if found.ended < least:
        yield (
            f"the store counts {before.ended} finished rollouts, of which {removed} were removed, but {found.ended} "
            "are stored"
        )
    elif found.ended > after.ended - removed_before:
        yield (
            f"{found.ended} finished rollouts are stored, but the store counts {after.ended}, of which "
            f"{removed_before} were removed"
        )


def _slack(size: float, bound: float) -> float:
    """Return how far a sum may be from another of the same numbers, whose absolute values add up to `size`.

    Sums of floats depend on the order of addition in their last digits; those that reach their bound and return from
    it, because some numbers are negative, depend on it altogether.
    """
    return math.inf if size >= bound else 1e-9 * max(size, 1.0)


def _sum_problems(found: _Found, before: _Books, after: _Books) -> Iterator[str]:
    if after.summary.removed:
        # The sums include removed rollouts, whose records are gone.
        return
    first, last = before.summary, after.summary
    usage, size = found.usage, found.usage_size
    pairs: list[tuple[str, float, float, float, float]] = [
        ("rewards", found.rewarded, before.rewarded, after.rewarded, 0.0),
        ("input tokens", usage.input_tokens, first.usage.input_tokens, last.usage.input_tokens, size.input_tokens),
        ("output tokens", usage.output_tokens, first.usage.output_tokens, last.usage.output_tokens, size.output_tokens),
        ("of cost", usage.cost, first.usage.cost, last.usage.cost, size.cost),
        ("agent seconds", found.seconds, first.agent_seconds, last.agent_seconds, found.seconds),
    ]
    if before.statistics is not None and after.statistics is not None:
        earlier, later = before.statistics, after.statistics
        pairs.append(("attempts", found.attempts, earlier.total_attempts, later.total_attempts, 0.0))
        pairs.append(("spans", found.spans, earlier.total_spans, later.total_spans, 0.0))
    for what, total, least, most, size_of_all in pairs:
        exact = _slack(size_of_all, MOST_INT if isinstance(total, int) else MOST)
        if not least - exact <= total <= most + exact:
            yield f"there are {total:.12g} {what}, but the store counts {most:.12g}"
    # Rewards may be negative: while other processes write, their sum has no bounds.
    if before == after and abs(found.reward_sum - after.reward_sum) > _slack(found.reward_size, MOST):
        yield f"the rewards add up to {found.reward_sum:.12g}, but the store counts {after.reward_sum:.12g}"
