"""The longest stop of Trio's loop beside one large attempt: while it runs, is committed and is read again.

Measured: the largest gap between the beats of a task that wants to run every millisecond, beside an attempt of 100,000
spans, one with a text of 100 MB, one with as much in a hundred texts, one whose exception has 100,000 notes, and a run
whose algorithm takes 100,000 notes and saves its state. The limit of the store is raised to 1 GB.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from time import process_time
from typing import Any

import attrs
import trio

import lightning_trio as agl
from lightning_trio._spans import size_of

from ._memory import in_fresh_process
from .postgres import server

BEAT_SECONDS = 0.001
LIMIT = 1_000_000_000


@attrs.define
class Heart:
    """A task that wants to run every millisecond, and its largest gap since the last look."""

    worst: float = 0.0
    cpu: float = 0.0

    async def beat(self) -> None:
        """Beat until cancelled."""
        while True:
            before, worked = trio.current_time(), process_time()
            await trio.sleep(BEAT_SECONDS)
            gap = trio.current_time() - before - BEAT_SECONDS
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


async def run_agent(agent: Any, lane: str, size: int, store: agl.LightningStore, take: Callable[[str], None]) -> None:
    """Run one attempt and read its spans."""
    async with agl.Runner(agl.rollout(runs_in=lane)(agent), store=store, max_processes=1) as runner:
        if lane == "process":
            # The start of the worker process is not the attempt's.
            await runner.step(1)
        _texts.update(plain="x" * size, foreign="äöü\n" * (size // 7))
        await trio.sleep(0.1)
        take("")
        try:
            done = await runner.step(size)
            rollout_id = done.rollout.rollout_id
        except ValueError:
            rollout_id = (await store.query_rollouts())[-1].rollout_id
        take("attempt")
        spans = await store.query_spans(rollout_id)
        assert size in (100_000, 1_000) or sum(map(size_of, spans)) > size / 2
        take("read")
        assert spans


async def run_notes(size: int, store: agl.LightningStore, take: Callable[[str], None]) -> None:
    """Run an algorithm that takes notes."""

    async def agent(task: int) -> float:
        return 1.0

    result = await agl.Runner(agent, store=store, algorithm=noting).fit([size])
    assert len(result.history) == size
    take("attempt")
    async with store:
        [run] = await store.query_runs()
        assert len(run.history) == size
    take("read")


_AGENTS: Mapping[str, tuple[Any, str, int, int]] = {
    "100,000 spans": (many_spans, "trio", 100_000, 1_000),
    "100,000 spans, thread": (many_spans_blocking, "thread", 100_000, 1_000),
    "100,000 spans, asyncio": (many_spans_in_asyncio, "asyncio", 100_000, 1_000),
    "100,000 spans, process": (many_spans_blocking, "process", 100_000, 1_000),
    "a text of 100 MB": (one_text, "trio", 100_000_000, 100_000),
    "a text of 100 MB, process": (one_text_blocking, "process", 100_000_000, 100_000),
    "a text of 100 MB, not ASCII": (foreign_text, "trio", 100_000_000, 100_000),
    "100 texts of 1 MB": (many_texts, "trio", 100_000_000, 100_000),
    "an exception with 100,000 notes": (noted_exception, "trio", 100_000, 1_000),
}


def largest_gaps(name: str, quick: bool, dsn: str | None, folder: str | None) -> dict[str, float]:
    """Run a case in this process and return the largest gap of each of its phases, in seconds."""
    gaps: dict[str, float] = {}

    async def main() -> None:
        store: agl.LightningStore
        if dsn is not None:
            store = agl.PostgresLightningStore(dsn, max_payload_bytes=LIMIT)
        elif folder is not None:
            store = agl.SqliteLightningStore(Path(folder) / "large.db", max_payload_bytes=LIMIT)
        else:
            store = agl.InMemoryLightningStore()
        async with beating() as heart:

            def take(phase: str) -> None:
                gaps[phase] = heart.take()

            if name == "100,000 notes of an algorithm":
                await run_notes(1_000 if quick else 100_000, store, take)
            else:
                agent, lane, size, small = _AGENTS[name]
                await run_agent(agent, lane, small if quick else size, store, take)

    trio.run(main)
    return gaps


if __name__ == "__main__":
    import sys

    kinds = sys.argv[1].split(",")
    pat = sys.argv[2] if len(sys.argv) > 2 else ""
    names = [n for n in [*_AGENTS, "100,000 notes of an algorithm"] if pat in n]
    for kind in kinds:
        for name in names:
            with server() if kind == "postgres" else nullcontext() as dsn, tempfile.TemporaryDirectory() as folder:
                try:
                    gaps = in_fresh_process(largest_gaps, name, False, dsn, folder if kind == "sqlite" else None)
                except Exception as exc:
                    print(kind, name, "FAILED", repr(exc)[:300], flush=True)
                    continue
                print(f"{kind:9}{name:40}", {k: f"{v * 1000:.0f} ms" for k, v in gaps.items() if k}, flush=True)
