"""An audit of a store: whether its books balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import attrs
import msgspec

from .._errors import Evicted, StoreFormatError
from .._lifecycle import TERMINAL_ATTEMPT, TERMINAL_ROLLOUT
from .._public import public
from .._records import Attempt, AttemptedRollout, Rollout, RolloutStatus, RunStatus, RunSummary, StoreStatistics
from .._spans import NO_USAGE, Span, Usage
from ._query import Condition, Query
from ._store import LightningStore

_PAGE = 500
"""How many rollouts are read at once."""

_WITH_SPANS = 50
"""Of how many rollouts the spans are held at once."""

_LOOKS = 3
"""How often a rollout that changes is looked at before it is taken to be well and at work."""

_UNREADABLE = (StoreFormatError, msgspec.MsgspecError, ValueError)
_FITS: Mapping[RolloutStatus, frozenset[str]] = {
    "succeeded": frozenset({"succeeded"}),
    "failed": frozenset({"failed", "timeout", "unresponsive"}),
    "cancelled": frozenset({"cancelled", "succeeded", "failed", "timeout", "unresponsive"}),
}
"""What a finished rollout's last attempt may have come to. One may be cancelled while it waits for a retry."""


@public
@attrs.frozen
class Audit:
    """What `audit` found: how many rollouts it went through, and a sentence for each thing that is wrong."""

    rollouts: int
    problems: Sequence[str]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@public
async def audit(store: LightningStore, *, run_id: str | None = None, finished: bool = True) -> Audit:
    """Check that a store's records agree with one another, and that every rollout has come to exactly one end.

    It goes through all rollouts, page by page, so a large store takes a while. Others may write meanwhile: what seems
    wrong is looked at again, and sums need only lie between what the store counted before and afterwards.

    Args:
        store: an open store.
        run_id: only this run's rollouts; None for all.
        finished: whether every rollout and run should have ended; False while a run is still going on.

    >>> import trio
    >>> from lightning_trio import InMemoryLightningStore, Runner
    >>> store = InMemoryLightningStore()
    >>> result = trio.run(Runner(len, store=store).fit, ["a", "bc"])
    >>> trio.run(audit, store)
    Audit(rollouts=2, problems=[])
    """
    auditor = _Auditor(store, run_id, finished)
    await auditor.go_through()
    return Audit(auditor.found.total, auditor.problems)


@attrs.frozen
class _Books:
    """What the store counts; statistics are of the whole store only."""

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
        return sum(total for _, total in self.summary.rewards.values())


@attrs.define
class _Found:
    """What is there, added up."""

    counts: Counter[RolloutStatus] = attrs.field(factory=Counter["RolloutStatus"])
    unfinished: Counter[str | None] = attrs.field(factory=Counter["str | None"])
    """By run."""
    attempts: int = 0
    spans: int = 0
    rewarded: int = 0
    reward_sum: float = 0.0
    reward_size: float = 0.0
    """The sum of the rewards' absolute values, which says how exact their sum can be."""
    usage: Usage = NO_USAGE
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
            self.reward_sum += reward
            self.reward_size += abs(reward)
        self.attempts += len(attempts)
        self.spans += spans
        for attempt in attempts:
            self.usage += attempt.usage
            self.seconds += attempt.duration or 0.0


@attrs.frozen
class _Examined:
    """A rollout with what belongs to it, and what is wrong with it."""

    rollout: Rollout
    attempts: Sequence[Attempt]
    spans: int
    problems: Sequence[str]
    unreadable: bool


