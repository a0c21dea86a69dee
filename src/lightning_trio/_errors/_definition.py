"""Agents and algorithms that cannot run as they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from .._exception_text import class_name, message_of
from ._base import compose, public, shortened, with_article
from ._usage import UsageError

_EXAMPLES: Mapping[str | None, str] = {
    None: "…",
    "LLM": 'LLM(endpoint="http://…/v1", model="…")',
    "PromptTemplate": 'PromptTemplate("… {question} …", engine="f-string")',
}
"""Examples of resources, by the name of their class."""


@public
class AgentSignatureError(UsageError, TypeError, ValueError):
    """An agent is not a function or a `LitAgent`, or has a parameter that cannot be supplied."""

    agent: str | None = None
    """The agent's name."""

    # Not a function.

    @classmethod
    def not_an_agent(cls, value: object) -> Self:
        """Return the error for an object that is not an agent."""
        return compose(cls, f"an agent is a function or a LitAgent, not {value!r}")

    @classmethod
    def agent_class(cls, kind: type) -> Self:
        """Return the error for a class of agents, given in place of an instance."""
        name = kind.__name__
        return compose(cls, f"{name} is a class; pass an instance: {name}()", agent=name)

    @classmethod
    def decorated_class(cls, kind: type) -> Self:
        """Return the error for a class decorated with `rollout`."""
        name = kind.__name__
        return compose(cls, f"@rollout decorates functions; {name} is a class: derive it from agl.LitAgent", agent=name)

    @classmethod
    def decorated_value(cls, value: object) -> Self:
        """Return the error for an object decorated with `rollout` that is not a function."""
        return compose(cls, f"@rollout decorates functions, not {value!r}; options are keywords: @rollout(name=…)")

    # A function that does not fit.

    @classmethod
    def generator(cls, agent: str) -> Self:
        """Return the error for a function that yields."""
        return compose(cls, f"the agent {agent} is a generator; return a reward instead of yielding", agent=agent)

    @classmethod
    def no_task(cls, agent: str) -> Self:
        """Return the error for a function without a parameter for the task."""
        message = f"the agent {agent} has no parameter for the task; write: def {agent}(task): …"
        return compose(cls, message, agent=agent)

    @classmethod
    def no_method(cls, agent: str, mode: str | None, methods: Iterable[str]) -> Self:
        """Return the error for a class that overrides no method for rollouts of a mode."""
        message = f"the agent {agent} has no method for rollouts of mode {mode!r}; override one of {', '.join(methods)}"
        return compose(cls, message, agent=agent)

    @classmethod
    def no_parameter(cls, agent: str, parameter: str) -> Self:
        """Return the error for a function without the parameter that its decorator requires."""
        message = (
            f"the agent {agent} must have a parameter called {parameter!r}; write: def {agent}(task, {parameter}): …, "
            "or use @rollout"
        )
        return compose(cls, message, agent=agent, parameter=parameter)

    @classmethod
    def not_copyable(cls, agent: str, error: BaseException) -> Self:
        """Return the error for an object that cannot be copied for attempts that run at the same time."""
        message = (
            f"the agent {agent} cannot be copied ({type(error).__name__}: {error}), and attempts that run at the same "
            "time have a copy each. Write shared = True in its class if its methods change nothing on self, or a "
            "__copy__ that returns a new agent"
        )
        return compose(cls, message, agent=agent)

    # A parameter that cannot be supplied.

    @classmethod
    def positional_only(cls, agent: str, parameter: str) -> Self:
        """Return the error for a positional-only parameter besides the task."""
        message = (
            f"the agent {agent} has the positional-only parameter {parameter!r}; only the task can be positional-only"
        )
        return compose(cls, message, agent=agent, parameter=parameter)

    @classmethod
    def cannot_supply(cls, agent: str, parameter: str, kind: str | None, resources: Mapping[str, object]) -> Self:
        """Return the error for a parameter that no resource fits.

        Args:
            agent: the agent's name.
            parameter: the parameter.
            kind: the class of resource that it takes, if its annotation says so.
            resources: the available ones, by name.
        """
        available = ", ".join(f"{name!r} ({type(each).__name__})" for name, each in resources.items()) or "none"
        if kind is None:
            what = f"nothing supplies the parameter {parameter!r} of the agent {agent}"
        else:
            what = f"the agent {agent} needs {with_article(kind)} for its parameter {parameter!r}"
        message = (
            f"{what}; available resources: {available}. Pass resources={{{parameter!r}: "
            f"{_EXAMPLES.get(kind, f'{kind}(…)')}}} to Runner (initial_resources= to Trainer), or give the parameter a "
            "default"
        )
        return compose(cls, message, agent=agent, parameter=parameter)

    @classmethod
    def other_resource(cls, agent: str, parameter: str, wanted: str, found: str) -> Self:
        """Return the error for a resource with the parameter's name but of another class."""
        message = (
            f"the agent {agent} asks for {with_article(wanted)} as {parameter!r}, but the resource of that name is "
            f"{with_article(found)}; rename one of them"
        )
        return compose(cls, message, agent=agent, parameter=parameter)

    @classmethod
    def several_resources(cls, agent: str, parameter: str, wanted: str, names: Iterable[str]) -> Self:
        """Return the error for several resources of the parameter's class, none with its name."""
        message = (
            f"the agent {agent} asks for {with_article(wanted)} as {parameter!r}, and there are several: "
            f"{list(names)}; name the parameter after the resource it should get"
        )
        return compose(cls, message, agent=agent, parameter=parameter)

    @classmethod
    def not_attempted(cls) -> Self:
        """Return the error for a rollout without an attempt, whose id a proxy's endpoint needs."""
        return compose(
            cls,
            "Rollout is not an AttemptedRollout: a ProxyLLM's endpoint names the attempt; start one with "
            "store.start_rollout(…) or use strip_proxy=False",
            parameter="rollout",
        )


