"""The reprs of runners and streams."""

from __future__ import annotations

import lightning_trio as agl


async def answer(task: str) -> float:
    return 1.0


async def test_a_runner_shows_its_agent_its_lane_and_how_far_it_is() -> None:
    runner = agl.Runner(answer, max_concurrency=2_000)
    shown = [repr(runner)]
    async with runner:
        await runner.step("tea")
        shown.append(repr(runner))
    shown.append(repr(runner))

    assert shown == [
        "<Runner of answer (trio, 2,000 at a time): closed>",
        "<Runner of answer (trio, 2,000 at a time): open, 0 running, 1 done>",
        "<Runner of answer (trio, 2,000 at a time): closed>",
    ]


async def test_it_shows_what_runs_from_inside_an_agent() -> None:
    shown: list[str] = []

    async def agent(task: str) -> None:
        shown.append(repr(runner))

    async with agl.Runner(agent) as runner:
        await runner.step("tea")

    assert shown == ["<Runner of agent (trio, 100 at a time): open, 1 running, 0 done>"]


def test_a_plain_function_is_shown_in_its_lane() -> None:
    def think(task: str) -> None: ...

    assert repr(agl.Runner(think)) == "<Runner of think (thread, 100 at a time): closed>"


async def test_a_stream_shows_how_much_is_to_be_read() -> None:
    async with agl.Runner(answer) as runner:
        stream = runner.stream(["tea"])
        shown = [repr(stream)]
        async with stream as results:
            await anext(results)
            shown.append(repr(stream))
        shown.append(repr(stream))

    assert shown == [
        "<RolloutStream: not entered yet>",
        "<RolloutStream: entered, 0 results to read>",
        "<RolloutStream: left>",
    ]
