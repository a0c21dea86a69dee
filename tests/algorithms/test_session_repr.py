"""The repr of a session."""

from __future__ import annotations

from collections.abc import Sequence

import lightning_trio as agl


async def answer(task: str) -> float:
    return 1.0


async def test_a_session_shows_its_run_and_what_has_been_done() -> None:
    shown: list[str] = []

    @agl.algo
    async def search(session: agl.Session, train_dataset: Sequence[str]) -> None:
        shown.append(repr(session))
        best = await session.publish({"llm": agl.LLM(endpoint="http://h/v1", model="m", api_key="sk-secret")})
        await session.run(train_dataset, mode="train", resources=best)
        session.declare_best(best)
        session.note(score=1.0)
        shown.append(repr(session).replace(best.resources_id, "rs-1"))

    result = await agl.Runner(answer, algorithm=search).fit(["tea"])

    assert shown == [
        f"<Session of {result.run_id}: 0 rounds, 0 published, best None, 0 notes>",
        f"<Session of {result.run_id}: 1 round, 1 published, best rs-1, 1 note>",
    ]
