"""Copies of lists and dicts, also of those that another thread changes meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_trio.store import copy_containers


class Key:
    """A key that does something whenever a copy of its dict is made, as another thread might at that moment."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], object] = bool

    def __hash__(self) -> int:
        self.meanwhile()
        return 1


def test_a_dict_that_grows_while_it_is_copied_is_copied_as_it_was() -> None:
    key = Key()
    growing: dict[Any, Any] = {key: [1], "other": [2]}
    key.meanwhile = lambda: growing.setdefault(len(growing))

    copy = copy_containers(growing)

    assert copy is not growing
    assert {"other": [2]}.items() <= copy.items()
    assert copy["other"] is not growing["other"]


def test_a_list_that_grows_while_it_is_copied_is_copied_as_it_was() -> None:
    key = Key()
    item = {key: 1}
    growing: list[Any] = [item]

    def grow() -> None:
        if len(growing) < 100:
            growing.append(item)

    key.meanwhile = grow

    copy = copy_containers(growing)

    assert len(copy) == 1
