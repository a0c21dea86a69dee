"""The rollout that the calling code belongs to."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from .._errors import NoActiveRollout
from .._public import public
from .._records import AttemptedRollout
from .._resources import NamedResources
from ._current import find_recorder
from ._finalisers import find_finaliser_tracer
from ._recorder import AttemptRecorder

P = ParamSpec("P")
T = TypeVar("T")


def current_recorder(what: str, *, emits: bool = True) -> AttemptRecorder:
    """Return the recorder of the calling context's attempt.

    Args:
        what: the call that needs it, for the message.
        emits: whether the call records a span, which is counted as late if a finaliser makes the call.

    Raises:
        NoActiveRollout: outside of any rollout, and in a finaliser, whose rollout is not known.
    """
    recorder = find_recorder()
    if recorder is not None:
        return recorder
    tracer = find_finaliser_tracer()
    if tracer is None:
        raise NoActiveRollout.outside(what)
    if emits:
        tracer.count_late_span()
    raise NoActiveRollout.in_finaliser(what)


@public
def current_rollout() -> AttemptedRollout:
    """Return the rollout that the calling code runs for, with its attempt.

    Raises:
        NoActiveRollout: outside of any rollout.

    >>> from lightning_trio import Runner
    >>> import trio
    >>> async def agent(task):
    ...     print(current_rollout().input, current_rollout().attempt.sequence_id)
    >>> result = trio.run(Runner(agent).fit, ["tea"])
    tea 1
    """
    return current_recorder("current_rollout()", emits=False).rollout


@public
def current_resources() -> NamedResources:
    """Return a new mapping with the resources of the rollout that the calling code runs for.

    Raises:
        NoActiveRollout: outside of any rollout.

    >>> from lightning_trio import PromptTemplate, Runner
    >>> import trio
    >>> async def agent(task):
    ...     print(list(current_resources()))
    >>> prompt = PromptTemplate("Find {thing}", engine="f-string")
    >>> result = trio.run(Runner(agent, resources={"finding": prompt}).fit, ["tea"])
    ['finding']
    """
    # A copy: many rollouts share the mapping.
    return dict(current_recorder("current_resources()", emits=False).resources)


@public
def carry_context(fn: Callable[P, T]) -> Callable[P, T]:
    """Return `fn` bound to the calling rollout, for threads that an agent starts itself.

    Threads of `trio.to_thread` and `asyncio.to_thread` carry the rollout automatically; a bare
    `threading.Thread`, a `ThreadPoolExecutor` and ``run_in_executor`` with one do not. The result may be called
    many times and from several threads at once.

    Raises:
        TypeError: `fn` is not a function, for instance the result of a call.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor() as pool:
    ...     pool.submit(carry_context(max), 1, 2).result()
    2
    """
    if not callable(fn):
        raise TypeError(
            f"carry_context() takes a function, not {fn!r}; write: threading.Thread(target=carry_context(fn))"
        )
    context = contextvars.copy_context()

    @wraps(fn)
    def in_context(*args: P.args, **kwargs: P.kwargs) -> T:
        # Only one thread at a time can enter a context, hence the copy for each call.
        return context.copy().run(fn, *args, **kwargs)

    return in_context
