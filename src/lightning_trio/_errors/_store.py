"""What was asked of a store and does not fit what it holds."""

from __future__ import annotations

from typing import Self

from ._base import LightningTrioError, compose, public


@public
class StoreError(LightningTrioError):
    """What was asked of a store does not fit what it holds."""

    rollout_id: str | None = None
    """The rollout in question."""

    @classmethod
    def too_many_attempts(cls, rollout_id: str, attempts: int) -> Self:
        """Return the error for a rollout that cannot be tried again."""
        message = f"rollout {rollout_id} has had {attempts:,} attempts, the most there can be"
        return compose(cls, message, rollout_id=rollout_id)


@public
class Evicted(StoreError, LookupError):
    """A finished rollout is no longer kept; its place in the counts is."""

    retain: int | None = None
    """How many finished rollouts the store keeps, if it keeps a number of them."""

    @classmethod
    def beyond(cls, rollout_id: str, retain: int) -> Self:
        """Return the error for a rollout that newer ones have pushed out of a store in memory."""
        message = (
            f"rollout {rollout_id} has finished and is no longer kept; this store keeps the newest {retain} finished "
            "ones, InMemoryLightningStore(retain=…) sets how many"
        )
        return compose(cls, message, rollout_id=rollout_id, retain=retain)

    @classmethod
    def removed(cls, rollout_id: str) -> Self:
        """Return the error for a rollout that was removed."""
        message = f"rollout {rollout_id} has finished and was removed; its place in the counts is kept"
        return compose(cls, message, rollout_id=rollout_id)


@public
class StaleAttempt(StoreError):
    """A report came for an attempt that has already ended or been superseded."""

    attempt_id: str | None = None
    """The attempt, if the report was of one."""

    status: str | None = None
    """What the attempt is, or the rollout if the report was of that, and stays."""

    wanted: str | None = None
    """What the report would have made of it."""

    @classmethod
    def rollout(cls, rollout_id: str, status: str, wanted: str) -> Self:
        """Return the error for changing the status of a rollout that has finished."""
        message = f"rollout {rollout_id} is {status} and stays so; it cannot become {wanted}"
        return compose(cls, message, rollout_id=rollout_id, status=status, wanted=wanted)

    @classmethod
    def attempt(cls, rollout_id: str, attempt_id: str, status: str, rollout_status: str, wanted: str) -> Self:
        """Return the error for changing the status of an attempt that has ended or is not the latest."""
        message = (
            f"attempt {attempt_id} of rollout {rollout_id} is {status}, its rollout {rollout_status}: it can no longer "
            f"become {wanted}"
        )
        return compose(cls, message, rollout_id=rollout_id, attempt_id=attempt_id, status=status, wanted=wanted)

    @classmethod
    def start(cls, rollout_id: str, status: str) -> Self:
        """Return the error for another attempt at a rollout that has finished."""
        message = f"rollout {rollout_id} is {status}; enqueue its task again instead"
        return compose(cls, message, rollout_id=rollout_id, status=status)


@public
class StaleRun(StoreError):
    """A report came for a run that another `fit` has taken up since."""

    run_id: str | None = None
    """The run."""

    worker_id: str | None = None
    """Whose it is now."""

    @classmethod
    def taken_up(cls, run_id: str, worker_id: str | None, late: str | None) -> Self:
        """Return the error for what a worker reports of a run that is another's by now."""
        message = f"{run_id} has been taken up by {worker_id}; what {late} still reports of it is refused"
        return compose(cls, message, run_id=run_id, worker_id=worker_id)


@public
class StoreClosed(StoreError, RuntimeError):
    """A store was used outside ``async with store``, or opened twice."""

    place: str | None = None
    """The store as the message calls it, with its file, or with its schema, database and server."""

    @classmethod
    def open_already(cls, place: str) -> Self:
        """Return the error for opening an open store."""
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
    """The attempt that was named."""

    resources_id: str | None = None
    """The resources snapshot that was named."""

    @classmethod
    def rollout(cls, rollout_id: str) -> Self:
        """Return the error for a rollout that the store has never had."""
        return compose(cls, f"Rollout {rollout_id} not found", rollout_id=rollout_id)

    @classmethod
    def attempt(cls, attempt_id: str, rollout_id: str) -> Self:
        """Return the error for an attempt that its rollout has never had."""
        message = f"Attempt {attempt_id} not found for rollout {rollout_id}"
        return compose(cls, message, rollout_id=rollout_id, attempt_id=attempt_id)

    @classmethod
    def attempts(cls, rollout_id: str) -> Self:
        """Return the error for the latest attempt of a rollout that has had none."""
        return compose(cls, f"No attempts found for rollout {rollout_id}", rollout_id=rollout_id)

    @classmethod
    def resources(cls, resources_id: str) -> Self:
        """Return the error for a resources snapshot that was never added."""
        message = f"Resources {resources_id} not found; add_resources() gives an id"
        return compose(cls, message, resources_id=resources_id)
