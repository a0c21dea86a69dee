"""Programs run as processes of their own, for tests of what may hang or end a process."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs


@attrs.frozen
class Ended:
    """How a program ended: `code` as `subprocess` gives it, None if it had to be killed; `seconds` from its start."""

    code: int | None
    out: str
    err: str
    seconds: float


@contextmanager
def started(source: str) -> Iterator[subprocess.Popen[str]]:
    """Start a program, to be waited for within the block; one that still runs at its end is killed."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield program
    finally:
        program.kill()
        program.communicate()


def run_program(source: str, *, timeout: float = 10.0) -> Ended:
    """Run a program to its end, at most `timeout` seconds."""
    begin = time.monotonic()
    with started(source) as program:
        return _wait(program, begin, timeout)


def interrupt_program(
    source: str, *signals: int, between: float | Sequence[float] = 0.3, timeout: float = 15.0
) -> Ended:
    """Run a program, press Ctrl-C when it has printed ``ready``, and time how long it takes to end from there.

    Args:
        source: the program.
        signals: what to send instead, one after the other.
        between: the time between them, in seconds: one for all, or one for each.
        timeout: how long it may take until it is ready, and from there.
    """
    with started(source) as program:
        assert program.stdout is not None
        # Killed, it ends its output, and so the wait for a line that does not come.
        watchdog = threading.Timer(timeout, program.kill)
        watchdog.start()
        ready = any(line == "ready\n" for line in iter(program.stdout.readline, ""))
        watchdog.cancel()
        if not ready:
            program.kill()
            raise AssertionError(program.communicate()[1])
        # Most programs are idle when they are interrupted; one test is about those that are not.
        time.sleep(0.2)
        begin = time.monotonic()
        for number, signum in enumerate(signals or (signal.SIGINT,)):
            if number:
                time.sleep(between if isinstance(between, int | float) else between[number - 1])
            program.send_signal(signum)
        return _wait(program, begin, timeout)


def _wait(program: subprocess.Popen[str], begin: float, timeout: float) -> Ended:
    try:
        out, err = program.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        return Ended(None, "", f"still running after {timeout:g} s", timeout)
    return Ended(program.returncode, out, err, time.monotonic() - begin)
