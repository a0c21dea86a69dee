"""Errors of OpenAI's API: the body that goes with a status of 400 and above.

Format: https://platform.openai.com/docs/guides/error-codes.
"""

from __future__ import annotations

from typing import Final

import msgspec

_CODES: Final = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


class ErrorDetail(msgspec.Struct, frozen=True):
    """The error itself; `type` is its kind, `code` a more specific name that some kinds have."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of the response to a failed request."""

    error: ErrorDetail

    @classmethod
    def of(cls, status: int, message: str) -> ErrorBody:
        """Return the body that goes with an HTTP status.

        >>> ErrorBody.of(404, "There is no such model.").error.type
        'invalid_request_error'
        """
        kind = "server_error" if status >= 500 else "requests" if status == 429 else "invalid_request_error"
        return cls(ErrorDetail(message, kind, code=_CODES.get(status)))
