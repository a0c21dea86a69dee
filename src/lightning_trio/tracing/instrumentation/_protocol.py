"""The protocol of an instrumentation of one vendor's SDK."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from opentelemetry.trace import TracerProvider


class Instrumentation(Protocol):
    """Make spans of the calls of one vendor's SDK.

    One instance serves the whole process, because an SDK is patched once, while several runners may be open.
    """

    @property
    def sdk(self) -> str:
        """The module that programs import, such as ``"openai"``."""
        ...

    def is_installed(self) -> bool:
        """Whether the SDK and its instrumentation are installed; called before each `open`, imports neither."""
        ...

    def open(self, provider: TracerProvider) -> AbstractContextManager[None]:
        """Record calls of the SDK as spans of `provider` until the block ends.

        Blocks may overlap, in one thread or several, all with providers that serve every attempt of the process.
        Neither the SDK nor its instrumentation is imported before the program imports the SDK, possibly in the
        middle of the block. A mismatch of SDK and instrumentation is logged and leaves the SDK working.
        """
        ...
