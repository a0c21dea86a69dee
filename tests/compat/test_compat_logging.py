"""Agent-lightning 0.3's set-up of logging, and its environment variables."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lightning_trio.compat as agl

LOGGERS = ("agentlightning", "lightning_trio", "program")


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    before = {
        name: (list(log.handlers), log.level, log.propagate) for name in LOGGERS if (log := logging.getLogger(name))
    }
    yield
    for name, (handlers, level, propagate) in before.items():
        log = logging.getLogger(name)
        for handler in set(log.handlers) - set(handlers):
            handler.close()
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)
    logging.captureWarnings(False)


def test_records_of_both_names_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    agl.setup_logging("DEBUG", color=False)

    logging.getLogger("agentlightning.algorithm").debug("old")
    logging.getLogger("lightning_trio.runner").debug("new")

    shown = capsys.readouterr().err
    assert "agentlightning.algorithm)   old" in shown
    assert "lightning_trio.runner)   new" in shown


def test_a_second_call_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        agl.setup_logging(color=False)

    logging.getLogger("agentlightning").info("once")

    assert capsys.readouterr().err.count("once") == 1


def test_a_file_gets_all_records(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    agl.setup_logging(console=False, files=str(path))

    logging.getLogger("agentlightning").info("first")
    logging.getLogger("lightning_trio").warning("second")

    assert ["first" in path.read_text(), "second" in path.read_text()] == [True, True]


def test_further_loggers_levels_and_handlers_are_set_up() -> None:
    handler = logging.NullHandler()

    agl.setup_logging(
        "WARNING", console=False, apply_to=["program"], extra_handlers=[handler], submodule_levels={"program.part": 10}
    )

    assert handler in logging.getLogger("program").handlers
    assert logging.getLogger("program").level == logging.WARNING
    assert logging.getLogger("program.part").level == logging.DEBUG


def test_colours_use_rich() -> None:
    made = agl.setup_module_logging(name="program", color={"show_path": False})

    assert [type(handler).__name__ for handler in made.handlers] == ["RichHandler"]


def test_the_older_name_warns() -> None:
    with pytest.warns(DeprecationWarning, match="write setup_logging"):
        agl.configure_logger(name="program")


@pytest.mark.parametrize(
    ("text", "override", "result"), [("yes", None, True), ("0", None, False), ("0", True, True), (None, None, None)]
)
def test_a_truth_value_is_read(
    text: str | None, override: bool | None, result: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        monkeypatch.setenv("AGL_MANAGED_STORE", text)

    assert agl.resolve_bool_env_var(agl.LightningEnvVar.AGL_MANAGED_STORE, override) is result


@pytest.mark.parametrize(("resolve", "text"), [(agl.resolve_bool_env_var, "maybe"), (agl.resolve_int_env_var, "many")])
def test_a_value_that_cannot_be_read_says_so(resolve: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGL_SERVER_PORT", text)

    with pytest.raises(ValueError, match=f"AGL_SERVER_PORT='{text}' must be"):
        resolve(agl.LightningEnvVar.AGL_SERVER_PORT)
