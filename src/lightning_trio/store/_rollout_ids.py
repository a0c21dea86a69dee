"""Ids that tell whether this store made them."""

from __future__ import annotations

from .._ids import random_bits


class RolloutIds:
    """Mint ids that look random and tell whether this store made them, so that none need be remembered.

    The counter is scrambled by an affine map modulo 2**48, which is one-to-one because the factor is odd.
    """

    _MASK = (1 << 48) - 1

    def __init__(self) -> None:
        self._count = 0
        self._factor = random_bits(48) | 1
        self._inverse = pow(self._factor, -1, 1 << 48)
        self._offset = random_bits(48)

    def new(self) -> str:
        """Mint the next id."""
        self._count += 1
        return f"ro-{(self._count * self._factor + self._offset) & self._MASK:012x}"

    def minted(self, rollout_id: str) -> bool:
        """Tell whether `rollout_id` is one of ours."""
        try:
            scrambled = int(rollout_id.removeprefix("ro-"), 16)
        except ValueError:
            return False
        count = (scrambled - self._offset) * self._inverse & self._MASK
        # Other spellings of the same number, such as capital digits, are none of ours.
        return 0 < count <= self._count and rollout_id == f"ro-{scrambled & self._MASK:012x}"
