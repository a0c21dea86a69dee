"""Datasets: sequences of tasks, checked before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar, cast

import attrs
import trio

from .._concurrency import compute_in_thread
from .._errors import DatasetError, NotStorable
from .._exception_text import class_name
from .._public import public
from .._records import DatasetFingerprint, RolloutMode, Run
from .._resources import LLM, NamedResources
from .._serialization import Digest, canonical, is_large, with_digest_of
from ._tables import check_tasks

T_co = TypeVar("T_co", covariant=True)
DigestT = TypeVar("DigestT", bound=Digest)


@public
class Dataset(Protocol[T_co]):
    """A dataset for `fit`: tasks by index, such as a list, or any object with ``len()`` and ``[index]``.

    >>> squares: Dataset[int] = [number * number for number in range(3)]
    >>> squares[len(squares) - 1]
    4
    """

    def __len__(self) -> int:
        """Return the number of tasks."""
        ...

    def __getitem__(self, index: int, /) -> T_co:
        """Return the task at `index`, counted from 0."""
        ...


@attrs.frozen
class Datasets:
    """The datasets of one `fit`."""

    train: Sequence[Any] | None
    val: Sequence[Any] | None
    repeats: int = 1
    """How often each task is run."""

    @classmethod
    def of(cls, train: Dataset[Any] | None, val: Dataset[Any] | None, repeats: int = 1) -> Datasets:
        """Return the datasets as the sequences that algorithms expect.

        Algorithms are annotated with the familiar `Sequence` and use no more of it than a `Dataset` has.
        """
        return cls(cast("Sequence[Any] | None", train), cast("Sequence[Any] | None", val), repeats)

    @property
    def modes(self) -> Sequence[RolloutMode]:
        """The modes that have tasks."""
        modes: list[RolloutMode] = []
        if self.train is not None:
            modes.append("train")
        if self.val is not None:
            modes.append("val")
        return modes

    def of_mode(self, mode: str) -> Sequence[Any] | None:
        """Return the dataset of ``"train"`` or ``"val"``."""
        return self.train if mode == "train" else self.val

    async def fingerprints(self, *, before: Iterable[Run] = ()) -> Mapping[str, DatasetFingerprint]:
        """Return a fingerprint of each dataset, by mode, for which every task is read and encoded.

        Args:
            before: runs whose datasets may be the first tasks of these.

        Raises:
            NotStorable: a task cannot be stored; the message has its index.
        """
        lengths = _lengths(before)
        return {mode: await _fingerprint(mode, dataset, lengths[mode]) for mode, dataset in self._given()}

    async def first_fingerprints(self, number: int, *, before: Iterable[Run] = ()) -> Mapping[str, DatasetFingerprint]:
        """Return a fingerprint of each dataset, by mode, for which only the first tasks are read.

        Args:
            number: how many tasks; without any, the fingerprint has no digest.
            before: as in `fingerprints`.
        """
        lengths = _lengths(before)
        return {mode: await _first_fingerprint(dataset, number, lengths[mode]) for mode, dataset in self._given()}

    def _given(self) -> Iterator[tuple[str, Sequence[Any]]]:
        for mode in ("train", "val"):
            if (dataset := self.of_mode(mode)) is not None:
                yield mode, dataset

    @property
    def size(self) -> int:
        """The number of rollouts that run every task of all datasets as often as asked."""
        return self.repeats * sum(len(tasks) for tasks in (self.train, self.val) if tasks is not None)


def _lengths(runs: Iterable[Run]) -> Mapping[str, Collection[int]]:
    """Return the numbers of tasks, by mode, for which the runs' fingerprints have digests."""
    lengths = {mode: set[int]() for mode in ("train", "val")}
    for run in runs:
        for mode, fingerprint in run.datasets.items():
            lengths.setdefault(mode, set()).update(fingerprint.marked, (fingerprint.tasks,))
    return lengths


async def _first_fingerprint(dataset: Dataset[Any], number: int, lengths: Collection[int]) -> DatasetFingerprint:
    if not number:
        return DatasetFingerprint(len(dataset))
    first = hashlib.sha256()
    digests = [""]
    for index in range(min(len(dataset), number)):
        first = await with_task(dataset[index], first)
        first.update(b"\n")
        digests.append(first.hexdigest()[:16])
    prefixes = {length: digests[min(length, number)] for length in lengths if length <= len(dataset)}
    return DatasetFingerprint(len(dataset), digests[-1], prefixes=prefixes)


