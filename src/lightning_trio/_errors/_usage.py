"""Wrong arguments and wrong calls."""

from __future__ import annotations

from typing import Self

from ._base import LightningTrioError, compose, public, with_article


@public
class UsageError(LightningTrioError):
    """The caller's mistake; the message shows what to write instead."""

    parameter: str | None = None
    """The parameter whose argument is wrong."""

    # Programs of Agent-lightning 0.3.

    @classmethod
    def not_in_compat(cls, name: str, instead: str) -> Self:
        """Return the error for a name of Agent-lightning 0.3 that does not exist here.

        Args:
            name: the name.
            instead: what to write in its place.
        """
        return compose(cls, f"{name} of Agent-lightning 0.3 does not exist here; {instead}")

    @classmethod
    def no_roles(cls, role: str) -> Self:
        """Return the error for a process of Agent-lightning 0.3 that is to run the algorithm or the rollouts alone."""
        message = (
            f"the role is {role!r} (AGL_CURRENT_ROLE, or the strategy's role=…), and fit() runs the algorithm and its "
            "rollouts in one process; start one process without a role. For runners in several processes write "
            'lightning_trio.Runner(agent, store=lightning_trio.SqliteLightningStore("runs.db")) and runner.serve()'
        )
        return compose(cls, message)

    @classmethod
    def not_a_lit_agent_runner(cls, name: str) -> Self:
        """Return the error for a runner of the program's own class, which a trainer does not call."""
        message = (
            f"Trainer.fit runs rollouts itself and cannot call the runner {name}; leave runner=… out and put what the "
            "runner does around a rollout into an agl.Hook, or write an agl.ExecutionStrategy whose "
            "execute(algorithm, runner, store) awaits runner(store, worker_id, event)"
        )
        return compose(cls, message, parameter="runner")

    @classmethod
    def not_for(cls, option: str, value: object, who: str, instead: str) -> Self:
        """Return the error for an option of `fit` that has no effect on what runs the rollouts.

        Args:
            option: the option's name.
            value: what was given.
            who: what runs the rollouts, and why the option means nothing to it.
            instead: what to write in its place.
        """
        return compose(cls, f"fit({option}={value!r}) has no effect with {who}; {instead}")

    @classmethod
    def imported_already(cls, package: str, file: str | None) -> Self:
        """Return the error for installing under the name of a package that has been imported."""
        message = (
            f"{package} has already been imported{'' if file is None else f' from {file}'}; call "
            f"lightning_trio.compat.install() before the first `import {package}`, or run the program with "
            "python -m lightning_trio.compat script.py"
        )
        return compose(cls, message)

    # Arguments.

    @classmethod
    def argument(cls, parameter: str, value: object, expected: str) -> Self:
        """Return the error for an invalid argument.

        Args:
            parameter: the parameter.
            value: its argument.
            expected: what to pass instead.
        """
        return compose(cls, f"{parameter}={value!r} is invalid; pass {expected}", parameter=parameter)

    @classmethod
    def count(cls, parameter: str, value: object, least: int, *, unlimited: bool) -> Self:
        """Return the error for an argument that is not a valid count.

        Args:
            parameter: the parameter.
            value: its argument.
            least: the smallest valid count.
            unlimited: whether None is valid.
        """
        return cls.argument(
            parameter, value, f"an integer of at least {least}{', or None for no limit' if unlimited else ''}"
        )

    @classmethod
    def max_failures(cls, value: object) -> Self:
        """Return the error for an argument that is neither a number of rollouts nor a share of them."""
        hint = ""
        if isinstance(value, float) and value >= 1.0 and value.is_integer():
            hint = f"; did you mean {int(value)}?"
        return cls.argument(
            "max_failures",
            value,
            "the number of rollouts that may fail, as an int (0 ends the run at the first failure), or their share of "
            f"all tasks, as a float between 0 and 1{hint}",
        )

    @classmethod
    def share_of_nothing(cls, value: float) -> Self:
        """Return the error for a share of failures in a `fit` without a dataset."""
        message = (
            f"max_failures={value!r} is a share of the datasets' tasks, and fit() got no dataset; pass an absolute "
            "number, as an int"
        )
        return compose(cls, message, parameter="max_failures")

    @classmethod
    def unknown_exception(cls, config: str, name: str) -> Self:
        """Return the error for a config that names an exception that does not exist."""
        message = f"{config} has retry_exceptions=[{name!r}], and its module has no such name"
        return compose(cls, message, parameter="retry_exceptions")

    @classmethod
    def force_without_resume(cls) -> Self:
        """Return the error for `force_resume` without `resume`."""
        message = "force_resume=True has no effect without resume=True or the id of a run"
        return compose(cls, message, parameter="force_resume")

    @classmethod
    def retry_without_resume(cls) -> Self:
        """Return the error for `retry_failed` without `resume`."""
        message = (
            "retry_failed runs the failed rollouts of a run again, and without resume=True or the id of a run, fit "
            "starts a new one; write: fit(…, resume=True, retry_failed=True)"
        )
        return compose(cls, message, parameter="retry_failed")

    @classmethod
    def unknown_error_class(cls, name: str) -> Self:
        """Return the error for a `retry_failed` that names an exception that does not exist."""
        message = f"retry_failed=[{name!r}], and its module has no such name"
        return compose(cls, message, parameter="retry_failed")

    @classmethod
    def not_a_snapshot(cls, value: object) -> Self:
        """Return the error for resources that are not a published snapshot."""
        message = (
            f"resources={type(value).__name__} is not a snapshot; write: "
            "snapshot = await session.publish({…}), then session.run(tasks, resources=snapshot)"
        )
        return compose(cls, message, parameter="resources")

    @classmethod
    def not_a_runner(cls, call: str, value: object) -> Self:
        """Return the error for an argument of `embed` that is not a runner."""
        message = f"{call} takes a Runner, not {value!r}; write: embed.{call}(agl.Runner(agent))"
        return compose(cls, message, parameter="runner")

    @classmethod
    def not_a_provider(cls, value: object) -> Self:
        """Return the error for a tracer's `provider` that is not a provider of the SDK."""
        message = (
            f"Tracer(provider=…) got {with_article(type(value).__name__)}, which does not accept span processors; "
            "pass a TracerProvider of opentelemetry.sdk.trace"
        )
        return compose(cls, message, parameter="provider")

    @classmethod
    def not_an_exporter(cls, value: object) -> Self:
        """Return the error for an argument that is not an exporter."""
        message = f"add_exporter takes an OpenTelemetry SpanExporter, not {value!r}"
        return compose(cls, message, parameter="exporter")

    # Components by name.

    @classmethod
    def no_type(cls, parameter: str, spec: object) -> Self:
        """Return the error for a component's mapping without its class."""
        message = f'{parameter}={spec!r} has no "type"; write {{"type": "package.module.Name", …}}'
        return compose(cls, message, parameter=parameter)

    @classmethod
    def no_such_component(cls, parameter: str, name: str, error: BaseException) -> Self:
        """Return the error for a component whose class cannot be imported."""
        message = f"{parameter}={name!r} cannot be imported: {error}; write package.module.Name"
        return compose(cls, message, parameter=parameter)

    # Parameters of Agent-lightning 0.3.

    @classmethod
    def no_llm_proxy(cls) -> Self:
        """Return the error for the parameter `llm_proxy`, which the trainer does not have."""
        return compose(
            cls,
            "Trainer has no llm_proxy; name the proxy you run as a resource: "
            'initial_resources={"llm": agl.ProxyLLM(endpoint="http://…/v1", model="…")}',
            parameter="llm_proxy",
        )

    @classmethod
    def no_runner(cls) -> Self:
        """Return the error for the parameter `runner`, which the trainer does not have."""
        return compose(
            cls,
            "Trainer makes its own runner; to configure one, write: trio.run(agl.Runner(agent, …).fit, train_dataset)",
            parameter="runner",
        )

    # Runners and streams that are entered in the wrong place or at the wrong time.

    @classmethod
    def open_already(cls, entering: str) -> Self:
        """Return the error for a runner that is already open."""
        return compose(cls, f"this runner is open already; one `{entering}:` is enough")

    @classmethod
    def left_elsewhere(cls, rollout_id: str | None) -> Self:
        """Return the error for closing a runner in another task than the one that opened it.

        Args:
            rollout_id: the rollout whose agent or hook closes it, None if none does.
        """
        waits = (
            "" if rollout_id is None else f" rollout {rollout_id} closes it, and closing waits for that rollout's end;"
        )
        return compose(
            cls,
            f"a runner is closed in the task that opened it, by leaving `async with runner:` there;{waits} "
            "to end the program's rollouts from elsewhere, cancel that task: nursery.cancel_scope.cancel()",
        )

    @classmethod
    def asyncio_only(cls) -> Self:
        """Return the error for `open_asyncio` in Trio."""
        return compose(cls, "open_asyncio is for asyncio, and Trio runs here; write: async with runner: …")

    @classmethod
    def no_event_loop(cls) -> Self:
        """Return the error for an awaited call where neither Trio nor asyncio runs."""
        message = "neither Trio nor asyncio runs where this is awaited; write: asyncio.run(main()), or trio.run(main)"
        return compose(cls, message)

    @classmethod
    def other_loop(cls) -> Self:
        """Return the error for a call from an event loop other than the one that the runner was opened on."""
        return compose(
            cls,
            "this runner was opened on another event loop, or no loop runs here; call it on its own loop, for example "
            "by asyncio.run_coroutine_threadsafe(r.step(task), loop). To share a runner between threads, write: "
            "with embed.open_blocking(runner) as r: r.step(task)",
        )

    @classmethod
    def in_worker_process(cls) -> Self:
        """Return the error for a main program that would start a runner in its worker processes as well."""
        return compose(
            cls,
            "this worker process imports the main program's file to find the agent in it, and the file starts a "
            'runner, which belongs below if __name__ == "__main__":',
        )

    @classmethod
    def entered_twice(cls, call: str) -> Self:
        """Return the error for a stream that is entered a second time."""
        return compose(cls, f"a stream can be entered only once; call {call} again for another pass")

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
        return compose(cls, "reading a stream's tasks was cancelled while the stream waited for the next one")
