"""Hooks: a user's own code at the start and the end of every attempt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import trio

from ._async_signs import find_asyncio_sign
from ._records import AttemptedRollout
from ._span import Span

if TYPE_CHECKING:
    from ._agent import LitAgent
    from ._runner import Runner
    from .tracing import Tracer

logger = logging.getLogger("lightning_trio.hooks")


class Hook:
    """Derive from this and override what you need; all methods are called with keywords.

    Hooks run one after another in the order they were given, for each attempt: `on_rollout_start`,
    `on_trace_start`, the agent, `on_trace_end` (also when the agent raised or was stopped), `on_rollout_end`.
    An error in a hook is logged and does not fail the rollout.
    """

    async def on_rollout_start(self, *, agent: LitAgent[Any], runner: Runner, rollout: AttemptedRollout) -> None:
        """Before anything else of the attempt."""

    async def on_trace_start(
        self, *, agent: LitAgent[Any], runner: Runner, tracer: Tracer, rollout: AttemptedRollout
    ) -> None:
        """Inside the attempt's trace, before the agent: what is emitted here belongs to the attempt."""

    async def on_trace_end(
        self, *, agent: LitAgent[Any], runner: Runner, tracer: Tracer, rollout: AttemptedRollout
    ) -> None:
        """Inside the attempt's trace, after the agent; `tracer.get_last_trace` gives its spans so far."""

    async def on_rollout_end(
        self, *, agent: LitAgent[Any], runner: Runner, rollout: AttemptedRollout, spans: Sequence[Span]
    ) -> None:
        """After the trace is complete, the automatic reward included, and before the outcome is stored."""


HookName = Literal["on_rollout_start", "on_trace_start", "on_trace_end", "on_rollout_end"]


@trio.lowlevel.disable_ki_protection
async def call_hooks(hooks: Sequence[Hook], name: HookName, **arguments: Any) -> None:
    """Call one method of every hook, logging what they raise."""
    for hook in hooks:
        try:
            await getattr(hook, name)(**arguments)
        except (Exception, SystemExit) as exc:
            what = "failed"
            if (sign := find_asyncio_sign(exc)) is not None:
                what = f"is written for asyncio ({sign}), and hooks run in Trio: call trio.sleep and the like there"
            logger.exception("the hook %s.%s %s; the rollout goes on", type(hook).__name__, name, what)
