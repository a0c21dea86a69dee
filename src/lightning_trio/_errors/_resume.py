"""Runs that cannot be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from ._base import compose, public
from ._usage import UsageError


@public
class ResumeError(UsageError, ValueError):
    """A run cannot be resumed: it has another agent or dataset, is unknown, or is still in progress."""

    run_id: str | None = None
    """The run."""

    differences: tuple[str, ...] = ()
    """How it differs from the run that would start now."""

    seconds: float | None = None
    """The duration of the lease of the worker that is working on it, in seconds."""

    @classmethod
    def unknown(cls, run_id: str, known: Sequence[str]) -> Self:
        """Return the error for a run that the store does not have."""
        message = f"resume={run_id!r}: the store has no such run; its latest runs: {', '.join(known) or 'none'}"
        return compose(cls, message, parameter="resume", run_id=run_id)

    @classmethod
    def unreadable(cls, run_id: str, reason: str) -> Self:
        """Return the error for a run whose record cannot be read."""
        message = (
            f"{reason}, so that it cannot be resumed; import the version of its class that stored it, or start a new "
            "run with resume=False"
        )
        return compose(cls, message, parameter="resume", run_id=run_id)

    @classmethod
    def differs(cls, run_id: str, differences: Sequence[str]) -> Self:
        """Return the error for a run that was started with something else."""
        message = (
            f"{run_id} cannot be resumed as it is: {'; '.join(differences)}. Pass what it was started with (tasks may "
            "be appended), start a new run with resume=False, or resume it all the same, to keep what it ran and run "
            f'what is new: fit(…, resume="{run_id}", force_resume=True)'
        )
        return compose(cls, message, parameter="resume", run_id=run_id, differences=tuple(differences))

    @classmethod
    def removed(cls, run_id: str, number: int) -> Self:
        """Return the error for a run of which the store no longer has all rollouts, by which it knows what was run."""
        message = (
            f"{run_id} cannot be resumed as it is: {number} of its finished rollouts were removed from the store, by "
            "prune or because InMemoryLightningStore keeps only the newest, and their tasks would run and count again. "
            "Start a new run with resume=False, with the tasks that are left to run, or run them all: "
            f'fit(…, resume="{run_id}", force_resume=True)'
        )
        return compose(cls, message, parameter="resume", run_id=run_id)

    @classmethod
    def driven(cls, run_id: str, worker: str, seconds: float) -> Self:
        """Return the error for a run that another worker is working on."""
        message = (
            f"{run_id} is being worked on by {worker}. Wait until the run ends, or, if that worker is gone, until its "
            f"lease of {seconds:.0f} s runs out"
        )
        return compose(cls, message, parameter="resume", run_id=run_id, seconds=seconds)

    @classmethod
    def just_taken(cls, run_id: str) -> Self:
        """Return the error for a run that another process has resumed at the same moment."""
        message = f"{run_id} has just been resumed by another process; wait until it ends"
        return compose(cls, message, parameter="resume", run_id=run_id)
