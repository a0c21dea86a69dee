"""Arguments that are not the component or dataset that they should be."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Self, cast

from ._base import compose, public, with_article
from ._usage import UsageError


@public
class ComponentError(UsageError, TypeError):
    """An argument is not the store, algorithm, hook or other component that it should be."""

    hook: str | None = None
    """The hook and its method, as ``MyHook.on_rollout_end``."""

    @classmethod
    def kind(cls, parameter: str, value: object, kind: type) -> Self:
        """Return the error for an object of another class."""
        message = f"{parameter} takes {with_article(kind.__name__)}, not {value!r}{_hint(value, kind)}"
        return compose(cls, message, parameter=parameter)

    @classmethod
    def made(cls, parameter: str, spec: object, made: object, kind: type) -> Self:
        """Return the error for a factory that returns an object of another class."""
        message = f"{parameter}={spec!r} returns {made!r}, which is not {with_article(kind.__name__)}"
        return compose(cls, message, parameter=parameter)

    @classmethod
    def hooks(cls, value: object) -> Self:
        """Return the error for hooks that are not a list."""
        return compose(cls, f"hooks takes a list of hooks, not {value!r}", parameter="hooks")

    @classmethod
    def hook_kind(cls, index: int, value: object, kind: type) -> Self:
        """Return the error for an item of the list of hooks that is not a hook.

        Args:
            index: its position.
            value: the item.
            kind: the class of hooks.
        """
        hint = _hint(value, kind) or "; write: hooks=[MyHook()]"
        return compose(
            cls, f"hooks[{index}] is {value!r}, which is not {with_article(kind.__name__)}{hint}", parameter="hooks"
        )

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
        message = (
            f"the hook {name} does not accept the arguments it is called with ({error}); "
            f"{_right_hook(method, keywords)}"
        )
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
    """Return the end of a message that says what the caller may have meant."""
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
        message = f"{parameter} is {with_article(type(value).__name__)}; a dataset is a list of tasks: [task, …]"
        return compose(cls, message, parameter=parameter)

    @classmethod
    def table(cls, parameter: str, kind: str, rows: str) -> Self:
        """Return the error for a table, given the expression for its rows."""
        message = f"{parameter} is {with_article(kind)}, whose items are not its rows; pass the rows: {rows}"
        return compose(cls, message, parameter=parameter)

    @classmethod
    def splits(cls, parameter: str, kind: str) -> Self:
        """Return the error for a mapping of splits to datasets."""
        message = f'{parameter} is {with_article(kind)} of several splits; pass one of them: splits["train"]'
        return compose(cls, message, parameter=parameter)

    @classmethod
    def no_length(cls, parameter: str, value: object) -> Self:
        """Return the error for a generator or another iterable without a length."""
        message = (
            f"{parameter} is {with_article(type(value).__name__)}, which has no length; make it a list, or, for tasks "
            "that arrive over time, write: async with runner, runner.stream(tasks) as results: "
            "async for done in results: …"
        )
        return compose(cls, message, parameter=parameter)

    @classmethod
    def empty(cls, parameter: str) -> Self:
        """Return the error for a dataset without tasks."""
        message = f"{parameter} is empty; pass at least one task, or None to leave it out"
        return compose(cls, message, parameter=parameter)

    @classmethod
    def none_given(cls, write: str) -> Self:
        """Return the error for a `fit` that has nothing to run.

        Args:
            write: the call with a dataset.
        """
        message = f"fit() got no dataset; write: {write}"
        return compose(cls, message, parameter="train_dataset")

    @classmethod
    def not_iterable(cls, value: object) -> Self:
        """Return the error for a stream over an object that cannot be iterated over."""
        message = f"stream() takes an iterable or async iterable of tasks, not {value!r}"
        return compose(cls, message, parameter="tasks")

    @classmethod
    def not_iterable_here(cls, value: object) -> Self:
        """Return the error for a blocking stream over an object that it cannot iterate over, such as an async one."""
        message = f"stream() takes an iterable of tasks, not {value!r}; embed.open_asyncio also takes async ones"
        return compose(cls, message, parameter="tasks")
