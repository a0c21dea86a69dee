"""Every exception of the package, in one tree; a class says whose fault it is.

::

    LightningTrioError
    ├── UsageError (the caller's: a wrong call, a wrong argument)
    │   ├── AgentSignatureError (also TypeError, ValueError)
    │   ├── AsyncioAgentError
    │   ├── ComponentError (also TypeError)
    │   ├── DatasetError (also TypeError)
    │   ├── MissingPlaceholder (also KeyError)
    │   ├── NestedTrioRun (also RuntimeError)
    │   ├── NoActiveRollout (also RuntimeError)
    │   ├── NotInTrio (also RuntimeError)
    │   ├── NotStorable (also TypeError, ValueError)
    │   │   └── PayloadTooLarge
    │   ├── ResourceError (also ValueError)
    │   ├── ResumeError (also ValueError)
    │   ├── RunnerClosed (also RuntimeError)
    │   └── UnsupportedLane (also ValueError)
    ├── AgentError (the agent's)
    │   ├── AttemptTimedOut (also TimeoutError)
    │   ├── InvalidReturn (also TypeError)
    │   ├── InvalidReward (also ValueError)
    │   ├── RemoteAgentError
    │   ├── RolloutCancelled
    │   └── WorkerDied
    └── StoreError (what was asked of a store does not fit what it holds)
        ├── Evicted (also LookupError)
        ├── StaleAttempt
        ├── StaleRun
        ├── StoreClosed (also RuntimeError)
        ├── StoreFormatError (also ValueError)
        ├── StoreUnavailable (also OSError)
        │   ├── StoreFull
        │   └── StoreLocked (also TimeoutError)
        └── UnknownId (also ValueError, LookupError)

Two stand outside the tree, since no ``except Exception`` is to catch them: ``AttemptAbandoned``, a ``BaseException``,
and ``Terminated``, a ``SystemExit``.
"""

from __future__ import annotations

from ._public import public


@public
class LightningTrioError(Exception):
    """The base of all errors raised by this package."""


@public
class UsageError(LightningTrioError):
    """The caller's mistake; the message shows what to write instead."""


@public
class AgentSignatureError(UsageError, TypeError, ValueError):
    """An agent has a parameter that cannot be supplied, or is no function."""


@public
class AsyncioAgentError(UsageError):
    """An agent, or an algorithm, that runs in Trio called asyncio."""


@public
class ComponentError(UsageError, TypeError):
    """A store, an algorithm, a hook or the like that is none was given."""


@public
class DatasetError(UsageError, TypeError):
    """A dataset is empty or of the wrong kind."""


@public
class MissingPlaceholder(UsageError, KeyError):
    """A prompt template was formatted without a value it needs."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; ours is a sentence.
        return str(self.args[0])


@public
class NestedTrioRun(UsageError, RuntimeError):
    """A blocking call that starts Trio was made from inside a running Trio program."""


@public
class NoActiveRollout(UsageError, RuntimeError):
    """Something that acts on the current rollout was called outside of any."""


@public
class NotInTrio(UsageError, RuntimeError):
    """What runs in Trio was awaited where Trio does not run, such as in asyncio."""


@public
class NotStorable(UsageError, TypeError, ValueError):
    """A task, resource or other value cannot be kept beyond the process; the message has the path to what cannot."""


@public
class PayloadTooLarge(NotStorable):
    """A value takes more bytes than its store keeps in one piece."""


@public
class ResourceError(UsageError, ValueError):
    """A resource is missing, of an unknown type, or badly made."""


@public
class ResumeError(UsageError, ValueError):
    """A run cannot be resumed as asked: it is another agent's or dataset's, unknown, or still being worked on."""


@public
class RunnerClosed(UsageError, RuntimeError):
    """A runner was used outside ``async with runner``."""


@public
class UnsupportedLane(UsageError, ValueError):
    """``runs_in`` names no lane, or one that does not fit the agent."""


@public
class AgentError(LightningTrioError):
    """What an agent did made its attempt fail."""


@public
class AttemptTimedOut(AgentError, TimeoutError):
    """An attempt was stopped at its deadline."""


@public
class InvalidReturn(AgentError, TypeError):
    """An agent returned something that is neither a reward, None nor a list of spans."""


@public
class InvalidReward(AgentError, ValueError):
    """A reward is not finite."""


@public
class RemoteAgentError(AgentError):
    """An agent in a worker process raised what cannot be brought over, such as exceptions with keyword-only arguments.

    Args:
        kind: the name of what was raised.
        text: its message.
        names: the names of its classes, with and without their modules; of a group, those of each member.
    """

    def __init__(self, kind: str, text: str, names: tuple[frozenset[str], ...]) -> None:
        super().__init__(kind, text, names)
        self.kind = kind
        self.text = text
        self.names = names

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@public
class RolloutCancelled(AgentError):
    """A rollout was cancelled while it ran, from outside or through the store."""


@public
class WorkerDied(AgentError):
    """The worker process that an agent ran in ended before the agent did."""


@public
class StoreError(LightningTrioError):
    """What was asked of a store does not fit what it holds."""


@public
class Evicted(StoreError, LookupError):
    """A finished rollout is no longer kept; its place in the counts is."""


@public
class StaleRun(StoreError):
    """A report came for a run that another `fit` has taken up since."""


@public
class StaleAttempt(StoreError):
    """A report came for an attempt that has already ended or been superseded."""


@public
class StoreClosed(StoreError, RuntimeError):
    """A store was used outside ``async with store``, or opened twice."""


@public
class StoreFormatError(StoreError, ValueError):
    """What stands where a store should be is none, is damaged, or was made by a newer version."""


@public
class StoreUnavailable(StoreError, OSError):
    """A store's file or server cannot be opened, read or written."""


@public
class StoreFull(StoreUnavailable):
    """There is no room left for a store to grow; what was committed is kept."""


@public
class StoreLocked(StoreUnavailable, TimeoutError):
    """Another process kept a store to itself for too long."""


@public
class UnknownId(StoreError, ValueError, LookupError):
    """A change names a rollout, attempt or resources snapshot that the store does not have."""


@public
class AttemptAbandoned(BaseException):
    """Raised by every emit in code that goes on running though its attempt has been given up.

    A thread, or an asyncio agent that blocks its loop, cannot be stopped from outside; this is how it hears that
    nobody waits for it any more.
    It is a ``BaseException``, like ``trio.Cancelled``, so that an agent's ``except Exception: retry()`` does
    not keep an abandoned thread alive.
    """


class Terminated(SystemExit):
    """SIGTERM has come: the program is to end with the status that shells give a program so killed, 128 + 15."""

    def __init__(self) -> None:
        super().__init__(143)
