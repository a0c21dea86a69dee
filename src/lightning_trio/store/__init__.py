"""Stores: where rollouts, attempts, spans and resources live, and what a store of one's own is made of."""

from .._containers import copy_containers as copy_containers
from .._lifecycle import QUEUED as QUEUED
from .._lifecycle import TERMINAL_ATTEMPT as TERMINAL_ATTEMPT
from .._lifecycle import TERMINAL_ROLLOUT as TERMINAL_ROLLOUT
from .._lifecycle import may_replace as may_replace
from .._lifecycle import rollout_status_after as rollout_status_after
from .._lifecycle import rollout_status_after_loss as rollout_status_after_loss
from .._records import AttemptChange as AttemptChange
from .._records import AttemptOutcome as AttemptOutcome
from .._records import RolloutChange as RolloutChange
from .._records import RolloutRemoval as RolloutRemoval
from .._records import Unset as Unset
from .._records import WorkerStatus as WorkerStatus
from ._audit import Audit as Audit
from ._audit import audit as audit
from ._memory import InMemoryLightningStore as InMemoryLightningStore
from ._postgres import PostgresLightningStore as PostgresLightningStore
from ._query import Condition as Condition
from ._query import Query as Query
from ._query import Table as Table
from ._query import select as select
from ._run_store import RunStore as RunStore
from ._sqlite import SqliteLightningStore as SqliteLightningStore
from ._store import LightningStore as LightningStore
from ._store import Record as Record
