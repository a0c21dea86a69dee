"""The Trio lane: an async agent runs in the attempt's own task."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import CodeType
from typing import Any, NamedTuple

import attrs
import trio
from trio.lowlevel import wait_task_rescheduled

from .._concurrency import await_stack
from .._errors import AsyncioAgentError, UnsupportedLane
from ._bound_agent import BoundAgent
from ._function import is_async_function
from ._lane import Call, Lane, LaneOptions, OpenLane
from ._left_open import cancel_status, leave_all
from ._place import RunningTask, is_programs_own, line_of, outwards, place_of
from ._wrong_loop import WRONG_LOOP_ERRORS, find_asyncio_sign

_CHILDREN_SHOWN = 8
"""How many child tasks of a task are shown."""

_TRAPS = wait_task_rescheduled.__code__.co_filename
"""The file in which all tasks wait, for whatever it is."""

_PRIMITIVES = frozenset(
    os.path.join(os.path.dirname(trio.__file__), *name.split("/"))
    for name in ("_sync.py", "_channel.py", "_core/_parking_lot.py")
)
"""The files in which tasks wait for each other."""

_SLEEP = trio.sleep_forever.__code__.co_filename

_NURSERY_WAIT = "_nested_child_finished"
"""The method of a nursery that waits for its tasks; without it, a task counts as one that goes on by itself."""

_MOST_VISITED = 2_000
"""How many tasks of an attempt a look visits; with more, it counts as one that goes on by itself."""

_DEPTH_SHOWN = 6
"""How many levels of tasks below an attempt's own are shown."""


class TrioLane(Lane):
    """Run async functions natively."""

    name = "trio"

    def check(self, agent: str, fn: Callable[..., Any]) -> None:
        """Raise `UnsupportedLane` if the function is not async."""
        check_async(agent, fn, self.name)

    @asynccontextmanager
    async def open(self, options: LaneOptions) -> AsyncGenerator[OpenLane]:
        """Open the lane, which has nothing to set up."""
        yield OpenTrioLane()


def check_async(agent: str, fn: Callable[..., Any], lane: str) -> None:
    """Raise if a function for an event loop is not async.

    Raises:
        UnsupportedLane: the function is not async.
    """
    if not is_async_function(fn):
        raise UnsupportedLane.for_async(agent, lane)


class OpenTrioLane(OpenLane):
    """Call agents in the attempt's task."""

    in_trio = True

    def run(self, call: Call) -> Awaitable[Any]:
        """Call the agent in the current task."""
        task = trio.lowlevel.current_task()
        # The task, and how many of its nurseries are not the agent's.
        outer_nurseries = len(task.child_nurseries)
        call.state = (task, outer_nurseries)
        bound = call.bound
        arguments = bound.arguments(call.recorder) if bound.live else bound.fixed
        return run_natively(bound, call.recorder.rollout.input, arguments, task, outer_nurseries)

    def locate(self, call: Call, loop_thread: int) -> RunningTask | None:
        """Return the current line of the task, with the tasks in its nurseries."""
        if call.state is None:
            return None
        task, outer_nurseries = call.state
        return _task_place(task, outer_nurseries, loop_thread, 0)


@trio.lowlevel.disable_ki_protection
async def run_natively(
    bound: BoundAgent, input: Any, arguments: Mapping[str, Any], task: trio.lowlevel.Task, outer_nurseries: int
) -> Any:
    """Call an agent in the current task, which has `outer_nurseries` nurseries already.

    Raises:
        AsyncioAgentError: the agent called asyncio, which has no event loop here.
        AgentError: it left a nursery or a cancel scope open.
    """
    before = cancel_status(task)
    try:
        return await bound.fn(input, **arguments)
    except WRONG_LOOP_ERRORS as exc:
        sign = find_asyncio_sign(exc)
        if sign is None:
            raise
        raise AsyncioAgentError.by_agent(bound.name, str(sign), is_method=bound.method is not None) from exc
    finally:
        if cancel_status(task) is not before:
            await leave_all(bound.name, task, outer_nurseries, before)


def runs_now(task: trio.lowlevel.Task, outer_nurseries: int) -> bool:
    """Whether Trio runs a task at this moment, or one below it; may be called from any thread.

    Args:
        task: the task.
        outer_nurseries: how many of its nurseries to leave out, the outer ones.
    """
    return any(
        each is not None and getattr(each.task.coro, "cr_running", False) for each in _walk(task, outer_nurseries)
    )


def may_end(task: trio.lowlevel.Task, outer_nurseries: int) -> bool:
    """Whether a cancelled task, or one below it, is in a shielded scope, or about to run.

    Where all that are left are cancelled and still wait, nothing can end them.
    """
    return any(each is None or _cleans_up(each) for each in _walk(task, outer_nurseries))


