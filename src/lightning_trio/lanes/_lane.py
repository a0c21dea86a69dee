"""The protocols of a lane, which runs agents' code.

A lane is one file with two classes: a `Lane`, which answers questions before anything runs, and an `OpenLane`, which
makes the calls of an open runner. It is registered in `_registry`. Both protocols have defaults that suit most lanes:
derive from them.
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
    """The options of a runner that concern its lanes.

    Args:
        max_processes: the most worker processes; None for one per processor.
        leave_out: SDKs whose calls are not recorded where the agent runs, such as ``{"openai"}``.
    """

    max_processes: int | None = None
    leave_out: frozenset[str] = frozenset()


@public_in("lightning_trio.lanes")
@attrs.define(eq=False)
class Call:
    """One attempt's call of its agent, with the lane's own state of it.

    Args:
        bound: the agent's function with its arguments.
        recorder: the attempt's recorder; the task is ``recorder.rollout.input``.
        state: the lane's own, such as the thread or the worker process of the call.
        abandoned: the call, if it could not be stopped and was abandoned.
        disturbed_by: the rollout whose end made the agent fail, as text for a log; None if it failed by itself.
    """

    bound: BoundAgent
    recorder: AttemptRecorder
    state: Any = None
    abandoned: AbandonedCall | None = None
    disturbed_by: str | None = None

    def arguments(self) -> Mapping[str, Any]:
        """Return the keyword arguments of the function."""
        bound = self.bound
        return bound.arguments(self.recorder) if bound.live else bound.fixed


@public_in("lightning_trio.lanes")
class OpenLane(Protocol):
    """A lane while a runner is open; each call that it makes holds one of the runner's slots."""

    has_workers: bool = False
    """Whether `get_ready` does anything; its time does not count as the agent's."""
    in_trio: bool = False
    """Whether agents run in the attempt's own task, so that one that blocks stops all others."""

    async def get_ready(self, call: Call) -> None:
        """Wait until the call can begin at once.

        Raises:
            AgentError: it cannot begin, so the attempt fails.
        """
        return

    def run(self, call: Call) -> Awaitable[Any]:
        """Call the agent in the rollout's context and return its result.

        When cancelled, stop the call and wait for its clean-up. A call that cannot be stopped is abandoned: it is
        stored in `Call.abandoned`, keeps its runner's slot until it ends, and `trio.Cancelled` propagates.

        A lane that calls agents in Trio's thread calls them in a function with `trio.lowlevel.disable_ki_protection`,
        so that Ctrl-C interrupts an agent that never yields.

        Raises:
            BaseException: what the agent raised.
        """
        ...

    def release(self, call: Call) -> None:
        """Release what `get_ready` acquired; called once for each call of `get_ready`, also if that raised."""
        return

    def locate(self, call: Call, loop_thread: int) -> RunningTask | None:
        """Return the line that the call is at, None where that is unknown; may be called from any thread.

        Args:
            call: a running call.
            loop_thread: the id of the thread that Trio runs in.
        """
        return None


@public_in("lightning_trio.lanes")
class Lane(Protocol):
    """A place where agents run."""

    name: str
    """The value of ``runs_in``."""

    copies_agents: bool = True
    """Whether attempts that run at the same time need copies of an agent that is a class; processes have their own."""

    def check(self, agent: str, fn: Callable[..., Any]) -> None:
        """Raise if a function cannot run here.

        Raises:
            UnsupportedLane: the message says what to write instead.
        """
        return

    def capacity(self, wanted: int, options: LaneOptions) -> int:
        """Return how many of the wanted calls can run at a time."""
        return wanted

    def prepare(self, bound: BoundAgent, resources: NamedResources) -> object:
        """Return what this lane needs of a bound agent before its first rollout starts, such as the pickled agent.

        Raises:
            UnsupportedLane: the agent cannot run here.
        """
        return None

    def open(self, options: LaneOptions) -> AbstractAsyncContextManager[OpenLane]:
        """Open the lane; at the end of the block its remaining calls are stopped, or abandoned and logged."""
        ...
