"""The error of an attempt."""

from __future__ import annotations

import traceback

import attrs

from .._concurrency import sole_exception
from .._errors import RemoteAgentError
from .._public import public


@public
@attrs.frozen
class ErrorRecord:
    """The error of an attempt.

    `exception` is the exception itself if the attempt ran in this process, else None.
    """

    type: str
    message: str
    traceback: str = attrs.field(repr=False)
    exception: BaseException | None = attrs.field(default=None, repr=False, eq=False)

    @classmethod
    def from_exception(cls, exception: BaseException) -> ErrorRecord:
        """Make the record of `exception`; type and message of a group with one member are the member's."""
        sole = sole_exception(exception)
        if isinstance(sole, RemoteAgentError):
            return cls(sole.kind, sole.text, "".join(traceback.format_exception(exception)), exception)
        try:
            message = str(sole)
        except Exception as exc:
            message = f"<str() of it raised {type(exc).__name__}>"
        formatted = "".join(traceback.format_exception(exception))
        return cls(type(sole).__name__, message, formatted, exception)

    def without_exception(self) -> ErrorRecord:
        """Return the record without the exception, which keeps its frames and all their objects alive."""
        return ErrorRecord(self.type, self.message, self.traceback)
