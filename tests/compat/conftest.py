"""What holds for the tests of Agent-lightning 0.3's names."""

from __future__ import annotations

import opentelemetry.trace
import pytest
from opentelemetry.util._once import Once


@pytest.fixture(autouse=True)
def no_default_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracers of compat set OpenTelemetry's default provider, which other tests must not see."""
    monkeypatch.setattr(opentelemetry.trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(opentelemetry.trace, "_TRACER_PROVIDER_SET_ONCE", Once())
