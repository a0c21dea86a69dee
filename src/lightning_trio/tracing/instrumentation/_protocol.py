"""What this package asks of the instrumentation of one vendor's SDK."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from opentelemetry.trace import TracerProvider


class Instrumentation(Protocol):
    """Make spans of the calls of one vendor's SDK.

    An instance serves the whole process, for SDKs are patched once; runners come and go, and several may be open.
    """

    @property
    def sdk(self) -> str:
        """The module that programs import, such as ``"openai"``."""
        ...

    def is_installed(self) -> bool:
        """Whether the SDK and what its instrumentation needs are there; called before each `open`, imports neither."""
        ...

    def open(self, provider: TracerProvider) -> AbstractContextManager[None]:
        """Record calls of the SDK as spans of `provider` until the block ends.

        Blocks may overlap, in one thread or several, all with providers that serve every attempt of the process.
        Neither the SDK nor its instrumentation is imported before the program imports the SDK, be it in the middle
        of the block. An instrumentation that does not fit the SDK is logged and leaves the SDK working.
        """
        ...
