"""The ways in for unmodified programs: `install` and ``python -m lightning_trio.compat``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trio
from programs import run_program

from lightning_trio.testing import Reply, ToolCall, open_scripted_llm


def run_script(folder: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of Agent-lightning 0.3, unmodified, from another folder."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(source))
    command = [sys.executable, "-m", "lightning_trio.compat", str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder.parent)


def test_an_unmodified_program_runs(tmp_path: Path) -> None:
    ended = run_script(
        tmp_path,
        """
        import asyncio
        import agentlightning as agl
        from agentlightning.types import PromptTemplate

        @agl.rollout
        async def greet(task, prompt_template):
            await asyncio.sleep(0)
            agl.emit_reward(float(len(prompt_template.format(name=task))))

        async def main():
            runner, store = agl.LitAgentRunner(agl.OtelTracer()), agl.InMemoryLightningStore()
            with runner.run_context(agent=greet, store=store):
                prompt = PromptTemplate(template="Hi {name}", engine="f-string")
                rollout = await runner.step("Ada", resources={"any": prompt})
            print(rollout.status, agl.find_final_reward(await store.query_spans(rollout.rollout_id)))

        asyncio.run(main())
        """,
    )

    assert ended.stdout == "succeeded 6.0\n"
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_trainer_of_an_unmodified_program_runs_its_algorithm_on_asyncio(tmp_path: Path) -> None:
    ended = run_script(
        tmp_path,
        """
        import asyncio
        from agentlightning import PromptTemplate, Trainer, find_final_reward, rollout
        from agentlightning.algorithm import algo
        from agentlightning.store import LightningStore

        @rollout
        async def length(task: str, prompt_template: PromptTemplate) -> float:
            await asyncio.sleep(0)
            return float(len(prompt_template.format(task=task)))

        @algo
        async def longest(*, store: LightningStore):
            scores = {}
            for template in ("{task}", "{task}!!"):
                await store.add_resources({"prompt": PromptTemplate(template=template, engine="f-string")})
                queued = await store.enqueue_rollout(input="tea", mode="train")
                while not await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=0.0):
                    await asyncio.sleep(0.01)
                scores[template] = find_final_reward(await store.query_spans(queued.rollout_id))
            print(scores)

        Trainer(algorithm=longest).fit(length)
        """,
    )

    assert ended.stdout == "{'{task}': 3.0, '{task}!!': 5.0}\n", ended.stderr


async def test_an_agent_with_tools_gets_its_reward_from_a_model(tmp_path: Path) -> None:
    script = tmp_path / "rooms.py"
    script.write_text(
        textwrap.dedent(
            """
            import asyncio, json
            from openai import OpenAI
            from agentlightning.adapter import TraceToMessages
            from agentlightning.litagent import rollout
            from agentlightning.reward import find_final_reward
            from agentlightning.runner import LitAgentRunner
            from agentlightning.store import InMemoryLightningStore
            from agentlightning.tracer.agentops import AgentOpsTracer
            from agentlightning.types import PromptTemplate

            TOOL = {"type": "function", "function": {"name": "find_room", "parameters": {"type": "object"}}}

            @rollout
            def book(task: dict, prompt_template: PromptTemplate) -> float:
                client = OpenAI()
                messages = [{"role": "user", "content": prompt_template.format(**task["input"])}]
                asked = client.chat.completions.create(model="m", messages=messages, tools=[TOOL]).choices[0].message
                [call] = asked.tool_calls
                messages += [asked, {"role": "tool", "tool_call_id": call.id, "content": "A103"}]
                answer = client.chat.completions.create(model="m", messages=messages).choices[0].message.content
                return float(task["expected"] in answer)

            async def main():
                runner, store = LitAgentRunner[dict](AgentOpsTracer()), InMemoryLightningStore()
                prompt = PromptTemplate(template="A room for {seats}", engine="f-string")
                with runner.run_context(agent=book, store=store):
                    for expected in ("A103", "B7"):
                        task = {"input": {"seats": 4}, "expected": expected}
                        done = await runner.step(task, resources={"main_prompt": prompt})
                        spans = await store.query_spans(done.rollout_id)
                        talk = TraceToMessages().adapt(spans)
                        print(find_final_reward(spans), [each["role"] for each in talk[-1]["messages"]])

            asyncio.run(main())
            """
        )
    )
    replies = [Reply(tool_calls=[ToolCall("find_room", {"seats": 4})]), "Room A103."] * 2

    async with open_scripted_llm(replies) as llm:
        ended = await trio.run_process(
            [sys.executable, "-m", "lightning_trio.compat", str(script)],
            env={**os.environ, "OPENAI_BASE_URL": llm.base_url, "OPENAI_API_KEY": "any"},
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )

    roles = ["user", "assistant", "tool", "assistant"]
    assert ended.stdout.decode() == f"1.0 {roles}\n0.0 {roles}\n", ended.stderr.decode()


def test_the_program_sees_its_own_arguments_folder_and_name(tmp_path: Path) -> None:
    ended = run_script(
        tmp_path, "import sys\nprint(__name__, __file__ == sys.argv[0], sys.argv[1:], sys.path[0])", "-x", "two"
    )

    assert ended.stdout == f"__main__ True ['-x', 'two'] {tmp_path}\n"


def test_the_exit_status_is_the_programs(tmp_path: Path) -> None:
    assert run_script(tmp_path, "import sys; sys.exit(7)").returncode == 7


def test_an_error_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    ended = run_script(tmp_path, "def fail():\n    1 / 0\nfail()")

    shown = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert shown[0] == "Traceback (most recent call last):"
    assert 'script.py", line 3, in <module>' in shown[1]
    assert shown[-1] == "ZeroDivisionError: division by zero"


def test_a_syntax_error_names_its_line(tmp_path: Path) -> None:
    ended = run_script(tmp_path, "print(1)\nprint(")

    assert ended.returncode == 1
    assert 'script.py", line 2' in ended.stderr.splitlines()[0]


def test_a_module_runs_with_m(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text("import sys, agentlightning\nprint(agentlightning.__name__, sys.argv[1:])")
    command = [sys.executable, "-m", "lightning_trio.compat", "-m", "tool", "one"]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)

    assert ended.stdout == "lightning_trio.compat ['one']\n", ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "usage: python -m lightning_trio.compat script.py"),
        (["-m"], 2, "usage: python -m lightning_trio.compat script.py"),
        (["--unknown"], 2, "usage: python -m lightning_trio.compat script.py"),
        (["missing.py"], 2, "cannot read 'missing.py': No such file or directory"),
        (["-m", "missing_module"], 1, "No module named missing_module"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(arguments: list[str], code: int, message: str) -> None:
    command = [sys.executable, "-m", "lightning_trio.compat", *arguments]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert ended.returncode == code
    assert message in ended.stderr


def test_help_is_printed() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "lightning_trio.compat", "--help"], capture_output=True, text=True, timeout=60
    )

    assert ended.returncode == 0
    assert ended.stdout.startswith("usage: python -m lightning_trio.compat script.py")


def test_ctrl_c_ends_a_program_with_130(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        textwrap.dedent(
            """
            import asyncio
            import agentlightning as agl

            @agl.rollout
            async def slow(task, llm=None):
                print("ready", flush=True)
                await asyncio.sleep(60)

            agl.Trainer().fit(slow, ["tea"])
            """
        )
    )
    program = subprocess.Popen(
        [sys.executable, "-m", "lightning_trio.compat", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"

    os.kill(program.pid, signal.SIGINT)
    assert program.stderr is not None
    assert "still run" in program.stderr.readline()
    os.kill(program.pid, signal.SIGINT)
    program.communicate(timeout=60)

    assert program.returncode == 130


def test_a_spawned_process_finds_the_package(tmp_path: Path) -> None:
    ended = run_script(
        tmp_path,
        """
        import multiprocessing
        import agentlightning.types

        def child():
            import agentlightning.store.memory
            print("child:", agentlightning.__name__)

        if __name__ == "__main__":
            process = multiprocessing.get_context("spawn").Process(target=child)
            process.start()
            process.join()
        """,
    )

    assert ended.stdout == "child: lightning_trio.compat\n", ended.stderr


def test_install_may_be_called_again() -> None:
    ended = run_program(
        """
        import sys
        import lightning_trio.compat
        lightning_trio.compat.install()
        before = list(sys.path), list(sys.meta_path)
        lightning_trio.compat.install()
        import agentlightning
        from agentlightning.emitter import emit_reward
        print(agentlightning is lightning_trio.compat, before == (sys.path, sys.meta_path))
        """
    )

    assert ended.out == "True True\n", ended.err


def test_install_refuses_where_agent_lightning_has_been_imported() -> None:
    ended = run_program(
        """
        import sys, types
        sys.modules["agentlightning"] = types.ModuleType("agentlightning")
        import lightning_trio.compat
        lightning_trio.compat.install()
        """
    )

    assert ended.code == 1
    assert "UsageError: agentlightning has already been imported; call lightning_trio.compat.install()" in ended.err


def test_a_module_that_does_not_exist_says_what_to_write() -> None:
    ended = run_program("import lightning_trio.compat as c; c.install(); import agentlightning.verl.daemon")

    assert "ModuleNotFoundError: No module named 'agentlightning.verl'; export the spans" in ended.err


def test_importing_compat_does_not_install_it() -> None:
    ended = run_program("import sys, lightning_trio.compat; print('agentlightning' in sys.modules)")

    assert ended.out == "False\n"


def test_importing_lightning_trio_does_not_import_compat() -> None:
    ended = run_program(
        "import sys, lightning_trio; lightning_trio.Runner; print('lightning_trio.compat' in sys.modules)"
    )

    assert ended.out == "False\n"
