"""The store in a SQLite file."""

from ._store import SqliteLightningStore as SqliteLightningStore