@public
class AsyncioAgentError(UsageError):
    """An agent or an algorithm that runs in Trio called asyncio."""

    agent: str | None = None
    """The agent's name."""

    algorithm: str | None = None
    """The algorithm's name."""

    @classmethod
    def by_agent(cls, agent: str, sign: str, *, is_method: bool) -> Self:
        """Return the error for an agent.

        Args:
            agent: its name.
            sign: the evidence.
            is_method: whether it is a method of a class, which declares its lane in another way.
        """
        message = (
            f"the agent {agent} is written for asyncio ({sign}) and ran in Trio. {_lane(is_method)}, or call "
            "trio.sleep, trio.open_nursery and the like instead of asyncio's"
        )
        return compose(cls, message, agent=agent)

    @classmethod
    def before_it_ran(cls, agent: str, what: str, place: str, *, is_method: bool) -> Self:
        """Return the error for an agent whose code shows that it cannot run in Trio.

        Args:
            agent: its name.
            what: what it uses of asyncio or a library for asyncio.
            place: the file and line.
            is_method: as in `by_agent`.
        """
        message = (
            f"the agent {agent} is written for asyncio (it uses {what} at {place}) and would run in Trio. "
            f"{_lane(is_method)}, or call trio.sleep, trio.open_nursery and the like instead of asyncio's. "
            'runs_in="trio" skips this check'
        )
        return compose(cls, message, agent=agent)

    @classmethod
    def by_algorithm(cls, algorithm: str, sign: str) -> Self:
        """Return the error for an algorithm; no lane runs algorithms on asyncio."""
        message = (
            f"the algorithm {algorithm} is written for asyncio ({sign}), and algorithms run in Trio: call trio.sleep, "
            "trio.open_nursery and the like instead of asyncio's"
        )
        return compose(cls, message, algorithm=algorithm)


def _lane(is_method: bool) -> str:
    return 'Set runs_in = "asyncio" in its class' if is_method else 'Declare it with @agl.rollout(runs_in="asyncio")'


