"""Counts of what a runner does and of what a store holds."""

from __future__ import annotations

import attrs

from .._public import public


@public
@attrs.frozen
class RunnerStatistics:
    """What a runner does now and has done since it was opened; all are numbers of rollouts or attempts.

    `abandoned_threads` counts attempts that were given up and still run, in threads or on a blocked asyncio loop;
    `late_results` those of them that have ended since, and agents that returned after their deadline without having
    been given up; their results were refused.
    """

    running: int
    retrying: int
    succeeded: int
    failed: int
    timed_out: int
    cancelled: int
    attempts: int
    abandoned_threads: int
    max_concurrency: int
    late_results: int = 0

    @property
    def done(self) -> int:
        """How many attempts have ended, however."""
        return self.succeeded + self.failed + self.timed_out + self.cancelled


@public
@attrs.frozen
class StoreStatistics:
    """How much a store holds; `queued` counts rollouts nobody has claimed yet."""

    name: str
    total_rollouts: int
    total_attempts: int
    total_spans: int
    total_resources: int
    total_workers: int
    queued: int
    late_spans: int
