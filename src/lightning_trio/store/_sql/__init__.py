"""SQL stores: operations written once over a transaction; each database supplies connections and a dialect."""

from ._dialect import POSTGRES as POSTGRES
from ._dialect import SQLITE as SQLITE
from ._dialect import Kind as Kind
from ._rollout_state import READY as READY
from ._schema import MIGRATIONS as MIGRATIONS
from ._schema import TABLES as TABLES
from ._schema import migrate as migrate
from ._store import MAX_PAYLOAD_BYTES as MAX_PAYLOAD_BYTES
from ._store import SqlLightningStore as SqlLightningStore
from ._transaction import Columns as Columns
from ._transaction import Connection as Connection
