"""Datasets: sequences of tasks, checked before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import attrs

from ._errors import DatasetError, NotStorable
from ._records import DatasetFingerprint, RolloutMode


@attrs.frozen
class Datasets:
    """What one `fit` goes through."""

    train: Sequence[Any] | None
    val: Sequence[Any] | None

    @property
    def modes(self) -> Sequence[RolloutMode]:
        """The modes there are tasks for."""
        modes: list[RolloutMode] = []
        if self.train is not None:
            modes.append("train")
        if self.val is not None:
            modes.append("val")
        return modes

    def fingerprints(self, *, digest: bool) -> Mapping[str, DatasetFingerprint]:
        """Give what tells these datasets from others, by mode; with `digest` every task is read and encoded.

        Raises:
            NotStorable: a task is of a kind that no store keeps beyond the process; the message has its index.
        """
        tasks = {"train": self.train, "val": self.val}
        return {
            mode: DatasetFingerprint(len(dataset), _digest(f"{mode}_dataset", dataset) if digest else None)
            for mode, dataset in tasks.items()
            if dataset is not None
        }

    @property
    def size(self) -> int:
        """How many tasks there are."""
        return sum(len(tasks) for tasks in (self.train, self.val) if tasks is not None)


def _digest(name: str, dataset: Sequence[Any]) -> str:
    """Read every task once, so that one that cannot be stored is refused before any has run."""
    # See to_json for why msgspec is imported late.
    from .store._sql._values import canonical

    whole = hashlib.sha256()
    # By index: 0.3's datasets have __len__ and __getitem__ only.
    for index in range(len(dataset)):
        whole.update(canonical(dataset[index], f"{name}[{index}]"))
        whole.update(b"\n")
    return whole.hexdigest()[:16]


def encoded_task(task: object) -> bytes:
    """Write a task in a way that is the same for equal tasks, today and tomorrow, or only here if it is no data."""
    from .store._sql._values import canonical

    try:
        return canonical(task, "task")
    except NotStorable:
        return repr(task).encode(errors="backslashreplace")


def check_dataset(name: str, dataset: object) -> None:
    """Refuse what cannot be gone through by index, and what is empty.

    Raises:
        DatasetError: showing what to write instead.
    """
    if dataset is None:
        return
    if isinstance(dataset, str | bytes | Mapping | set | frozenset):
        raise DatasetError(f"{name} is a {type(dataset).__name__}; a dataset is a list of tasks: [task, …]")
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        raise DatasetError(
            f"{name} is a {type(dataset).__name__}, which has no length; make it a list, or, for tasks that come as "
            "they go: async with runner, runner.stream(tasks) as results: async for done in results: …"
        )
    if len(dataset) == 0:
        raise DatasetError(f"{name} is empty; give at least one task, or None to leave it out")
