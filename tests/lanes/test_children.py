"""Processes that agents start: they work in each lane as in any program, and end with their worker process."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import child_agents as agents
import pytest
import trio
from programs import Ended, Program, run_program, started

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner
from lightning_trio._host import is_dead

pytest.importorskip("trio_parallel")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no signals")

HEAD = f"""
import sys, trio, lightning_trio as agl
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import child_agents as agents
"""

HEAVY = pytest.mark.heavy
FAMILIES = pytest.mark.parametrize(
    "kind", ["fork", pytest.param("spawn", marks=HEAVY), pytest.param("session", marks=HEAVY)]
)


@pytest.mark.parametrize(
    "agent",
    [
        pytest.param("in_thread", marks=HEAVY),
        pytest.param("in_trio", marks=HEAVY),
        pytest.param("in_trios_thread", marks=HEAVY),
        pytest.param("in_asyncio", marks=HEAVY),
        "in_process",
        pytest.param("in_process_and_trio", marks=HEAVY),
    ],
)
def test_graders_may_start_processes_of_every_kind(agent: str) -> None:
    ended = run_program(
        HEAD
        + f"""
async def main():
    async with agl.Runner(agents.{agent}, max_processes=2, max_concurrency=2) as runner:
        async with runner.stream(agents.GRADINGS) as results:
            async for done in results:
                if done.final_reward != 1.0:
                    print(done.input, done.final_reward, done.error)

trio.run(main)
print("graded")
"""
    )

    assert (ended.code, ended.out) == (0, "graded\n"), ended.err


# Ctrl-C and SIGTERM.


WAITS_FOR_CHILD = """
import multiprocessing, os, signal, sys, time, trio, lightning_trio as agl

context = multiprocessing.get_context("fork")

def child():
    print("ready", flush=True)
    time.sleep(3600)

@agl.rollout
def agent(task):
    process = context.Process(target=child)
    process.start()
    process.join()
    return 1.0

def fit():
    {fit}

try:
    fit()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    "fit", ["agl.Trainer(n_runners=1).fit(agent, ['x'])", "trio.run(agl.Runner(agent).fit, ['x'])"]
)
def test_a_ctrl_c_in_a_terminal_ends_children_too_and_the_program_at_once(fit: str) -> None:
    with started(WAITS_FOR_CHILD.format(fit=fit)) as program:
        program.wait_ready()
        os.killpg(program.process.pid, signal.SIGINT)
        # Its end is that of its child too, which shares its output.
        ended = program.ended()

    assert ended.code == 130, ended.err


def test_a_signal_that_comes_while_a_child_is_forked_is_not_lost() -> None:
    ended = run_program(
        """
        import multiprocessing, time, trio, lightning_trio as agl

        context = multiprocessing.get_context("fork")

        @agl.rollout
        def agent(task):
            children = [context.Process(target=time.sleep, args=(3600,)) for _ in range(50)]
            for child in children:
                child.start()
                child.terminate()
            for child in children:
                child.join()
            return float(all(child.exitcode == -15 for child in children))

        print(trio.run(agl.Runner(agent).fit, ["x"]).mean_reward["train"])
        """
    )

    assert ended.out == "1.0\n", ended.err


def test_handlers_of_the_hosts_own_are_inherited_as_ever() -> None:
    ended = run_program(
        """
        import multiprocessing, os, signal, trio, lightning_trio as agl

        context = multiprocessing.get_context("fork")
        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))

        def child():
            signal.raise_signal(signal.SIGTERM)

        @agl.rollout
        def agent(task):
            process = context.Process(target=child)
            process.start()
            process.join()
            return float(process.exitcode)

        print(trio.run(agl.Runner(agent).fit, ["x"]).mean_reward["train"])
        """
    )

    assert ended.out == "7.0\n", ended.err


