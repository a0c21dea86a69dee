"""The api keys of this process: what is stored or sent holds a random token in their place."""

from __future__ import annotations

from ._ids import random_bits

_tokens: dict[str, str] = {}
_keys: dict[str, str] = {}


def token_for_key(key: str) -> str:
    """Give the token that stands for `key`, the same one each time."""
    token = _tokens.get(key)
    if token is None:
        token = _tokens[key] = f"key-{random_bits(64):016x}"
        _keys[token] = key
    return token


def key_for_token(token: str) -> str | None:
    """Give the key, None if another process gave the token."""
    return _keys.get(token)
