"""The lanes there are, by name, and the ones that are open."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from .._errors import UnsupportedLane
from .._public import public_in
from ._asyncio import AsyncioLane
from ._function import is_async_function
from ._lane import Lane, LaneOptions, OpenLane
from ._process import ProcessLane
from ._thread import ThreadLane
from ._trio import TrioLane

_lanes: dict[str, Lane] = {}

DEFAULT_LANES = ("trio", "thread")
"""The lanes of agents that do not say where they run."""


@public_in("lightning_trio.lanes")
def register_lane(lane: Lane) -> None:
    """Let agents run in a lane, by its name.

    Raises:
        ValueError: the name is taken.
    """
    if lane.name in _lanes:
        raise ValueError(f"there is a lane of the name {lane.name!r} already; give this one another")
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
    """Return the name of the lane that `fn` runs in: the one it says, else Trio for async functions, else a thread.

    Raises:
        UnsupportedLane: `runs_in` names no lane, or one that does not fit the function.
    """
    if runs_in is None:
        return "trio" if is_async_function(fn) else "thread"
    lane_named(runs_in, agent).check(agent, fn)
    return runs_in


@asynccontextmanager
async def open_lanes(names: Iterable[str], options: LaneOptions) -> AsyncGenerator[Mapping[str, OpenLane]]:
    """Open lanes; they are closed, the last one first, at the end of the block."""
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(_lanes[name].open(options)) for name in names}
