"""Wrong arguments and wrong calls."""

from __future__ import annotations

from typing import Self

from ._base import LightningTrioError, compose, public


@public
class UsageError(LightningTrioError):
    """The caller's mistake; the message shows what to write instead."""

    parameter: str | None = None
    """The parameter whose argument is wrong."""

    # Arguments.

    @classmethod
    def argument(cls, parameter: str, value: object, give: str) -> Self:
        """Return the error for a value that makes no sense there.

        Args:
            parameter: its name.
            value: what was given.
            give: what to give instead.
        """
        return compose(cls, f"{parameter}={value!r}; give {give}", parameter=parameter)

    @classmethod
    def count(cls, parameter: str, value: object, least: int, *, unlimited: bool) -> Self:
        """Return the error for something else than a number of things.

        Args:
            parameter: its name.
            value: what was given.
            least: how many there must be.
            unlimited: whether None will do.
        """
        return cls.argument(
            parameter, value, f"a whole number from {least}{', None for no limit' if unlimited else ''}"
        )

    @classmethod
    def max_failures(cls, value: object) -> Self:
        """Return the error for what is neither a number of rollouts nor a share of them."""
        hint = ""
        if isinstance(value, float) and value >= 1.0 and value.is_integer():
            hint = f"; did you mean {int(value)}?"
        return cls.argument(
            "max_failures",
            value,
            "how many rollouts may fail as an int (0 ends the run at the first failure), or their share of all tasks "
            f"as a float between 0 and 1{hint}",
        )

    @classmethod
    def share_of_nothing(cls, value: float) -> Self:
        """Return the error for a share of failures where it is not known of how many rollouts."""
        message = (
            f"max_failures={value!r} is a share of the datasets' tasks, and fit() got no dataset; give a number, as an "
            "int"
        )
        return compose(cls, message, parameter="max_failures")

    @classmethod
    def unknown_exception(cls, config: str, name: str) -> Self:
        """Return the error for a config that names an exception that is not there."""
        message = f"{config} has retry_exceptions=[{name!r}], and its module has nothing of that name"
        return compose(cls, message, parameter="retry_exceptions")

    @classmethod
    def force_without_resume(cls) -> Self:
        """Return the error for forcing what is not asked for."""
        message = "force_resume=True does nothing without resume=True or the id of a run"
        return compose(cls, message, parameter="force_resume")

    @classmethod
    def not_a_snapshot(cls, value: object) -> Self:
        """Return the error for resources that an algorithm has not published."""
        message = (
            f"resources={type(value).__name__} is no snapshot; write: "
            "snapshot = await session.publish({…}), then session.run(tasks, resources=snapshot)"
        )
        return compose(cls, message, parameter="resources")

    @classmethod
    def not_a_runner(cls, call: str, value: object) -> Self:
        """Return the error for something else that `embed` is to open."""
        message = f"{call} takes a Runner, not {value!r}; write: embed.{call}(agl.Runner(agent))"
        return compose(cls, message, parameter="runner")

    @classmethod
    def not_a_provider(cls, value: object) -> Self:
        """Return the error for a tracer that is to join something else than a provider of the SDK."""
        message = (
            f"Tracer(provider=…) got a {type(value).__name__}, which takes no span processors; "
            "give a TracerProvider of opentelemetry.sdk.trace"
        )
        return compose(cls, message, parameter="provider")

    @classmethod
    def not_an_exporter(cls, value: object) -> Self:
        """Return the error for something else that spans are to be sent to."""
        message = f"add_exporter takes an OpenTelemetry SpanExporter, not {value!r}"
        return compose(cls, message, parameter="exporter")

    # Components by name.

    @classmethod
    def no_type(cls, parameter: str, spec: object) -> Self:
        """Return the error for a component that is described without its class."""
        message = f'{parameter}={spec!r} has no "type"; write {{"type": "package.module.Name", …}}'
        return compose(cls, message, parameter=parameter)

    @classmethod
    def no_such_component(cls, parameter: str, name: str, error: BaseException) -> Self:
        """Return the error for a component whose class is not where its name says."""
        message = f"{parameter}={name!r} cannot be imported: {error}; write package.module.Name"
        return compose(cls, message, parameter=parameter)

    # Parameters of Agent-lightning 0.3.

    @classmethod
    def no_llm_proxy(cls) -> Self:
        """Return the error for a proxy that the trainer is to start."""
        return compose(
            cls,
            "Trainer has no llm_proxy; name the proxy you run as a resource: "
            'initial_resources={"llm": agl.ProxyLLM(endpoint="http://…/v1", model="…")}',
            parameter="llm_proxy",
        )

    @classmethod
    def no_runner(cls) -> Self:
        """Return the error for a runner that the trainer is to use."""
        return compose(
            cls,
            "Trainer makes its own runner; to configure one, write: trio.run(agl.Runner(agent, …).fit, train_dataset)",
            parameter="runner",
        )

    # Runners and streams, entered where or when they cannot be.

    @classmethod
    def open_already(cls, entering: str) -> Self:
        """Return the error for opening an open runner."""
        return compose(cls, f"this runner is open already; one `{entering}:` is enough")

    @classmethod
    def asyncio_only(cls) -> Self:
        """Return the error for opening a runner for asyncio in Trio."""
        return compose(cls, "open_asyncio is for asyncio, and Trio runs here; write: async with runner: …")

    @classmethod
    def other_loop(cls) -> Self:
        """Return the error for a call from another event loop than the runner was opened on."""
        return compose(
            cls,
            "this runner was opened on another event loop, or none runs here; call it on its own, for example by "
            "asyncio.run_coroutine_threadsafe(r.step(task), loop). What threads can share is opened by: "
            "with embed.open_blocking(runner) as r: r.step(task)",
        )

    @classmethod
    def in_worker_process(cls) -> Self:
        """Return the error for a main program that starts a runner in the worker processes, too."""
        return compose(
            cls,
            "this worker process runs the main program's file to find the agent in it, and comes upon the start of a "
            'runner there, which belongs below if __name__ == "__main__":',
        )

    @classmethod
    def entered_twice(cls, call: str) -> Self:
        """Return the error for a second pass over a stream."""
        return compose(cls, f"a stream is entered once; call {call} again for another pass")

    @classmethod
    def not_entered(cls, call: str) -> Self:
        """Return the error for reading a stream outside its block."""
        message = (
            f"a stream was read without being entered; write: async with {call} as results: "
            "async for done in results: …"
        )
        return compose(cls, message)

    @classmethod
    def tasks_cancelled(cls) -> Self:
        """Return the error for a stream whose source was cancelled while it was read."""
        return compose(cls, "the tasks of a stream were cancelled while it waited for one")