class _Auditor:
    """Go through a store once."""

    def __init__(self, store: LightningStore, run_id: str | None, finished: bool) -> None:
        self.problems: list[str] = []
        self.found = _Found()
        self._store = store
        self._run_id = run_id
        self._finished = finished
        self._runs: dict[str, RunStatus] | None = {}
        """None where they cannot be read."""
        self._snapshots: dict[str, bool] = {}

    async def go_through(self) -> None:
        await self._read_runs()
        before = await self._books()
        offset = 0
        # A plain loop: cancelled, an async generator would be closed when the collector comes to it.
        while True:
            page, read = await self._page(offset, _PAGE)
            if not read:
                break
            offset += read
            for start in range(0, len(page), _WITH_SPANS):
                await self._go_through_some(page[start : start + _WITH_SPANS])
        after = await self._books()
        self.problems += await self._store.find_faults(self._run_id)
        self.problems += self._of_runs()
        if not self.found.unreadable:
            # What cannot be read cannot be counted.
            self.problems += _of_counts(self.found, before, after)
            self.problems += _of_sums(self.found, before, after)

    async def _go_through_some(self, rollouts: Sequence[Rollout]) -> None:
        for each in await self._examine(rollouts):
            self.found.add(each.rollout, each.attempts, each.spans)
            self.found.unreadable += each.unreadable
            if each.problems:
                self.problems += await self._confirm(each)

    async def _books(self) -> _Books:
        whole = self._run_id is None
        return _Books(await self._store.summarize(self._run_id), await self._store.statistics() if whole else None)

    # Reading.

    async def _page(self, offset: int, limit: int) -> tuple[Sequence[Rollout], int]:
        """Give the rollouts of a page that can be read, and how many there are."""
        must = () if self._run_id is None else (Condition("run_id", {self._run_id}),)
        try:
            found = await self._store.find(Query("rollouts", must, limit=limit, offset=offset))
        except _UNREADABLE as exc:
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

    async def _of(
        self, table: Literal["attempts", "spans"], rollout_ids: Sequence[str]
    ) -> tuple[dict[str, list[Any]], dict[str, str]]:
        """Give the records of rollouts, and what is wrong with those that cannot be read, by rollout."""
        query = Query(table, (Condition("rollout_id", set(rollout_ids)),), sort_by="sequence_id")
        try:
            return _by_rollout(await self._store.find(query)), {}
        except Evicted:
            return {}, {}
        except _UNREADABLE as exc:
            if len(rollout_ids) == 1:
                return {}, {rollout_ids[0]: f"rollout {rollout_ids[0]}: its {table} cannot be read: {exc}"}
        half = len(rollout_ids) // 2
        records, unreadable = await self._of(table, rollout_ids[:half])
        more, worse = await self._of(table, rollout_ids[half:])
        return {**records, **more}, {**unreadable, **worse}

    async def _examine(self, rollouts: Sequence[Rollout]) -> list[_Examined]:
        ids = [rollout.rollout_id for rollout in rollouts]
        attempts, no_attempts = await self._of("attempts", ids)
        spans, no_spans = await self._of("spans", ids)
        found: list[_Examined] = []
        for rollout in rollouts:
            rollout_id = rollout.rollout_id
            of_rollout = attempts.get(rollout_id, [])
            its_spans = spans.get(rollout_id, [])
            problems = [*_of_status(rollout, self._finished), *await self._of_names(rollout)]
            unreadable = [each[rollout_id] for each in (no_attempts, no_spans) if rollout_id in each]
            if unreadable:
                problems += unreadable
            else:
                problems += _of_attempts(rollout, of_rollout)
                problems += _of_spans(rollout, of_rollout, its_spans)
            found.append(_Examined(rollout, of_rollout, len(its_spans), problems, bool(unreadable)))
        if len(keys := [(r.run_id, r.key) for r in rollouts if r.key is not None]) > len(set(keys)):
            twice = [key for key, number in Counter(keys).items() if number > 1]
            self.problems += [f"{run_id} has the key {key!r} more than once" for run_id, key in twice]
        return found

    async def _confirm(self, seen: _Examined) -> Sequence[str]:
        """Look again at what seems wrong: its parts were read one after the other, and it may have moved on."""
        for _ in range(_LOOKS):
            before = await self._look_at(seen.rollout.rollout_id)
            if before is None:
                return ()
            [again] = await self._examine([before])
            if not again.problems:
                return ()
            after = await self._look_at(before.rollout_id)
            if after is not None and _state(after) == _state(before):
                return again.problems
        return ()

    async def _look_at(self, rollout_id: str) -> Rollout | None:
        try:
            found = await self._store.find(Query("rollouts", (Condition("rollout_id", {rollout_id}),)))
        except Evicted:
            return None
        return found[0] if found else None

    # Runs and snapshots.

    async def _read_runs(self) -> None:
        try:
            self._runs = {run.run_id: run.status for run in await self._store.query_runs()}
        except _UNREADABLE as exc:
            self._runs = None
            self.problems.append(f"the runs cannot be read: {exc}")

    async def _of_names(self, rollout: Rollout) -> list[str]:
        problems: list[str] = []
        run_id, resources_id = rollout.run_id, rollout.resources_id
        if run_id is not None and self._runs is not None and run_id not in self._runs:
            # It may have begun after the others were read.
            run = await self._store.get_run_by_id(run_id)
            if run is None:
                problems.append(f"rollout {rollout.rollout_id} is of the run {run_id}, which is not there")
            else:
                self._runs[run_id] = run.status
        if resources_id is not None and not await self._has_snapshot(resources_id):
            problems.append(f"rollout {rollout.rollout_id} has the resources {resources_id}, which are not there")
        return problems

    async def _has_snapshot(self, resources_id: str) -> bool:
        known = self._snapshots.get(resources_id)
        if known is None:
            try:
                known = await self._store.get_resources_by_id(resources_id) is not None
            except _UNREADABLE as exc:
                known = True
                self.problems.append(f"the resources {resources_id} cannot be read: {exc}")
            self._snapshots[resources_id] = known
        return known

    def _of_runs(self) -> Iterator[str]:
        for run_id, status in (self._runs or {}).items():
            if self._run_id not in (None, run_id):
                continue
            unfinished = self.found.unfinished[run_id]
            if status == "finished" and unfinished:
                yield f"{run_id} is finished, and {unfinished} of its rollouts are not"
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


