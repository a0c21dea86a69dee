"""Runs that cannot be gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from ._base import compose, public
from ._usage import UsageError


@public
class ResumeError(UsageError, ValueError):
    """A run cannot be resumed as asked: it is another agent's or dataset's, unknown, or still being worked on."""

    run_id: str | None = None
    """The run."""

    differences: tuple[str, ...] = ()
    """In which ways it is another run than the one that would begin now."""

    seconds: float | None = None
    """How long the lease of the worker lasts that is working on it, in seconds."""

    @classmethod
    def unknown(cls, run_id: str, known: Sequence[str]) -> Self:
        """Return the error for a run that the store does not have."""
        message = f"resume={run_id!r}: the store has no such run; the latest it has: {', '.join(known) or 'none'}"
        return compose(cls, message, parameter="resume", run_id=run_id)

    @classmethod
    def differs(cls, run_id: str, differences: Sequence[str]) -> Self:
        """Return the error for a run that was begun with something else."""
        message = (
            f"{run_id} cannot be resumed as it is: {'; '.join(differences)}. Give it what it was begun with, begin a "
            f'new run with resume=False, or go on all the same: fit(…, resume="{run_id}", force_resume=True)'
        )
        return compose(cls, message, parameter="resume", run_id=run_id, differences=tuple(differences))

    @classmethod
    def driven(cls, run_id: str, worker: str, seconds: float) -> Self:
        """Return the error for a run that another worker is working on."""
        message = (
            f"{run_id} is being worked on by {worker}. Let it end, or, if it was cut off, wait until its lease of "
            f"{seconds:.0f} s runs out"
        )
        return compose(cls, message, parameter="resume", run_id=run_id, seconds=seconds)

    @classmethod
    def just_taken(cls, run_id: str) -> Self:
        """Return the error for a run that another process took up at the same moment."""
        message = f"{run_id} has just been taken up by another process; let it end"
        return compose(cls, message, parameter="resume", run_id=run_id)
