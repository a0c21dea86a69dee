"""Adapters: from spans to training data."""

from ._adapter import Adapter as Adapter
from ._adapter import check_adapter as check_adapter

# The other names are for this package's own use.
__all__ = ["Adapter"]
