"""The statistics of runners and stores."""

from __future__ import annotations

import attrs

from .._public import public


@public
@attrs.frozen
class RunnerStatistics:
    """The numbers of a runner's rollouts and attempts, now and since it was opened.

    `abandoned_threads` counts abandoned attempts that still run, in threads or on a blocked asyncio loop.
    `late_results` counts abandoned attempts that have ended since, and attempts that returned after their deadline
    without having been abandoned; their results were rejected.
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
        """The number of attempts that have ended, with any status."""
        return self.succeeded + self.failed + self.timed_out + self.cancelled


@public
@attrs.frozen
class StoreStatistics:
    """The numbers of records in a store; `queued` counts rollouts that no worker has claimed yet."""

    name: str
    total_rollouts: int
    total_attempts: int
    total_spans: int
    total_resources: int
    total_workers: int
    queued: int
    late_spans: int
