"""The representation of a scripted LLM in a debugger."""

from __future__ import annotations

from lightning_trio.testing.scripted_llm import open_scripted_llm


async def test_a_scripted_llm_shows_its_address_and_what_came() -> None:
    async with open_scripted_llm("tea") as llm:
        assert repr(llm) == f"<ScriptedLLM scripted at {llm.base_url}: 0 requests, 0 in flight>"
