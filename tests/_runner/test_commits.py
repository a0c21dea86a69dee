"""Group commits: a store that fails or hangs releases all that wait for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import InMemoryLightningStore, RolloutStatus, Run, Runner
from lightning_trio._runner import _commits, _fit
from lightning_trio.store import AttemptOutcome, ForwardingStore, Record


class Failing(ForwardingStore):
    """A store whose first commit fails."""

    failed = False

    async def finish(self, outcomes: Sequence[AttemptOutcome]) -> Sequence[RolloutStatus | None]:
        if not self.failed:
            self.failed = True
            raise OSError("no space left")
        return await super().finish(outcomes)


class Hanging(ForwardingStore):
    """A store that hangs in every commit, and from `stuck` on in records of runs."""

    stuck = False

    async def finish(self, outcomes: Sequence[AttemptOutcome]) -> Sequence[RolloutStatus | None]:
        await trio.sleep_forever()
        raise AssertionError

    async def put(self, records: Sequence[Record]) -> None:
        if self.stuck and any(isinstance(record, Run) for record in records):
            await trio.sleep_forever()
        await super().put(records)


class Refusing(ForwardingStore):
    """A store that from `full` on takes no records of runs."""

    full = False

    async def put(self, records: Sequence[Record]) -> None:
        if self.full and any(isinstance(record, Run) for record in records):
            raise OSError("no space left")
        await super().put(records)


class Counting(ForwardingStore):
    """A store that notes the size of each commit."""

    def __init__(self, target: agl.LightningStore) -> None:
        super().__init__(target)
        self.sizes: list[int] = []

    async def finish(self, outcomes: Sequence[AttemptOutcome]) -> Sequence[RolloutStatus | None]:
        self.sizes.append(len(outcomes))
        return await super().finish(outcomes)


async def sleeps(task: float) -> None:
    await trio.sleep(task)


async def test_a_store_that_fails_releases_the_steps_that_end_after_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OSError, match="no space left"):
        async with Runner(sleeps, store=Failing(InMemoryLightningStore())) as runner, trio.open_nursery() as nursery:
            nursery.start_soon(runner.step, 1)
            nursery.start_soon(runner.step, 3)

    assert trio.current_time() < 2
    assert "1 outcomes could not be committed" in caplog.text


async def test_a_step_whose_commit_hangs_can_be_cancelled(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as scope:
        async with Runner(sleeps, store=Hanging(InMemoryLightningStore())) as runner:
            await runner.step(0)

    assert scope.cancelled_caught
    # The caller waits for so long, then the runner, then its lease ends.
    assert trio.current_time() < 1 + 2 * _commits._LAST_COMMIT_SECONDS + 6


async def test_a_fit_whose_commit_hangs_can_be_cancelled(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as scope:
        await Runner(sleeps, store=Hanging(InMemoryLightningStore())).fit([0, 100])

    assert scope.cancelled_caught
    assert trio.current_time() < 1 + _commits._LAST_COMMIT_SECONDS + 10


async def test_a_store_is_asked_to_commit_only_what_there_is() -> None:
    store = Counting(InMemoryLightningStore())
    async with Runner(sleeps, store=store) as runner:
        for _ in range(10):
            await runner.step(0)

    assert store.sizes == [1] * 10


# The last record of a run.


async def cancel_when(change: str, store: ForwardingStore) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def strike(task: int) -> None:
                setattr(store, change, True)
                scope.cancel()
                await trio.sleep_forever()

            nursery.start_soon(Runner(strike, store=store).fit, [1])


async def test_a_last_record_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    await cancel_when("full", Refusing(InMemoryLightningStore()))

    [record] = [each for each in caplog.records if "progress could not be recorded" in each.message]
    assert record.levelno == logging.WARNING
    assert "(OSError: no space left); committed rollouts are kept" in record.message


async def test_a_last_record_that_takes_too_long_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await cancel_when("stuck", Hanging(InMemoryLightningStore()))

    assert f"could not be recorded (the store took more than {_fit._LAST_RECORD_SECONDS:g} s)" in caplog.text
