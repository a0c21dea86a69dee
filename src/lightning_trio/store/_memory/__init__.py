"""The store in memory."""

from ._store import InMemoryLightningStore as InMemoryLightningStore
