"""The representation in a debugger of runners in other programs."""

from __future__ import annotations

import asyncio

import lightning_trio as agl


async def answer(task: str) -> float:
    return 1.0


def test_a_blocking_runner_shows_whether_it_is_open() -> None:
    closed = agl.embed.open_blocking(agl.Runner(answer))
    assert repr(closed) == "<BlockingRunner: closed, <Runner of answer (trio, 100 at a time): closed>>"

    with closed as r:
        assert repr(r).startswith("<BlockingRunner: open, <Runner of answer (trio, 100 at a time): open, ")


def test_a_runner_in_asyncio_and_its_stream_show_whether_they_are_open() -> None:
    shown: list[str] = []

    async def main() -> None:
        async with agl.embed.open_asyncio(agl.Runner(answer)) as r:
            shown.append(repr(r))
            stream = r.stream(["tea"])
            shown.append(repr(stream))
            async with stream:
                shown.append(repr(stream))
            shown.append(repr(stream))

    asyncio.run(main())

    assert shown[0].startswith("<AsyncioRunner: open, <Runner of answer (trio, 100 at a time): open, ")
    assert shown[1:] == ["<LoopStream: not entered yet>", "<LoopStream: entered>", "<LoopStream: left>"]
