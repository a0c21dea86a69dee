"""Datasets: sequences of tasks, checked before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Sized
from typing import Any, Protocol, TypeVar, cast

import attrs

from .._errors import DatasetError, NotStorable
from .._public import public
from .._records import DatasetFingerprint, RolloutMode
from .._resources import LLM, NamedResources
from .._serialization import canonical

T_co = TypeVar("T_co", covariant=True)


@public
class Dataset(Protocol[T_co]):
    """What `fit` goes through: tasks by index, such as a list, or anything with ``len()`` and ``[index]``.

    >>> squares: Dataset[int] = [number * number for number in range(3)]
    >>> squares[len(squares) - 1]
    4
    """

    def __len__(self) -> int:
        """Say how many tasks there are."""
        ...

    def __getitem__(self, index: int, /) -> T_co:
        """Give the task at `index`, from 0."""
        ...


@attrs.frozen
class Datasets:
    """What one `fit` goes through."""

    train: Sequence[Any] | None
    val: Sequence[Any] | None

    @classmethod
    def of(cls, train: Dataset[Any] | None, val: Dataset[Any] | None) -> Datasets:
        """Take datasets as they are given.

        Algorithms say `Sequence`, the familiar word, and use no more than a `Dataset` has.
        """
        return cls(cast("Sequence[Any] | None", train), cast("Sequence[Any] | None", val))

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


def _digest(name: str, dataset: Dataset[Any]) -> str:
    """Read every task once, so that one that cannot be stored is refused before any has run."""
    whole = hashlib.sha256()
    # By index: 0.3's datasets have __len__ and __getitem__ only.
    for index in range(len(dataset)):
        whole.update(canonical(dataset[index], f"{name}[{index}]"))
        whole.update(b"\n")
    return whole.hexdigest()[:16]


def encoded_task(task: object) -> bytes:
    """Write a task in a way that is the same for equal tasks, today and tomorrow, or only here if it is no data."""
    try:
        return canonical(task, "task")
    except NotStorable:
        return repr(task).encode(errors="backslashreplace")


def describe_resources(resources: NamedResources) -> bytes:
    """Write resources in a way that tells different ones apart, today and tomorrow.

    Where a model is served and the key for it are left out: a model that has moved is the same model.
    """
    same = {
        name: attrs.evolve(resource, endpoint="", api_key=None) if isinstance(resource, LLM) else resource
        for name, resource in sorted(resources.items())
    }
    return encoded_task([(name, resource.resource_type, resource) for name, resource in same.items()])


def check_dataset(name: str, dataset: object) -> None:
    """Refuse what cannot be gone through by index, and what is empty.

    Raises:
        DatasetError: showing what to write instead.
    """
    if dataset is None:
        return
    if isinstance(dataset, str | bytes | Mapping | set | frozenset):
        raise DatasetError.not_a_list(name, dataset)
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        raise DatasetError.no_length(name, dataset)
    if len(dataset) == 0:
        raise DatasetError.empty(name)
