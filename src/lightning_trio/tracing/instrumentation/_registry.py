"""The vendors whose SDKs are instrumented."""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import ExitStack, contextmanager

from ._attempt_provider import AttemptTracerProvider
from ._openai import OPENAI
from ._protocol import Instrumentation

INSTRUMENTATIONS: tuple[Instrumentation, ...] = (OPENAI,)
"""A new vendor is a file that implements `Instrumentation`, and its instance here."""


@contextmanager
def open_instrumentations(leave_out: Collection[str] = ()) -> Generator[None]:
    """Record the calls of all installed SDKs in the attempts that make them, until the block ends.

    Args:
        leave_out: SDKs to leave alone, such as ``{"openai"}``.
    """
    provider = AttemptTracerProvider()
    with ExitStack() as stack:
        for each in INSTRUMENTATIONS:
            if each.sdk not in leave_out and each.is_installed():
                stack.enter_context(each.open(provider))
        yield
