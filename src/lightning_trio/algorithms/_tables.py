"""Tables of other libraries, which are no sequences of tasks, known by the names of their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .._errors import DatasetError

_ROWS: Final[Mapping[tuple[str, str], str]] = {
    ("pandas", "DataFrame"): 'frame.to_dict("records")',
    ("polars", "DataFrame"): "frame.to_dicts()",
    ("polars", "LazyFrame"): "frame.collect().to_dicts()",
    ("pyarrow", "Table"): "table.to_pylist()",
    ("pyarrow", "RecordBatch"): "batch.to_pylist()",
    # Of these, the items are objects of the library.
    ("pyarrow", "Array"): "array.to_pylist()",
    ("pyarrow", "ChunkedArray"): "array.to_pylist()",
}
"""What to write for the rows of a table, by the library and class."""

_BY_LABEL: Final[Mapping[tuple[str, str], str]] = {("pandas", "Series"): "series.tolist()"}
"""The same for what has its items in order when it is iterated over, but not by index."""

_SPLITS: Final = frozenset({("datasets", "DatasetDict"), ("datasets", "IterableDatasetDict")})


def check_tasks(name: str, tasks: object, *, by_index: bool = False) -> None:
    """Validate that tasks are not a table, whose items are its columns, and not a string or a mapping.

    Args:
        name: the parameter's name.
        tasks: the tasks.
        by_index: whether the tasks are read by index.

    Raises:
        DatasetError: they are; the message shows what to write, for a table what its rows are.
    """
    tables = {**_ROWS, **_BY_LABEL} if by_index else _ROWS
    for base in type(tasks).__mro__:
        known = (base.__module__.partition(".")[0], base.__name__)
        if known in tables:
            raise DatasetError.table(name, ".".join(known), tables[known])
        if known in _SPLITS:
            raise DatasetError.splits(name, base.__name__)
    if isinstance(tasks, str | bytes | Mapping):
        raise DatasetError.not_a_list(name, tasks)
