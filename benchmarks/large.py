"""The longest stop of Trio's loop beside one large attempt or task: while it runs, is committed and is read again.

Measured: the largest gap between the beats of a task that wants to run every millisecond, beside an attempt of 100,000
spans, one with a text of 100 MB, one with as much in a hundred texts, one whose exception has 100,000 notes, and a run
whose algorithm takes 100,000 notes and saves its state; beside a task of 100 MB that is run and read, of one text, a
million texts or as a chat, and resources with a text of 100 MB. The store takes up to 1 GB. A gap counts with the
processor time of this process in it, if that is less, so that other programs do not count; nor does the agent's own
work in Trio's thread, which is little here.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Literal, TypeAlias

import attrs
import trio

import lightning_trio as agl

from ._measurement import Measurement, Target
from ._memory import in_fresh_process
from .postgres import server

BEAT_SECONDS = 0.001
LIMIT = 1_000_000_000


@attrs.define
class Heart:
    """A task that wants to run every millisecond, and its largest gap since the last look, in seconds."""

    worst: float = 0.0

    async def beat(self) -> None:
        """Beat until cancelled."""
        while True:
            before, worked = perf_counter(), process_time()
            await trio.sleep(BEAT_SECONDS)
            gap = perf_counter() - before - BEAT_SECONDS
            self.worst = max(self.worst, min(gap, process_time() - worked))

    def take(self) -> float:
        """Return the largest gap so far, and begin anew."""
        worst, self.worst = self.worst, 0.0
        return worst


@asynccontextmanager
async def beating() -> AsyncGenerator[Heart]:
    """Let a heart beat until the block ends."""
    heart = Heart()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heart.beat)
        await trio.sleep(0.05)
        heart.take()
        yield heart
        nursery.cancel_scope.cancel()


async def many_spans(count: int) -> float:
    """Record `count` spans, and let others run in between."""
    for number in range(count):
        agl.emit_message(f"step {number} of the agent")
        if number % 100 == 0:
            await trio.lowlevel.checkpoint()
    return 1.0


def many_spans_blocking(count: int) -> float:
    """Record `count` spans, outside of Trio's thread."""
    for number in range(count):
        agl.emit_message(f"step {number} of the agent")
    return 1.0


async def many_spans_in_asyncio(count: int) -> float:
    """Record `count` spans on an asyncio loop."""
    return many_spans_blocking(count)


_texts: dict[str, str] = {}
"""Made before an attempt begins, which is not the runner's work."""


async def one_text(size: int) -> float:
    """Record a text of `size` characters."""
    agl.emit_message(_texts["plain"])
    return 1.0


def one_text_blocking(size: int) -> float:
    """Record a text of `size` characters outside of Trio's thread."""
    agl.emit_message("x" * size)
    return 1.0


async def foreign_text(size: int) -> float:
    """Record a text of `size` bytes in UTF-8, most of them not ASCII."""
    agl.emit_message(_texts["foreign"])
    return 1.0


