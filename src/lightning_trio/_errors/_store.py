"""Calls that do not fit what a store holds."""

from __future__ import annotations

from typing import Self

from ._base import LightningTrioError, compose, public


@public
class StoreError(LightningTrioError):
    """A call does not fit what the store holds."""

    rollout_id: str | None = None
    """The rollout."""

    @classmethod
    def too_many_attempts(cls, rollout_id: str, attempts: int) -> Self:
        """Return the error for a rollout that cannot be attempted again."""
        message = f"rollout {rollout_id} has had {attempts:,} attempts, the maximum"
        return compose(cls, message, rollout_id=rollout_id)


@public
class Evicted(StoreError, LookupError):
    """A finished rollout is no longer kept; it still counts in the statistics."""

    retain: int | None = None
    """How many finished rollouts the store keeps, if it limits them."""

    @classmethod
    def beyond(cls, rollout_id: str, retain: int) -> Self:
        """Return the error for a rollout that newer ones have pushed out of a store in memory."""
        message = (
            f"rollout {rollout_id} has finished and is no longer kept; this store keeps the newest {retain} finished "
            "ones, and InMemoryLightningStore(retain=…) sets how many"
        )
        return compose(cls, message, rollout_id=rollout_id, retain=retain)

    @classmethod
    def removed(cls, rollout_id: str) -> Self:
        """Return the error for a rollout that was removed."""
        message = f"rollout {rollout_id} has finished and was removed; it still counts in the statistics"
        return compose(cls, message, rollout_id=rollout_id)


@public
class StaleAttempt(StoreError):
    """A report arrived for an attempt that has already ended or been superseded."""

    attempt_id: str | None = None
    """The attempt, if the report was about one."""

    status: str | None = None
    """The status that the attempt, or else the rollout, keeps."""

    wanted: str | None = None
    """The status that was reported."""

    @classmethod
    def rollout(cls, rollout_id: str, status: str, wanted: str) -> Self:
        """Return the error for a changed status of a finished rollout."""
        message = f"rollout {rollout_id} is {status}, which is final; it cannot become {wanted}"
        return compose(cls, message, rollout_id=rollout_id, status=status, wanted=wanted)

    @classmethod
    def attempt(cls, rollout_id: str, attempt_id: str, status: str, rollout_status: str, wanted: str) -> Self:
        """Return the error for a changed status of an attempt that has ended or is not the latest."""
        message = (
            f"attempt {attempt_id} of rollout {rollout_id} is {status} and its rollout {rollout_status}; it can no "
            f"longer become {wanted}"
        )
        return compose(cls, message, rollout_id=rollout_id, attempt_id=attempt_id, status=status, wanted=wanted)

    @classmethod
    def start(cls, rollout_id: str, status: str) -> Self:
        """Return the error for a new attempt at a finished rollout."""
        message = f"rollout {rollout_id} is {status}; enqueue its task again instead"
        return compose(cls, message, rollout_id=rollout_id, status=status)


@public
class StaleRun(StoreError):
    """A report arrived for a run that another `fit` has resumed since."""

    run_id: str | None = None
    """The run."""

    worker_id: str | None = None
    """The worker that runs it now."""

    @classmethod
    def taken_up(cls, run_id: str, worker_id: str | None, late: str | None) -> Self:
        """Return the error for a report by a worker whose run belongs to another worker now."""
        message = f"{run_id} has been resumed by {worker_id}; reports by {late} are rejected"
        return compose(cls, message, run_id=run_id, worker_id=worker_id)


@public
class StoreClosed(StoreError, RuntimeError):
    """A store was used outside ``async with store``, or opened twice."""

    place: str | None = None
    """The store with its file, or with its schema, database and server."""

    @classmethod
    def open_already(cls, place: str) -> Self:
        """Return the error for a store that is already open."""
        return compose(cls, f"{place} is open already; one `async with store:` is enough", place=place)

    @classmethod
    def not_open(cls, place: str) -> Self:
        """Return the error for a call outside ``async with store``."""
        return compose(cls, f"{place} is not open; write: async with store: …", place=place)

    @classmethod
    def open_elsewhere(cls, place: str) -> Self:
        """Return the error for a call from another `trio.run`."""
        message = f"{place} was opened in another trio.run; open it in this one: async with store: …"
        return compose(cls, message, place=place)


@public
class UnknownId(StoreError, ValueError, LookupError):
    """A change names a rollout, attempt or resources snapshot that the store does not have."""

    attempt_id: str | None = None
    """The attempt."""

    resources_id: str | None = None
    """The resources snapshot."""

    @classmethod
    def rollout(cls, rollout_id: str) -> Self:
        """Return the error for an unknown rollout."""
        return compose(cls, f"Rollout {rollout_id} not found", rollout_id=rollout_id)

    @classmethod
    def attempt(cls, rollout_id: str, attempt_id: str) -> Self:
        """Return the error for an unknown attempt."""
        message = f"Attempt {attempt_id} not found for rollout {rollout_id}"
        return compose(cls, message, rollout_id=rollout_id, attempt_id=attempt_id)

    @classmethod
    def attempts(cls, rollout_id: str) -> Self:
        """Return the error for the latest attempt of a rollout without attempts."""
        return compose(cls, f"No attempts found for rollout {rollout_id}", rollout_id=rollout_id)

    @classmethod
    def resources(cls, resources_id: str) -> Self:
        """Return the error for an unknown resources snapshot."""
        message = f"Resources {resources_id} not found; add_resources() returns an id"
        return compose(cls, message, resources_id=resources_id)
