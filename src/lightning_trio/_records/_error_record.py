"""What went wrong in an attempt."""

from __future__ import annotations

import traceback

import attrs

from .._concurrency import sole_exception
from .._errors import RemoteAgentError
from .._public import public


@public
@attrs.frozen
class ErrorRecord:
    """Say what went wrong in an attempt.

    `exception` is the exception itself where the attempt ran in this process, else None.
    """

    type: str
    message: str
    traceback: str = attrs.field(repr=False)
    exception: BaseException | None = attrs.field(default=None, repr=False, eq=False)

    @classmethod
    def from_exception(cls, exception: BaseException) -> ErrorRecord:
        """Make the record of `exception`; of a group with one member, type and message are the member's."""
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
        """Give the record alone; the exception keeps the frames it went through, and all they hold, alive."""
        return ErrorRecord(self.type, self.message, self.traceback)
