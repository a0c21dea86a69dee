"""Calls in the wrong place: outside a block, a rollout or Trio, or inside another Trio run."""

from __future__ import annotations

from typing import Self

from ._base import compose, public
from ._usage import UsageError


@public
class NestedTrioRun(UsageError, RuntimeError):
    """A blocking call that starts Trio was made inside a running Trio program."""

    @classmethod
    def by_trainer(cls) -> Self:
        """Return the error for a trainer."""
        return compose(
            cls,
            "Trainer.fit starts Trio, which is already running here; await a runner instead: "
            "result = await agl.Runner(agent, …).fit(train_dataset, val_dataset)",
        )

    @classmethod
    def by_blocking_runner(cls) -> Self:
        """Return the error for a runner in blocking code."""
        return compose(
            cls,
            "a blocking runner would block Trio, which runs in this thread; write: async with runner: "
            "await runner.step(task)",
        )


@public
class NoActiveRollout(UsageError, RuntimeError):
    """A function that acts on the current rollout was called outside a rollout."""

    rollout_id: str | None = None
    """The rollout, if it has ended while its code still runs."""

    attempt_id: str | None = None
    """The attempt that has ended."""

    @classmethod
    def outside(cls, call: str) -> Self:
        """Return the error for a call outside a rollout, or in a thread without the rollout's context."""
        message = (
            f"{call} was called outside a rollout. Call it from an agent that a Runner or Trainer runs; in a "
            "thread that the agent started itself, carry the context over: "
            "threading.Thread(target=agl.carry_context(fn)) or pool.submit(agl.carry_context(fn)); to build a "
            "span without recording it, pass propagate=False to the emitter"
        )
        return compose(cls, message)

    @classmethod
    def in_finaliser(cls, call: str) -> Self:
        """Return the error for a call in code that runs when Python frees an object."""
        message = (
            f"{call} was called while Python's garbage collector, asyncio or Trio finalised an object (__del__, a "
            "weakref callback, the finally of a generator), so it is not known for which rollout. End what "
            "emits inside the agent: with contextlib.closing(generator), async with contextlib.aclosing(generator); or "
            "bind the rollout: weakref.finalize(obj, agl.carry_context(fn)), or the agent's parameter emitter"
        )
        return compose(cls, message)

    @classmethod
    def ended(cls, rollout_id: str, attempt_id: str) -> Self:
        """Return the error for code that an agent started and did not wait for."""
        message = (
            f"attempt {attempt_id} of rollout {rollout_id} has ended, and this code still runs in its context; start "
            "background work in a nursery inside the agent, so that it ends before the agent returns"
        )
        return compose(cls, message, rollout_id=rollout_id, attempt_id=attempt_id)


@public
class NotInTrio(UsageError, RuntimeError):
    """A coroutine that needs Trio was awaited where Trio does not run, for example in asyncio."""

    @classmethod
    def runner(cls) -> Self:
        """Return the error for a runner."""
        return compose(
            cls,
            "a runner runs in Trio, and this is not a Trio task; write trio.run(runner.fit, train_dataset), or, in "
            "an asyncio program, async with embed.open_asyncio(runner) as r: await r.fit(train_dataset)",
        )

    @classmethod
    def in_its_own(cls, call: str) -> Self:
        """Return the error for a call of an open runner from another Trio run than the runner's.

        Args:
            call: the name of the method.
        """
        message = (
            f"the runner is open in another Trio run than the one that calls {call}(); from a thread, write "
            f"trio.from_thread.run(runner.{call}, …), which calls it in the runner's own, or make another runner here, "
            "which can share a store on disk"
        )
        return compose(cls, message)

    @classmethod
    def in_another_thread(cls, store: str) -> Self:
        """Return the error for using a store in memory in another thread than the one whose Trio uses it.

        Args:
            store: the store's class.
        """
        message = (
            f"this {store} is in use in the Trio run of another thread, which alone can change it and wait in it; in a "
            "thread that Trio started, write trio.from_thread.run(store.enqueue, …), and to share a store between Trio "
            "runs: SqliteLightningStore('runs.db')"
        )
        return compose(cls, message)


@public
class RunnerClosed(UsageError, RuntimeError):
    """A runner was used outside ``async with runner``."""

    @classmethod
    def not_open(cls, call: str, *, entering: str | None = None) -> Self:
        """Return the error for a call outside the block.

        Args:
            call: how to write the call inside the block, or another call that opens the runner.
            entering: how to write the opening line of the block.
        """
        return compose(cls, f"the runner is not open; write: {call if entering is None else f'{entering}: {call}'}")

    @classmethod
    def meanwhile(cls, block: str) -> Self:
        """Return the error for a call during which the block ended."""
        return compose(cls, f"the runner was closed during this call; keep the call inside {block}")

    @classmethod
    def too_late(cls) -> Self:
        """Return the error for a call from outside Trio after the block ended."""
        return compose(cls, "the runner has been closed; use it inside the `with` block that opens it")

    @classmethod
    def by_store(cls) -> Self:
        """Return the error for a call to a runner whose store has failed."""
        message = "the runner was closed by an error of its store, which is raised where it was opened"
        return compose(cls, message)
