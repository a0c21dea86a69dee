"""The examples: their output for each prompt, and their message when no rollout is rewarded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from lightning_trio.testing import open_scripted_llm

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run_example(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def test_label_reviews_shows_reward_rate_and_one_trace_for_every_prompt(tmp_path: Path) -> None:
    async with open_scripted_llm(lambda _: "positive") as server:
        ended = await trio.to_thread.run_sync(
            lambda: run_example("label_reviews", "--base-url", server.base_url, "--limit", "4", folder=tmp_path)
        )

    assert ended.returncode == 0, ended.stderr
    for prompt in ("bare", "one word", "examples"):
        assert f"{prompt}: mean reward train " in ended.stdout
    assert ended.stdout.count("rollouts/s") == ended.stdout.count("invoke_agent label_review") == 3
    assert ended.stdout.count("→1  positive") == 3
    assert "Best on the reviews to choose on: " in ended.stdout


def test_room_selector_shows_reward_rate_and_one_trace_for_every_prompt(tmp_path: Path) -> None:
    ended = run_example("room_selector", "--tasks", "4", folder=tmp_path)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("rollouts/s") == ended.stdout.count("invoke_agent room_selector") == 2
    assert "get_rooms_and_availability(date=" in ended.stdout


@pytest.mark.parametrize(("name", "option"), [("label_reviews", "--limit"), ("room_selector", "--tasks")])
def test_nothing_to_run_is_an_error_of_the_command_line(name: str, option: str, tmp_path: Path) -> None:
    ended = run_example(name, option, "0", folder=tmp_path)

    assert ended.returncode == 2
    assert f"argument {option}: 0 is less than 1" in ended.stderr


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "option"), [("label_reviews", "--limit"), ("room_selector", "--tasks")])
def test_a_server_that_is_not_there_is_no_best_prompt(name: str, option: str, tmp_path: Path) -> None:
    ended = run_example(name, "--base-url", "http://127.0.0.1:9/v1", option, "1", folder=tmp_path)

    assert ended.returncode == 1
    assert "No rollout was rewarded" in ended.stderr
    assert "Best" not in ended.stdout
