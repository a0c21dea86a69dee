"""Nurseries and cancel scopes that a native agent enters and never leaves.

A client that is opened by hand and not closed does that, and an async generator that is dropped. Trio would end the
task with an error that only the runner sees, and scopes would go on in the task that called `step`.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio

from .._concurrency import await_stack
from .._errors import AgentError

cancel_status: Callable[[trio.lowlevel.Task], object] = operator.attrgetter("_cancel_status")
"""Return what changes with each scope that a task enters or leaves. Trio has no public name for it."""


async def leave_all(agent: str, task: trio.lowlevel.Task, outer_nurseries: int, outer_status: object) -> None:
    """Cancel and leave what the current task has entered since, before an exception of its own propagates.

    Args:
        agent: the agent's name.
        task: the current task.
        outer_nurseries: how many nurseries it had before.
        outer_status: its `cancel_status` before.

    Raises:
        AgentError: the agent has returned; the cause is what its child tasks raised.
    """
    raised = sys.exc_info()[1]
    error: BaseException | None = None
    for nursery in reversed(task.child_nurseries[outer_nurseries:]):
        error = await _leave(nursery, task) or error
    while (status := cancel_status(task)) is not outer_status:
        scope: trio.CancelScope = status._scope  # type: ignore[attr-defined]
        # Misnested scopes end with an error.
        with suppress(RuntimeError):
            scope.__exit__(None, None, None)
    if raised is None:
        raise AgentError.left_open(agent) from error


async def _leave(nursery: trio.Nursery, task: trio.lowlevel.Task) -> BaseException | None:
    nursery.cancel_scope.cancel()
    # There is no public way to leave a nursery without its context manager.
    inside: Any = nursery
    opened: Any = task
    outer = opened._child_nurseries[:-1]
    error: BaseException | None = None
    # Trio may have closed the dropped generator first, and has taken the nursery from the task then, with its errors.
    with suppress(IndexError, AssertionError, AttributeError):
        error = await inside._nested_child_finished(None)
    opened._child_nurseries[:] = outer
    closing = _closing_task(nursery)
    if closing is not None:
        # It takes the nursery from the task as well.
        opened._child_nurseries.append(nursery)
        if getattr(closing, "_next_send_fn", None) is None:
            # Trio has told one task only that the nursery has ended, and this one would wait for ever.
            trio.lowlevel.reschedule(closing)
        while nursery in task.child_nurseries:
            await trio.lowlevel.cancel_shielded_checkpoint()
    return error


def _closing_task(nursery: trio.Nursery) -> trio.lowlevel.Task | None:
    """Return the task in which Trio closes a dropped generator, and waits for the end of the nursery in it."""
    root = trio.lowlevel.current_root_task()
    for each in () if root is None else root.child_nurseries:
        for task in each.child_tasks:
            names = ((frame.f_code.co_name, frame.f_locals.get("self")) for frame in await_stack(task.coro))
            if ("_nested_child_finished", nursery) in names:
                return task
    return None
