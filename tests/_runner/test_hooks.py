"""Hooks: when they run, in which order, and that they cannot fail a rollout."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import Hook, RolloutConfig, Runner, Span


class Recorder(Hook):
    def __init__(self, name: str = "") -> None:
        self.name = name
        self.calls: list[str] = []
        self.spans: list[Sequence[Span]] = []
        self.traces: list[list[Span]] = []

    async def on_rollout_start(self, **kwargs: Any) -> None:
        self.calls.append(f"{self.name}rollout start")

    async def on_trace_start(self, *, tracer: agl.Tracer, **kwargs: Any) -> None:
        self.calls.append(f"{self.name}trace start")
        agl.emit_message("from the hook")

    async def on_trace_end(self, *, tracer: agl.Tracer, **kwargs: Any) -> None:
        self.calls.append(f"{self.name}trace end")
        self.traces.append(tracer.get_last_trace())

    async def on_rollout_end(self, *, spans: Sequence[Span], **kwargs: Any) -> None:
        self.calls.append(f"{self.name}rollout end")
        self.spans.append(spans)


IN_ORDER = ["rollout start", "trace start", "trace end", "rollout end"]


async def returns(task: int) -> float:
    return 0.75


async def raises(task: int) -> float:
    raise ValueError


async def hangs(task: int) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("agent", [returns, raises, hangs])
async def test_all_four_run_however_the_agent_ends(agent: Any, autojump_clock: MockClock) -> None:
    hook = Recorder()

    await Runner(agent, hooks=[hook], config=RolloutConfig(timeout_seconds=1)).fit([1])

    assert hook.calls == IN_ORDER


async def test_they_run_in_the_order_they_were_given() -> None:
    calls: list[str] = []
    first, second = Recorder("1 "), Recorder("2 ")
    first.calls = second.calls = calls

    await Runner(returns, hooks=[first, second]).fit([1])

    assert calls == [f"{number} {name}" for name in IN_ORDER for number in (1, 2)]


async def test_the_end_sees_all_spans_the_automatic_reward_included() -> None:
    hook = Recorder()

    await Runner(returns, hooks=[hook]).fit([1])

    [spans] = hook.spans
    assert [span.name.split(".")[-1] for span in spans] == ["invoke_agent returns", "message", "annotation"]
    assert agl.find_final_reward(spans) == 0.75


async def test_the_trace_can_be_read_at_its_end() -> None:
    hook = Recorder()

    await Runner(returns, hooks=[hook]).fit([1])

    assert [span.name for span in hook.traces[0]] == [agl.semconv.AGL_MESSAGE, agl.semconv.AGL_ANNOTATION]


@pytest.mark.parametrize("method", ["on_rollout_start", "on_trace_start", "on_trace_end", "on_rollout_end"])
async def test_an_error_in_a_hook_is_logged_and_fails_nothing(method: str, caplog: pytest.LogCaptureFixture) -> None:
    async def breaks(self: Hook, **kwargs: Any) -> None:
        raise RuntimeError("broken hook")

    Broken = type("Broken", (Hook,), {method: breaks})
    caplog.set_level(logging.ERROR, "lightning_trio")

    result = await Runner(returns, hooks=[Broken()]).fit([1])

    assert result.counts["succeeded"] == 1
    assert f"the hook Broken.{method} failed" in caplog.text


async def test_the_agents_deadline_does_not_run_while_hooks_do(autojump_clock: MockClock) -> None:
    class Slow(Hook):
        async def on_rollout_start(self, **kwargs: Any) -> None:
            await trio.sleep(10)

    result = await Runner(returns, hooks=[Slow()], config=RolloutConfig(timeout_seconds=1)).fit([1])

    assert result.counts["succeeded"] == 1


async def test_they_run_for_every_attempt(autojump_clock: MockClock) -> None:
    hook = Recorder()
    config = RolloutConfig(max_attempts=3, retry_condition=["failed"])

    await Runner(raises, hooks=[hook], config=config).fit([1])

    assert hook.calls == IN_ORDER * 3


def test_one_hook_needs_no_list() -> None:
    hook = Recorder()

    assert Runner(returns, hooks=hook).hooks == (hook,)  # type: ignore[arg-type]


class SlowEnd(Hook):
    async def on_rollout_end(self, **_: object) -> None:
        await trio.sleep(10)


async def test_a_fit_cancelled_in_a_closing_hook_does_not_run_a_succeeded_attempt_again(
    autojump_clock: MockClock,
) -> None:
    """Either attempt and rollout succeeded, or the attempt was cancelled and its rollout goes back to the queue."""
    store = agl.InMemoryLightningStore()
    with trio.move_on_after(1):
        await Runner(returns, store=store, hooks=[SlowEnd()]).fit([1])

    [rollout] = await store.query_rollouts()
    attempt = await store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    assert (attempt.status, rollout.status) in [("succeeded", "succeeded"), ("cancelled", "requeuing")]


async def test_a_step_cancelled_in_a_closing_hook_agrees_with_its_attempt(autojump_clock: MockClock) -> None:
    async with Runner(returns, hooks=[SlowEnd()]) as runner:
        with trio.move_on_after(1):
            await runner.step(1)

        [rollout] = await runner.store.query_rollouts()
        attempt = await runner.store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    assert attempt.status == rollout.status


async def test_a_base_exception_of_a_hook_is_logged_as_well(caplog: pytest.LogCaptureFixture) -> None:
    class Exiting(Hook):
        async def on_rollout_end(self, **_: object) -> None:
            raise SystemExit(4)

    async with Runner(returns, hooks=[Exiting()]) as runner:
        done = await runner.step(1)

    assert done.status == "succeeded"
    assert "the hook Exiting.on_rollout_end failed" in caplog.text


class Own(BaseException):
    """An exception of a library that is not an `Exception`."""


async def stray_cancellation() -> BaseException:
    """Return a cancellation that belongs to no scope any longer."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            kept = exc
    return kept


