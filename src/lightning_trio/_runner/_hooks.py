"""Hooks: user code at the start and the end of every attempt."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import trio

from .._errors import ComponentError
from .._host import Interruptions
from .._log import Log
from .._public import public
from .._records import AttemptedRollout
from .._repr import one_line
from .._spans import Span
from ..lanes import find_asyncio_sign
from ..tracing import as_runner
from ._ending import Cancelled, Raised, ending_of, is_closing

if TYPE_CHECKING:
    from .._agents import LitAgent
    from ..tracing import Tracer
    from ._runner import Runner


logger = Log("lightning_trio.hooks")


@public
class Hook:
    """The base of hooks: override the methods you need; all are called with keywords.

    Hooks run one after another in the order they were given, for each attempt: `on_rollout_start`,
    `on_trace_start`, the agent, `on_trace_end` (also when the agent raised or was stopped), `on_rollout_end`.
    An error in a hook is logged and does not fail the rollout.

    >>> from lightning_trio import Runner
    >>> import trio
    >>> class Report(Hook):
    ...     async def on_rollout_end(self, *, agent, runner, rollout, spans):
    ...         print(rollout.input, len(spans))
    >>> result = trio.run(Runner(len, hooks=[Report()]).fit, ["tea"])
    tea 2
    """

    @one_line
    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    async def on_rollout_start(self, *, agent: LitAgent[Any], runner: Runner, rollout: AttemptedRollout) -> None:
        """Before anything else of the attempt."""

    async def on_trace_start(
        self, *, agent: LitAgent[Any], runner: Runner, tracer: Tracer, rollout: AttemptedRollout
    ) -> None:
        """Inside the attempt's trace, before the agent: what is emitted here belongs to the attempt."""

    async def on_trace_end(
        self, *, agent: LitAgent[Any], runner: Runner, tracer: Tracer, rollout: AttemptedRollout
    ) -> None:
        """Inside the attempt's trace, after the agent; `tracer.get_last_trace` returns its spans so far."""

    async def on_rollout_end(
        self, *, agent: LitAgent[Any], runner: Runner, rollout: AttemptedRollout, spans: Sequence[Span]
    ) -> None:
        """After the trace is complete, the automatic reward included, and before the outcome is stored."""


HookName = Literal["on_rollout_start", "on_trace_start", "on_trace_end", "on_rollout_end"]


def check_hooks(hooks: Hook | Sequence[Hook]) -> tuple[Hook, ...]:
    """Return the hooks as a tuple, after validating that each can be called.

    Raises:
        ComponentError: an item is not a `Hook`, or a method is not async or does not take the keywords.
    """
    if not isinstance(hooks, Hook | Sequence) or isinstance(hooks, str):
        raise ComponentError.hooks(hooks)
    several = (hooks,) if isinstance(hooks, Hook) else tuple(hooks)
    for index, hook in enumerate(several):
        if not isinstance(hook, Hook):
            raise ComponentError.hook_kind(index, hook, Hook)
        for name in get_args(HookName):
            _check_method(hook, name)
    return several


def _check_method(hook: Hook, name: str) -> None:
    own = getattr(Hook, name)
    method = getattr(hook, name)
    if getattr(method, "__func__", None) is own:
        return
    _, *keywords = inspect.signature(own).parameters
    if not inspect.iscoroutinefunction(inspect.unwrap(method)):
        raise ComponentError.sync_hook(hook, name, keywords)
    try:
        inspect.signature(method).bind(**dict.fromkeys(keywords))
    except TypeError as exc:
        raise ComponentError.hook_arguments(hook, name, keywords, exc) from exc


class HookCalls:
    """The hooks of an open runner, called one after another around each attempt."""

    def __init__(
        self,
        hooks: Sequence[Hook],
        agent: LitAgent[Any],
        runner: Runner,
        tracer: Tracer,
        interruptions: Interruptions,
    ) -> None:
        self._hooks = hooks
        self._agent = agent
        self._runner = runner
        self._tracer = tracer
        self._interruptions = interruptions

    async def begin(self, agent: LitAgent[Any] | None, rollout: AttemptedRollout) -> None:
        """Call `on_rollout_start`, then `on_trace_start`."""
        await self._call("on_rollout_start", agent, rollout=rollout)
        await self._call("on_trace_start", agent, rollout=rollout, tracer=self._tracer)

    async def end_trace(self, agent: LitAgent[Any] | None, rollout: AttemptedRollout) -> None:
        """Call `on_trace_end`."""
        await self._call("on_trace_end", agent, rollout=rollout, tracer=self._tracer)

    async def end(self, agent: LitAgent[Any] | None, rollout: AttemptedRollout, spans: Sequence[Span]) -> None:
        """Call `on_rollout_end`."""
        await self._call("on_rollout_end", agent, rollout=rollout, spans=spans)

    @trio.lowlevel.disable_ki_protection
    async def _call(self, name: HookName, copy: LitAgent[Any] | None, **arguments: Any) -> None:
        """Call one method of every hook, logging what they raise."""
        agent = self._agent if copy is None else copy
        owner = trio.lowlevel.current_task()
        for hook in self._hooks:
            try:
                # What a hook starts belongs to the program, and goes on when the attempt is abandoned.
                with as_runner():
                    await getattr(hook, name)(agent=agent, runner=self._runner, **arguments)
            except BaseException as exc:
                error = self._own_error(exc, owner)
                if error is None:
                    raise
                what = "failed"
                if isinstance(error, Exception) and (sign := find_asyncio_sign(error)) is not None:
                    what = f"is written for asyncio ({sign}), and hooks run in Trio: call trio.sleep and the like there"
                logger.exception(
                    "the hook %s.%s %s; the rollout continues", type(hook).__name__, name, what, exc_info=error
                )

    def _own_error(self, exc: BaseException, owner: trio.lowlevel.Task) -> BaseException | None:
        """Return the hook's own error, None if the exception, or a member of it, stops the attempt or its task."""
        if is_closing(exc, owner):
            return None
        cancelled = trio.current_effective_deadline() == -math.inf
        ending = ending_of(exc, owner, cancelled=cancelled, interrupted=self._interruptions.may_have_come())
        if isinstance(ending, Cancelled) and ending.stop is not None:
            return None
        return ending.exception if isinstance(ending, Raised | Cancelled) else None
