"""An agent that changes the working directory, as coding agents do, takes no file of ours with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

import lightning_trio as agl
from lightning_trio import SqliteLightningStore, open_local_llm


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder to go into; the working directory, another one, is restored after the test."""
    (tmp_path / "home").mkdir()
    (tmp_path / "workspace").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "workspace"


def agent_in(workspace: Path) -> agl.LitAgent[int]:
    @agl.rollout
    async def agent(task: int) -> float:
        os.chdir(workspace)
        await trio.sleep(0.001)
        return 1.0

    return agent


def test_a_named_run_stays_where_the_trainer_was_made(workspace: Path) -> None:
    trainer = agl.Trainer(n_runners=4, run_name="nightly")

    result = trainer.fit(agent_in(workspace), range(20))

    assert result.counts["succeeded"] == 20
    assert os.listdir(workspace) == []
    assert "nightly.db" in os.listdir(workspace.parent / "home" / "runs")


def test_a_store_stays_where_it_was_made(workspace: Path) -> None:
    store = SqliteLightningStore("runs.db")
    trainer = agl.Trainer(n_runners=4, store=store)

    results = [trainer.fit(agent_in(workspace), range(20)) for _ in range(2)]

    assert [each.counts["succeeded"] for each in results] == [20, 20]
    assert os.listdir(workspace) == []
    assert store.path == workspace.parent / "home" / "runs.db"


async def test_a_named_run_is_resumed_from_another_directory(workspace: Path) -> None:
    runner = agl.Runner(agent_in(workspace), run_name="nightly")
    finished = await runner.fit(range(3))

    assert Path.cwd() == workspace
    assert await runner.fit(range(3), resume=True) == finished


async def test_a_local_model_is_looked_for_where_it_was_named(workspace: Path) -> None:
    pytest.importorskip("xllamacpp")
    model = open_local_llm(model_path="missing.gguf")
    os.chdir(workspace)

    with pytest.raises(agl.ResourceError) as caught:
        async with model:
            pass

    assert str(workspace.parent / "home" / "missing.gguf") in str(caught.value)


def test_an_absolute_path_needs_no_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert SqliteLightningStore(tmp_path / "runs.db").path == tmp_path / "runs.db"


def test_files_that_a_connection_string_names_are_found_from_every_directory(workspace: Path) -> None:
    pytest.importorskip("psycopg")
    store = agl.PostgresLightningStore("host=db.example.com sslrootcert=certs/root.crt")

    conninfo = store._server.conninfo

    assert f"sslrootcert={workspace.parent}/home/certs/root.crt" in conninfo