def _of_status(rollout: Rollout, finished: bool) -> Iterator[str]:
    if rollout.status not in get_args(RolloutStatus):
        yield f"rollout {rollout.rollout_id} is {rollout.status!r}, which is no status"
        return
    terminal = rollout.status in TERMINAL_ROLLOUT
    if finished and not terminal:
        yield f"rollout {rollout.rollout_id} is {rollout.status} and has not ended"
    if terminal and rollout.end_time is None:
        yield f"rollout {rollout.rollout_id} is {rollout.status} without a time of its end"
    if not terminal and rollout.end_time is not None:
        yield f"rollout {rollout.rollout_id} is {rollout.status} and has a time of its end"


def _of_attempt(name: str, attempt: Attempt) -> Iterator[str]:
    if attempt.status in TERMINAL_ATTEMPT and attempt.end_time is None:
        yield f"{name}: attempt {attempt.attempt_id} is {attempt.status} without a time of its end"
    if attempt.status not in TERMINAL_ATTEMPT and attempt.end_time is not None:
        yield f"{name}: attempt {attempt.attempt_id} is {attempt.status} and has a time of its end"
    if attempt.status == "succeeded" and attempt.error is not None:
        yield f"{name}: attempt {attempt.attempt_id} is succeeded and has an error: {attempt.error.type}"


def _of_attempts(rollout: Rollout, attempts: Sequence[Attempt]) -> Iterator[str]:
    name = f"rollout {rollout.rollout_id}"
    numbers = [attempt.sequence_id for attempt in attempts]
    if numbers != list(range(1, len(attempts) + 1)):
        yield f"{name} has attempts numbered {numbers}"
    for attempt in attempts[:-1]:
        if attempt.status not in TERMINAL_ATTEMPT:
            yield f"{name}: attempt {attempt.attempt_id} was superseded and is still {attempt.status}"
    for attempt in attempts:
        yield from _of_attempt(name, attempt)
    if not attempts:
        if rollout.status in ("succeeded", "failed", "running", "preparing"):
            yield f"{name} is {rollout.status} and was never attempted"
        return
    yield from _of_last_attempt(rollout, attempts)


