"""The agent bound to resources: its arguments are determined once for each mode and snapshot."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import trio

from .._agents import AgentCopies, LitAgent, bind_agent, check_written_for_trio
from .._errors import AgentSignatureError, AsyncioAgentError, LightningTrioError, StoreFormatError
from .._records import AttemptedRollout, ResourcesUpdate, RolloutMode
from .._resources import NamedResources
from ..lanes import BoundAgent
from ..store import LightningStore

_MOST = 1024
"""How many bindings are cached."""


class Bindings:
    """The bindings of a runner's agent, cached by mode and resources.

    Args:
        agent: the agent.
        own: the runner's own resources, for rollouts without a snapshot.
        store: where the snapshots are.
        copies: the agent's copies, whose methods replace the agent's own; None if attempts share the agent.
    """

    def __init__(
        self, agent: LitAgent[Any], own: NamedResources, store: LightningStore, copies: AgentCopies | None = None
    ) -> None:
        self.copies = copies
        self._agent = agent
        self._own = own
        self._store = store
        self._checked: set[RolloutMode | None] = set()
        """The modes whose functions do not use asyncio in Trio."""
        self._bound: dict[tuple[RolloutMode | None, int], tuple[NamedResources, BoundAgent | LightningTrioError]] = {}

    def bind(self, mode: RolloutMode | None, resources: NamedResources) -> BoundAgent:
        """Return the agent with its arguments from `resources`.

        Raises:
            AgentSignatureError, AsyncioAgentError, UnsupportedLane: see `bind_agent` and `check_written_for_trio`.
        """
        bound = self.try_to_bind(mode, resources)
        if isinstance(bound, LightningTrioError):
            raise bound
        return bound

    def try_to_bind(self, mode: RolloutMode | None, resources: NamedResources) -> BoundAgent | LightningTrioError:
        """Return the agent with its arguments, or the error of binding it."""
        key = (mode, id(resources))
        known = self._bound.get(key)
        # The mapping is kept beside its binding, so that its id cannot be reused by another mapping.
        if known is not None and known[0] is resources:
            return known[1]
        try:
            if mode not in self._checked:
                check_written_for_trio(self._agent, mode)
                self._checked.add(mode)
            bound: BoundAgent | LightningTrioError = bind_agent(self._agent, mode, resources)
        except LightningTrioError as exc:
            bound = exc
        if len(self._bound) >= _MOST:
            self._bound.clear()
        self._bound[key] = (resources, bound)
        return bound

    def check_written_for_trio(self) -> None:
        """Validate that the agent may run rollouts of some mode, for a caller that does not know which will come.

        Raises:
            AsyncioAgentError: it uses asyncio in Trio in all of them.
        """
        errors: list[AsyncioAgentError] = []
        for mode in ("train", "val"):
            try:
                check_written_for_trio(self._agent, mode)
                return
            except AgentSignatureError:
                # A class need not have a method for each mode.
                continue
            except AsyncioAgentError as exc:
                errors.append(exc)
        if errors:
            raise errors[0]

    async def snapshots(self, rollouts: Sequence[AttemptedRollout]) -> dict[str | None, NamedResources]:
        """Return the resources of claimed rollouts, by the snapshot's id.

        A rollout that was enqueued before the store had a snapshot runs with the runner's own resources, or else, if
        the agent needs some, with the latest snapshot.
        """
        ids = {rollout.resources_id for rollout in rollouts}
        snapshots: dict[str | None, NamedResources] = {}
        # A cancellation must not lose a claimed rollout before its task has started.
        with trio.CancelScope(shield=True):
            for resources_id in ids:
                try:
                    if resources_id is not None:
                        update = await self._store.get_resources_by_id(resources_id)
                    else:
                        update = await self._latest_if_needed(rollouts)
                except StoreFormatError as exc:
                    snapshots[resources_id] = self._unreadable(exc, {rollout.mode for rollout in rollouts})
                else:
                    snapshots[resources_id] = self._own if update is None else update.resources
        return snapshots

    def _unreadable(self, error: StoreFormatError, modes: Collection[RolloutMode | None]) -> NamedResources:
        """Return resources in place of a snapshot that cannot be read; rollouts fail when they are bound to it."""
        resources: NamedResources = {}
        for mode in modes:
            self._bound[mode, id(resources)] = (resources, error)
        return resources

    async def _latest_if_needed(self, rollouts: Sequence[AttemptedRollout]) -> ResourcesUpdate | None:
        modes: set[RolloutMode | None] = {rollout.mode for rollout in rollouts}
        if self._own or not any(map(self._needs_resources, modes)):
            return None
        return await self._store.get_latest_resources()

    def _needs_resources(self, mode: RolloutMode | None) -> bool:
        bound = self.try_to_bind(mode, self._own)
        if isinstance(bound, LightningTrioError):
            return isinstance(bound, AgentSignatureError)
        return any(kind == "resources" for kind, _ in bound.live.values())