def _cleans_up(visited: _Visited) -> bool:
    if visited.children:
        return False
    # Trio has no public names for these; without them, a task counts as one that cleans up.
    if getattr(visited.task, "_next_send_fn", None) is not None:
        # It is scheduled. Within its shield, a scope of its own may be cancelled, such as that of a `trio.sleep`.
        return True
    return not getattr(cancel_status(visited.task), "effectively_cancelled", False)


def calling_task(task: trio.lowlevel.Task) -> str:
    """Return the name of a task of the program, and the line that waits for a call of this package, for a message.

    Args:
        task: the task, or one that the call has started.
    """
    current: trio.lowlevel.Task | None = task
    while current is not None:
        frames = list(await_stack(current.coro))
        if any(map(is_programs_own, frames)):
            return _name_of(current) + line_of(place_of("", frames))
        current = None if current.parent_nursery is None else current.parent_nursery.parent_task
    return f"{_name_of(task)}, called from another thread or by a system task"


def waits_for_tasks(task: trio.lowlevel.Task, outer_nurseries: int, until: float) -> bool:
    """Whether a task and all below it can only be woken up by other tasks: by events, channels and locks.

    A task that waits for input, for a thread or for a time goes on by itself.

    Args:
        task: the task.
        outer_nurseries: how many of its nurseries to leave out, the outer ones.
        until: a time on Trio's clock; a wait that is limited to a later one counts as unlimited.
    """
    return all(each is not None and _waits_for_tasks(each, until) for each in _walk(task, outer_nurseries))


def _waits_for_tasks(visited: _Visited, until: float) -> bool:
    task = visited.task
    frames = [frame for frame in await_stack(task.coro) if frame.f_code.co_filename != _TRAPS]
    if not frames or getattr(task, "_next_send_fn", None) is not None:
        return False
    code = frames[-1].f_code
    if visited.children and code.co_name == _NURSERY_WAIT:
        return True
    return _waits_in_primitive(code, task, until)


class _Visited(NamedTuple):
    """A task on a walk, and those in its nurseries."""

    task: trio.lowlevel.Task
    children: Sequence[trio.lowlevel.Task]


def _walk(task: trio.lowlevel.Task, outer_nurseries: int) -> Iterator[_Visited | None]:
    """Yield a task and those below it, then None if there are more than a look may take; from any thread.

    Agents may nest nurseries deeper than Python recurses.
    """
    waiting = [(task, outer_nurseries)]
    for _ in range(_MOST_VISITED):
        if not waiting:
            return
        each, outer = waiting.pop()
        children = [child for nursery in each.child_nurseries[outer:] for child in list(nursery.child_tasks)]
        yield _Visited(each, children)
        waiting.extend((child, 0) for child in children)
    if waiting:
        yield None


def _waits_in_primitive(code: CodeType, task: trio.lowlevel.Task, until: float) -> bool:
    if code.co_filename == _SLEEP:
        return _deadline_of(task) == math.inf
    return code.co_filename in _PRIMITIVES and _deadline_of(task) > until


def _deadline_of(task: trio.lowlevel.Task) -> float:
    # Trio has a public name for the current task's only; without it, a task counts as one that goes on by itself.
    effective: Callable[[], float] | None = getattr(cancel_status(task), "effective_deadline", None)
    try:
        return -math.inf if effective is None else effective()
    except RecursionError:
        # Trio asks one scope after the other, and agents may nest them deeper than Python recurses.
        return -math.inf


def _name_of(task: trio.lowlevel.Task) -> str:
    name: Any = task.name
    # An agent may name its tasks by any object, of any class derived from `str`.
    return str.__str__(name) if isinstance(name, str) else ""


def _task_place(task: trio.lowlevel.Task, outer_nurseries: int, loop_thread: int, depth: int) -> RunningTask | None:
    coro: Any = task.coro
    if coro.cr_running:
        innermost = sys._current_frames().get(loop_thread)  # pyright: ignore[reportPrivateUsage]  # documented
        frames = list(outwards(innermost, coro.cr_frame))[::-1]
    else:
        frames = list(await_stack(task.coro))
    codes = [frame.f_code for frame in frames]
    if run_natively.__code__ in codes:
        # The frames above the agent's are the runner's.
        frames = frames[codes.index(run_natively.__code__) + 1 :]
    place = place_of(_name_of(task), frames)
    nurseries = task.child_nurseries[outer_nurseries:]
    children = sorted((child for nursery in nurseries for child in nursery.child_tasks), key=_name_of)
    if place is None or not children:
        return place
    shown = children[:_CHILDREN_SHOWN] if depth < _DEPTH_SHOWN else []
    looked_at = [_task_place(child, 0, loop_thread, depth + 1) for child in shown]
    return attrs.evolve(
        place,
        children=tuple(child for child in looked_at if child is not None),
        hidden=len(children) - len(shown),
    )
