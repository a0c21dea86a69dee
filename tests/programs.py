"""Programs that run as processes of their own, for tests that may hang or end a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import attrs

HANGS_SECONDS = 60.0
"""The seconds after which a program counts as hanging; even a busy machine needs less to start and end it."""

UNTIL_IT_MAY_END = """
import os, threading

may_end = threading.Event()
threading.Thread(target=lambda: (os.read(0, 1), may_end.set()), daemon=True).start()

async def wait_until_it_may_end(sleep):
    while not may_end.is_set():
        await sleep(0.01)
"""
"""The head of a program whose agents end when the test calls `Program.let_end`."""


@attrs.frozen
class Ended:
    """How a program ended: `code` as `subprocess` returns it, None if the program had to be killed."""

    code: int | None
    out: str
    err: str


class Program:
    """A program that runs beside the test, which reads its output as it is printed."""

    def __init__(self, source: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._printed: dict[str, list[str]] = {"out": [], "err": []}
        self._more = threading.Condition()
        self._open_pipes = 2
        self._readers = [
            threading.Thread(target=self._read, args=("out", self.process.stdout), daemon=True),
            threading.Thread(target=self._read, args=("err", self.process.stderr), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, where: str, pipe: IO[str]) -> None:
        for line in pipe:
            with self._more:
                self._printed[where].append(line)
                self._more.notify_all()
        with self._more:
            self._open_pipes -= 1
            self._more.notify_all()

    @property
    def out(self) -> str:
        """The output so far."""
        return "".join(self._printed["out"])

    @property
    def err(self) -> str:
        """The standard error so far."""
        return "".join(self._printed["err"])

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until `text` was in that many of its lines; raise AssertionError if the program ends first, or hangs."""
        with self._more:
            self._more.wait_for(lambda: self._count(text) >= times or not self._open_pipes, HANGS_SECONDS)
            count = self._count(text)
        assert count >= times, f"{text!r} came {count} times: {self.out}\n{self.err}"

    def _count(self, text: str) -> int:
        return sum(text in line for lines in self._printed.values() for line in lines)

    def wait_ready(self) -> None:
        """Wait until it has printed ``ready``, and discard the output up to there."""
        self.wait_for("ready\n")
        with self._more:
            lines = self._printed["out"]
            del lines[: lines.index("ready\n") + 1]

    def send(self, signum: int) -> None:
        """Send the program a signal, if it still runs."""
        self.process.send_signal(signum)

    def let_end(self) -> None:
        """Send the line that its agents wait for, see `UNTIL_IT_MAY_END`."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def ended(self, timeout: float = HANGS_SECONDS) -> Ended:
        """Wait at most `timeout` seconds for its end, and for the end of all processes that share its output."""
        with self._more:
            self._more.wait_for(lambda: not self._open_pipes, timeout)
        try:
            code = self.process.wait(0 if self._open_pipes else timeout)
        except subprocess.TimeoutExpired:
            return Ended(None, self.out, f"still running after {timeout:g} s\n{self.err}")
        return Ended(code, self.out, self.err)

    def close(self) -> None:
        """Kill the program, if it still runs, and what it left of its process group, which keeps its output open."""
        self.process.kill()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe, reader in zip((self.process.stdout, self.process.stderr), self._readers, strict=True):
            reader.join()
            assert pipe is not None
            pipe.close()
        assert self.process.stdin is not None
        self.process.stdin.close()


@contextmanager
def started(source: str) -> Iterator[Program]:
    """Start a program; if it still runs at the end of the block, kill it."""
    program = Program(textwrap.dedent(source))
    try:
        yield program
    finally:
        program.close()


def run_program(source: str, *, timeout: float = HANGS_SECONDS) -> Ended:
    """Run a program to its end, at most `timeout` seconds."""
    with started(source) as program:
        return program.ended(timeout)


def interrupt_program(source: str, *signals: int) -> Ended:
    """Run a program, press Ctrl-C when it has printed ``ready``, and wait for its end.

    Args:
        source: the program.
        signals: what to send instead: each when the program has said that attempts still run, but for the first.
    """
    with started(source) as program:
        program.wait_ready()
        for number, signum in enumerate(signals or (signal.SIGINT,)):
            if number:
                program.wait_for("still run")
            program.send(signum)
        return program.ended()
