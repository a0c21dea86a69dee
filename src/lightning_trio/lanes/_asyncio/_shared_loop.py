"""What one rollout may not do to the others on its loop: what it sets is its own, and their tasks are theirs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, Protocol, TypeVar

from ..._log import Log
from ._daemon_executor import DaemonExecutor

P = ParamSpec("P")
T = TypeVar("T")

logger = Log("lightning_trio.lanes")

TaskFactory = Callable[..., "asyncio.Task[Any]"]


class Tenant(Protocol):
    """What is known here of a call."""

    task_factory: TaskFactory | None
    """What its agent has set with ``loop.set_task_factory``."""

    executor: Executor | None
    """What its agent has set with ``loop.set_default_executor``."""


_hidden: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()


def hide_task(task: asyncio.Task[Any]) -> None:
    """Keep a task out of `asyncio.all_tasks`, all of which an agent may cancel and await before it ends.

    See https://docs.python.org/3/library/asyncio-extending.html.
    """
    asyncio._unregister_task(task)
    _hidden.add(task)


def tasks_of(loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[Any]]:
    """Return the tasks of a loop that have not ended, the hidden ones too; in any thread."""
    hidden: list[asyncio.Task[Any]] = []
    while True:
        # As asyncio does it: another thread may create a task meanwhile.
        with suppress(RuntimeError):
            hidden = list(_hidden)
            break
    try:
        visible = asyncio.all_tasks(loop)
    except BaseException:
        visible = set()
    return {task for task in hidden if _is_pending(task, loop)} | visible


def _is_pending(task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return task.get_loop() is loop and not task.done()
    except BaseException:
        return False


def keep_settings_apart(loop: asyncio.AbstractEventLoop, find_tenant: Callable[[], Tenant | None]) -> None:
    """Have what an agent sets on a new loop hold for its own rollout.

    Args:
        loop: has not run yet.
        find_tenant: returns the call whose agent is running.
    """
    loop.set_default_executor(_SharedExecutor(find_tenant))
    settings = _Settings(find_tenant)
    for name in (
        "get_task_factory",
        "set_task_factory",
        "set_default_executor",
        "shutdown_default_executor",
        "shutdown_asyncgens",
    ):
        setattr(loop, name, getattr(settings, name))


class _SharedExecutor(DaemonExecutor):
    """The loop's executor, which passes the calls of an agent that has set one of its own to that."""

    def __init__(self, find_tenant: Callable[[], Tenant | None]) -> None:
        super().__init__()
        self._find_tenant = find_tenant

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        tenant = self._find_tenant()
        if tenant is None or tenant.executor is None:
            return super().submit(fn, *args, **kwargs)
        call = functools.partial(fn, *args, **kwargs)
        return tenant.executor.submit(contextvars.copy_context().run, call)


class _Settings:
    """Methods that replace those of a shared loop; asyncio says what they are for."""

    def __init__(self, find_tenant: Callable[[], Tenant | None]) -> None:
        self._find_tenant = find_tenant

    def get_task_factory(self) -> TaskFactory | None:
        # Not the lane's own, which would call itself if an agent that has kept it set it again.
        tenant = self._find_tenant()
        return None if tenant is None else tenant.task_factory

    def set_task_factory(self, factory: TaskFactory | None) -> None:
        if factory is not None and not callable(factory):
            raise TypeError(f"task factory must be a callable or None, not {factory!r}")
        tenant = self._tenant_of("set_task_factory")
        if tenant is not None:
            tenant.task_factory = factory

    def set_default_executor(self, executor: Executor) -> None:
        if not isinstance(executor, ThreadPoolExecutor):
            raise TypeError(f"executor must be ThreadPoolExecutor instance, not {executor!r}")
        tenant = self._tenant_of("set_default_executor")
        if tenant is not None:
            tenant.executor = executor

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        tenant = self._tenant_of("shutdown_default_executor")
        if tenant is not None and tenant.executor is not None:
            executor, tenant.executor = tenant.executor, None
            async with asyncio.timeout(timeout):
                await asyncio.to_thread(executor.shutdown)

    async def shutdown_asyncgens(self) -> None:
        # Of the loop's generators it is not known whose they are until they are dropped, and then they are closed.
        self._tenant_of("shutdown_asyncgens")

    def _tenant_of(self, method: str) -> Tenant | None:
        tenant = self._find_tenant()
        if tenant is None:
            logger.warning("%s() was called on the agents' asyncio loop by no agent, and is ignored", method)
        return tenant
