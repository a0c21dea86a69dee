"""All exceptions of the package, in one tree; the class shows whose fault it is, the constructor what happened.

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
    └── StoreError (a call does not fit what the store holds, or its file or server has failed)
        ├── Evicted (also LookupError)
        ├── StaleAttempt
        ├── StaleRun
        ├── StoreClosed (also RuntimeError)
        ├── StoreFormatError (also ValueError)
        ├── StoreUnavailable (also OSError)
        │   ├── NotBegun (private)
        │   ├── StoreFull
        │   └── StoreLocked (also TimeoutError)
        └── UnknownId (also ValueError, LookupError)

Four are outside the tree. ``AttemptAbandoned`` is a ``BaseException`` and ``Terminated`` a ``SystemExit``, so that
no ``except Exception`` catches them. ``TryAgain`` and ``WorkerTraceback`` are private; users do not catch them.

A message is composed by its class and nowhere else: each has a constructor, which also sets fields for the values in
the message. A field is plain data, so that every error can be pickled, and None if the message does not contain it.

>>> error = UnknownId.attempt("ro-1", "at-1")
>>> error, error.rollout_id, error.attempt_id, error.resources_id
(UnknownId('Attempt at-1 not found for rollout ro-1'), 'ro-1', 'at-1', None)

An agent may raise the same classes with a message of its own: ``AttemptTimedOut("the search took too long")``.
"""

from ._agent import AgentError as AgentError
from ._agent import AttemptTimedOut as AttemptTimedOut
from ._agent import InvalidReturn as InvalidReturn
from ._agent import InvalidReward as InvalidReward
from ._agent import RolloutCancelled as RolloutCancelled
from ._base import LightningTrioError as LightningTrioError
from ._component import ComponentError as ComponentError
from ._component import DatasetError as DatasetError
from ._context import NestedTrioRun as NestedTrioRun
from ._context import NoActiveRollout as NoActiveRollout
from ._context import NotInTrio as NotInTrio
from ._context import RunnerClosed as RunnerClosed
from ._definition import AgentSignatureError as AgentSignatureError
from ._definition import AsyncioAgentError as AsyncioAgentError
from ._definition import UnsupportedLane as UnsupportedLane
from ._resource import MissingPlaceholder as MissingPlaceholder
from ._resource import ResourceError as ResourceError
from ._resume import ResumeError as ResumeError
from ._stop import AttemptAbandoned as AttemptAbandoned
from ._stop import Terminated as Terminated
from ._storable import NotStorable as NotStorable
from ._storable import PayloadTooLarge as PayloadTooLarge
from ._storage import NotBegun as NotBegun
from ._storage import StoreFormatError as StoreFormatError
from ._storage import StoreFull as StoreFull
from ._storage import StoreLocked as StoreLocked
from ._storage import StoreUnavailable as StoreUnavailable
from ._storage import TryAgain as TryAgain
from ._store import Evicted as Evicted
from ._store import StaleAttempt as StaleAttempt
from ._store import StaleRun as StaleRun
from ._store import StoreClosed as StoreClosed
from ._store import StoreError as StoreError
from ._store import UnknownId as UnknownId
from ._usage import UsageError as UsageError
from ._worker_process import RemoteAgentError as RemoteAgentError
from ._worker_process import WorkerDied as WorkerDied
from ._worker_process import WorkerTraceback as WorkerTraceback
