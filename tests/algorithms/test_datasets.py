"""Tables of other libraries as datasets: their rows, or an error that says how to get them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import lightning_trio as agl
from lightning_trio import embed

COLUMNS = {"q": ["a", "bb"], "n": [1, 2]}


async def length(task: dict[str, Any]) -> float:
    return float(len(task["q"]))


def polars(name: str) -> Any:
    library = pytest.importorskip("polars")
    frame = library.DataFrame(COLUMNS)
    return frame.lazy() if name == "LazyFrame" else frame


TABLES = {
    "pandas.DataFrame": (lambda: pd.DataFrame(COLUMNS), r'frame\.to_dict\("records"\)'),
    "polars.DataFrame": (lambda: polars("DataFrame"), r"frame\.to_dicts\(\)"),
    "polars.LazyFrame": (lambda: polars("LazyFrame"), r"frame\.collect\(\)\.to_dicts\(\)"),
    "pyarrow.Table": (lambda: pa.table(COLUMNS), r"table\.to_pylist\(\)"),
    "pyarrow.RecordBatch": (lambda: pa.RecordBatch.from_pydict(COLUMNS), r"batch\.to_pylist\(\)"),
    "pyarrow.Array": (lambda: pa.array(["a"]), r"array\.to_pylist\(\)"),
}


@pytest.mark.parametrize("kind", [*TABLES, "pandas.Series"])
async def test_a_table_is_refused_with_the_expression_for_its_rows(kind: str) -> None:
    make, rows = TABLES.get(kind, (lambda: pd.Series(["a"], index=[5]), r"series\.tolist\(\)"))

    with pytest.raises(agl.DatasetError, match=rf"train_dataset is an? {kind}, whose items .*; pass the rows: {rows}"):
        await agl.Runner(length).fit(make())


@pytest.mark.parametrize("kind", TABLES)
async def test_a_stream_refuses_a_table_too(kind: str) -> None:
    make, rows = TABLES[kind]

    async with agl.Runner(length) as runner:
        with pytest.raises(agl.DatasetError, match=rf"tasks is an? {kind}, .*: {rows}"):
            runner.stream(make())


def test_a_blocking_stream_refuses_a_table_too() -> None:
    with embed.open_blocking(agl.Runner(length)) as runner, pytest.raises(agl.DatasetError, match=r"to_dict\("):
        runner.stream(pd.DataFrame(COLUMNS))


async def test_an_algorithm_that_runs_a_table_is_told_too() -> None:
    class Whole(agl.Algorithm):
        async def run(self, train_dataset: Any, val_dataset: Any) -> None:
            await self.session.run(pd.DataFrame(COLUMNS))  # type: ignore[arg-type]  # bad input

    with pytest.raises(agl.DatasetError, match=r"tasks is a pandas\.DataFrame"):
        await agl.Runner(length, algorithm=Whole()).fit([1])


@pytest.mark.parametrize(
    "rows",
    [
        lambda: pd.DataFrame(COLUMNS).to_dict("records"),
        lambda: pa.table(COLUMNS).to_pylist(),
        lambda: np.array([{"q": "a"}, {"q": "bb"}], dtype=object),
    ],
    ids=["pandas", "pyarrow", "NumPy"],
)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_rows_are_tasks_in_every_store(rows: Callable[[], Any], kind: str, tmp_path: Path) -> None:
    store = agl.InMemoryLightningStore() if kind == "memory" else agl.SqliteLightningStore(tmp_path / "run.db")
    result = await agl.Runner(length, store=store).fit(rows())

    assert result.counts["succeeded"] == 2
    assert result.mean_reward["train"] == 1.5


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_rows_as_read_from_a_parquet_file_are_tasks(kind: str, tmp_path: Path) -> None:
    async def agent(task: dict[str, Any]) -> float:
        return float(len(task["messages"]) + task["id"])

    row = {"id": np.int64(3), "messages": np.array([{"role": "user", "content": "hi"}], dtype=object)}
    store = agl.InMemoryLightningStore() if kind == "memory" else agl.SqliteLightningStore(tmp_path / "run.db")

    assert (await agl.Runner(agent, store=store).fit([row])).mean_reward["train"] == 4.0


async def test_a_row_of_a_frame_that_another_process_could_not_read_is_refused(tmp_path: Path) -> None:
    rows = list(pd.DataFrame(COLUMNS).itertuples())
    runner = agl.Runner(length, store=agl.SqliteLightningStore(tmp_path / "run.db"))

    with pytest.raises(agl.NotStorable, match=r"train_dataset\[0\]: the module \S+ has no class Pandas"):
        await runner.fit(rows)


async def test_an_array_without_dimensions_has_no_length() -> None:
    with pytest.raises(agl.DatasetError, match="ndarray, which has no length"):
        await agl.Runner(length).fit(np.array(3))
