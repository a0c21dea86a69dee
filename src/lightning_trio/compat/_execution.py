"""Agent-lightning 0.3's execution strategies and their events; everything runs in this process here.

`Trainer` ignores the two strategies of 0.3 with a warning. One of a program's own is called, with functions that run
the algorithm and the runners on asyncio.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..store import LightningStore
from ._environment import LightningEnvVar, resolve_bool_env_var, resolve_int_env_var, resolve_str_env_var

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext


class ExecutionEvent(Protocol):
    """An event that asks the algorithm or the runners to stop."""

    def set(self) -> None:
        """Set the event."""
        ...

    def clear(self) -> None:
        """Clear the event."""
        ...

    def is_set(self) -> bool:
        """Whether the event is set."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set, for at most `timeout` seconds; return whether it is."""
        ...


class ThreadingEvent:
    """An event of one process."""

    def __init__(self) -> None:
        self._event: Any = threading.Event()

    def set(self) -> None:
        """Set the event."""
        self._event.set()

    def clear(self) -> None:
        """Clear the event."""
        self._event.clear()

    def is_set(self) -> bool:
        """Whether the event is set."""
        return bool(self._event.is_set())

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set, for at most `timeout` seconds; return whether it is."""
        return bool(self._event.wait(timeout))


class MultiprocessingEvent(ThreadingEvent):
    """An event of several processes."""

    def __init__(self, *, ctx: BaseContext | None = None) -> None:
        # 15 ms, and few programs need it.
        import multiprocessing

        self._event = (ctx or multiprocessing).Event()


class ExecutionStrategy:
    """The base of strategies: override `execute`."""

    def execute(
        self,
        algorithm: Callable[[LightningStore, ExecutionEvent], Awaitable[None]],
        runner: Callable[[LightningStore, int, ExecutionEvent], Awaitable[None]],
        store: LightningStore,
    ) -> None:
        """Run the algorithm and its runners."""
        raise NotImplementedError(f"{type(self).__name__} has no `execute`")


class SharedMemoryExecutionStrategy(ExecutionStrategy):
    """A description of where rollouts run, which `Trainer` ignores."""

    alias = "shm"

    def __init__(
        self,
        n_runners: int = 1,
        main_thread: Literal["algorithm", "runner"] = "runner",
        join_timeout: float = 15.0,
        graceful_delay: float = 5.0,
        poll_interval: float = 0.05,
        managed_store: bool | None = None,
    ) -> None:
        self.n_runners = n_runners
        self.main_thread = main_thread
        self.join_timeout = join_timeout
        self.graceful_delay = graceful_delay
        self.poll_interval = poll_interval
        self.managed_store = resolve_bool_env_var(LightningEnvVar.AGL_MANAGED_STORE, managed_store, True)


class ClientServerExecutionStrategy(ExecutionStrategy):
    """A description of where rollouts run, which `Trainer` ignores."""

    alias = "cs"

    def __init__(  # noqa: PLR0913  # Agent-lightning 0.3's
        self,
        role: Literal["algorithm", "runner", "both"] | None = None,
        server_host: str | None = None,
        server_port: int | None = None,
        n_runners: int = 1,
        graceful_timeout: float = 10.0,
        terminate_timeout: float = 10.0,
        main_process: Literal["algorithm", "runner"] = "algorithm",
        managed_store: bool | None = None,
        allowed_exit_codes: Any = (0, -15),
    ) -> None:
        self.role = resolve_str_env_var(LightningEnvVar.AGL_CURRENT_ROLE, role, "both")
        self.server_host = resolve_str_env_var(LightningEnvVar.AGL_SERVER_HOST, server_host, "localhost")
        self.server_port = resolve_int_env_var(LightningEnvVar.AGL_SERVER_PORT, server_port, 4747)
        self.n_runners = n_runners
        self.graceful_timeout = graceful_timeout
        self.terminate_timeout = terminate_timeout
        self.main_process = main_process
        self.managed_store = resolve_bool_env_var(LightningEnvVar.AGL_MANAGED_STORE, managed_store, True)
        self.allowed_exit_codes = tuple(allowed_exit_codes)
