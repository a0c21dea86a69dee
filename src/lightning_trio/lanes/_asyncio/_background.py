"""Tasks that outlive their rollouts: those that libraries keep for all their calls, such as LiteLLM's log writer."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from ..._concurrency import await_stack
from ..._exception_text import class_name
from ..._log import Log
from ._shared_loop import tasks_of
from ._waiters import waiters_of

logger = Log("lightning_trio.lanes")

_MOMENT_SECONDS = 1.0
"""A task that ends this soon after its rollout is not worth a warning."""

_MOST_OF_A_KIND = 1000
"""How many tasks of one function may go on; the context of each keeps its rollout's spans in memory."""

_MOST_LOOKED_AT = 10
"""How many of them are looked at to find one that no other rollout waits for; it takes about 0.1 ms each."""

_DRAIN_SECONDS = 2.0
"""How long background tasks may finish their work before the loop closes."""

_LOOK_SECONDS = 0.01


def names_of(tasks: Iterable[asyncio.Task[Any]]) -> str:
    """Return the names of tasks and their functions, for a message."""
    names = sorted(map(_name_of, tasks))
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")


def _name_of(task: asyncio.Task[Any]) -> str:
    try:
        return f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', '?')})"
    except (Exception, SystemExit) as exc:
        # The task or its coroutine is of an agent's class.
        return f"one whose name raises {class_name(exc)}"


class BackgroundTasks:
    """The tasks of a loop that go on after their rollouts; used in the loop's thread only."""

    def __init__(self) -> None:
        self._warned: set[object] = set()
        self._kinds: dict[object, dict[asyncio.Task[Any], None]] = {}

    def level_of(self, cancelled: Iterable[asyncio.Task[Any]]) -> int:
        """Return the level at which to log that tasks are cancelled: a warning, once for each function."""
        kinds = {("cancelled", _kind_of(task)) for task in cancelled}
        level = logging.DEBUG if kinds <= self._warned else logging.WARNING
        self._warned |= kinds
        return level

    def keep(self, tasks: Mapping[asyncio.Task[Any], bool], rollout: str) -> None:
        """Let tasks of a rollout that has ended go on, and log those that do so for long, once for each function.

        Args:
            tasks: each with whether a line of the program created it; if not, there is nothing to mend.
            rollout: the rollout, for the message.
        """
        # In an empty context, because this one keeps the rollout's spans.
        asyncio.get_running_loop().call_later(
            _MOMENT_SECONDS, self._look, tasks, rollout, context=contextvars.Context()
        )

    def _look(self, tasks: Mapping[asyncio.Task[Any], bool], rollout: str) -> None:
        for task, is_made_here in tasks.items():
            if not task.done():
                self._add(task, rollout, logging.WARNING if is_made_here else logging.INFO)

    def _add(self, task: asyncio.Task[Any], rollout: str, level: int) -> None:
        kind = _kind_of(task)
        if kind not in self._warned:
            self._warned.add(kind)
            logger.log(
                level,
                "a task that %s left behind goes on, and so will others of its function: %s; it is taken for a "
                "library's own, and can record nothing. If it is the rollout's work, await it before the agent "
                "returns, in an asyncio.TaskGroup. If it serves many rollouts, start it in a context of its own, and "
                "this is not logged: asyncio.create_task(…, context=contextvars.Context())",
                rollout,
                names_of([task]),
            )
        same = self._kinds.setdefault(kind, {})
        if len(same) >= _MOST_OF_A_KIND:
            oldest = next((each for each in islice(same, _MOST_LOOKED_AT) if not any(waiters_of(each))), None)
            if oldest is not None:
                del same[oldest]
                oldest.cancel()
        same[task] = None
        task.add_done_callback(lambda task: same.pop(task, None), context=contextvars.Context())


def _kind_of(task: asyncio.Task[Any]) -> object:
    """Return what tasks of the same function have in common."""
    try:
        coro = task.get_coro()
        return getattr(coro, "cr_code", None) or getattr(coro, "__qualname__", None)
    except (Exception, SystemExit):
        return type(task)


async def drain() -> None:
    """Wait until the loop's tasks have ended or wait for work, up to two seconds."""
    deadline = asyncio.get_running_loop().time() + _DRAIN_SECONDS
    quiet = 0
    # Twice, because a task that has just been given work still stands where it waited for it.
    while quiet < 2 and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_LOOK_SECONDS if quiet else 0)
        tasks = tasks_of(asyncio.get_running_loop()) - {asyncio.current_task()}
        busy = [task for task in tasks if not task.cancelling() and not _waits_for_work(task)]
        if not tasks:
            return
        quiet = 0 if busy else quiet + 1
        if busy:
            await asyncio.sleep(_LOOK_SECONDS)


def _waits_for_work(task: asyncio.Task[Any]) -> bool:
    """Whether the task stands in ``await queue.get()``, or waits for an event, a lock or another task of asyncio."""
    codes = [frame.f_code for frame in await_stack(task.get_coro())]
    if not codes:
        return False
    code = codes[-1]
    # Until Python 3.12, wait_for makes a task of what it waits for.
    is_waiting_for_task = code.co_filename == asyncio.tasks.__file__ and code.co_name == "wait_for"
    return is_waiting_for_task or code.co_filename in (asyncio.queues.__file__, asyncio.locks.__file__)
