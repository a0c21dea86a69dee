"""Errors compose their messages, have fields for their values, and can be pickled and copied."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import lightning_trio as agl
from lightning_trio import _errors

PACKAGE = Path(agl.__file__).parent

CLASSES = [each for each in vars(_errors).values() if isinstance(each, type) and issubclass(each, BaseException)]

PRIVATE = {"NotBegun", "Terminated", "TryAgain", "WorkerTraceback"}

SAMPLES: Mapping[Any, object] = {
    str: "tea",
    "str | None": "tea",
    int: -9,
    "int | None": 3,
    float: 1.5,
    bool: True,
    object: partial(print),
    Any: partial(print),
    type: str,
    bytes: b"PK",
    Path: Path("runs/tea.db"),
    str(str | Path): Path("runs/tea.db"),
    BaseException: ValueError("tea"),
    "BaseException | None": ValueError("tea"),
    Sequence[str]: ["tea", "milk"],
    Iterable[str]: ["tea", "milk"],
    Mapping[str, object]: {"tea": 1},
    list[object]: ["tea", 1],
    tuple[frozenset[str], ...]: (frozenset({"ValueError"}),),
}
"""An argument for each type of a constructor's parameter; the objects cannot be compared once they were pickled."""


def sample(annotation: Any) -> object:
    return SAMPLES[annotation] if annotation in SAMPLES else SAMPLES[str(annotation)]


def made_by(make: Callable[..., BaseException]) -> BaseException:
    hints = typing.get_type_hints(make if inspect.ismethod(make) else make.__init__)  # type: ignore[misc]
    return make(**{name: sample(hint) for name, hint in hints.items() if name != "return"})


CONSTRUCTORS = [
    pytest.param(getattr(kind, name), id=f"{kind.__name__}.{name}")
    for kind in CLASSES
    for name, member in vars(kind).items()
    if isinstance(member, classmethod)
]


def plain(kind: type[BaseException]) -> BaseException:
    """Make an error as an agent would, or with the arguments of its constructor."""
    return made_by(kind) if "__init__" in vars(kind) else kind("as the agent says")


def assert_same(found: BaseException, error: BaseException) -> None:
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)
    assert found.args == error.args


@pytest.mark.parametrize("kind", CLASSES)
def test_all_classes_can_be_raised_with_a_message_and_sent(kind: type[BaseException]) -> None:
    error = plain(kind)
    error.add_note("in the kitchen")

    assert_same(pickle.loads(pickle.dumps(error)), error)
    assert_same(copy.copy(error), error)


@pytest.mark.parametrize("make", CONSTRUCTORS)
def test_all_errors_are_sent_and_copied_with_what_they_name(make: Callable[..., BaseException]) -> None:
    error = made_by(make)
    error.add_note("in the kitchen")

    assert_same(pickle.loads(pickle.dumps(error)), error)
    assert_same(copy.copy(error), error)
    [in_group] = pickle.loads(pickle.dumps(BaseExceptionGroup("several", [error]))).exceptions
    assert_same(in_group, error)


@pytest.mark.parametrize("make", CONSTRUCTORS)
def test_what_an_error_names_is_what_its_class_declares_and_its_constructor_was_given(make: Any) -> None:
    error = made_by(make)

    declared, given = typing.get_type_hints(type(error)), typing.get_type_hints(make)
    assert vars(error).keys() <= declared.keys()
    for name, value in vars(error).items():
        # The origin of a generic class; `isinstance` takes a union of plain classes as it is.
        assert isinstance(value, tuple if typing.get_origin(declared[name]) is tuple else declared[name]), name
        if name in given and isinstance(argument := sample(given[name]), str | int | float):
            assert value == argument, name


@pytest.mark.parametrize("kind", CLASSES)
def test_fields_that_an_error_does_not_name_are_empty(kind: type[BaseException]) -> None:
    if kind is agl.RemoteAgentError:
        pytest.skip("it names all of them")

    error = plain(kind)

    assert not [name for name in typing.get_type_hints(kind) if getattr(error, name)]


