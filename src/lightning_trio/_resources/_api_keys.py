"""The API keys of this process. Stored and sent values hold a random token in place of a key, texts a fixed word."""

from __future__ import annotations

import logging
from typing import Final

from .._ids import random_bits
from ._key_forms import written_forms

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
"""The most keys known at a time. A service may use one for each of its customers, and each costs a few searches."""

_known: dict[str, frozenset[str]] = {}
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
    if not _known:
        _watch_logs()
    if len(_known) >= _MOST:
        # Several threads may be here at once; making a list of a dict is atomic.
        _known.pop(list(_known)[0], None)  # noqa: RUF015
    _known[key] = written_forms(bare)
    _written = tuple(sorted({each for ways in list(_known.values()) for each in ways}, key=len, reverse=True))


def knows_keys() -> bool:
    """Whether any key is registered."""
    return bool(_written)


def longest_written() -> int:
    """Return how many characters the longest way of writing a registered key has; 0 if there is no key."""
    written = _written
    return len(written[0]) if written else 0


def without_keys(text: str) -> str:
    """Return `text` with `REDACTED` in place of every registered key, however it is written; see `written_forms`."""
    if text.__class__ is not str:
        # The methods of a class derived from `str` are its author's.
        plain = str.__str__(text)
        clean = without_keys(plain)
        return text if clean is plain else clean
    for each in _written:
        if each in text:
            text = text.replace(each, REDACTED)
    return text


# Logs.

_LOGGERS: Final = ("agent", "compat", "embed", "hooks", "lanes", "runner", "server", "store", "testing", "tracing")
"""The package's loggers, by the last part of their names."""


def _watch_logs() -> None:
    for name in _LOGGERS:
        logging.getLogger(f"lightning_trio.{name}").addFilter(_clean_record)


def _clean_record(record: logging.LogRecord) -> bool:
    """Remove keys from a log record, such as one with the traceback of a hook."""
    try:
        message = record.getMessage()
        if (clean := without_keys(message)) is not message:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_text is None:
            formatted = logging.Formatter().formatException(record.exc_info)
            if (text := without_keys(formatted)) is not formatted:
                # Where handlers look first, before they format the exception themselves.
                record.exc_text = text
    except Exception:
        # Its handlers meet the same error, which logging then reports.
        pass
    return True
