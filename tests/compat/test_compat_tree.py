"""Agent-lightning 0.3's module tree: every name is where it was, or says what to write instead."""

from __future__ import annotations

import importlib
import sys

import pytest

import lightning_trio
import lightning_trio.compat as agl
from lightning_trio.compat._modules import names_of
from lightning_trio.compat._tree import GONE, IMPLEMENTED, STUBS, TOP, TREE


@pytest.mark.parametrize("path", TREE)
def test_every_name_of_a_module_can_be_imported(path: str) -> None:
    module = importlib.import_module(f"lightning_trio.compat.{path}")

    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_every_name_of_the_package_can_be_imported() -> None:
    assert [name for name in agl.__all__ if not hasattr(agl, name)] == []


def test_each_name_is_implemented_once_or_missing() -> None:
    implemented = [name for names in IMPLEMENTED.values() for name in names.split()]
    named = {target for entry in (*TREE.values(), TOP) for target in names_of(entry).values()}

    assert sorted([*implemented, *STUBS, *GONE]) == sorted({*implemented, *STUBS, *GONE})
    assert named <= {*implemented, *STUBS, *GONE}


def test_a_class_is_the_same_in_all_modules_that_have_it() -> None:
    from lightning_trio.compat.store import InMemoryLightningStore
    from lightning_trio.compat.store.memory import InMemoryLightningStore as FromMemory

    assert InMemoryLightningStore is FromMemory is agl.InMemoryLightningStore


def test_what_0_3_and_lightning_trio_have_alike_is_lightning_trios_own() -> None:
    assert agl.Rollout is lightning_trio.Rollout
    assert agl.PromptTemplate is lightning_trio.PromptTemplate
    assert agl.find_final_reward is lightning_trio.find_final_reward


def test_a_function_hides_the_module_of_its_name_as_in_0_3() -> None:
    assert callable(agl.emitter.reward)
    assert importlib.import_module("lightning_trio.compat.emitter.reward").reward is agl.emitter.reward


def test_a_submodule_is_an_attribute_of_its_package() -> None:
    assert agl.types.core is sys.modules["lightning_trio.compat.types.core"]


def test_a_star_import_has_the_names_of_0_3() -> None:
    names: dict[str, object] = {}

    exec("from lightning_trio.compat import *", names)

    assert {"Trainer", "LitAgent", "emit_reward", "LLMProxy", "setup_logging"} <= set(names)


@pytest.mark.parametrize("name", STUBS)
def test_a_class_that_does_not_exist_can_be_imported_and_says_what_to_write_when_it_is_made(name: str) -> None:
    from lightning_trio.compat._modules import implementation

    stub = implementation(name)

    assert isinstance(stub, type)
    with pytest.raises(lightning_trio.UsageError, match=f"^{name} of Agent-lightning 0.3 does not exist here; "):
        stub("any", option="any")


def test_a_class_derived_from_one_that_does_not_exist_says_so_as_well() -> None:
    class Own(agl.LLMProxy):
        pass

    with pytest.raises(lightning_trio.UsageError, match=r"^LLMProxy of Agent-lightning 0.3 does not exist here"):
        Own()


def test_a_missing_class_can_be_given_type_arguments() -> None:
    assert agl.APO[str] is agl.APO


def test_a_name_of_older_versions_says_what_to_write() -> None:
    with pytest.raises(ImportError, match=r"cannot import name 'Task' .*; the classes of versions 0.1 are gone; write"):
        exec("from lightning_trio.compat.types import Task")
    with pytest.raises(AttributeError, match=r"has no attribute 'Task'; the classes of versions 0.1 are gone; write"):
        _ = agl.types.Task


def test_a_misspelt_name_is_corrected() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'Trainor'; did you mean Trainer\?$"):
        _ = agl.Trainor


def test_a_name_of_another_module_says_which() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'InMemoryLightningStore'; it is in store$"):
        _ = agl.types.InMemoryLightningStore


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("verl", "No module named 'lightning_trio.compat.verl'; export the spans"),
        ("instrumentation.agentops", "'lightning_trio.compat.instrumentation.agentops'; a runner records calls"),
        ("utils.metrics", "'lightning_trio.compat.utils.metrics'; runner.statistics"),
        ("unheard_of", "No module named 'lightning_trio.compat.unheard_of'$"),
    ],
)
def test_a_module_that_does_not_exist_says_what_to_write(name: str, message: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=message):
        importlib.import_module(f"lightning_trio.compat.{name}")


def test_a_module_that_does_not_exist_says_so_as_an_attribute_as_well() -> None:
    with pytest.raises(AttributeError, match="'verl'; export the spans that you need"):
        _ = agl.verl


@pytest.mark.parametrize(
    "path",
    [
        "adapter.triplet.Transition",
        "algorithm.apo.apo.APO",
        "algorithm.verl.interface.VERL",
        "execution.inter_process.InterProcessExecutionStrategy",
        "llm_proxy.AddReturnTokenIds",
        "llm_proxy.ModelConfig",
        "store.collection.AtomicMode",
        "tracer.otel.LightningSpanProcessor",
        "utils.server_launcher.LaunchMode",
        "utils.server_launcher.PythonServerLauncherArgs",
    ],
)
def test_a_name_that_only_its_module_has_can_be_imported_and_says_what_to_write(path: str) -> None:
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(f"lightning_trio.compat.{module}"), name)

    with pytest.raises(lightning_trio.UsageError, match=f"{name} of Agent-lightning 0.3 does not exist here; "):
        found(option=1)


def test_nothing_is_imported_before_it_is_used() -> None:
    module = sys.modules["lightning_trio.compat.execution.events"]

    assert "MultiprocessingEvent" in dir(module)
