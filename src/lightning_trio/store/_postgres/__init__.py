"""The store in a PostgreSQL database."""

from ._store import PostgresLightningStore as PostgresLightningStore
