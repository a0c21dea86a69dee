"""A vendor is one object in the registry: a second, fictitious one is traced like the first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.trace import TracerProvider

import lightning_trio as agl
from lightning_trio.tracing.instrumentation import OPENAI, Instrumentation, _registry, open_instrumentations


class TeaModel:
    """An SDK and its instrumentation."""

    sdk = "tea_model"

    def __init__(self) -> None:
        self.installed = True
        self.providers: list[TracerProvider] = []
        self.opened = 0

    def is_installed(self) -> bool:
        return self.installed

    @contextmanager
    def open(self, provider: TracerProvider) -> Generator[None]:
        self.opened += 1
        self.providers.append(provider)
        try:
            yield
        finally:
            self.providers.pop()

    def call(self, prompt: str) -> str:
        """Answer as the SDK would."""
        if not self.providers:
            return prompt.upper()
        with self.providers[0].get_tracer("tea").start_as_current_span("chat tea") as span:
            span.set_attribute("gen_ai.usage.input_tokens", 3)
            return prompt.upper()


@pytest.fixture
def tea(monkeypatch: pytest.MonkeyPatch) -> TeaModel:
    made: Instrumentation = TeaModel()
    monkeypatch.setattr(_registry, "INSTRUMENTATIONS", (OPENAI, made))
    assert isinstance(made, TeaModel)
    return made


async def test_calls_of_a_second_vendor_become_spans_of_their_rollouts(tea: TeaModel) -> None:
    async def agent(task: str) -> float:
        tea.call(task)
        return 1.0

    async with agl.Runner(agent) as runner:
        done = [await runner.step(task) for task in ("a", "b")]
        tea.call("outside")

    assert [[span.name for span in each.spans].count("chat tea") for each in done] == [1, 1]
    assert [each.attempt.usage for each in done] == [agl.Usage(3), agl.Usage(3)]
    assert tea.providers == []


async def test_leaving_openai_alone_leaves_the_others(tea: TeaModel) -> None:
    async def agent(task: str) -> None:
        tea.call(task)

    async with agl.Runner(agent, tracer=agl.Tracer(instrument_openai=False)) as runner:
        done = await runner.step("a")

    assert "chat tea" in [span.name for span in done.spans]


class NoTea(agl.Tracer):
    """A tracer that leaves the second vendor alone."""

    @property
    def leave_out(self) -> frozenset[str]:
        return frozenset({"tea_model"})


async def test_a_second_vendor_can_be_left_alone(tea: TeaModel) -> None:
    async def agent(task: str) -> None:
        tea.call(task)

    async with agl.Runner(agent, tracer=NoTea()) as runner:
        done = await runner.step("a")

    assert "chat tea" not in [span.name for span in done.spans]
    assert not tea.opened


IN_PROCESSES = """
import trio
import lightning_trio as agl
import test_instrumentation as vendors
from lightning_trio.tracing.instrumentation import OPENAI, _registry

# Worker processes run this file too, before they open the instrumentations.
tea = vendors.TeaModel()
_registry.INSTRUMENTATIONS = (OPENAI, tea)

@agl.rollout(runs_in="process")
def agent(task: str) -> None:
    tea.call(task)

async def main() -> None:
    async with agl.Runner(agent, tracer=TRACER, max_processes=1) as runner:
        done = await runner.step("a")
        print("chat tea" in [span.name for span in done.spans])

if __name__ == "__main__":
    trio.run(main)
"""


@pytest.mark.parametrize(
    ("tracer", "recorded"),
    [("agl.Tracer()", True), ("agl.Tracer(instrument_openai=False)", True), ("vendors.NoTea()", False)],
)
def test_worker_processes_leave_out_what_the_tracer_leaves_out(tmp_path: Path, tracer: str, recorded: bool) -> None:
    program = tmp_path / "program.py"
    program.write_text(IN_PROCESSES.replace("TRACER", tracer))
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])

    ended = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.stdout == f"{recorded}\n", ended.stderr


def test_what_is_not_installed_or_left_out_is_not_opened(tea: TeaModel) -> None:
    with open_instrumentations(leave_out={"tea_model"}):
        assert not tea.opened
    tea.installed = False
    with open_instrumentations():
        assert not tea.opened


def test_all_are_closed_if_one_does_not_open(tea: TeaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(TeaModel):
        @contextmanager
        def open(self, provider: TracerProvider) -> Generator[None]:
            raise ValueError("no tea")
            yield

    monkeypatch.setattr(_registry, "INSTRUMENTATIONS", (tea, Broken()))

    with pytest.raises(ValueError, match="no tea"), open_instrumentations():
        raise AssertionError("not reached")

    assert (tea.opened, tea.providers) == (1, [])


@pytest.mark.parametrize("module", ["openai", "opentelemetry.instrumentation.genai.openai", "opentelemetry.metrics"])
def test_an_open_runner_imports_nothing_of_an_sdk_that_goes_unused(module: str) -> None:
    program = f"""
import sys, trio
import lightning_trio as agl
async def main():
    async with agl.Runner(len) as runner:
        await runner.step("tea")
trio.run(main)
sys.exit({module!r} in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
