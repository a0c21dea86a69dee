"""The protocol of adapters, and its validation."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from .._errors import ComponentError
from .._public import public
from .._spans import Span

T_co = TypeVar("T_co", covariant=True)


@public
@runtime_checkable
class Adapter(Protocol[T_co]):
    """An adapter turns the spans of an attempt into training data, such as messages or pairs of prompt and reward.

    Any object with this method is an adapter; no base class is needed. The method is a pure function of the spans: the
    same spans give the same data, whether they come from a running `fit` or from a store.

    >>> from lightning_trio import Runner, algo, get_message_value
    >>> import trio
    >>> class Texts:
    ...     def adapt(self, spans):
    ...         return [text for span in spans if (text := get_message_value(span)) is not None]
    >>> async def agent(task, emitter):
    ...     emitter.emit_message(f"looking at {task}")
    >>> @algo
    ... async def read(session, adapter, train_dataset):
    ...     for done in await session.run(train_dataset):
    ...         session.note(texts=adapter.adapt(done.spans))
    >>> trio.run(Runner(agent, algorithm=read, adapter=Texts()).fit, ["tea"]).history
    ({'texts': ['looking at tea']},)
    """

    def adapt(self, spans: Sequence[Span], /) -> T_co:
        """Return the data of one attempt.

        Args:
            spans: the attempt's spans by start time, as a `CompletedRollout` or a store returns them.
        """
        ...


def check_adapter(adapter: object) -> Adapter[Any]:
    """Return `adapter` if it is one.

    Raises:
        ComponentError: it is not an adapter; the message shows what to write.
    """
    if isinstance(adapter, type) or not isinstance(adapter, Adapter) or not callable(adapter.adapt):
        raise ComponentError.adapter(adapter)
    if inspect.iscoroutinefunction(adapter.adapt):
        raise ComponentError.async_adapter(adapter)
    return adapter