async def many_texts(size: int) -> float:
    """Record a hundred texts of `size` characters together."""
    for _ in range(100):
        agl.emit_message("x" * (size // 100))
        await trio.lowlevel.checkpoint()
    return 1.0


async def noted_exception(count: int) -> float:
    """Raise an exception with `count` notes."""
    exc = ValueError("with notes")
    for number in range(count):
        exc.add_note(f"note {number}")
        if number % 100 == 0:
            await trio.lowlevel.checkpoint()
    raise exc


@agl.algo
async def noting(session: agl.Session, train_dataset: list[int]) -> None:
    """Take as many notes as the only task says, save the state, and load it again."""
    [count] = train_dataset
    for number in range(count):
        session.note(round=number, score=0.5)
        if number % 100 == 0:
            await trio.lowlevel.checkpoint()
    await session.save_state({"round": count})
    await session.run([1])


Take: TypeAlias = Callable[[str], None]
"""Called at the end of a phase with its name."""


async def noop(task: int) -> float:
    """Do nothing."""
    return 1.0


async def run_agent(agent: Any, lane: str, size: int, store: agl.LightningStore, take: Take) -> None:
    """Run one attempt and read its spans."""
    async with agl.Runner(agl.rollout(runs_in=lane)(agent), store=store, max_processes=1) as runner:
        if lane == "process":
            # The start of the worker process is not the attempt's.
            await runner.step(1)
        _texts.update(plain="x" * size, foreign="äöü\n" * (size // 7))
        await trio.sleep(10 * BEAT_SECONDS)
        take("before")
        try:
            rollout_id = (await runner.step(size)).rollout.rollout_id
        except ValueError:
            rollout_id = (await store.query_rollouts())[-1].rollout_id
        take("run")
        assert await store.query_spans(rollout_id)
        take("read")


async def run_notes(size: int, store: agl.LightningStore, take: Take) -> None:
    """Run an algorithm that takes notes."""
    take("before")
    result = await agl.Runner(noop, store=store, algorithm=noting).fit([size])
    take("run")
    async with store:
        [run] = await store.query_runs()
    take("read")
    assert len(result.history) == len(run.history) == size


_AGENTS: Mapping[str, tuple[Any, str, int, int]] = {
    "100,000 spans": (many_spans, "trio", 100_000, 2_000),
    "100,000 spans in a thread": (many_spans_blocking, "thread", 100_000, 2_000),
    "100,000 spans in asyncio": (many_spans_in_asyncio, "asyncio", 100_000, 2_000),
    "100,000 spans in a process": (many_spans_blocking, "process", 100_000, 2_000),
    "a text of 100 MB": (one_text, "trio", 100_000_000, 1_000_000),
    "the same, not ASCII": (foreign_text, "trio", 100_000_000, 1_000_000),
    "the same in a process": (one_text_blocking, "process", 100_000_000, 1_000_000),
    "100 texts of 1 MB": (many_texts, "trio", 100_000_000, 1_000_000),
    "an exception with 100,000 notes": (noted_exception, "trio", 100_000, 2_000),
}
_NOTES = "an algorithm's 100,000 notes"


def one_text_task(size: int) -> Any:
    """Return a task with one text."""
    return {"text": "x" * size}


def many_texts_task(size: int) -> Any:
    """Return a task with texts of 80 characters."""
    return {f"key {number:07}": "x" * 80 for number in range(size // 100)}


def chat_task(size: int) -> Any:
    """Return a task with messages of 1,000 characters."""
    return {"messages": [{"role": "user", "content": "x" * 1_000} for _ in range(size // 1_000)]}


def resources_of(size: int) -> Any:
    """Return resources with one text."""
    return {"prompt": agl.PromptTemplate("x" * size)}


async def noop_of_any(task: Any) -> float:
    """Do nothing."""
    return 1.0


async def run_task(task: Any, store: agl.LightningStore, take: Take) -> None:
    """Run one task, and read its rollout."""
    await trio.sleep(10 * BEAT_SECONDS)
    take("before")
    async with store:
        result = await agl.Runner(noop_of_any, store=store).fit([task])
        take("run")
        read = await store.query_rollouts()
        take("read")
        assert len(read) == result.counts["succeeded"] == 1


async def run_resources(resources: Any, store: agl.LightningStore, take: Take) -> None:
    """Store resources, and read them."""
    await trio.sleep(10 * BEAT_SECONDS)
    take("before")
    async with store:
        update = await store.add_resources(resources)
        take("run")
        assert await store.get_resources_by_id(update.resources_id)
        take("read")


_TASKS: Mapping[str, tuple[Callable[[int], Any], Any]] = {
    "a task of one text of 100 MB": (one_text_task, run_task),
    "a task of a million texts": (many_texts_task, run_task),
    "a task of 100,000 messages": (chat_task, run_task),
    "resources with a text of 100 MB": (resources_of, run_resources),
}

Kind: TypeAlias = Literal["memory", "SQLite", "PostgreSQL"]

CASES: Mapping[Kind, tuple[str, ...]] = {
    "memory": ("100,000 spans", "100,000 spans in a process", "an exception with 100,000 notes", *_TASKS),
    "SQLite": (*_AGENTS, _NOTES, *_TASKS),
    "PostgreSQL": ("100,000 spans", "a text of 100 MB", "the same, not ASCII", "100 texts of 1 MB", _NOTES, *_TASKS),
}


def largest_gaps(name: str, quick: bool, place: str | None) -> dict[str, float]:
    """Run a case in this process and return the largest gap of each of its phases, in seconds."""
    gaps: dict[str, float] = {}

    async def main() -> None:
        # The first runner imports modules.
        await agl.Runner(noop).fit([1])
        store = _make_store(place)
        async with beating() as heart:

            def take(phase: str) -> None:
                gaps[phase] = heart.take()

            if name == _NOTES:
                await run_notes(1_000 if quick else 100_000, store, take)
            elif name in _TASKS:
                make, run = _TASKS[name]
                await run(make(1_000_000 if quick else 100_000_000), store, take)
            else:
                agent, lane, size, small = _AGENTS[name]
                await run_agent(agent, lane, small if quick else size, store, take)

    trio.run(main)
    del gaps["before"]
    return gaps


def _make_store(place: str | None) -> agl.LightningStore:
    if place is None:
        return agl.InMemoryLightningStore()
    if place.startswith("postgres"):
        return agl.PostgresLightningStore(place, max_payload_bytes=LIMIT)
    return agl.SqliteLightningStore(place, max_payload_bytes=LIMIT)


def measure_case(kind: Kind, name: str, quick: bool) -> Measurement:
    """Measure one case in a new process, with a new store."""
    with ExitStack() as stack:
        place: str | None = None
        if kind == "SQLite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            place = str(Path(folder) / "large.db")
        elif kind == "PostgreSQL":
            place = stack.enter_context(server())
        gaps = in_fresh_process(largest_gaps, name, quick, place)
    phases = ", ".join(f"{phase} {seconds * 1e3:.0f} ms" for phase, seconds in gaps.items())
    return Measurement(f"{name}, {kind}", max(gaps.values()) * 1e3, "ms", target=Target(50.0), note=f"gaps: {phases}")


def measure(quick: bool) -> list[Measurement]:
    """Measure each case in each store that can be used here."""
    measurements: list[Measurement] = []
    for kind, names in CASES.items():
        for name in names:
            try:
                measurements.append(measure_case(kind, name, quick))
            except ImportError:
                # The store in PostgreSQL needs a driver and a server.
                break
    return measurements
