"""The baseline: run everything as it is and learn nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._algorithm import FastAlgorithm


class Baseline(FastAlgorithm):
    """Run every train task once, then every validation task once; what `fit` does without an algorithm.

    Args:
        n_epochs: how often to go through both.
    """

    def __init__(self, *, n_epochs: int = 1) -> None:
        if n_epochs < 1:
            raise ValueError(f"n_epochs={n_epochs!r}: give at least 1")
        self.n_epochs = n_epochs

    async def run(self, train_dataset: Sequence[Any] | None = None, val_dataset: Sequence[Any] | None = None) -> None:
        """Run both datasets, epoch by epoch."""
        for _ in range(self.n_epochs):
            if train_dataset is not None:
                await self.session.work_off(train_dataset, mode="train")
            if val_dataset is not None:
                await self.session.work_off(val_dataset, mode="val")
