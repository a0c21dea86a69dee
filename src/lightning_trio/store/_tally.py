"""Counts of a run, kept up to date as its rollouts go from status to status, and longer than these."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from .._records import RolloutMode, RolloutStatus, RunSummary


@attrs.define(eq=False)
class Tally:
    """Count rollouts by status and sum up rewards by mode."""

    counts: dict[RolloutStatus, int] = attrs.field(factory=dict["RolloutStatus", int])
    rewards: dict[RolloutMode | None, tuple[int, float]] = attrs.field(
        factory=dict["RolloutMode | None", tuple[int, float]]
    )

    def move(self, old: RolloutStatus | None, new: RolloutStatus, number: int = 1) -> None:
        """Count `number` rollouts from `old` (None: new ones) to `new`."""
        if old is not None:
            self.counts[old] -= number
        self.counts[new] = self.counts.get(new, 0) + number

    def reward(self, mode: RolloutMode | None, value: float, number: int = 1) -> None:
        """Add the rewards of `number` rollouts, which come to `value` together."""
        count, total = self.rewards.get(mode, (0, 0.0))
        self.rewards[mode] = (count + number, total + value)

    def summary(self) -> RunSummary:
        """Give the counts that are not zero, and the rewards."""
        return RunSummary({status: n for status, n in self.counts.items() if n}, dict(self.rewards))

    @classmethod
    def total(cls, tallies: Iterable[Tally]) -> Tally:
        """Add tallies up."""
        whole = cls()
        for tally in tallies:
            for status, number in tally.counts.items():
                whole.move(None, status, number)
            for mode, (number, value) in tally.rewards.items():
                whole.reward(mode, value, number)
        return whole
