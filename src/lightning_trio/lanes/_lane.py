"""What a lane is: where an agent's code runs, and what an attempt asks of it.

A lane is one file with two classes: a `Lane`, which can be asked before anything runs, and an `OpenLane`, which makes
the calls of an open runner. It is registered in `_registry`. Both protocols have defaults for what most lanes need not
care about, so derive from them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import attrs

from .._public import public_in
from .._resources import NamedResources
from ..tracing import AttemptRecorder
from ._abandoned import AbandonedCall
from ._bound_agent import BoundAgent
from ._place import RunningTask


@public_in("lightning_trio.lanes")
@attrs.frozen
class LaneOptions:
    """What a runner tells its lanes.

    Args:
        max_processes: how many worker processes there may be; None for as many as there are processors.
        instrument: whether calls of libraries are recorded where the agent runs.
    """

    max_processes: int | None = None
    instrument: bool = True


@public_in("lightning_trio.lanes")
@attrs.define(eq=False)
class Call:
    """One attempt's call of its agent: what a lane is asked to run, and what it notes on the way.

    Args:
        bound: the agent's function with its arguments.
        recorder: the attempt's recorder; the task is ``recorder.rollout.input``.
        state: the lane's own, such as the thread or the worker process of the call.
        abandoned: what still runs of the call, where it could not be stopped and was given up.
    """

    bound: BoundAgent
    recorder: AttemptRecorder
    state: Any = None
    abandoned: AbandonedCall | None = None

    def arguments(self) -> Mapping[str, Any]:
        """Return the keyword arguments of the function."""
        bound = self.bound
        return bound.arguments(self.recorder) if bound.live else bound.fixed


@public_in("lightning_trio.lanes")
class OpenLane(Protocol):
    """A lane while a runner is open. To the runner it makes calls; each holds one of the runner's slots."""

    has_workers: bool = False
    """Whether `get_ready` has anything to do, which may take a while and is none of the agent's time."""

    async def get_ready(self, call: Call) -> None:
        """Wait until the call can begin at once.

        Raises:
            AgentError: it cannot begin, and the attempt fails for it.
        """
        return

    def run(self, call: Call) -> Awaitable[Any]:
        """Call the agent in the rollout's context and return what it returns.

        Cancelled, the call is stopped and its clean-up waited for; one that cannot be stopped is given up: it is noted
        in `Call.abandoned`, keeps its runner's slot until it really ends, and `trio.Cancelled` goes on up.

        Raises:
            BaseException: what the agent raised.
        """
        ...

    def release(self, call: Call) -> None:
        """Let others have what `get_ready` took.

        Called once for each call that it was called for, also where it raised or was cancelled.
        """
        return

    def locate(self, call: Call, loop_thread: int) -> RunningTask | None:
        """Return where the call stands, None where that is not to be seen; called from any thread.

        Args:
            call: one that runs.
            loop_thread: the id of the thread that Trio runs in.
        """
        return None


@public_in("lightning_trio.lanes")
class Lane(Protocol):
    """Where agents run."""

    name: str
    """What users write as ``runs_in``."""

    def check(self, agent: str, fn: Callable[..., Any]) -> None:
        """Raise if a function cannot run here.

        Raises:
            UnsupportedLane: saying what to write instead.
        """
        return

    def capacity(self, wanted: int, options: LaneOptions) -> int:
        """Return how many calls can run at a time, of those wanted."""
        return wanted

    def prepare(self, bound: BoundAgent, resources: NamedResources) -> object:
        """Return what this lane needs of a bound agent besides, before its first rollout starts.

        Raises:
            UnsupportedLane: it cannot be had, and so the agent cannot run here.
        """
        return None

    def open(self, options: LaneOptions) -> AbstractAsyncContextManager[OpenLane]:
        """Open the lane; at the end of the block what still runs in it is ended, or given up and named."""
        ...