@pytest.mark.parametrize("agent", ["emits_in_thread", "emits_in_process"])
def test_what_a_forked_child_emits_is_lost_with_one_warning(agent: str) -> None:
    ended = run_program(
        HEAD
        + f"""
async def main():
    async with agl.Runner(agents.{agent}, max_processes=1) as runner:
        texts = [agl.get_message_value(span) for span in (await runner.step("x")).spans]
        print([text for text in texts if text is not None])

trio.run(main)
"""
    )

    assert (ended.code, ended.out) == (0, "['after']\n"), ended.err
    assert ended.err.count("is lost, like all spans there") == 1


# Families of worker processes.


def family_of(directory: Path) -> list[int]:
    return [int((directory / name).read_text(encoding="utf-8")) for name in ("child", "grandchild")]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def assert_ends(directory: Path) -> None:
    family = family_of(directory)
    try:
        wait_until(lambda: all(map(is_dead, family)), "the family outlived its worker process")
    finally:
        for process in family:
            if not is_dead(process):
                os.kill(process, signal.SIGKILL)


@FAMILIES
async def test_at_its_deadline_a_worker_is_killed_with_its_family(kind: str, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with Runner(agents.with_family, config=RolloutConfig(timeout_seconds=2), max_processes=1) as runner:
            with pytest.raises(agl.AttemptTimedOut):
                await runner.step((str(tmp_path), kind))

            assert_ends(tmp_path)


@FAMILIES
async def test_a_cancelled_step_kills_its_worker_with_its_family(kind: str, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with Runner(agents.with_family) as runner, trio.open_nursery() as nursery:
            nursery.start_soon(runner.step, (str(tmp_path), kind))
            while not (tmp_path / "worker").exists():
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

        assert_ends(tmp_path)


@FAMILIES
async def test_what_an_agent_leaves_running_ends_with_its_worker_when_the_runner_closes(
    kind: str, tmp_path: Path
) -> None:
    with trio.fail_after(60):
        async with Runner(agents.leaves_family, max_processes=1) as runner:
            assert (await runner.step((str(tmp_path), kind))).final_reward == 1.0

        assert_ends(tmp_path)


@pytest.mark.parametrize("kind", ["fork", "spawn"])
async def test_a_worker_that_dies_takes_its_family_along_and_is_noticed(kind: str, tmp_path: Path) -> None:
    """A forked child holds the pipes whose end trio-parallel waits for."""
    with trio.fail_after(60):
        async with Runner(agents.dies_before_family, max_processes=1) as runner:
            with pytest.raises(agl.WorkerDied) as caught:
                await runner.step((str(tmp_path), kind))

        assert caught.value.exit_code == 7
        assert_ends(tmp_path)


def press_ctrl_c(program: Program) -> None:
    os.killpg(program.process.pid, signal.SIGINT)


def terminate(program: Program) -> None:
    program.send(signal.SIGTERM)


def kill(program: Program) -> None:
    program.send(signal.SIGKILL)


@FAMILIES
@pytest.mark.parametrize(
    ("stop", "code"),
    [
        pytest.param(press_ctrl_c, 130, id="ctrl-c"),
        pytest.param(terminate, 143, id="term", marks=HEAVY),
        pytest.param(kill, -9, id="kill"),
    ],
)
def test_a_program_that_is_stopped_takes_the_families_of_its_workers_along(
    stop: Callable[[Program], None], code: int, kind: str, tmp_path: Path
) -> None:
    ended = _stopped(stop, kind, tmp_path)

    assert ended.code == code, ended.err
    assert_ends(tmp_path)


def _stopped(stop: Callable[[Program], None], kind: str, directory: Path) -> Ended:
    with started(
        HEAD
        + f"""
try:
    trio.run(agl.Runner(agents.with_family, max_processes=1, grace_seconds=0.2).fit, [({str(directory)!r}, {kind!r})])
except KeyboardInterrupt:
    sys.exit(130)
"""
    ) as program:
        wait_until((directory / "worker").exists, "the agent did not begin")
        stop(program)
        # Its end is that of all that share its output, the family among them.
        return program.ended()
