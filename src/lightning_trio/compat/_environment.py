"""Agent-lightning 0.3's environment variables. An argument wins over the variable, and that over the fallback."""

from __future__ import annotations

import enum
import os

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


class LightningEnvVar(enum.Enum):
    """The names of the variables."""

    AGL_EMITTER_DEBUG = "AGL_EMITTER_DEBUG"
    AGL_MANAGED_STORE = "AGL_MANAGED_STORE"
    AGL_CURRENT_ROLE = "AGL_CURRENT_ROLE"
    AGL_SERVER_HOST = "AGL_SERVER_HOST"
    AGL_SERVER_PORT = "AGL_SERVER_PORT"


def resolve_bool_env_var(
    env_var: LightningEnvVar, override: bool | None = None, fallback: bool | None = None
) -> bool | None:
    """Return the argument, the variable, or the fallback.

    Raises:
        ValueError: the variable is neither true nor false.
    """
    value = os.environ.get(env_var.value)
    if override is not None or value is None:
        return fallback if override is None else override
    if value.strip().lower() in _TRUE:
        return True
    if value.strip().lower() in _FALSE:
        return False
    raise ValueError(f"{env_var.value}={value!r} must be one of {', '.join((*_TRUE, *_FALSE))}")


def resolve_int_env_var(
    env_var: LightningEnvVar, override: int | None = None, fallback: int | None = None
) -> int | None:
    """Return the argument, the variable, or the fallback.

    Raises:
        ValueError: the variable is not an integer.
    """
    value = os.environ.get(env_var.value)
    if override is not None or value is None:
        return fallback if override is None else override
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{env_var.value}={value!r} must be an integer") from None


def resolve_str_env_var(
    env_var: LightningEnvVar, override: str | None = None, fallback: str | None = None
) -> str | None:
    """Return the argument, the variable, or the fallback."""
    value = os.environ.get(env_var.value)
    if override is not None or value is None:
        return fallback if override is None else override
    return value
