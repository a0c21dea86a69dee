"""Hugging Face's datasets as datasets.

In programs of their own: the library loads filelock, after which a process cannot fork in two threads at a time, and
other tests in the same process do that.
"""

from __future__ import annotations

from pathlib import Path

from programs import run_program

PROGRAM = """
import datasets, trio
import lightning_trio as agl

table = datasets.Dataset.from_dict({{"q": ["a", "bb"], "n": [1, 2]}})

async def length(task):
    return float(len(task["q"]))

async def refused(call):
    try:
        await call
    except agl.DatasetError as exc:
        print(exc)

async def main():
{main}

trio.run(main)
"""


def run(main: str) -> str:
    """Run a main function and return what it prints."""
    ended = run_program(PROGRAM.format(main=main))
    assert ended.code == 0, ended.err
    return ended.out


def test_rows_are_tasks_in_every_store(tmp_path: Path) -> None:
    out = run(f"""
    for rows in (table, table.with_format("numpy")):
        for store in (agl.InMemoryLightningStore(), agl.SqliteLightningStore({str(tmp_path / "run.db")!r})):
            result = await agl.Runner(length, store=store).fit(rows)
            print(result.counts["succeeded"], result.mean_reward["train"])
""")

    assert out == "2 1.5\n" * 4


def test_splits_are_refused_and_a_dataset_of_unknown_length_is_for_streams() -> None:
    out = run("""
    await refused(agl.Runner(length).fit(datasets.DatasetDict(train=table)))
    tasks = table.to_iterable_dataset()
    await refused(agl.Runner(length).fit(tasks))
    async with agl.Runner(length) as runner, runner.stream(tasks) as results:
        print(sorted([done.final_reward async for done in results]))
""")

    splits, unknown_length, rewards = out.splitlines()
    assert 'DatasetDict of several splits; pass one of them: splits["train"]' in splits
    assert "IterableDataset, which has no length" in unknown_length
    assert rewards == "[1.0, 2.0]"
