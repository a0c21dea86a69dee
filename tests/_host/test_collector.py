"""The garbage collector's thresholds are restored."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from lightning_trio import Runner
from lightning_trio._host import relaxed_gc


@pytest.fixture(autouse=True)
def as_python_starts() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


async def test_it_comes_less_often_while_a_runner_is_open_only() -> None:
    async with Runner(len):
        assert gc.get_threshold() == (50_000, 20, 100)

    assert gc.get_threshold() == (700, 10, 10)


def test_it_is_set_back_when_the_last_of_several_ends() -> None:
    first, second = relaxed_gc(), relaxed_gc()
    with second:
        with first:
            pass
        assert gc.get_threshold()[0] == 50_000

    assert gc.get_threshold()[0] == 700


@pytest.mark.parametrize("young", [0, 100_000])
def test_a_program_that_has_set_it_itself_keeps_it(young: int) -> None:
    gc.set_threshold(young, 5, 5)
    with relaxed_gc():
        assert gc.get_threshold() == (young, 5, 5)

    assert gc.get_threshold() == (young, 5, 5)


def test_what_the_program_sets_meanwhile_stays() -> None:
    with relaxed_gc():
        gc.set_threshold(1_000, 5, 5)

    assert gc.get_threshold() == (1_000, 5, 5)
