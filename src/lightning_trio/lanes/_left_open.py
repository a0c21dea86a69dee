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
        nursery.cancel_scope.cancel()
        # There is no public way to leave a nursery without its context manager.
        finish: Callable[[BaseException | None], Any] = nursery._nested_child_finished  # pyright: ignore[reportPrivateUsage]
        error = await finish(None) or error
    while (status := cancel_status(task)) is not outer_status:
        scope: trio.CancelScope = status._scope  # type: ignore[attr-defined]
        # Misnested scopes end with an error.
        with suppress(RuntimeError):
            scope.__exit__(None, None, None)
    if raised is None:
        raise AgentError.left_open(agent) from error
