"""The error of an attempt."""

from __future__ import annotations

import attrs

from .._concurrency import is_kind, sole_exception
from .._errors import RemoteAgentError
from .._exception_text import class_name, message_of, traceback_of
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
        formatted = traceback_of(exception)
        if is_kind(sole, RemoteAgentError):
            return cls(sole.kind, sole.text, formatted, exception)
        return cls(class_name(sole), message_of(sole), formatted, exception)

    def without_exception(self) -> ErrorRecord:
        """Return the record without the exception, which keeps its frames and all their objects alive."""
        return ErrorRecord(self.type, self.message, self.traceback)