@pytest.mark.parametrize("method", ["on_rollout_start", "on_trace_start", "on_trace_end", "on_rollout_end"])
@pytest.mark.parametrize(
    "raised",
    [
        asyncio.CancelledError(),
        GeneratorExit(),
        Own(),
        BaseExceptionGroup("several", [ValueError(), asyncio.CancelledError()]),
        BaseExceptionGroup("one", [SystemExit(4)]),
        KeyboardInterrupt(),
        None,
    ],
    ids=repr,
)
async def test_no_exception_of_a_hooks_own_fails_a_rollout(
    method: str, raised: BaseException | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def call(self: Hook, **_: object) -> None:
        raise raised or await stray_cancellation()

    result = await Runner(returns, hooks=[type("Raising", (Hook,), {method: call})()]).fit([1, 2])

    assert result.counts["succeeded"] == 2
    assert caplog.text.count(f"the hook Raising.{method} failed; the rollout continues") == 2


async def test_a_ctrl_c_in_a_hook_ends_the_run() -> None:
    class Interrupted(Hook):
        async def on_rollout_start(self, **_: object) -> None:
            signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        await Runner(returns, hooks=[Interrupted()]).fit([1])


async def test_closing_hooks_of_a_cancelled_rollout_have_two_seconds(autojump_clock: MockClock) -> None:
    class Hanging(Hook):
        async def on_trace_end(self, **_: object) -> None:
            await trio.sleep_forever()

    async with Runner(hangs, hooks=[Hanging()]) as runner:
        with trio.move_on_after(10):
            await runner.step(1)

        [rollout] = await runner.store.query_rollouts()
    assert trio.current_time() == pytest.approx(12)
    assert rollout.status == "cancelled"


@pytest.mark.parametrize("method", ["on_trace_end", "on_rollout_end"])
async def test_a_ctrl_c_in_a_closing_hook_of_a_cancelled_attempt_leaves_no_slot_taken(
    autojump_clock: MockClock, method: str
) -> None:
    async def interrupted(**_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    hook = type("Interrupted", (Hook,), {method: staticmethod(interrupted)})()
    async with Runner(hangs, hooks=[hook], max_concurrency=1) as runner:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt), trio.move_on_after(1):
                await runner.step(1)

        assert (runner.statistics().running, runner.statistics().cancelled) == (0, 2)
        statuses = [rollout.status for rollout in await runner.store.query_rollouts()]
    assert statuses == ["cancelled"] * 2


async def test_steps_cancelled_in_an_opening_hook_give_their_slots_back(autojump_clock: MockClock) -> None:
    class Hanging(Hook):
        async def on_rollout_start(self, **_: object) -> None:
            await trio.sleep_forever()

    async with Runner(returns, hooks=[Hanging()], max_concurrency=1) as runner:
        for _ in range(3):
            with trio.move_on_after(1):
                await runner.step(1)

        statuses = [rollout.status for rollout in await runner.store.query_rollouts()]
    assert statuses == ["cancelled"] * 3


class Plain(Hook):
    def on_rollout_end(self, *, agent: Any, runner: Any, rollout: Any, spans: Any) -> None:  # type: ignore[override]
        pass


class Positional(Hook):
    async def on_rollout_start(self, agent: Any, runner: Any) -> None:  # type: ignore[override]
        pass


class TakesMore(Hook):
    async def on_trace_end(self, *, agent: Any, runner: Any, tracer: Any, rollout: Any, spans: Any) -> None:  # type: ignore[override]
        pass


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (Plain(), r"Plain\.on_rollout_end is not async; write: async def on_rollout_end\(self, \*, agent, runner, "),
        (Positional(), r"Positional\.on_rollout_start does not accept .*unexpected keyword argument 'rollout'"),
        (TakesMore(), r"TakesMore\.on_trace_end does not accept .*missing a required .*'spans'"),
        (3, r"hooks\[0\] is 3, which is not a Hook; write: hooks=\[MyHook\(\)\]"),
        (Hook, r"hooks\[0\] is <class .*Hook.>, which is not a Hook; did you mean Hook\(\)\?"),
    ],
    ids=["plain", "positional", "more", "number", "class"],
)
def test_a_hook_that_could_not_be_called_is_refused_when_the_runner_is_made(hook: Any, message: str) -> None:
    for make in (lambda: Runner(returns, hooks=[hook]), lambda: agl.Trainer(hooks=[hook])):
        with pytest.raises(agl.ComponentError, match=message):
            make()


def test_hooks_that_are_no_list_are_refused() -> None:
    with pytest.raises(agl.ComponentError, match="hooks takes a list of hooks, not 3"):
        Runner(returns, hooks=3)  # type: ignore[arg-type]  # bad input
