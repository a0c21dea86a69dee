"""The api keys of this process: what is stored or sent holds a random token in their place, and texts none at all."""

from __future__ import annotations

import json
from typing import Final

from .._ids import random_bits

_tokens: dict[str, str] = {}
_keys: dict[str, str] = {}


def token_for_key(key: str) -> str:
    """Give the token that stands for `key`, the same one each time."""
    token = _tokens.get(key)
    if token is None:
        token = _tokens[key] = f"key-{random_bits(64):016x}"
        _keys[token] = key
        register_key(key)
    return token


def key_for_token(token: str) -> str | None:
    """Give the key, None if another process gave the token."""
    return _keys.get(token)


# Texts that came to hold a key, such as the message of an HTTP client that was given a bad one.

REDACTED: Final = "[api key]"

_SHORTEST: Final = 8
"""Shorter ones are placeholders such as "local", "none" or "-", and words that texts have for other reasons."""

_MOST: Final = 256
"""As many keys are known at a time; a service may be given one by each of its customers, and each costs a look."""

_known: dict[str, tuple[str, ...]] = {}
"""The ways in which a key may be written, by the key; the oldest first."""

_written: tuple[str, ...] = ()
"""All of them, the longest first, for one may be a part of another."""


def register_key(key: str) -> None:
    """Have `key` replaced in texts from now on."""
    global _written
    if key in _known:
        return
    bare = key.strip()
    if len(bare) < _SHORTEST:
        return
    if len(_known) >= _MOST:
        # Threads may come here together; a list of what is there is made at once.
        _known.pop(list(_known)[0], None)  # noqa: RUF015
    # As it is, and as it is within JSON and the reprs of a text and of bytes.
    in_json = [json.dumps(bare, ensure_ascii=each)[1:-1] for each in (True, False)]
    as_bytes = bare.encode(errors="backslashreplace")
    _known[key] = (bare, *in_json, repr(bare)[1:-1], ascii(bare)[1:-1], repr(as_bytes)[2:-1])
    _written = tuple(sorted({each for ways in list(_known.values()) for each in ways}, key=len, reverse=True))


def knows_keys() -> bool:
    """Tell whether there is any key to look for."""
    return bool(_written)


def without_keys(text: str) -> str:
    """Give a text with `REDACTED` in the place of every key that is known."""
    for each in _written:
        if each in text:
            text = text.replace(each, REDACTED)
    return text
