"""The API keys of this process. Stored and sent values hold a random token in place of a key, texts a fixed word."""

from __future__ import annotations

import json
from typing import Final

from .._ids import random_bits

_tokens: dict[str, str] = {}
_keys: dict[str, str] = {}


def token_for_key(key: str) -> str:
    """Return the token for `key`; it is the same one each time."""
    token = _tokens.get(key)
    if token is None:
        token = _tokens[key] = f"key-{random_bits(64):016x}"
        _keys[token] = key
        register_key(key)
    return token


def key_for_token(token: str) -> str | None:
    """Return the key for `token`, or None if the token is from another process."""
    return _keys.get(token)


# Keys in texts, such as in the message of an HTTP client that rejects a malformed key.

REDACTED: Final = "[api key]"

_SHORTEST: Final = 8
"""Shorter keys are placeholders such as "local", "none" or "-", which occur in texts for other reasons."""

_MOST: Final = 256
"""The most keys known at a time. A service may use one for each of its customers, and each costs a search."""

_known: dict[str, tuple[str, ...]] = {}
"""The ways in which a key may be written, by the key; the oldest key first."""

_written: tuple[str, ...] = ()
"""All of them, the longest first, because one may be a part of another."""


def register_key(key: str) -> None:
    """Register `key`, so that `without_keys` replaces it from now on."""
    global _written
    if key in _known:
        return
    bare = key.strip()
    if len(bare) < _SHORTEST:
        return
    if len(_known) >= _MOST:
        # Several threads may be here at once; making a list of a dict is atomic.
        _known.pop(list(_known)[0], None)  # noqa: RUF015
    # As it is, and as it is written in JSON and in the reprs of str and bytes.
    in_json = [json.dumps(bare, ensure_ascii=each)[1:-1] for each in (True, False)]
    as_bytes = bare.encode(errors="backslashreplace")
    _known[key] = (bare, *in_json, repr(bare)[1:-1], ascii(bare)[1:-1], repr(as_bytes)[2:-1])
    _written = tuple(sorted({each for ways in list(_known.values()) for each in ways}, key=len, reverse=True))


def knows_keys() -> bool:
    """Whether any key is registered."""
    return bool(_written)


def without_keys(text: str) -> str:
    """Return `text` with `REDACTED` in place of every registered key."""
    for each in _written:
        if each in text:
            text = text.replace(each, REDACTED)
    return text
