"""The registered lanes by name, and how to open them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import Context
from typing import Any

from .._errors import UnsupportedLane
from .._host import exit_without_abandoned
from .._public import public_in
from ..tracing import CURRENT, AttemptRecorder
from ._asyncio import AsyncioLane
from ._function import is_async_function
from ._lane import Lane, LaneOptions, OpenLane
from ._process import ProcessLane
from ._thread import ThreadLane
from ._trio import TrioLane

_lanes: dict[str, Lane] = {}

DEFAULT_LANES = ("trio", "thread")
"""The lanes of agents without ``runs_in``."""


@public_in("lightning_trio.lanes")
def register_lane(lane: Lane) -> None:
    """Register a lane under its name, which agents use as ``runs_in``.

    Raises:
        ValueError: another lane has the name.
    """
    if lane.name in _lanes:
        raise ValueError(f"a lane named {lane.name!r} is already registered; give this one another name")
    _lanes[lane.name] = lane


@public_in("lightning_trio.lanes")
@contextmanager
def registered_lane(lane: Lane) -> Generator[None]:
    """Let agents run in a lane until the block ends, as a test wants it.

    Raises:
        ValueError: the name is taken.
    """
    register_lane(lane)
    try:
        yield
    finally:
        del _lanes[lane.name]


for _lane in (TrioLane(), ThreadLane(), AsyncioLane(), ProcessLane()):
    register_lane(_lane)


def lane_named(name: str, agent: str) -> Lane:
    """Return the lane that the agent called `agent` asks for.

    Raises:
        UnsupportedLane: no lane has that name.
    """
    if name not in _lanes:
        raise UnsupportedLane.unknown(agent, name, _lanes)
    return _lanes[name]


def resolve_lane(agent: str, fn: Callable[..., Any], runs_in: str | None) -> str:
    """Return the name of the lane that `fn` runs in: `runs_in`, else ``"trio"`` if it is async, else ``"thread"``.

    Raises:
        UnsupportedLane: `runs_in` is not the name of a lane, or the function cannot run there.
    """
    if runs_in is None:
        return "trio" if is_async_function(fn) else "thread"
    lane_named(runs_in, agent).check(agent, fn)
    return runs_in


@asynccontextmanager
async def open_lanes(names: Iterable[str], options: LaneOptions) -> AsyncGenerator[Mapping[str, OpenLane]]:
    """Open lanes; they are closed, the last one first, at the end of the block."""
    exit_without_abandoned(_attempt_of)
    async with AsyncExitStack() as stack:
        # Again at the end, since agents import what waits at exit.
        stack.callback(exit_without_abandoned, _attempt_of)
        yield {name: await stack.enter_async_context(_lanes[name].open(options)) for name in names}


def _attempt_of(context: Context) -> AttemptRecorder | None:
    return context.get(CURRENT)
