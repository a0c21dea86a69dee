"""Stores: where rollouts, attempts, spans and resources live."""

from ._interface import LightningStore as LightningStore
from ._interface import Record as Record
from ._memory import InMemoryLightningStore as InMemoryLightningStore
from ._postgres import PostgresLightningStore as PostgresLightningStore
from ._query import Condition as Condition
from ._query import Query as Query
from ._query import Table as Table
from ._query import select as select
from ._sqlite import SqliteLightningStore as SqliteLightningStore
