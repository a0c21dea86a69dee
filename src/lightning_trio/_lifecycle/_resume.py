"""Which run of a store to resume, and which `fit` may update its record. Pure functions of records."""

from __future__ import annotations

from collections.abc import Sequence

from .._errors import ResumeError, StaleRun
from .._public import public_in
from .._records import DatasetFingerprint, Run


def choose_run(runs: Sequence[Run], wanted: Run, resume: bool | str, *, force: bool) -> Run | None:
    """Return the run to resume, or a finished one whose result is returned again; None if there is neither.

    Args:
        runs: the store's runs, in order of their start.
        wanted: the run as it would start now.
        resume: True for the latest unfinished run, else the latest of this agent and these datasets; or a run's id.
        force: whether to resume an unfinished run even if its agent or datasets differ.

    Raises:
        ResumeError: the store has no run with that id, or the run to resume differs from `wanted`.
    """
    if isinstance(resume, str):
        run = next((run for run in runs if run.run_id == resume), None)
        if run is None:
            raise ResumeError.unknown(resume, [run.run_id for run in runs[-5:]])
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
        raise ResumeError.differs(run.run_id, found)
    return run


def differences(run: Run, wanted: Run) -> list[str]:
    """Return the ways in which `run` differs from `wanted`, each as a clause for a message."""
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
    # A run in memory has no digest; then only the number of tasks is compared.
    return before.tasks == now.tasks and (before.digest == now.digest or None in (before.digest, now.digest))


def _describe(fingerprint: DatasetFingerprint | None) -> str:
    if fingerprint is None:
        return "no tasks"
    digest = "" if fingerprint.digest is None else f" (fingerprint {fingerprint.digest})"
    return f"{fingerprint.tasks} tasks{digest}"


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
