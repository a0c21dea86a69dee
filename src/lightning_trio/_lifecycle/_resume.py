"""Which run of a store to go on with, and who may report of it. Pure decisions on records."""

from __future__ import annotations

from collections.abc import Sequence

from .._errors import ResumeError, StaleRun
from .._public import public_in
from .._records import DatasetFingerprint, Run


def choose_run(runs: Sequence[Run], wanted: Run, resume: bool | str, *, force: bool) -> Run | None:
    """Give the run to go on with, or one that has finished and whose result stands; None if there is none.

    Args:
        runs: those of the store, in order of their beginning.
        wanted: the run as it would begin now.
        resume: True for the latest unfinished run, else the latest of this agent and these datasets; or a run's id.
        force: take an unfinished run even if it is another agent's or dataset's.

    Raises:
        ResumeError: there is no run of that id, or the one to go on with differs.
    """
    if isinstance(resume, str):
        run = next((run for run in runs if run.run_id == resume), None)
        if run is None:
            known = ", ".join(run.run_id for run in runs[-5:]) or "none"
            raise ResumeError(f"resume={resume!r}: the store has no such run; the latest it has: {known}")
        return _checked(run, wanted, force)
    mine = [run for run in runs if wanted.name is None or run.name == wanted.name]
    unfinished = [run for run in mine if run.status != "finished"]
    same = [run for run in unfinished if not differences(run, wanted)]
    if same:
        return same[-1]
    if unfinished:
        return _checked(unfinished[-1], wanted, force)
    return next((run for run in reversed(mine) if not differences(run, wanted)), None)


def _checked(run: Run, wanted: Run, force: bool) -> Run:
    if not force and (found := differences(run, wanted)):
        raise ResumeError(
            f"{run.run_id} cannot be resumed as it is: {'; '.join(found)}. Give it what it was begun with, begin a new "
            f'run with resume=False, or go on all the same: fit(…, resume="{run.run_id}", force_resume=True)'
        )
    return run


def differences(run: Run, wanted: Run) -> list[str]:
    """Say in which ways `run` is not the run that `wanted` would be."""
    found: list[str] = []
    if run.agent != wanted.agent:
        found.append(f"it was begun with the agent {run.agent!r}, and this one is {wanted.agent!r}")
    if run.algorithm != wanted.algorithm:
        found.append(f"it was begun with the algorithm {run.algorithm!r}, and this one is {wanted.algorithm!r}")
    for mode in ("train", "val"):
        before, now = run.datasets.get(mode), wanted.datasets.get(mode)
        if not _same(before, now):
            found.append(f"its {mode} dataset had {_describe(before)}, and this one has {_describe(now)}")
    return found


def _same(before: DatasetFingerprint | None, now: DatasetFingerprint | None) -> bool:
    if before is None or now is None:
        return before is now
    # Without a digest, as of a run in memory, the number must do.
    return before.tasks == now.tasks and (before.digest == now.digest or None in (before.digest, now.digest))


def _describe(fingerprint: DatasetFingerprint | None) -> str:
    if fingerprint is None:
        return "no tasks"
    digest = "" if fingerprint.digest is None else f" (fingerprint {fingerprint.digest})"
    return f"{fingerprint.tasks} tasks{digest}"


@public_in("lightning_trio.store")
def check_run(known: Run | None, new: Run) -> None:
    """Raise unless a run's record may be replaced: by its own `fit`, or by one that takes it up.

    Of two that take it up at once the second is refused, and what the `fit` before still reports is, too.

    >>> begun = Run("run-1", worker_id="a")
    >>> check_run(begun, Run("run-1", worker_id="b", takeovers=1))
    >>> check_run(begun, Run("run-1", worker_id="b"))
    Traceback (most recent call last):
        ...
    lightning_trio.StaleRun: run-1 has been resumed by a; reports by b are rejected

    Raises:
        StaleRun: another `fit` has taken the run up; the message says which.
    """
    if known is None or new.takeovers > known.takeovers:
        return
    if new.takeovers < known.takeovers or new.worker_id != known.worker_id:
        raise StaleRun(
            f"{new.run_id} has been taken up by {known.worker_id}; what {new.worker_id} still reports of it is refused"
        )
