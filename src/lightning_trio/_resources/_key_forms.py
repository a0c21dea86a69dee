"""The ways in which libraries write a key: escaped in a literal or in JSON, quoted in an address, in base64."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote

_SHORTEST: Final = 8
"""A shorter form could occur in texts for other reasons. None is shorter than the key but the inside of its base64."""

_SAFE_IN_HTML: Final = [str.maketrans({char: f"\\u{ord(char):04x}" for char in chars}) for chars in ("&<>", "&<>'")]
"""The further escapes in the JSON of Go, and of Jinja and Django."""


def written_forms(key: str) -> frozenset[str]:
    """Return the forms of a key, of which a text may contain any.

    They are the key itself; escaped as in JSON and in the reprs of str and bytes, once or twice; quoted for an address,
    with upper- and lower-case digits; and in base64, on its own or within a longer text such as ``user:key``. A key of
    letters, digits and hyphens is the same in all of these but base64.
    """
    # What is encoded further is the key alone or in a body of JSON.
    bodies = {key, *(json.dumps(key, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))}
    encoded = {part for text in bodies for part in _base64_parts(text.encode(errors="surrogatepass"))}
    forms = {*_escaped(key), *encoded, *_quoted(bodies | encoded)}
    return frozenset(form for form in forms if len(form) >= _SHORTEST)


def _escaped(key: str) -> Iterator[str]:
    yield key
    data = key.encode(errors="surrogatepass")
    once = {*_in_literals(key), repr(data)[2:-1], _hex_escapes(data)}
    yield from once
    for text in once:
        yield from _in_literals(text)


def _in_literals(text: str) -> Iterator[str]:
    """Yield a text as it stands in JSON and in reprs."""
    for ascii_only in (True, False):
        in_json = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield from (in_json, in_json.replace("/", "\\/"), *map(in_json.translate, _SAFE_IN_HTML))
    yield from (repr(text)[1:-1], ascii(text)[1:-1])


def _hex_escapes(data: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in data)


def _quoted(forms: Iterable[str]) -> Iterator[str]:
    """Yield texts as they stand in the address of a request, or in a form that is sent."""
    for form in forms:
        for safe in ("", "/"):
            once = quote(form, safe=safe, errors="surrogatepass")
            plus = once.replace("%20", "+")
            for text in (once, plus, quote(once, safe=safe)):
                yield from (text, _lower_escapes(text))


def _lower_escapes(text: str) -> str:
    return re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), text)


def _base64_parts(data: bytes) -> Iterator[str]:
    """Yield the part of base64 that `data` alone determines, for each place where it may begin.

    Base64 writes three bytes as four characters, so there are three. At either end, a character that is shared with
    the neighbour remains of the key, six bits at most.
    """
    for before in range(3):
        padded = bytes(before) + data + bytes(-(before + len(data)) % 3)
        first = (before * 8 + 5) // 6
        last = (before + len(data)) * 8 // 6
        yield base64.b64encode(padded)[first:last].decode()
        yield base64.urlsafe_b64encode(padded)[first:last].decode()
