"""Runs and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from .._public import public
from .._repr import one_line
from .._resources import NamedResources
from .._spans import NO_USAGE, Usage, bounded
from ._statuses import RolloutMode, RolloutStatus, RunStatus

_MARKS: Final = 64
"""How many digests of a dataset's first tasks are stored with a run, whose record is written every second."""


@public
@attrs.frozen
class DatasetFingerprint:
    """The identity of a dataset: the number of tasks, and their digest.

    In memory, the digest is of the first tasks only, or there is none.

    `marks` are digests of its first tasks, at up to 64 even distances (see `marked`), by which a later difference is
    found. `prefixes` are such digests at the distances of other runs, by the number of tasks; they are not stored.
    """

    tasks: int
    digest: str | None = None
    marks: Sequence[str] = attrs.field(default=(), converter=tuple[str, ...], eq=False, repr=False)
    prefixes: Mapping[int, str] = attrs.field(factory=dict[int, str], eq=False, repr=False)

    @property
    def marked(self) -> range:
        """The numbers of first tasks that have a digest in `marks`.

        >>> list(DatasetFingerprint(3).marked), len(DatasetFingerprint(1000).marked)
        ([1, 2], 62)
        """
        step = max(-(-self.tasks // _MARKS), 1)
        return range(step, self.tasks, step)

    def digest_of(self, tasks: int) -> str | None:
        """Return the digest of the first tasks, None if it is not known."""
        return self.digest if tasks == self.tasks else self.prefixes.get(tasks)


@public
@attrs.frozen
class Run:
    """The record of one `fit`, which a store keeps so that the run can be resumed. All but the id may be empty.

    Args:
        run_id: ``run-…``.
        name: the user's name for it.
        agent: the agent's name.
        algorithm: the algorithm's name.
        datasets: by mode.
        status: ``"running"`` until `fit` has returned, even if the process has died.
        start_time: the time when it started.
        end_time: the time when it finished.
        elapsed_seconds: its working time, over all its processes.
        resources_id: the snapshot that it started with.
        best_resources_id: the best snapshot so far.
        config: its other settings, for information only; a resumed run does not read them.
        state: the algorithm's saved state; a value that a store can keep.
        position: the number of rounds by mode and snapshot when the algorithm saved its state.
        history: the algorithm's notes.
        ended_early: why it ended before all tasks had run, None if it did not.
        worker_id: the worker that runs it.
        takeovers: how often another `fit` has resumed it. A store rejects reports of an earlier one.
        repeats: how often each task is run.
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
    repeats: int = 1


def _bounded_sums(
    rewards: Mapping[RolloutMode | None, tuple[int, float]],
) -> Mapping[RolloutMode | None, tuple[int, float]]:
    return {mode: (number, bounded(total)) for mode, (number, total) in rewards.items()}


@public
@attrs.frozen
class RunSummary:
    """The number of a run's rollouts by status, and the sums of its rewards by mode.

    `rewards` maps a mode (None for rollouts without one) to the number of rewarded rollouts and their sum. A sum that
    exceeds the range of floats stays at the largest float, here and in every store.
    """

    counts: Mapping[RolloutStatus, int]
    rewards: Mapping[RolloutMode | None, tuple[int, float]] = attrs.field(converter=_bounded_sums)
    usage: Usage = NO_USAGE
    """The usage of all attempts."""
    agent_seconds: float = attrs.field(default=0.0, converter=bounded)
    """The durations of all attempts."""
    removed: int = 0
    """How many of the counted rollouts have been evicted or pruned since they finished."""

    def mean_reward(self, mode: RolloutMode | None) -> float | None:
        """Return the mean final reward of `mode`, or None if nothing was rewarded."""
        count, total = self.rewards.get(mode, (0, 0.0))
        return total / count if count else None


@public
@attrs.frozen
class FitResult:
    """The result of a `fit`.

    `counts` maps terminal statuses to numbers that add up to the rollouts enqueued; `resources` and `resources_id` are
    the best that the algorithm found; `mean_reward` has the keys ``"train"`` and ``"val"``, each None if nothing was
    rewarded; `history` has the algorithm's notes. `usage` and `agent_seconds` are sums over all attempts, `duration` is
    the working time in seconds; those of a resumed run cover the whole run.
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
