"""The journals of worker processes: no key is written to them, and those of killed programs are removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import process_agents as agents
import pytest

import lightning_trio as agl
from lightning_trio._host import boot_id, own_process
from lightning_trio._resources import _api_keys

pytest.importorskip("trio_parallel")

from lightning_trio.lanes._process._journal import Journal, read_frames
from lightning_trio.lanes._process._journal_folder import make_journals, remove_stale_journals
from lightning_trio.lanes._process._pool import open_pool


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the temporary directory that the lane uses."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def ended() -> dict[str, str | int]:
    """Return the identity of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return {**own_process(), "process": process.pid, "started": "1"}


def make_folder(temporary: Path, name: str, owner: object) -> Path:
    folder = temporary / name
    folder.mkdir()
    (folder / "123.spans").write_bytes(b"spans")
    (folder / "owner.json").write_text(json.dumps(owner), encoding="utf-8")
    return folder


def test_a_key_is_taken_out_of_a_span_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_api_keys, "_known", {})
    monkeypatch.setattr(_api_keys, "_written", ())
    agl.LLM("e", "m", api_key="sk-0123456789")
    path = tmp_path / "1.spans"
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    Journal(file, "at-1").append(agl.Span.from_attributes(attributes={"sk-0123456789": "sk-0123456789"}))
    os.close(file)
    data = path.read_bytes()

    assert b"0123456789" not in data
    assert [span.attributes for span in read_frames(data, "at-1")] == [{"[api key]": "[api key]"}]


async def test_a_worker_process_knows_the_keys_of_its_resources_before_the_agent_reads_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TESTS_KEY", "sk-0123456789")
    llm = agl.LLM("e", "m", api_key_env="TESTS_KEY")
    result = await agl.Runner(agents.reads_its_journal, resources={"llm": llm}).fit(["TESTS_KEY"])

    assert result.mean_reward["train"] == 0.0


@pytest.mark.parametrize("place", ["message", "note", "attribute", "cause"])
async def test_a_key_that_only_a_worker_process_knows_does_not_leave_it_in_an_error(place: str) -> None:
    async with agl.Runner(agents.fails_with_a_key_of_its_own) as runner, runner.stream([place]) as ended:
        [rollout] = [each async for each in ended]
    error = rollout.error
    assert error is not None
    assert error.exception is not None
    texts = [repr(error), error.traceback, repr(rollout.spans), repr(vars(error.exception))]

    assert error.type == "ValueError"
    assert not any("sk-made" in text for text in texts)


async def test_a_folder_whose_process_has_ended_is_removed_when_a_lane_opens(
    temporary: Path, ended: dict[str, str | int]
) -> None:
    folder = make_folder(temporary, "lightning_trio-ended", ended)
    async with open_pool(leave_out=frozenset()):
        pass

    assert not folder.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"process": os.getpid(), "started": None},
        {"host": "another"},
        {"host": "another", "boot": "another"},
        {"boot": None},
        {"namespace": "another"},
        {"process": "1"},
    ],
)
def test_a_folder_stays_whose_process_lives_or_cannot_be_known(
    temporary: Path, ended: dict[str, str | int], change: dict[str, object]
) -> None:
    folder = make_folder(temporary, "lightning_trio-living", {**ended, **change})
    remove_stale_journals()

    assert folder.exists()


@pytest.mark.skipif(boot_id() is None, reason="only Linux has boot ids")
def test_a_folder_from_before_the_machine_was_started_is_removed(temporary: Path, ended: dict[str, str | int]) -> None:
    folder = make_folder(temporary, "lightning_trio-before", {**ended, "process": os.getpid(), "boot": "another"})
    remove_stale_journals()

    assert not folder.exists()


@pytest.mark.parametrize("name", ["", "123.spans", "owner.json"])
def test_a_folder_that_names_no_owner_is_removed_after_a_day(temporary: Path, name: str) -> None:
    folder = temporary / "lightning_trio-unowned"
    folder.mkdir()
    if name:
        (folder / name).touch()
    for path in (*folder.iterdir(), folder):
        os.utime(path, (0, 0))
    remove_stale_journals()

    assert not folder.exists()


@pytest.mark.parametrize("name", ["results.txt", "1.spans"])
def test_an_old_folder_with_other_files_or_a_new_journal_stays(temporary: Path, name: str) -> None:
    folder = temporary / "lightning_trio-unowned"
    folder.mkdir()
    (folder / name).touch()
    if name == "results.txt":
        os.utime(folder / name, (0, 0))
    os.utime(folder, (0, 0))
    remove_stale_journals()

    assert folder.exists()


@pytest.mark.parametrize("owner", [None, [], "text"])
def test_a_new_folder_without_a_known_owner_stays(temporary: Path, owner: object) -> None:
    folder = make_folder(temporary, "lightning_trio-unknown", owner)
    (temporary / "lightning_trio-empty").mkdir()
    remove_stale_journals()

    assert folder.exists()
    assert (temporary / "lightning_trio-empty").exists()


def test_neither_links_nor_files_nor_other_folders_are_removed(temporary: Path, ended: dict[str, str | int]) -> None:
    folder = make_folder(temporary, "another", ended)
    (temporary / "lightning_trio-link").symlink_to(folder)
    (temporary / "lightning_trio-file").write_text("{}", encoding="utf-8")
    remove_stale_journals()

    assert {path.name for path in temporary.iterdir()} == {"another", "lightning_trio-link", "lightning_trio-file"}


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no user ids")
def test_a_folder_of_another_user_stays(
    temporary: Path, ended: dict[str, str | int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(temporary, "lightning_trio-ended", ended)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    remove_stale_journals()

    assert folder.exists()


def test_the_folder_of_a_program_that_is_killed_is_removed_by_the_next(temporary: Path) -> None:
    program = f"""
import tempfile, time
tempfile.tempdir = {str(temporary)!r}
from lightning_trio.lanes._process._journal_folder import make_journals
print(make_journals(), flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    remove_stale_journals()
    stayed = folder.exists()
    process.kill()
    process.communicate()
    own = make_journals()
    remove_stale_journals()

    assert stayed
    assert not folder.exists()
    assert Path(own).exists()
