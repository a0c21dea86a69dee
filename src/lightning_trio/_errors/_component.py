"""Things of the wrong kind where a runner takes a store, an algorithm, a hook or a dataset."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Self, cast

from ._base import compose, public
from ._usage import UsageError


@public
class ComponentError(UsageError, TypeError):
    """A store, an algorithm, a hook or the like that is none was given."""

    hook: str | None = None
    """The hook and the method of it, as ``MyHook.on_rollout_end``."""

    @classmethod
    def kind(cls, parameter: str, value: object, kind: type) -> Self:
        """Return the error for an object of another class."""
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        message = f"{parameter} takes {article} {kind.__name__}, not {value!r}{_hint(value, kind)}"
        return compose(cls, message, parameter=parameter)

    @classmethod
    def made(cls, parameter: str, spec: object, made: object, kind: type) -> Self:
        """Return the error for a factory that gives an object of another class."""
        message = f"{parameter}={spec!r} gives {made!r}, which is no {kind.__name__}"
        return compose(cls, message, parameter=parameter)

    @classmethod
    def hooks(cls, value: object) -> Self:
        """Return the error for hooks that are no list."""
        return compose(cls, f"hooks takes a list of hooks, not {value!r}", parameter="hooks")

    @classmethod
    def sync_hook(cls, hook: object, method: str, keywords: Sequence[str]) -> Self:
        """Return the error for a hook's method that cannot be awaited."""
        name = f"{type(hook).__name__}.{method}"
        message = f"the hook {name} is not async; {_right_hook(method, keywords)}"
        return compose(cls, message, parameter="hooks", hook=name)

    @classmethod
    def hook_arguments(cls, hook: object, method: str, keywords: Sequence[str], error: BaseException) -> Self:
        """Return the error for a hook's method that lacks parameters."""
        name = f"{type(hook).__name__}.{method}"
        message = f"the hook {name} does not take what it is called with ({error}); {_right_hook(method, keywords)}"
        return compose(cls, message, parameter="hooks", hook=name)

    @classmethod
    def adapter(cls, value: object) -> Self:
        """Return the error for an object that has no method `adapt`, or for a class of adapters."""
        if isinstance(value, type):
            hint = f"did you mean {value.__name__}()?"
        else:
            hint = f"an adapter has a method: {_RIGHT_ADAPT}"
        return compose(cls, f"adapter takes an Adapter, not {value!r}; {hint}", parameter="adapter")

    @classmethod
    def async_adapter(cls, value: object) -> Self:
        """Return the error for an adapter whose method is async."""
        message = (
            f"adapter takes an Adapter, not {value!r}; its method is async, and an adapter only computes; "
            f"write: {_RIGHT_ADAPT}"
        )
        return compose(cls, message, parameter="adapter")


_RIGHT_ADAPT = "def adapt(self, spans): …"


def _right_hook(method: str, keywords: Sequence[str]) -> str:
    return f"write: async def {method}(self, *, {', '.join(keywords)}): …"


def _hint(value: object, kind: type) -> str:
    """Return what the caller may have meant."""
    if isinstance(value, type):
        return f"; did you mean {value.__name__}()?" if issubclass(value, kind) else ""
    if kind.__name__ == "Algorithm" and inspect.isroutine(value):
        return "; it is a plain function: decorate it with @agl.algo"
    if kind.__name__ == "RolloutConfig" and isinstance(value, Mapping):
        options = ", ".join(f"{name}={option!r}" for name, option in cast("Mapping[str, object]", value).items())
        return f"; write RolloutConfig({options})"
    return ""


@public
class DatasetError(UsageError, TypeError):
    """A dataset is empty or of the wrong kind."""

    @classmethod
    def not_a_list(cls, parameter: str, value: object) -> Self:
        """Return the error for a string, a mapping or a set."""
        message = f"{parameter} is a {type(value).__name__}; a dataset is a list of tasks: [task, …]"
        return compose(cls, message, parameter=parameter)

    @classmethod
    def no_length(cls, parameter: str, value: object) -> Self:
        """Return the error for a generator and the like."""
        message = (
            f"{parameter} is a {type(value).__name__}, which has no length; make it a list, or, for tasks that come as "
            "they go: async with runner, runner.stream(tasks) as results: async for done in results: …"
        )
        return compose(cls, message, parameter=parameter)

    @classmethod
    def empty(cls, parameter: str) -> Self:
        """Return the error for a dataset without tasks."""
        message = f"{parameter} is empty; give at least one task, or None to leave it out"
        return compose(cls, message, parameter=parameter)

    @classmethod
    def none_given(cls) -> Self:
        """Return the error for a `fit` that has nothing to run."""
        message = "fit() got no dataset; write: trio.run(runner.fit, [task, …])"
        return compose(cls, message, parameter="train_dataset")

    @classmethod
    def not_iterable(cls, value: object) -> Self:
        """Return the error for a stream of something that has no items."""
        message = f"stream() takes an iterable or async iterable of tasks, not {value!r}"
        return compose(cls, message, parameter="tasks")

    @classmethod
    def not_iterable_here(cls, value: object) -> Self:
        """Return the error for a stream in blocking code that would have to be awaited."""
        message = f"stream() takes an iterable of tasks, not {value!r}; embed.open_asyncio takes async ones, too"
        return compose(cls, message, parameter="tasks")