@pytest.mark.parametrize("kind", CLASSES)
def test_classes_fields_and_constructors_are_documented(kind: type[BaseException]) -> None:
    body = ast.parse(textwrap.dedent(source_of(kind))).body[0]
    assert isinstance(body, ast.ClassDef)

    assert ast.get_docstring(body)
    for field, below in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(below, ast.Expr), ast.unparse(field)
            assert isinstance(below.value, ast.Constant), ast.unparse(field)
        if isinstance(field, ast.FunctionDef) and not field.name.startswith("_"):
            assert (ast.get_docstring(field) or "").startswith("Return "), field.name


def source_of(kind: type) -> str:
    for path in (PACKAGE / "_errors").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
                return ast.get_source_segment(source, node) or ""
    raise AssertionError(kind)


def test_all_but_the_private_classes_are_exported() -> None:
    assert {kind.__name__ for kind in CLASSES if getattr(agl, kind.__name__, None) is not kind} == PRIVATE


def test_no_message_is_written_where_it_is_raised() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "_errors" and has_message(ast.parse(path.read_text(encoding="utf-8")))
    }

    assert found == set()


def has_message(tree: ast.AST) -> bool:
    """Whether a class of ours is raised with a text, or one of its constructors gets a composed text."""
    names = {kind.__name__ for kind in CLASSES}
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        match call.func:
            case ast.Name(name) if name in names:
                texts: tuple[type[ast.AST], ...] = (ast.JoinedStr, ast.BinOp, ast.Constant)
            case ast.Attribute(ast.Name(name)) if name in names:
                texts = (ast.JoinedStr, ast.BinOp)
            case _:
                continue
        if any(isinstance(each, texts) for each in [*call.args, *(keyword.value for keyword in call.keywords)]):
            return True
    return False


# Fields of some errors where they are raised.


def test_an_unknown_attempt_is_named_with_its_rollout() -> None:
    error = _errors.UnknownId.attempt("ro-1", "at-1")

    assert (error.rollout_id, error.attempt_id, error.resources_id) == ("ro-1", "at-1", None)


def test_a_parameter_that_nothing_supplies_is_named_with_its_agent() -> None:
    async def answer(task: str, llm: agl.LLM) -> None: ...

    with pytest.raises(agl.AgentSignatureError) as excinfo:
        agl.Trainer().fit(answer, ["tea"])

    assert (excinfo.value.agent, excinfo.value.parameter) == ("answer", "llm")


async def test_what_cannot_be_stored_is_named_by_its_path(tmp_path: Path) -> None:
    async with agl.SqliteLightningStore(tmp_path / "runs.db") as store:
        with pytest.raises(agl.NotStorable) as excinfo:
            await store.enqueue_rollout({"pots": [open]})

    assert excinfo.value.path is not None
    assert excinfo.value.path.endswith("['pots'][0]")


async def test_code_that_outlives_its_attempt_learns_which_it_was() -> None:
    emitters: list[agl.Emitter] = []

    async def agent(task: str, emitter: agl.Emitter) -> None:
        emitters.append(emitter)

    async with agl.Runner(agent) as runner:
        done = await runner.step("tea")

    with pytest.raises(agl.NoActiveRollout) as excinfo:
        emitters[0].emit_message("late")
    assert excinfo.value.rollout_id == done.rollout.rollout_id
    assert excinfo.value.attempt_id == done.attempt.attempt_id


def test_a_placeholder_without_a_value_is_named() -> None:
    template = agl.PromptTemplate("Make {drink} with {extra}", engine="f-string")

    with pytest.raises(agl.MissingPlaceholder) as excinfo:
        template.format(drink="tea")

    assert (excinfo.value.placeholder, excinfo.value.given) == ("extra", ("drink",))
