"""Adapters: spans become data to learn from."""

from ._adapter import Adapter as Adapter
from ._adapter import check_adapter as check_adapter
