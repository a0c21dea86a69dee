"""Right calls in the wrong place: outside a block, a rollout or Trio, or inside another Trio."""

from __future__ import annotations

from typing import Self

from ._base import compose, public
from ._usage import UsageError


@public
class NestedTrioRun(UsageError, RuntimeError):
    """A blocking call that starts Trio was made from inside a running Trio program."""

    @classmethod
    def by_trainer(cls) -> Self:
        """Return the error for a trainer."""
        return compose(
            cls,
            "Trainer.fit starts Trio, which runs here already; await a runner instead: "
            "result = await agl.Runner(agent, …).fit(train_dataset, val_dataset)",
        )

    @classmethod
    def by_blocking_runner(cls) -> Self:
        """Return the error for a runner in blocking code."""
        return compose(
            cls,
            "a blocking runner would stop Trio, which runs in this thread; write: async with runner: "
            "await runner.step(task)",
        )


@public
class NoActiveRollout(UsageError, RuntimeError):
    """Something that acts on the current rollout was called outside of any."""

    rollout_id: str | None = None
    """The rollout, if it has ended and its code runs on."""

    attempt_id: str | None = None
    """The attempt that has ended."""

    @classmethod
    def outside(cls, call: str) -> Self:
        """Return the error for a call that no agent makes, or one in a thread that does not know whose it is."""
        message = (
            f"{call} was called outside a rollout. Call it from an agent that a Runner or Trainer runs; in a "
            "thread that the agent started itself, carry the context over: "
            "threading.Thread(target=agl.carry_context(fn)) or pool.submit(agl.carry_context(fn)); to build a "
            "span without recording it, pass propagate=False to the emitter"
        )
        return compose(cls, message)

    @classmethod
    def ended(cls, rollout_id: str, attempt_id: str) -> Self:
        """Return the error for code that an agent started and did not wait for."""
        message = (
            f"attempt {attempt_id} of rollout {rollout_id} has ended, and this code still runs in its context; end "
            "what a rollout starts before it returns, in a nursery of its own"
        )
        return compose(cls, message, rollout_id=rollout_id, attempt_id=attempt_id)


@public
class NotInTrio(UsageError, RuntimeError):
    """What runs in Trio was awaited where Trio does not run, such as in asyncio."""

    @classmethod
    def runner(cls) -> Self:
        """Return the error for a runner."""
        return compose(
            cls,
            "a runner runs in Trio, and this is no task of Trio's; write trio.run(runner.fit, train_dataset), or, "
            "in a program of asyncio, async with embed.open_asyncio(runner) as r: await r.fit(train_dataset)",
        )


@public
class RunnerClosed(UsageError, RuntimeError):
    """A runner was used outside ``async with runner``."""

    @classmethod
    def not_open(cls, call: str, *, entering: str | None = None) -> Self:
        """Return the error for a call outside the block.

        Args:
            call: how to write it inside, or what else opens the runner.
            entering: the head of the block around it.
        """
        return compose(cls, f"the runner is not open; write: {call if entering is None else f'{entering}: {call}'}")

    @classmethod
    def meanwhile(cls, block: str) -> Self:
        """Return the error for a call during which the block was left."""
        return compose(cls, f"the runner was closed while this went on; keep it inside {block}")

    @classmethod
    def too_late(cls) -> Self:
        """Return the error for a call from outside Trio after the block was left."""
        return compose(cls, "the runner has been closed; use it inside the `with` block that opens it")

    @classmethod
    def by_store(cls) -> Self:
        """Return the error for a call to a runner that its store has failed."""
        message = "the runner was closed by an error of its store, which is raised where it was opened"
        return compose(cls, message)
