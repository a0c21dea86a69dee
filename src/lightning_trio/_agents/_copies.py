"""Copies of an agent that is a class: each running attempt has one for itself, so that it may set ``self.task``."""

from __future__ import annotations

import copy
import operator
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from .._errors import AgentSignatureError
from .._log import Log
from ..lanes import BoundAgent
from ._agent import FunctionalLitAgent, LitAgent
from ._self_references import changes_itself, find_reference, redirected

logger = Log("lightning_trio.agent")

_MOST_BINDINGS = 8
"""How many bindings a copy keeps: those of both modes, for the latest resources."""

_OWNERS: weakref.WeakValueDictionary[int, AgentCopies] = weakref.WeakValueDictionary()
"""The copies to which an agent itself belongs, by its id: of several open runners, those of the one opened first."""

_REFERENCES = ("_trainer_ref", "_runner_ref")
"""What `LitAgent` itself stores, which a class's ``__copy__`` need not know."""

_MISSING: Any = object()


class AgentCopy:
    """A copy of an agent, or the agent itself, with its bindings."""

    __slots__ = ("_bindings", "agent")

    def __init__(self, agent: LitAgent[Any]) -> None:
        self.agent: LitAgent[Any] = agent
        self._bindings: dict[int, tuple[BoundAgent, BoundAgent]] = {}

    def bind(self, bound: BoundAgent) -> BoundAgent:
        """Return a binding of the agent with this copy's method."""
        known = self._bindings.get(id(bound))
        # The agent's binding is kept beside the copy's, so that its id cannot be reused by another one.
        if known is not None and known[0] is bound:
            return known[1]
        assert bound.method is not None
        own = attrs.evolve(bound, fn=getattr(self.agent, bound.method))
        if len(self._bindings) >= _MOST_BINDINGS:
            self._bindings.clear()
        self._bindings[id(bound)] = (bound, own)
        return own


class AgentCopies:
    """The copies of a runner's agent: each is used by one attempt at a time, and keeps its state for the next one.

    The first is the agent itself, so that a program that runs one rollout after another finds its state there. The
    others begin with the agent's attributes of the time when no attempt had run.

    Args:
        agent: the agent.

    Raises:
        AgentSignatureError: it cannot be copied.
    """

    def __init__(self, agent: LitAgent[Any]) -> None:
        self._agent = agent
        self._slots = tuple(_slots(type(agent)))
        self._kept: list[LitAgent[Any]] | None = None
        if hasattr(type(agent), "__del__"):
            # It may close what the copies share, so they live as long as the agent.
            self._kept = []
            weakref.finalize(agent, self._kept.clear).atexit = False
        self._seen: Mapping[str, Any] = self._state(agent)
        """The agent's attributes when no attempt ran last."""
        self._model = self._copy(agent)
        self._reference: str | None = None
        """The attribute through which copies reach the agent itself, if that matters."""
        if changes_itself(type(agent)):
            self._reference = find_reference(self._state(self._model), self._model, agent)
        is_owner = _OWNERS.setdefault(id(agent), self) is self
        self._original: AgentCopy | None = AgentCopy(agent) if is_owner else None
        self._first = self._original
        """The agent itself, while no attempt uses it."""
        self._free: list[AgentCopy] = []
        self._running = 0

    def take(self) -> AgentCopy:
        """Return a copy that no attempt uses.

        Raises:
            AgentSignatureError: the agent cannot be copied any more.
        """
        if not self._running:
            self._take_over_changes()
        taken, self._first = self._first, None
        if taken is None:
            taken = self._free.pop() if self._free else self._make()
        self._running += 1
        return taken

    def attempt_ended(self) -> None:
        """Count an attempt as ended; its copy is given back separately, because an abandoned call keeps it."""
        self._running -= 1
        if not self._running:
            self._seen = self._state(self._agent)

    def give_back(self, taken: AgentCopy) -> None:
        """Make a copy available to other attempts."""
        if taken is self._original:
            self._first = taken
            if not self._running:
                self._seen = self._state(self._agent)
        else:
            self._free.append(taken)

    def close(self) -> None:
        """Leave the agent itself to other runners, unless an abandoned call still uses it."""
        if self._first is not None and _OWNERS.get(id(self._agent)) is self:
            del _OWNERS[id(self._agent)]

    def _make(self) -> AgentCopy:
        if self._reference is not None:
            logger.warning(
                "the agent %s refers to itself in self.%s, which the copies of attempts that run at the same time "
                "share: code that gets self from there reads and sets attributes of another attempt. Make self.%s in "
                "the method that uses it, or write a __copy__ that makes it anew",
                self._agent.name,
                self._reference,
                self._reference,
            )
            self._reference = None
        return AgentCopy(self._copy(self._model))

    def _take_over_changes(self) -> None:
        """Apply what the program has changed on the agent, while no attempt ran, to all copies."""
        if self._first is None:
            # An abandoned call or another runner uses it, so its attributes may be a rollout's.
            return
        state = self._state(self._agent) if self._slots else vars(self._agent)
        seen = self._seen
        if len(state) == len(seen) and all(map(operator.is_, state.values(), seen.values())):
            return
        changed = {name: value for name, value in state.items() if seen.get(name, _MISSING) is not value}
        gone = [name for name in seen if name not in state]
        for each in (self._model, *(free.agent for free in self._free)):
            for name in gone:
                if hasattr(each, name):
                    object.__delattr__(each, name)
            self._set(each, changed, self._agent)

    def _copy(self, agent: LitAgent[Any]) -> LitAgent[Any]:
        """Return a copy with the same attributes, made without pickling: it shares locks and clients.

        Raises:
            AgentSignatureError: the class's ``__copy__`` fails, or a base class written in C allows no copy.
        """
        kind = type(agent)
        try:
            if hasattr(kind, "__copy__"):
                made = copy.copy(agent)
                vars(made).update({name: vars(agent)[name] for name in _REFERENCES if name in vars(agent)})
            else:
                made = _blank(agent)
                self._set(made, self._state(agent), agent)
        except Exception as exc:
            raise AgentSignatureError.not_copyable(agent.name, exc) from exc
        if self._kept is not None:
            self._kept.append(made)
        return made

    def _state(self, agent: LitAgent[Any]) -> dict[str, Any]:
        state = vars(agent).copy()
        for name in self._slots:
            value = getattr(agent, name, _MISSING)
            if value is not _MISSING:
                state[name] = value
        return state

    def _set(self, agent: LitAgent[Any], state: Mapping[str, Any], source: LitAgent[Any]) -> None:
        """Set attributes, also of a frozen class; a method of the source becomes the agent's own."""
        for name, value in state.items():
            own = redirected(value, source, agent)
            if name in self._slots:
                object.__setattr__(agent, name, own)
            else:
                vars(agent)[name] = own


def needs_copies(agent: LitAgent[Any]) -> bool:
    """Whether attempts get copies of an agent: its class has not declared itself `shared`."""
    # A class may have an attribute of this name for something else.
    return not isinstance(agent, FunctionalLitAgent) and agent.shared is not True


def _blank(agent: LitAgent[Any]) -> LitAgent[Any]:
    """Return a new object of the agent's class, without its attributes."""
    try:
        return object.__new__(type(agent))
    except TypeError:
        # A base class written in C, such as dict, has content of its own.
        return copy.copy(agent)


def _slots(kind: type) -> Iterator[str]:
    """Return the names of a class's ``__slots__``, mangled."""
    for each in kind.__mro__:
        yield from (name for name, value in vars(each).items() if isinstance(value, types.MemberDescriptorType))
