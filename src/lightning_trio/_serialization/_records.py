"""Configurations, errors, resources and runs as JSON text and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import attrs

from .._errors import NotStorable, PayloadTooLarge
from .._records import DEFAULT_CONFIG, DatasetFingerprint, ErrorRecord, RolloutConfig, Run
from .._resources import NamedResources
from ._large_values import EncodedValue, ReadPart, decode_value, encode_value, is_outline
from ._values import NO_LIMIT, UNREADABLE, decode, encode, unreadable

# Configurations: few different ones, each of them read many times.


@lru_cache(256)
def encode_config(config: RolloutConfig) -> str:
    """Return a configuration as text, without defaults because every rollout has one."""
    fields = attrs.asdict(config, recurse=False)
    return encode(
        {name: value for name, value in fields.items() if value != getattr(DEFAULT_CONFIG, name)}, "config", NO_LIMIT
    )


@lru_cache(256)
def decode_config(text: str) -> RolloutConfig:
    """Return the configuration encoded in a text."""
    # Fields that a later version added are ignored.
    known = {name: value for name, value in decode(text).items() if name in _CONFIG_FIELDS}
    return RolloutConfig(**known)


_CONFIG_FIELDS = frozenset(attrs.fields_dict(RolloutConfig))


# Errors, resources, runs.


def encode_error(error: ErrorRecord | None) -> str | None:
    """Return an error as text, without the exception, which stays in the process."""
    if error is None:
        return None
    return encode([error.type, error.message, error.traceback], "error", NO_LIMIT)


def decode_error(text: str | None) -> ErrorRecord | None:
    """Return the error encoded in a text."""
    return None if text is None else ErrorRecord(*decode(text))


def encode_resources(resources: NamedResources, limit: int) -> EncodedValue:
    """Return a snapshot's resources as text.

    Raises:
        NotStorable, PayloadTooLarge: see `encode`.
    """
    return encode_value(dict(resources), "resources", limit)


def decode_resources(text: str, read_part: ReadPart) -> NamedResources:
    """Return the resources encoded in a text: the same mapping for the same text, so that agents are bound once."""
    if not is_outline(text):
        return _decode_small(text)
    known = _LARGE_KNOWN.get(text)
    if known is None:
        known = decode_value(text, read_part)
        _LARGE_KNOWN[text] = known
        for old in list(_LARGE_KNOWN)[:-_MOST_LARGE]:
            # Another thread may have removed it.
            _LARGE_KNOWN.pop(old, None)
    return known


@lru_cache(64)
def _decode_small(text: str) -> NamedResources:
    resources: NamedResources = decode(text)
    return resources


_MOST_LARGE: Final = 4
_LARGE_KNOWN: Final[dict[str, NamedResources]] = {}
"""Large resources that were read last, by their outlines, which differ for different ones."""


def encode_run(run: Run, limit: int) -> str:
    """Return a run as text.

    Raises:
        NotStorable, PayloadTooLarge: see `encode`.
    """
    fields = {field.name: getattr(run, field.name) for field in attrs.fields(Run)}
    fields["datasets"] = {mode: [each.tasks, each.digest, each.marks] for mode, each in run.datasets.items()}
    for name in ("state", "config"):
        # On their own first, so that an error has the name that the user knows.
        encode(fields[name], name, limit)
    history = _encode_history(fields.pop("history"), limit)
    encoded = f'{encode(fields, "run", limit)[:-1]},"history":{history}}}'
    size = len(encoded.encode())
    if size > limit:
        raise PayloadTooLarge.value("run", size, limit)
    return encoded


_AT_ONCE: Final = 1000


def _encode_history(history: Sequence[Mapping[str, Any]], limit: int) -> str:
    """Return notes as `encode` does, in slices, because their number grows with the run."""
    if type(history) is not tuple:
        return encode(history, "history", limit)
    starts = range(0, len(history), _AT_ONCE)
    try:
        slices = [encode(list(history[start : start + _AT_ONCE]), "history", limit)[1:-1] for start in starts]
    except NotStorable:
        # Again, because an error has the place of the note.
        encode(history, "history", limit)
        raise
    return f'{{"$tuple":[{",".join(slices)}]}}'


def decode_run(text: str, name: str = "a run") -> Run:
    """Return the run encoded in a text; `name` is its name in errors."""
    try:
        fields = decode(text)
        fields["datasets"] = {mode: DatasetFingerprint(*each) for mode, each in fields["datasets"].items()}
        return Run(**{name: value for name, value in fields.items() if name in _RUN_FIELDS})
    except UNREADABLE as exc:
        raise unreadable(name, exc) from exc


_RUN_FIELDS = frozenset(attrs.fields_dict(Run))
