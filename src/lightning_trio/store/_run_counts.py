"""Counts of a run, updated with each change of status, and kept longer than its rollouts."""

from __future__ import annotations

import math
from collections.abc import Iterable

import attrs

from .._records import RolloutMode, RolloutStatus, RunSummary
from .._spans import NO_USAGE, Usage, bounded, bounded_sum


@attrs.define(eq=False)
class RunCounts:
    """Count rollouts by status and sum up rewards by mode."""

    counts: dict[RolloutStatus, int] = attrs.field(factory=dict["RolloutStatus", int])
    rewards: dict[RolloutMode | None, tuple[int, float]] = attrs.field(
        factory=dict["RolloutMode | None", tuple[int, float]]
    )
    usage: Usage = NO_USAGE
    agent_seconds: float = 0.0
    removed: int = 0

    def move(self, old: RolloutStatus | None, new: RolloutStatus, number: int = 1) -> None:
        """Move `number` rollouts from the count of `old` (None: new rollouts) to that of `new`."""
        if old is not None:
            self.counts[old] -= number
        self.counts[new] = self.counts.get(new, 0) + number

    def reward(self, mode: RolloutMode | None, value: float, number: int = 1) -> None:
        """Add the rewards of `number` rollouts, with the sum `value`."""
        count, total = self.rewards.get(mode, (0, 0.0))
        total += value
        # Compared here, because the call would cost each rollout 0.1 µs.
        self.rewards[mode] = (count + number, total if math.isfinite(total) else bounded(total))

    def attempt(self, duration: float, usage: Usage) -> None:
        """Add the duration and usage of an attempt."""
        self.agent_seconds += duration
        if usage is not NO_USAGE:
            self.usage += usage

    def summary(self) -> RunSummary:
        """Return the counts that are not zero, the rewards and the usage."""
        counts: dict[RolloutStatus, int] = {status: n for status, n in self.counts.items() if n}
        return RunSummary(counts, dict(self.rewards), self.usage, self.agent_seconds, self.removed)

    @classmethod
    def total(cls, runs: Iterable[RunCounts]) -> RunCounts:
        """Return the sum of the counts of several runs."""
        whole, runs = cls(), list(runs)
        for run in runs:
            for status, number in run.counts.items():
                whole.move(None, status, number)
            whole.removed += run.removed
        sums: dict[RolloutMode | None, list[tuple[int, float]]] = {}
        for run in runs:
            for mode, each in run.rewards.items():
                sums.setdefault(mode, []).append(each)
        for mode, of_mode in sums.items():
            whole.reward(mode, bounded_sum(value for _, value in of_mode), sum(number for number, _ in of_mode))
        whole.attempt(
            bounded_sum(run.agent_seconds for run in runs),
            Usage(
                sum(run.usage.input_tokens for run in runs),
                sum(run.usage.output_tokens for run in runs),
                bounded_sum(run.usage.cost for run in runs),
            ),
        )
        return whole
