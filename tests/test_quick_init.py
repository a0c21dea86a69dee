"""The quicker ``__init__`` makes the same objects as attrs' own."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from lightning_trio import Attempt, AttemptedRollout, EnqueueRolloutRequest, Rollout, Span, SpanCoreFields
from lightning_trio._quick_init import quick_init


def _not_negative(instance: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if value < 0:
        raise ValueError(f"{attribute.name} of {instance!r} is negative")


@attrs.frozen
class Slow:
    x: int
    y: int = attrs.field(default=0, validator=_not_negative)
    notes: Mapping[str, int] = attrs.field(factory=dict[str, int])
    z: int = attrs.field(default=3, kw_only=True)


@quick_init
@attrs.frozen
class Quick:
    x: int
    y: int = attrs.field(default=0, validator=_not_negative)
    notes: Mapping[str, int] = attrs.field(factory=dict[str, int])
    z: int = attrs.field(default=3, kw_only=True)


@quick_init
@attrs.frozen
class Derived(Quick):
    more: str = ""


class Plain(Quick):
    """A user's subclass, with a dict."""


@pytest.mark.parametrize("arguments", [(1,), (1, 2), (1, 2, {"a": 1})])
def test_it_fills_the_fields_as_attrs_does(arguments: tuple[Any, ...]) -> None:
    quick, slow = Quick(*arguments, z=5), Slow(*arguments, z=5)

    assert attrs.asdict(quick) == attrs.asdict(slow)
    assert type(quick) is Quick


@pytest.mark.parametrize(("arguments", "keywords"), [((), {}), ((1, 2, {}, 4), {}), ((1,), {"nothing": 1})])
def test_it_refuses_what_attrs_refuses(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    with pytest.raises(TypeError) as slow:
        Slow(*arguments, **keywords)

    with pytest.raises(TypeError) as quick:
        Quick(*arguments, **keywords)

    assert str(quick.value) == str(slow.value).replace("Slow", "Quick")


def test_validators_run_on_the_finished_object() -> None:
    with pytest.raises(ValueError, match=r"y of Quick\(x=1, y=-1, notes=\{\}, z=3\) is negative"):
        Quick(1, -1)


def test_each_object_has_a_default_of_its_own() -> None:
    assert Quick(1).notes is not Quick(1).notes


@pytest.mark.parametrize("made", [Quick(1, 2), Derived(1, more="a")])
def test_the_object_is_frozen(made: Quick) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.x = 2  # type: ignore[misc]

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del made.x  # type: ignore[misc]


@pytest.mark.parametrize("made", [Quick(1, 2, {"a": 1}, z=4), Derived(1, 2, {"a": 1}, more="a")])
def test_copies_evolutions_and_pickles_are_equal(made: Quick) -> None:
    assert copy.copy(made) == copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == attrs.evolve(made) == made
    assert hash(attrs.evolve(made, notes=())) == hash(attrs.evolve(made, notes=()))


def test_a_subclass_stays_what_it_is() -> None:
    made = Plain(1, 2)

    assert type(made) is Plain
    assert (made.x, made.y, made.z) == (1, 2, 3)


def test_what_it_does_not_know_is_refused() -> None:
    @attrs.frozen
    class Converted:
        x: int = attrs.field(converter=int)

    @attrs.frozen
    class Looking:
        x: int
        y: int = attrs.field(default=attrs.Factory(lambda self: self.x, takes_self=True))

    with pytest.raises(TypeError, match=r"the converter of .*Converted\.x"):
        quick_init(Converted)
    with pytest.raises(TypeError, match=r"the default of .*Looking\.y"):
        quick_init(Looking)


@pytest.mark.parametrize("kind", [Span, SpanCoreFields, Attempt, Rollout, AttemptedRollout, EnqueueRolloutRequest])
def test_the_records_of_which_there_are_most_have_it(kind: type[Any]) -> None:
    # `lightning_trio.compat` puts a function around it in the processes that import it.
    assert inspect.unwrap(kind.__init__).__code__.co_filename.startswith("<quick_init of lightning_trio")
