"""Whether a function is async."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def is_async_function(fn: Callable[..., Any]) -> bool:
    """Whether calling `fn` returns a coroutine."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004