async def _fingerprint(mode: str, dataset: Dataset[Any], lengths: Collection[int]) -> DatasetFingerprint:
    """Return a digest of every task; one that cannot be stored is found here, before any task has run."""
    whole = hashlib.sha256()
    prefixes: dict[int, str] = {}
    marked = DatasetFingerprint(len(dataset)).marked
    lengths = {*lengths, *marked}
    # By index, because datasets of Agent-lightning 0.3 have only `__len__` and `__getitem__`.
    for index in range(len(dataset)):
        if index in lengths:
            prefixes[index] = whole.hexdigest()[:16]
        task, name = dataset[index], f"{mode}_dataset[{index}]"
        if is_large(task):
            whole = await compute_in_thread(with_digest_of, task, name, whole)
        else:
            whole.update(canonical(task, name))
        whole.update(b"\n")
        if index % _AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    return DatasetFingerprint(len(dataset), whole.hexdigest()[:16], [prefixes[each] for each in marked], prefixes)


_AT_ONCE: Final = 256
"""How many tasks are read before others run."""


async def is_other_task(before: object, now: object) -> bool:
    """Whether two tasks differ; False for tasks that cannot be compared. Large ones are compared by another thread."""
    if is_large(before) or is_large(now):
        return await compute_in_thread(_is_other, _large_digest, before, now)
    return _is_other(lambda task: canonical(task, "task"), before, now)


def _is_other(encode: Callable[[object], bytes], before: object, now: object) -> bool:
    try:
        return encode(before) != encode(now)
    except NotStorable:
        # Only a store in memory has such tasks.
        return not _are_same(before, now)


def _large_digest(task: object) -> bytes:
    return with_digest_of(task, "task", hashlib.sha256()).digest()


def _are_same(before: Any, now: Any) -> bool:
    """Whether two objects are equal; those of classes without equality are if their attributes are."""
    if before is now:
        return True
    if type(before) is not type(now):
        return False
    try:
        if isinstance(before, list | tuple):
            return len(before) == len(now) and all(map(_are_same, before, now))
        if isinstance(before, Mapping):
            return before.keys() == now.keys() and all(_are_same(before[key], now[key]) for key in before)
        if getattr(type(before), "__eq__") is object.__eq__:  # noqa: B009  # type checkers take it for a method
            return not hasattr(before, "__dict__") or _are_same(vars(before), vars(now))
        return bool(before == now)
    except (Exception, SystemExit):
        # Such as arrays, whose comparison is no bool, and objects that contain themselves.
        return True


def encoded_task(task: object) -> bytes:
    """Return an encoding that is equal for equal tasks; if a task cannot be stored, in this process only.

    Tasks that cannot be stored and whose `repr` raises have the encoding of their class.
    """
    try:
        return canonical(task, "task")
    except NotStorable:
        try:
            return repr(task).encode(errors="backslashreplace")
        except (Exception, SystemExit):
            return class_name(task).encode(errors="backslashreplace")


async def with_task(task: object, digest: DigestT) -> DigestT:
    """Return a copy of a digest to which `encoded_task` is added; of a large task by another thread."""
    if is_large(task):
        with suppress(NotStorable):
            return await compute_in_thread(with_digest_of, task, "task", digest)
    added = digest.copy()
    added.update(encoded_task(task))
    return added


async def digest_of_resources(resources: NamedResources, start: bytes = b"") -> bytes:
    """Return a digest that is equal for equal resources and for no others, in every process.

    It leaves out the endpoint of a model and its API key: a model that has moved is the same model.

    Args:
        resources: the resources.
        start: bytes to begin with.
    """
    same = {
        name: attrs.evolve(resource, endpoint="", api_key=None) if isinstance(resource, LLM) else resource
        for name, resource in sorted(resources.items())
    }
    described = [(name, resource.resource_type, resource) for name, resource in same.items()]
    return (await with_task(described, hashlib.sha256(start))).digest()


def check_dataset(name: str, dataset: object) -> None:
    """Validate that a dataset can be read by index and is not empty.

    Raises:
        DatasetError: the message shows what to write instead.
    """
    if dataset is None:
        return
    check_tasks(name, dataset, by_index=True)
    if isinstance(dataset, set | frozenset):
        raise DatasetError.not_a_list(name, dataset)
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        raise DatasetError.no_length(name, dataset)
    try:
        size = len(dataset)
    except TypeError:
        # NumPy's arrays without dimensions are `Sized`, and have no length.
        raise DatasetError.no_length(name, dataset) from None
    if size == 0:
        raise DatasetError.empty(name)
