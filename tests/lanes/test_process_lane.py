"""The process lane: agents in worker processes that can be killed, and their results."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import process_agents as agents
import pytest
import trio
from programs import Ended, run_program, started

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner

pytest.importorskip("trio_parallel")

LLM = agl.LLM(endpoint="http://127.0.0.1:9/v1", model="m", api_key="secret")


def limit(seconds: float = 0.3) -> RolloutConfig:
    return RolloutConfig(timeout_seconds=seconds)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def names(done: agl.CompletedRollout) -> list[str]:
    return [span.name for span in done.spans]


async def failed_spans(runner: Runner) -> list[agl.Span]:
    [rollout] = await runner.store.query_rollouts(status_in=["failed"])
    return list(await runner.store.query_spans(rollout.rollout_id))


# Results.


async def test_gives_the_reward() -> None:
    result = await Runner(agents.double).fit([1, 2])

    assert result.mean_reward["train"] == 3.0


async def test_runs_in_other_processes_which_are_reused_and_end_with_the_runner() -> None:
    async with Runner(agents.pid, max_processes=2) as runner, runner.stream(range(12)) as results:
        pids = {agl.get_object_value(done.spans[1])["pid"] async for done in results}

    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2
    assert not any(is_alive(pid) for pid in pids)


async def test_parameters_are_supplied_as_in_any_lane_and_the_key_goes_along() -> None:
    resources = {"factor": agents.Factor(3.0), "llm": LLM}
    async with Runner(agents.scale, resources=resources) as runner:
        done = await runner.step(2.0, mode="val")

    assert done.final_reward == 6.0
    assert agl.get_message_value(done.spans[1]) == "val secret"
    assert done.spans[0].name == "invoke_agent the scaler"


async def test_an_async_agent_runs_in_trio_there() -> None:
    async with Runner(agents.in_trio) as runner:
        done = await runner.step(1)

    by_id = {span.span_id: span for span in done.spans}
    texts = {
        agl.get_message_value(span): by_id[span.parent_id or ""].attributes["agentlightning.operation.name"]
        for span in done.spans
        if agl.get_message_value(span)
    }
    assert texts == {"thread 1": "child 1", "thread 2": "child 2"}
    assert {span.trace_id for span in done.spans} == {done.spans[0].trace_id}


async def test_spans_of_libraries_through_opentelemetrys_global_api_come_back() -> None:
    async with Runner(agents.traced) as runner:
        done = await runner.step(5)

    root = done.spans[0]
    parents = [(span.name, span.parent_id) for span in done.spans if span.name == "library"]
    inner = next(span for span in done.spans if span.name.endswith("operation"))
    assert [parent for _, parent in parents] == [root.span_id, inner.span_id]
    assert {span.trace_id for span in done.spans} == {root.trace_id}
    assert [span.sequence_id for span in done.spans] == list(range(1, len(done.spans) + 1))


async def test_returned_spans_join_the_others() -> None:
    async with Runner(agents.spans) as runner:
        done = await runner.step(3)

    assert names(done) == ["invoke_agent spans", "returned"]
    assert done.spans[1].parent_id == done.spans[0].span_id


async def test_hooks_may_emit_before_and_after() -> None:
    class Emit(agl.Hook):
        async def on_trace_start(self, **_: object) -> None:
            agl.emit_message("before")

        async def on_trace_end(self, **_: object) -> None:
            agl.emit_message("after")

    async with Runner(agents.fails, hooks=[Emit()]) as runner:
        with pytest.raises(KeyError):
            await runner.step("x")

        spans = await failed_spans(runner)
    assert [agl.get_message_value(span) for span in spans[1:]] == ["before", "before", "after"]
    assert len({span.sequence_id for span in spans}) == 4


async def test_what_a_finaliser_emits_in_the_next_rollout_of_its_process_is_refused_and_counted() -> None:
    async with Runner(agents.leaves_garbage, max_processes=1) as runner:
        done = [await runner.step("leaves"), await runner.step("collects")]

        assert [len(each.spans) for each in done] == [1, 1]
        assert runner.tracer.statistics().late_spans == 1


async def test_a_class_keeps_its_state_and_its_modes() -> None:
    agent = agents.Counting()
    agent.step = 3
    result = await Runner(agent, max_processes=1).fit([1, 2], [5])

    assert result.mean_reward == {"train": 4.5, "val": -5.0}


async def test_a_class_keeps_its_state_across_modes_and_resources() -> None:
    async with Runner(agents.Remembering(), max_processes=1) as runner:
        rewards = [
            (await runner.step(1, mode=mode, resources={"factor": agents.Factor(value)})).final_reward
            for mode in ("train", "val")
            for value in (1.0, 2.0)
        ]

    assert rewards == [1.0, 2.0, 3.0, 4.0]


async def test_a_class_is_not_copied_in_this_process() -> None:
    assert (await Runner(agents.RunsAPart(), max_processes=1).fit([1])).mean_reward["train"] == 1.0


async def test_a_function_decorated_under_another_name_is_found() -> None:
    assert (await Runner(agents.under_another_name).fit([2.0])).mean_reward["train"] == 2.0


async def test_calls_of_the_openai_sdk_are_recorded() -> None:
    pytest.importorskip("openai")
    pytest.importorskip("opentelemetry.instrumentation.genai.openai")
    from lightning_trio.testing import open_scripted_llm

    async with open_scripted_llm("hello") as server:
        llm = agl.LLM(endpoint=server.base_url, model="scripted")
        async with Runner(agents.asks, resources={"llm": llm}) as runner:
            done = await runner.step("hi")

    [_, span] = done.spans
    assert span.name == "chat scripted"
    assert span.parent_id == done.spans[0].span_id
    assert "hello" in span.attributes["gen_ai.output.messages"]


# Errors of the agent.


async def test_an_exception_comes_with_the_spans_before_it_and_the_workers_traceback() -> None:
    async with Runner(agents.fails) as runner:
        with pytest.raises(KeyError, match="room"):
            await runner.step("room")

        [rollout] = await runner.store.query_rollouts(status_in=["failed"])
        attempt = await runner.store.get_latest_attempt(rollout.rollout_id)
        spans = await failed_spans(runner)
    assert attempt is not None
    assert attempt.error is not None
    assert attempt.error.type == "KeyError"
    assert "raise KeyError(task)" in attempt.error.traceback
    assert [agl.get_message_value(span) for span in spans[1:]] == ["before"]


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        ("exit", SystemExit, "3"),
        ("generator exit", agl.AgentError, "the agent raised GeneratorExit"),
        ("interrupt", agl.AgentError, "the agent raised KeyboardInterrupt"),
        ("unreadable", agl.RemoteAgentError, "Unreadable: one and two"),
        ("local", agl.RemoteAgentError, "Local: nobody else knows it"),
        ("group", ExceptionGroup, "several"),
    ],
)
async def test_whatever_an_agent_raises_fails_its_attempt_only(
    task: str, kind: type[BaseException], message: str
) -> None:
    async with Runner(agents.fails) as runner:
        with pytest.raises(kind, match=message):
            await runner.step(task)

        [rollout] = await runner.store.query_rollouts()
    assert rollout.status == "failed"


@pytest.mark.parametrize(
    ("task", "exceptions", "attempts"),
    [
        ("one", [agents.RateLimit], 3),
        ("one", ["OSError"], 3),
        ("one", [KeyError], 1),
        ("group", [agents.RateLimit, LookupError], 3),
        ("group", [agents.RateLimit], 1),
    ],
)
async def test_an_exception_that_cannot_come_over_is_known_by_its_classes(
    task: str, exceptions: list[type[BaseException] | str], attempts: int
) -> None:
    config = RolloutConfig(max_attempts=3, retry_exceptions=exceptions, backoff_seconds=0.01)
    async with Runner(agents.busy, max_processes=1, config=config) as runner, runner.stream([task]) as results:
        [done] = [each async for each in results]

    assert done.attempt.sequence_id == attempts
    assert done.error is not None
    assert (done.error.type, done.error.message) == (
        ("ExceptionGroup", "calls (2 sub-exceptions)") if task == "group" else ("RateLimit", "slow down")
    )


async def test_a_number_of_a_class_that_cannot_be_sent_is_a_reward() -> None:
    async with Runner(agents.own_number) as runner:
        done = await runner.step(2.5)

    assert done.final_reward == 2.5
    assert [agl.get_message_value(span) for span in done.spans[1:2]] == ["before"]


async def test_a_message_of_a_class_that_cannot_be_sent_loses_nothing() -> None:
    async with Runner(agents.own_text) as runner, runner.stream([1]) as results:
        [done] = [each async for each in results]

    assert done.error is not None
    assert (done.error.type, done.error.message) == ("OwnText", "what it says")
    assert [agl.get_message_value(span) for span in done.spans[1:]] == ["before"]


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        ("lambda", agl.InvalidReturn, "of type function"),
        ("dict", agl.InvalidReturn, r"returned \{'a': 1\} of type dict"),
        ("nan", agl.InvalidReward, "the reward is nan"),
    ],
)
async def test_a_wrong_return_value_is_refused_as_in_any_lane(
    task: str, kind: type[BaseException], message: str
) -> None:
    async with Runner(agents.anything) as runner:
        with pytest.raises(kind, match=message):
            await runner.step(task)


async def test_an_empty_list_succeeds_with_the_warning_in_this_process(caplog: pytest.LogCaptureFixture) -> None:
    async with Runner(agents.anything) as runner:
        assert (await runner.step("nothing")).status == "succeeded"
        assert (await runner.step("bool")).final_reward == 1.0

    assert "returns an empty list" in caplog.text


async def test_what_an_agent_leaves_open_is_closed_and_what_it_leaves_running_records_nothing() -> None:
    async with Runner(agents.leaves_open, max_processes=1) as runner:
        first = await runner.step(1)
        await trio.sleep(0.3)
        second = await runner.step(2)

    for done in (first, second):
        [_, left] = done.spans
        assert left.status.status_code == "ERROR"
        assert "still open when the attempt ended" in (left.status.description or "")


# Worker processes that die.


@pytest.mark.parametrize(
    ("task", "message", "exit_code"),
    [
        ("os._exit", "it exited with code 7, as os._exit does", 7),
        ("SIGSEGV", "it was killed by SIGSEGV", -signal.SIGSEGV),
        ("SIGKILL", "it was killed by SIGKILL, which the system also sends when memory runs out", -signal.SIGKILL),
    ],
)
async def test_a_worker_that_dies_fails_its_attempt_with_what_is_known(task: str, message: str, exit_code: int) -> None:
    async with Runner(agents.dies, max_processes=1) as runner:
        with pytest.raises(agl.WorkerDied, match=message) as caught:
            await runner.step(task)
        assert caught.value.exit_code == exit_code
        done = await runner.step("lives")

        spans = await failed_spans(runner)
    assert done.final_reward == 1.0
    assert [span.name for span in spans] == ["invoke_agent dies", "agentlightning.operation"]


async def test_a_worker_that_dies_while_it_is_idle_is_replaced() -> None:
    async with Runner(agents.pid, max_processes=1) as runner:
        pid = agl.get_object_value((await runner.step(1)).spans[1])["pid"]
        os.kill(pid, signal.SIGKILL)
        # Until the process has ended, without reaping it; ChildProcessError if the lane has reaped it already.
        with contextlib.suppress(ChildProcessError):
            await trio.to_thread.run_sync(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        done = await runner.step(2)

    assert agl.get_object_value(done.spans[1])["pid"] != pid


# Deadlines and cancellation.


async def test_at_its_deadline_a_worker_is_killed_and_what_it_recorded_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with trio.fail_after(20):
        async with Runner(agents.hangs, config=limit(), max_processes=1) as runner:
            with pytest.raises(agl.AttemptTimedOut, match=r"stopped at its deadline after 0\.3 s"):
                await runner.step(str(file))
            assert not is_alive(int(file.read_text(encoding="utf-8")))
            assert (await runner.step(None)).final_reward == 1.0

            assert runner.statistics().abandoned_threads == 0
            spans = await failed_spans(runner)
    assert [agl.get_message_value(span) for span in spans[1:]] == ["begun"]


async def test_the_start_of_a_worker_and_the_wait_for_a_free_one_are_not_the_agents_time() -> None:
    with trio.fail_after(30):
        result = await Runner(agents.sleeps, config=limit(0.5), max_processes=1).fit([0.15] * 6)

    assert result.counts["succeeded"] == 6


async def test_a_cancelled_step_kills_its_worker(tmp_path: Path) -> None:
    file = tmp_path / "pid"

    async with Runner(agents.hangs) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, str(file))
        with trio.fail_after(20):
            while not (file.exists() and file.read_text(encoding="utf-8")):
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()

    assert not is_alive(int(file.read_text(encoding="utf-8")))
    [rollout] = await runner.store.query_rollouts()
    assert rollout.status == "cancelled"


@pytest.mark.parametrize("call", ["runner.step(1)", "runner.serve()"])
def test_a_call_can_be_cancelled_at_each_checkpoint_before_its_worker_runs(call: str) -> None:
    result = run_program(
        f"""
        import faulthandler, sys, trio, lightning_trio as agl
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        import process_agents

        async def use(runner):
            await {call}

        async def main():
            for checkpoints in range(16):
                print(checkpoints, flush=True)
                faulthandler.dump_traceback_later(20, exit=True)
                async with agl.Runner(process_agents.double, max_processes=1) as runner:
                    await runner.store.enqueue_rollout(1)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(use, runner)
                        for _ in range(checkpoints):
                            await trio.lowlevel.checkpoint()
                        nursery.cancel_scope.cancel()
            faulthandler.cancel_dump_traceback_later()

        trio.run(main)
        """
    )

    assert (result.code, result.out.split()[-1]) == (0, "15"), result.err


async def test_leaving_the_runner_does_not_wait_for_an_agent(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Runner(agents.hangs).fit, [str(mark)])
            pid = await trio.to_thread.run_sync(wait_for_pid, mark)
            nursery.cancel_scope.cancel()

    assert not is_alive(pid)


async def test_nothing_is_left_in_the_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with Runner(agents.dies, max_processes=1) as runner:
        await runner.step("lives")
        with pytest.raises(agl.WorkerDied):
            await runner.step("os._exit")
        assert os.listdir(tmp_path)

    assert not os.listdir(tmp_path)


async def test_nothing_is_left_there_either_when_the_runners_block_ends_by_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyError):
        async with Runner(agents.fails, max_processes=1) as runner:
            await runner.step("room")

    assert not os.listdir(tmp_path)


@pytest.mark.heavy
async def test_a_silent_worker_is_unresponsive_and_one_that_records_is_not() -> None:
    config = RolloutConfig(unresponsive_seconds=0.8)
    async with Runner(agents.emits_slowly, config=config) as runner:
        assert (await runner.step(0.2)).final_reward == 1.0
    async with Runner(agents.sleeps, config=config) as runner:
        with pytest.raises(agl.AttemptTimedOut, match=r"recorded nothing for 0\.8 s"):
            await runner.step(60.0)


async def test_an_attempt_killed_at_its_deadline_is_tried_again_in_a_new_worker() -> None:
    config = RolloutConfig(
        timeout_seconds=0.3, max_attempts=2, retry_condition=["timeout"], backoff_seconds=0.01, backoff_jitter=0
    )
    async with Runner(agents.sleeps, config=config) as runner:
        with pytest.raises(agl.AttemptTimedOut):
            await runner.step(60.0)

        [rollout] = await runner.store.query_rollouts()
        assert len(await runner.store.query_attempts(rollout.rollout_id)) == 2


# Values that cannot be sent.


def test_a_closure_is_refused_before_the_first_rollout() -> None:
    @agl.rollout(runs_in="process")
    def closure(task: int) -> float:
        return 1.0

    with pytest.raises(agl.UnsupportedLane, match=r"its function .*<locals>\.closure cannot be pickled.*top level"):
        trio.run(Runner(closure).fit, [1])


def test_a_lambda_is_refused_before_the_first_rollout() -> None:
    agent = agl.rollout(runs_in="process")(lambda task: 1.0)

    with pytest.raises(agl.UnsupportedLane, match="and not as a lambda"):
        trio.run(Runner(agent).fit, [1])


def test_an_attribute_of_an_agent_that_cannot_be_pickled_is_named() -> None:
    agent = agents.Counting()
    agent.extra = threading.Lock()

    with pytest.raises(agl.UnsupportedLane, match=r"its attribute self\.extra \(lock\) cannot be pickled"):
        trio.run(Runner(agent).fit, [1])


def test_a_resource_that_cannot_be_pickled_is_named() -> None:
    resources = {"lock": agents.Locked(threading.Lock())}

    with pytest.raises(agl.UnsupportedLane, match=r"the resource 'lock' \(Locked\) cannot be pickled"):
        trio.run(lambda: Runner(agents.double, resources=resources).fit([1]))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (agents.ExitsWhenPickled(), "the task .* cannot be sent to a worker process: while pickling"),
        (agents.ExitsWhenMade(), "the worker process could not load the task: SystemExit: while unpickling"),
    ],
    ids=["pickling", "unpickling"],
)
def test_a_task_that_exits_on_its_way_to_the_worker_fails_alone(task: object, message: str) -> None:
    store = agl.InMemoryLightningStore()

    result = trio.run(Runner(agents.returns_one, store=store).fit, [1, task, 3])

    [error] = [each.error.message for each in trio.run(attempts_of, store) if each.error is not None]
    assert result.counts == {"succeeded": 2, "failed": 1, "cancelled": 0}
    assert re.search(message, error)


async def attempts_of(store: agl.InMemoryLightningStore) -> list[agl.Attempt]:
    return [each.attempt for each in await store.query_rollouts() if isinstance(each, agl.AttemptedRollout)]


async def test_a_task_that_cannot_be_pickled_fails_its_attempt() -> None:
    async with Runner(agents.hangs) as runner:
        with pytest.raises(agl.UnsupportedLane, match=r"the task <unlocked _thread\.lock.*cannot be sent"):
            await runner.step(threading.Lock())


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trio_parallel" else find_spec(name))

    with pytest.raises(agl.UnsupportedLane, match=r"pip install 'lightning-trio\[process\]'"):
        trio.run(Runner(agents.double).fit, [1])


@pytest.mark.parametrize("number", [0, -1, 1.5])
def test_a_wrong_number_of_processes_is_refused(number: object) -> None:
    with pytest.raises(agl.UsageError, match="pass an integer of at least 1"):
        Runner(agents.double, max_processes=number)  # type: ignore[arg-type]


def test_an_agent_of_an_interactive_session_is_refused() -> None:
    ended = run_program(
        """
        import trio, lightning_trio as agl

        @agl.rollout(runs_in="process")
        def agent(task):
            return 1.0

        trio.run(agl.Runner(agent).fit, [1])
        """
    )

    assert ended.code == 1
    assert "the main program is not a file" in ended.err


def test_an_agent_of_a_script_from_stdin_is_refused() -> None:
    script = SCRIPT.format(start='if __name__ == "__main__":\n    main()', tasks=[1])

    ended = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=30, check=False)

    assert ended.returncode == 1
    assert "the main program is not a file" in ended.stderr


async def test_a_worker_that_does_not_come_to_its_start_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_trio.lanes._process._pool._START_SECONDS", 0.01)
    async with Runner(agents.double, max_processes=1) as runner:
        with pytest.raises(agl.WorkerDied, match=r"did not start within 0\.01 s and was killed\. It imports"):
            await runner.step(1)
        monkeypatch.setattr("lightning_trio.lanes._process._pool._START_SECONDS", 30)

        assert (await runner.step(1)).final_reward == 2.0


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="has no signal masks")
async def test_starting_workers_leaves_no_thread_of_trios_deaf_to_ctrl_c() -> None:
    async with Runner(agents.double, max_processes=2) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 1)
        nursery.start_soon(runner.step, 2)

    together = threading.Barrier(4)

    def mask() -> set[signal.Signals | int]:
        together.wait(10)
        return signal.pthread_sigmask(signal.SIG_BLOCK, ())

    masks: list[set[signal.Signals | int]] = []

    async def look() -> None:
        masks.append(await trio.to_thread.run_sync(mask))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(look)
    assert masks == [set()] * 4


SCRIPT = """
import trio, lightning_trio as agl

