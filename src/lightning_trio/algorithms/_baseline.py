"""The baseline algorithm, which runs every task and learns nothing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from .._errors import DatasetError
from .._public import public
from ._algorithm import FastAlgorithm


@public
class Baseline(FastAlgorithm):
    """Runs every training task, then every validation task, once or as often as `fit` repeats them; its default.

    Args:
        n_epochs: how many times to run both datasets.
        train_split, polling_interval, max_queue_length, span_verbosity: accepted for Agent-lightning 0.3 and ignored
            with a warning, because nothing is polled and spans are in the store.
    """

    def __init__(
        self,
        *,
        n_epochs: int = 1,
        train_split: float | None = None,
        polling_interval: float | None = None,
        max_queue_length: int | None = None,
        span_verbosity: str | None = None,
    ) -> None:
        ignored = {
            "train_split": train_split,
            "polling_interval": polling_interval,
            "max_queue_length": max_queue_length,
            "span_verbosity": span_verbosity,
        }
        if given := [name for name, value in ignored.items() if value is not None]:
            warnings.warn(
                f"Baseline ignores {', '.join(given)}: the store wakes it when rollouts end, and agl.format_trace "
                "shows their spans",
                DeprecationWarning,
                stacklevel=2,
            )
        if n_epochs < 1:
            raise ValueError(f"n_epochs={n_epochs!r}: pass at least 1")
        self.n_epochs = n_epochs

    async def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> None:
        """Run both datasets, epoch by epoch."""
        for _ in range(self.n_epochs):
            if train_dataset is not None:
                await self.session.work_off(train_dataset, mode="train")
            if val_dataset is not None:
                await self.session.work_off(val_dataset, mode="val")


def check_given(algorithm: object, train: object, val: object, *, write: str) -> None:
    """Validate that a run of `Baseline` has a dataset.

    Args:
        algorithm: the algorithm of the run.
        train: its training tasks, None without them.
        val: its validation tasks.
        write: the call with a dataset, for the message.

    Raises:
        DatasetError: it has none.
    """
    if train is None and val is None and isinstance(algorithm, Baseline):
        raise DatasetError.none_given(write)
