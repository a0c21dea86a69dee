"""An agent's function bound to its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from .._errors import AgentSignatureError
from .._public import public_in
from .._records import AttemptedRollout, Rollout
from .._resources import ProxyLLM
from ..emitter import Emitter
from ..tracing import AttemptRecorder

LiveArgument: TypeAlias = Literal["rollout", "emitter", "proxy", "resources"]
"""The source of an argument that depends on the attempt."""


@public_in("lightning_trio.lanes")
@attrs.frozen
class BoundAgent:
    """An agent's function with its arguments, except for the attempt's own."""

    name: str
    fn: Callable[..., Any]
    lane: str
    fixed: Mapping[str, Any]
    """Arguments that are the same for all rollouts with this snapshot."""
    live: Mapping[str, tuple[LiveArgument, Any]]
    """Arguments that depend on the attempt."""
    method: str | None = None
    """The function's name if it is a method of a `LitAgent`, whose class declares the lane."""
    prepared: Any = attrs.field(default=None, repr=False)
    """The return value of `Lane.prepare`."""

    def arguments(self, recorder: AttemptRecorder) -> dict[str, Any]:
        """Return the keyword arguments for one attempt."""
        arguments = dict(self.fixed)
        for name, (kind, resource) in self.live.items():
            if kind == "emitter":
                arguments[name] = Emitter(recorder)
            else:
                arguments[name] = _of_rollout(kind, resource, recorder.rollout)
        return arguments

    def call_with(self, task: Any, rollout: Rollout) -> Any:
        """Call the function outside a runner, without an emitter."""
        live = {
            name: _of_rollout(kind, resource, rollout)
            for name, (kind, resource) in self.live.items()
            if kind != "emitter"
        }
        return self.fn(task, **self.fixed, **live)


def _of_rollout(kind: LiveArgument, resource: Any, rollout: Rollout) -> Any:
    if kind == "rollout":
        return rollout
    if kind == "resources":
        # A copy for each attempt, because attempts share the mapping.
        return dict(resource)
    if not isinstance(rollout, AttemptedRollout):
        raise AgentSignatureError.not_attempted()
    assert isinstance(resource, ProxyLLM)
    return resource.with_attempted_rollout(rollout)
