"""Which run of a store to resume, and which `fit` may update its record. Pure functions of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from .._errors import ResumeError, StaleRun
from .._public import public_in
from .._records import DatasetFingerprint, Run
from .._repr import counted


@attrs.frozen
class RunComparison:
    """A stored run, and how the run that would start now differs from it."""

    run: Run
    differences: Mapping[str, str]
    """Clauses for a message, by what differs: ``"agent"``, ``"algorithm"``, ``"repeats"``, ``"train"`` or ``"val"``."""
    appended: Mapping[str, int]
    """How many tasks were appended to the datasets, by mode, and under ``"repeats"`` how many repeats of each task."""

    @property
    def adds(self) -> bool:
        """Whether there is more to run than in the run."""
        return bool(self.appended)


def rank_runs(runs: Sequence[Run], wanted: Run, resume: bool | str) -> Sequence[RunComparison]:
    """Return the runs that may be resumed, or whose result may be returned again, the best of them first.

    True stands for the latest unfinished run of this agent, else for its latest finished run with this algorithm; among
    these, for one with the same datasets, else for one to whose datasets tasks were appended. Runs that differ
    otherwise come last; if there are no others, the caller refuses the first of them.

    Args:
        runs: the store's runs, in order of their start.
        wanted: the run as it would start now.
        resume: True, or a run's id.

    Raises:
        ResumeError: the store has no run with that id.
    """
    if isinstance(resume, str):
        run = next((run for run in runs if run.run_id == resume), None)
        if run is None:
            raise ResumeError.unknown(resume, [run.run_id for run in runs[-5:]])
        return [compare_runs(run, wanted)]
    mine = [run for run in runs if run.agent == wanted.agent and wanted.name in (None, run.name)]
    unfinished = [run for run in mine if run.status != "finished"]
    finished = [run for run in mine if run.status == "finished" and run.algorithm == wanted.algorithm]
    compared = [compare_runs(run, wanted) for group in (unfinished, finished) for run in reversed(group)]
    # Sorting keeps the order of those that are alike.
    return sorted(compared, key=lambda each: (bool(each.differences), each.run.status == "finished", each.adds))


def compare_runs(run: Run, wanted: Run) -> RunComparison:
    """Return how `wanted`, the run as it would start now, differs from a stored run."""
    differences: dict[str, str] = {}
    appended: dict[str, int] = {}
    if run.agent != wanted.agent:
        differences["agent"] = f"it was begun with the agent {run.agent!r}, and this one is {wanted.agent!r}"
    if run.algorithm != wanted.algorithm:
        differences["algorithm"] = (
            f"it was begun with the algorithm {run.algorithm!r}, and this one is {wanted.algorithm!r}"
        )
    if wanted.repeats < run.repeats:
        differences["repeats"] = f"it was begun with repeats={run.repeats}, and this call has repeats={wanted.repeats}"
    elif wanted.repeats > run.repeats:
        appended["repeats"] = wanted.repeats - run.repeats
    for mode in ("train", "val"):
        before, now = run.datasets.get(mode), wanted.datasets.get(mode)
        difference = _difference(mode, before, now)
        if difference is not None:
            differences[mode] = difference
        elif before is not None and now is not None and now.tasks > before.tasks:
            appended[mode] = now.tasks - before.tasks
    return RunComparison(run, differences, appended)


def _difference(mode: str, before: DatasetFingerprint | None, now: DatasetFingerprint | None) -> str | None:
    """Return how a dataset differs, apart from appended tasks; None if it does not."""
    if before is None or now is None:
        if before is now:
            return None
        return f"its {mode} dataset had {_describe(before)}, and this one has {_describe(now)}"
    if now.tasks < before.tasks:
        return (
            f"its {mode} dataset had {_describe(before)}, and this one has only {_describe(now)}; tasks may be "
            "appended, not removed"
        )
    # A run in memory has no digest; then only the number of tasks is compared here.
    digest = now.digest_of(before.tasks)
    if before.digest == digest or None in (before.digest, digest):
        return None
    return f"its {mode} dataset had {_describe(before)}, and this one has {_describe(now)}{_place(before, now)}"


def _place(before: DatasetFingerprint, now: DatasetFingerprint) -> str:
    """Return where two datasets differ first, as the end of a clause; empty if that is not known."""
    if not before.marks and before.tasks > 1:
        # A run in memory, or of an earlier version.
        return ""
    same = 0
    for length, digest in zip((*before.marked, before.tasks), (*before.marks, before.digest), strict=True):
        if now.digest_of(length) != digest:
            if length - same == 1:
                return f", and task {same} is another"
            return f", and one of the tasks {same} to {length - 1} is another"
        same = length
    return ""


def _describe(fingerprint: DatasetFingerprint | None) -> str:
    if fingerprint is None:
        return "no tasks"
    digest = "" if fingerprint.digest is None else f" (fingerprint {fingerprint.digest})"
    return f"{counted(fingerprint.tasks, 'task')}{digest}"


@public_in("lightning_trio.store")
def check_run(known: Run | None, new: Run) -> None:
    """Raise unless a run's record may be replaced: by its current `fit`, or by one that takes the run over.

    If two calls of `fit` take it over at once, the second is refused; so are later updates by the previous `fit`.

    >>> begun = Run("run-1", worker_id="a")
    >>> check_run(begun, Run("run-1", worker_id="b", takeovers=1))
    >>> check_run(begun, Run("run-1", worker_id="b"))
    Traceback (most recent call last):
        ...
    lightning_trio.StaleRun: run-1 has been resumed by a; reports by b are rejected

    Raises:
        StaleRun: another `fit` has taken the run over; the message names its worker.
    """
    if known is None or new.takeovers > known.takeovers:
        return
    if new.takeovers < known.takeovers or new.worker_id != known.worker_id:
        raise StaleRun.taken_up(new.run_id, known.worker_id, new.worker_id)
