"""Files that earlier versions wrote still open.

`private_module_names.sqlite` was written by the version in which classes of this package were stored under the names
of its private modules, such as ``lightning_trio._records:Usage``: a run of three tasks of which one failed, and one
rollout in the queue.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

import lightning_trio as agl

STORED = Path(__file__).parent / "data" / "private_module_names.sqlite"


@asynccontextmanager
async def open_stored(tmp_path: Path) -> AsyncGenerator[agl.SqliteLightningStore]:
    path = tmp_path / "stored.db"
    shutil.copyfile(STORED, path)
    async with agl.SqliteLightningStore(path) as store:
        yield store


def test_the_file_is_of_the_version_it_is_meant_to_be() -> None:
    content = STORED.read_bytes()

    assert b"lightning_trio._records:Usage" in content
    assert b"lightning_trio._rewards:RewardDimension" in content
    assert b"lightning_trio._errors.AttemptTimedOut" in content


async def test_its_books_balance(tmp_path: Path) -> None:
    async with open_stored(tmp_path) as store:
        found = await agl.audit(store, finished=False)

    assert found == agl.Audit(4, [])


async def test_objects_in_tasks_come_back_as_the_classes_of_today(tmp_path: Path) -> None:
    async with open_stored(tmp_path) as store:
        first, *_, queued = await store.query_rollouts()

    assert first.input == {"question": "tea", "usage": agl.Usage(0, 0), "reward": agl.RewardDimension("correct", 1.0)}
    assert queued.metadata == {"by": agl.Usage(1)}


async def test_what_the_algorithm_kept_comes_back(tmp_path: Path) -> None:
    async with open_stored(tmp_path) as store:
        [run] = await store.query_runs()

    assert run.name == "before"
    assert list(run.history) == [{"usage": agl.Usage(3, 4, 0.5)}]
    assert run.state == {"best": agl.ErrorRecord("KeyError", "'tea'", "")}


async def test_resources_and_spans_come_back(tmp_path: Path) -> None:
    async with open_stored(tmp_path) as store:
        latest = await store.get_latest_resources()
        rollouts = await store.query_rollouts(status_in=["succeeded"])
        spans = await store.query_spans(rollouts[0].rollout_id)

    assert latest is not None
    assert latest.resources == {
        "prompt_template": agl.PromptTemplate("What is {question}?", engine="f-string"),
        "llm": agl.LLM(endpoint="http://127.0.0.1:9/v1", model="m", api_key_env="KEY"),
    }
    assert [span.name for span in spans] == [
        "invoke_agent judge",
        "agentlightning.message",
        "agentlightning.annotation",
        "agentlightning.annotation",
    ]


async def test_exceptions_to_retry_are_known_by_their_old_names(tmp_path: Path) -> None:
    attempts = 0

    async def times_out_once(task: dict[str, object]) -> float:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise agl.AttemptTimedOut("as the agent's own")
        return 1.0

    async with open_stored(tmp_path) as store:
        [queued] = await store.query_rollouts(status_in=["queuing"])
        async with agl.Runner(times_out_once, store=store) as runner, trio.open_nursery() as nursery:
            nursery.start_soon(runner.serve)
            await store.wait_for_rollouts(rollout_ids=[queued.rollout_id])
            nursery.cancel_scope.cancel()
        done = await store.get_rollout_by_id(queued.rollout_id)

    assert done is not None
    assert done.status == "succeeded"
    assert attempts == 2


async def test_the_run_that_finished_gives_its_result(tmp_path: Path) -> None:
    async with open_stored(tmp_path) as store:
        [run] = await store.query_runs()
        summary = await store.summarize(run.run_id)

    assert summary.mean_reward("train") == 3.5
