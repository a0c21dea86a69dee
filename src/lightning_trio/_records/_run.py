"""Runs, and what they came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from .._public import public
from .._repr import one_line
from .._resources import NamedResources
from .._spans import NO_USAGE, Usage
from ._statuses import RolloutMode, RolloutStatus, RunStatus


@public
@attrs.frozen
class DatasetFingerprint:
    """Tell datasets apart: the number of tasks, and a digest of them where they are kept beyond the process."""

    tasks: int
    digest: str | None = None


@public
@attrs.frozen
class Run:
    """One `fit`, as a store keeps it to be resumed. All but the ids may be empty.

    Args:
        run_id: ``run-…``.
        name: what the user calls it.
        agent: the agent's name.
        algorithm: the algorithm's name.
        datasets: by mode.
        status: ``"running"`` until `fit` has returned, also when the process has died since.
        start_time: when it was begun.
        end_time: when it finished.
        elapsed_seconds: how long it was worked on, over all its processes.
        resources_id: the snapshot it began with.
        best_resources_id: the best so far.
        config: other settings it was begun with, to read, not to resume from.
        state: what the algorithm saved; anything a store can keep.
        position: how often the algorithm had asked for what when it saved its state.
        history: what the algorithm noted.
        ended_early: why it ended before all tasks had run, None if it did not.
        worker_id: whose `fit` it is.
        takeovers: how often another `fit` has taken it up. A store refuses what an earlier one still reports.
    """

    run_id: str
    name: str | None = None
    agent: str = ""
    algorithm: str = ""
    datasets: Mapping[str, DatasetFingerprint] = attrs.field(factory=dict[str, DatasetFingerprint])
    status: RunStatus = "running"
    start_time: float = 0.0
    end_time: float | None = None
    elapsed_seconds: float = 0.0
    resources_id: str | None = None
    best_resources_id: str | None = None
    config: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    state: Any = None
    position: Mapping[str, int] = attrs.field(factory=dict[str, int])
    history: Sequence[Mapping[str, Any]] = ()
    ended_early: str | None = None
    worker_id: str | None = None
    takeovers: int = 0


@public
@attrs.frozen
class RunSummary:
    """Count a run's rollouts by status and sum up its rewards by mode.

    `rewards` maps a mode (None for rollouts without) to the number of rewarded rollouts and their sum.
    """

    counts: Mapping[RolloutStatus, int]
    rewards: Mapping[RolloutMode | None, tuple[int, float]]
    usage: Usage = NO_USAGE
    """Of all attempts."""
    agent_seconds: float = 0.0
    """The durations of all attempts."""
    removed: int = 0
    """How many of the finished rollouts counted are no longer kept, evicted or pruned."""

    def mean_reward(self, mode: RolloutMode | None) -> float | None:
        """Give the mean final reward of `mode`, None where nothing was rewarded."""
        count, total = self.rewards.get(mode, (0, 0.0))
        return total / count if count else None


@public
@attrs.frozen
class FitResult:
    """What a `fit` came to.

    `counts` maps terminal statuses to numbers that add up to the rollouts asked for; `resources` and
    `resources_id` are the best the algorithm found; `mean_reward` has the keys ``"train"`` and ``"val"``, each
    None where nothing was rewarded; `history` is what the algorithm noted on the way. `usage` and `agent_seconds` are
    those of all attempts, `duration` the seconds the run was worked on; a resumed run's cover the whole run.
    """

    run_id: str
    resources: NamedResources
    resources_id: str | None
    counts: Mapping[str, int]
    mean_reward: Mapping[str, float | None]
    history: Sequence[Mapping[str, Any]] = ()
    usage: Usage = NO_USAGE
    agent_seconds: float = 0.0
    duration: float = 0.0
    ended_early: str | None = None
    """Why the run ended before all tasks had run, None if it did not."""

    @one_line
    def __repr__(self) -> str:
        known = [(status, self.counts.get(status, 0)) for status in ("succeeded", "failed", "cancelled")]
        parts = [f"{number:,} {status}" for status, number in known if number] or ["no rollouts"]
        rewards = [f"{mode} {mean:g}" for mode, mean in self.mean_reward.items() if mean is not None]
        if rewards:
            parts.append(f"mean reward {' and '.join(rewards)}")
        if self.ended_early is not None:
            parts.append(f"ended early ({self.ended_early})")
        return f"<FitResult {self.run_id}: {', '.join(parts)}, {self.duration:.2f} s>"