@agl.rollout(runs_in="process")
def agent(task):
    return 1.0

def main():
    print(trio.run(agl.Runner(agent, max_processes=1).fit, {tasks}).counts["succeeded"])

{start}
"""


def run_script(path: Path, start: str, tasks: list[int]) -> Ended:
    file = path / "script.py"
    file.write_text(SCRIPT.format(start=start, tasks=tasks), encoding="utf-8")
    return run_program(f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, {str(file)!r}]))")


def test_an_agent_of_the_main_script_is_found(tmp_path: Path) -> None:
    ended = run_script(tmp_path, 'if __name__ == "__main__":\n    main()', [1])

    assert (ended.code, ended.out) == (0, "1\n"), ended.err


def test_a_main_script_without_a_guard_is_reported_by_one_worker(tmp_path: Path) -> None:
    ended = run_script(tmp_path, "main()", [1, 2, 3])

    assert ended.out == "0\n"
    assert 'belongs below if __name__ == "__main__":' in ended.err
    assert ended.err.count("Traceback") == 1


@pytest.mark.parametrize("signum", [pytest.param(signal.SIGTERM, marks=pytest.mark.heavy), signal.SIGKILL])
def test_a_worker_ends_with_its_parent_whatever_ended_that(signum: int, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    with started(
        f"""
        import sys, trio, lightning_trio as agl
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        import process_agents

        async def main():
            async with agl.Runner(process_agents.hangs, max_processes=1) as runner:
                await runner.step({str(mark)!r})

        trio.run(main)
        """
    ) as program:
        pid = wait_for_pid(mark)
        program.send(signum)
        program.process.wait(timeout=60)

        # Inside the block, whose end waits for all processes that hold the program's pipes.
        deadline = time.monotonic() + 60
        while is_alive(pid):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                pytest.fail("the worker outlived its parent")
            time.sleep(0.05)


def wait_for_pid(mark: Path) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if mark.exists() and (text := mark.read_text(encoding="utf-8")):
            return int(text)
        time.sleep(0.02)
    raise AssertionError("the agent did not begin")


def test_a_ctrl_c_in_a_terminal_leaves_no_traceback_of_a_worker() -> None:
    """Ctrl-C reaches all processes of the group; a worker process that is starting must ignore it as well."""
    with started(
        f"""
        import sys, trio, lightning_trio as agl
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        import process_agents

        async def main():
            async with agl.Runner(process_agents.sleeps, max_processes=3) as runner, trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(runner.step, 60.0)
                print("ready", flush=True)
                await trio.sleep_forever()

        try:
            trio.run(main)
        except KeyboardInterrupt:
            sys.exit(130)
        """
    ) as program:
        program.wait_ready()
        # Worker processes are starting at that moment.
        time.sleep(0.15)
        os.killpg(program.process.pid, signal.SIGINT)
        ended = program.ended()

    assert (ended.code, ended.err) == (130, "")
