"""Configurations, errors, resources and runs as JSON text and back."""

from __future__ import annotations

from functools import lru_cache

import attrs

from .._records import DEFAULT_CONFIG, DatasetFingerprint, ErrorRecord, RolloutConfig, Run
from .._resources import NamedResources
from ._values import NO_LIMIT, UNREADABLE, decode, encode, unreadable

# Configurations: few different ones, each met again and again.


@lru_cache(256)
def encode_config(config: RolloutConfig) -> str:
    """Give a configuration's text, without what is as it is by default: every rollout has one."""
    fields = attrs.asdict(config, recurse=False)
    return encode(
        {name: value for name, value in fields.items() if value != getattr(DEFAULT_CONFIG, name)}, "config", NO_LIMIT
    )


@lru_cache(256)
def decode_config(text: str) -> RolloutConfig:
    """Give the configuration of a text."""
    # What a later version added is left to it.
    known = {name: value for name, value in decode(text).items() if name in _CONFIG_FIELDS}
    return RolloutConfig(**known)


_CONFIG_FIELDS = frozenset(attrs.fields_dict(RolloutConfig))


# Errors, resources, runs.


def encode_error(error: ErrorRecord | None) -> str | None:
    """Give an error's text; the exception itself stays in the process."""
    if error is None:
        return None
    return encode([error.type, error.message, error.traceback], "error", NO_LIMIT)


def decode_error(text: str | None) -> ErrorRecord | None:
    """Give the error of a text."""
    return None if text is None else ErrorRecord(*decode(text))


def encode_resources(resources: NamedResources, limit: int) -> str:
    """Give the text of a snapshot's resources.

    Raises:
        NotStorable, PayloadTooLarge: see `encode`.
    """
    return encode(dict(resources), "resources", limit)


@lru_cache(64)
def decode_resources(text: str) -> NamedResources:
    """Give the resources of a text; the same mapping for the same text, so that agents are bound once."""
    resources: NamedResources = decode(text)
    return resources


def encode_run(run: Run, limit: int) -> str:
    """Give the text of a run.

    Raises:
        NotStorable, PayloadTooLarge: see `encode`.
    """
    fields = {field.name: getattr(run, field.name) for field in attrs.fields(Run)}
    fields["datasets"] = {mode: [each.tasks, each.digest] for mode, each in run.datasets.items()}
    for name in ("state", "history", "config"):
        # Said by the name the user knows.
        encode(fields[name], name, limit)
    return encode(fields, "run", limit)


def decode_run(text: str) -> Run:
    """Give the run of a text."""
    try:
        fields = decode(text)
        fields["datasets"] = {mode: DatasetFingerprint(*each) for mode, each in fields["datasets"].items()}
        return Run(**{name: value for name, value in fields.items() if name in _RUN_FIELDS})
    except UNREADABLE as exc:
        raise unreadable("a run", exc) from exc


_RUN_FIELDS = frozenset(attrs.fields_dict(Run))