@public
class UnsupportedLane(UsageError, ValueError):
    """``runs_in`` names no lane, or one that does not fit the agent."""

    agent: str | None = None
    """The agent's name."""

    lane: str | None = None
    """The lane that was requested."""

    @classmethod
    def unknown(cls, agent: str, lane: object, known: Iterable[str]) -> Self:
        """Return the error for a lane that does not exist."""
        message = f"the agent {agent} has runs_in={lane!r}; the lanes are {', '.join(known)}"
        return compose(cls, message, agent=agent, lane=str(lane))

    @classmethod
    def for_async(cls, agent: str, lane: str) -> Self:
        """Return the error for a plain function in a lane for async functions."""
        message = (
            f"the agent {agent} is a plain function and would block the event loop with runs_in={lane!r}; leave "
            "runs_in out, which runs it in a worker thread, or write async def"
        )
        return compose(cls, message, agent=agent, lane=lane)

    @classmethod
    def for_plain(cls, agent: str, lane: str) -> Self:
        """Return the error for an async function in a lane for plain functions."""
        message = (
            f"the agent {agent} is async and runs_in={lane!r} takes plain functions; leave runs_in out for Trio, "
            'write runs_in="asyncio" for asyncio, or make it a plain function that calls asyncio.run'
        )
        return compose(cls, message, agent=agent, lane=lane)

    @classmethod
    def calls_trio(cls, agent: str, sign: str) -> Self:
        """Return the error for an agent that is written for Trio and runs on an asyncio loop."""
        message = (
            f'the agent {agent} has runs_in="asyncio" and calls Trio, which does not run there ({sign}). Leave '
            "runs_in out, or call asyncio.sleep, asyncio.TaskGroup and the like instead of Trio's"
        )
        return compose(cls, message, agent=agent, lane="asyncio")

    # Worker processes.

    @classmethod
    def no_processes(cls, agent: str) -> Self:
        """Return the error for an agent that needs the extra `process`, which is not installed."""
        message = (
            f'the agent {agent} has runs_in="process", which needs the extra `process`: '
            "pip install 'lightning-trio[process]'"
        )
        return compose(cls, message, agent=agent, lane="process")

    @classmethod
    def not_picklable(cls, agent: str, what: str, error: BaseException, hint: str) -> Self:
        """Return the error for an agent with a part that cannot be pickled."""
        message = f"the agent {agent} cannot run in a worker process: {what} cannot be pickled ({error}). {hint}"
        return compose(cls, message, agent=agent, lane="process")

    @classmethod
    def not_importable(cls, agent: str, module: str, why: str) -> Self:
        """Return the error for an agent whose module a worker process could not import."""
        message = (
            f"the agent {agent} cannot run in a worker process, which would import it from {module!r}: {why}. "
            "Move it to the top level of a module in a file"
        )
        return compose(cls, message, agent=agent, lane="process")

    @classmethod
    def not_loaded(cls, error: BaseException) -> Self:
        """Return the error for an agent that the worker process could not unpickle."""
        message = (
            f"the worker process could not load the agent: {type(error).__name__}: {error}; it imports the agent's "
            "module again, so define the agent and its resources' classes unconditionally at the top level of that "
            "module"
        )
        return compose(cls, message, lane="process")

    @classmethod
    def task_not_loaded(cls, error: BaseException) -> Self:
        """Return the error for a task that the worker process could not unpickle."""
        message = (
            f"the worker process could not load the task: {class_name(error)}: {message_of(error)}. Pass tasks "
            "that can be unpickled: plain values, or instances of classes whose constructors take what they were "
            "pickled with"
        )
        return compose(cls, message, lane="process")

    @classmethod
    def task_not_picklable(cls, task: Any, error: BaseException) -> Self:
        """Return the error for a task that cannot be pickled."""
        message = (
            f"the task {shortened(task)} cannot be sent to a worker process: {message_of(error)}. Pass tasks that "
            "can be pickled: plain values, or instances of classes at the top level of a module"
        )
        return compose(cls, message, lane="process")
