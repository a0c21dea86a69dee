"""Rollout ids that encode a number, so that a store can recognize its own."""

from __future__ import annotations

import attrs

from .._ids import random_bits

_MASK = (1 << 48) - 1


@attrs.frozen
class RolloutIdCipher:
    """Convert numbers to ids that look random, and back, without a table.

    The map is affine modulo 2**48, which is one-to-one because the factor is odd.
    """

    factor: int = attrs.field(factory=lambda: random_bits(48) | 1)
    offset: int = attrs.field(factory=lambda: random_bits(48))
    _inverse: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_inverse", pow(self.factor, -1, 1 << 48))

    def rollout_id(self, number: int) -> str:
        """Return the id for a rollout's number."""
        return f"ro-{(number * self.factor + self.offset) & _MASK:012x}"

    def number(self, rollout_id: str) -> int | None:
        """Return the number of an id, None if no number has it."""
        try:
            code = int(rollout_id.removeprefix("ro-"), 16)
        except ValueError:
            return None
        # Other spellings of the same number, such as capital digits, are not issued.
        if rollout_id != f"ro-{code & _MASK:012x}":
            return None
        return (code - self.offset) * self._inverse & _MASK


class RolloutIds:
    """Mint ids and recognize them later, without storing them."""

    def __init__(self) -> None:
        self._count = 0
        self._cipher = RolloutIdCipher()

    def new(self) -> str:
        """Mint the next id."""
        self._count += 1
        return self._cipher.rollout_id(self._count)

    def minted(self, rollout_id: str) -> bool:
        """Whether `rollout_id` was minted here."""
        number = self._cipher.number(rollout_id)
        return number is not None and 0 < number <= self._count
