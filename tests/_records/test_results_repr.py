"""The repr of results: outcomes first, and no spans."""

from __future__ import annotations

import lightning_trio as agl


async def answer(task: str) -> float:
    agl.emit_message("a long story")
    if task == "milk":
        raise KeyError("no\nmilk")
    return 0.5


async def test_a_completed_rollout_shows_how_it_ended() -> None:
    async with agl.Runner(answer) as runner, runner.stream(["tea"]) as results:
        [done] = [done async for done in results]

    shown = repr(done)
    assert shown.startswith(f"<CompletedRollout {done.rollout.rollout_id}: succeeded, attempt 1 took 0.")
    assert shown.endswith(" s, reward 0.5, 3 spans>")


async def test_a_failed_one_shows_its_error_in_the_same_line() -> None:
    async with agl.Runner(answer) as runner, runner.stream(["milk"]) as results:
        [done] = [done async for done in results]

    assert ": failed, attempt 1 took " in repr(done)
    assert repr(done).endswith(" s, KeyError: 'no\\nmilk', 2 spans>")
    assert "Traceback" not in repr(done.attempt)


async def test_the_result_of_a_fit_shows_its_counts_and_rewards() -> None:
    result = await agl.Runner(answer).fit(["tea", "milk"], ["tea"])

    shown = repr(result)
    assert shown.startswith(f"<FitResult {result.run_id}: 2 succeeded, 1 failed, mean reward train 0.5 and val 0.5, ")
    assert shown.endswith(" s>")


async def test_a_fit_that_ended_early_says_why() -> None:
    result = await agl.Runner(answer, max_failures=0, max_concurrency=1).fit(["milk", "tea"])

    assert f"ended early ({result.ended_early})" in repr(result)


def test_a_page_shows_its_place_among_all() -> None:
    items = [agl.Worker(f"w-{number}") for number in range(3)]

    assert repr(agl.PaginatedResult(items, 3, 10, 1_200)) == "<PaginatedResult: 3 of 1,200 Workers, from 10>"
    assert repr(agl.PaginatedResult[agl.Worker]([], -1, 0, 0)) == "<PaginatedResult: 0 of 0 items, from 0>"