def _of_last_attempt(rollout: Rollout, attempts: Sequence[Attempt]) -> Iterator[str]:
    name, last = f"rollout {rollout.rollout_id}", attempts[-1]
    if rollout.status in _FITS and last.status not in _FITS[rollout.status]:
        yield f"{name} is {rollout.status}, and its last attempt is {last.status}"
    if rollout.status in ("running", "preparing") and last.status in TERMINAL_ATTEMPT:
        yield f"{name} is {rollout.status}, and its last attempt has ended: {last.status}"
    if not isinstance(rollout, AttemptedRollout):
        yield f"{name} has {len(attempts)} attempts, and does not name the latest, {last.attempt_id}"
    elif rollout.attempt.attempt_id != last.attempt_id:
        yield f"{name} names {rollout.attempt.attempt_id} as its latest attempt, which is {last.attempt_id}"


def _of_spans(rollout: Rollout, attempts: Sequence[Attempt], spans: Sequence[Span]) -> Iterator[str]:
    known = {attempt.attempt_id for attempt in attempts}
    for attempt_id, of_attempt in _by_attempt(spans).items():
        name = f"rollout {rollout.rollout_id}, attempt {attempt_id}"
        if attempt_id not in known:
            yield f"{name}: there are spans and no such attempt"
        ids = [span.span_id for span in of_attempt]
        if len(set(ids)) < len(ids):
            yield f"{name}: a span is there twice"


def _by_attempt(spans: Sequence[Span]) -> dict[str, list[Span]]:
    grouped: dict[str, list[Span]] = {}
    for span in spans:
        grouped.setdefault(span.attempt_id, []).append(span)
    return grouped


# What is there, and what is counted. Others may have written between the books of before and those of after.


def _of_counts(found: _Found, before: _Books, after: _Books) -> Iterator[str]:
    still = before == after
    counted = after.summary.counts
    statuses: set[RolloutStatus] = {*found.counts, *counted}
    for status in sorted(statuses):
        there, number = found.counts.get(status, 0), counted.get(status, 0)
        # More finished ones may have been counted than are there: they are evicted or pruned.
        if there > number and (still or status in TERMINAL_ROLLOUT):
            yield f"{there} rollouts are {status}, and the store counts {number}"
        elif there < number and still and status not in TERMINAL_ROLLOUT:
            yield f"the store counts {number} rollouts as {status}, and {there} are"
    removed, removed_before = after.summary.removed, before.summary.removed
    # Each that is removed meanwhile may hide another, which takes its place on a page that has been read.
    least = before.ended - removed - (removed - removed_before)
    if found.ended < least:
        yield (
            f"the store counts {before.ended} finished rollouts, of which {removed} were removed, and {found.ended} "
            "are there"
        )
    elif found.ended > after.ended - removed_before:
        yield (
            f"{found.ended} finished rollouts are there, and the store counts {after.ended}, of which "
            f"{removed_before} were removed"
        )


def _of_sums(found: _Found, before: _Books, after: _Books) -> Iterator[str]:
    if after.summary.removed:
        # What they had is in the sums and nowhere else.
        return
    first, last = before.summary, after.summary
    pairs: list[tuple[str, float, float, float]] = [
        ("rewards", found.rewarded, before.rewarded, after.rewarded),
        ("input tokens", found.usage.input_tokens, first.usage.input_tokens, last.usage.input_tokens),
        ("output tokens", found.usage.output_tokens, first.usage.output_tokens, last.usage.output_tokens),
        ("of cost", found.usage.cost, first.usage.cost, last.usage.cost),
        ("agent seconds", found.seconds, first.agent_seconds, last.agent_seconds),
    ]
    if before.statistics is not None and after.statistics is not None:
        pairs.append(("attempts", found.attempts, before.statistics.total_attempts, after.statistics.total_attempts))
        pairs.append(("spans", found.spans, before.statistics.total_spans, after.statistics.total_spans))
    for what, there, least, most in pairs:
        # Added up in another order, sums differ in their last digits.
        exact = 1e-9 * max(abs(most), 1.0)
        if not least - exact <= there <= most + exact:
            yield f"there are {there:.12g} {what}, and the store counts {most:.12g}"
    # Rewards may be negative: while others write, nothing bounds their sum.
    if before == after and abs(found.reward_sum - after.reward_sum) > 1e-9 * max(found.reward_size, 1.0):
        yield f"the rewards come to {found.reward_sum:.12g}, and the store counts {after.reward_sum:.12g}"
