"""Failures of agents in worker processes, and of these processes."""

from __future__ import annotations

import signal
from typing import Self

from ._agent import AgentError
from ._base import compose, public

_BELOW_MAIN = 'below if __name__ == "__main__":'


@public
class RemoteAgentError(AgentError):
    """An agent in a worker process raised an exception that cannot be pickled.

    Exceptions whose constructor has keyword-only arguments are among these.

    Args:
        kind: the class name of the exception.
        text: its message.
        names: the names of its classes, with and without their modules; of a group, those of each member.
    """

    kind: str
    """The class name of the exception."""

    text: str
    """Its message."""

    names: tuple[frozenset[str], ...]
    """The names of its classes, with and without their modules; of a group, those of each member."""

    def __init__(self, kind: str, text: str, names: tuple[frozenset[str], ...]) -> None:
        super().__init__(kind, text, names)
        self.kind = kind
        self.text = text
        self.names = names

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@public
class WorkerDied(AgentError):
    """The worker process that an agent ran in ended before the agent did."""

    agent: str | None = None
    """The agent's name."""

    pid: int | None = None
    """The process, if it ended while the agent ran."""

    exit_code: int | None = None
    """The exit code of the process, negative for a signal; None if it is unknown."""

    seconds: float | None = None
    """How long the process was given to start, if it did not start in time."""

    @classmethod
    def while_running(cls, agent: str, pid: int, exit_code: int | None) -> Self:
        """Return the error for an attempt whose worker process ended."""
        message = f"the worker process {pid} died while the agent {agent} ran: {_describe_end(exit_code)}"
        return compose(cls, message, agent=agent, pid=pid, exit_code=exit_code)

    @classmethod
    def while_starting(cls, agent: str, exit_code: int | None) -> Self:
        """Return the error for a worker process that ended before it was ready."""
        message = (
            f"the worker process for the agent {agent} died while it started: {_describe_end(exit_code)}. It imports "
            f"the main program's file again: put the code that starts the runner {_BELOW_MAIN}"
        )
        return compose(cls, message, agent=agent, exit_code=exit_code)

    @classmethod
    def too_slow_to_start(cls, agent: str, seconds: float) -> Self:
        """Return the error for a worker process that was not ready in time and was killed."""
        message = (
            f"the worker process for the agent {agent} did not start within {seconds:g} s and was killed. It imports "
            "the main program's file and the agent's module again: move slow code there into a function, or "
            f"{_BELOW_MAIN}"
        )
        return compose(cls, message, agent=agent, seconds=seconds)


def _describe_end(exit_code: int | None) -> str:
    if exit_code is None:
        return "its exit code is unknown"
    if exit_code >= 0:
        return f"it exited with code {exit_code}" + (
            ", as os._exit does" if exit_code != 1 else "; its stderr may say why"
        )
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = ", which the system also sends when memory runs out" if name == "SIGKILL" else ""
    return f"it was killed by {name}{hint}"


class WorkerTraceback(Exception):
    """Private: the cause of an exception from a worker process, which shows the traceback from there.

    Args:
        text: the traceback as Python prints it.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"
