"""The repr of resources."""

from __future__ import annotations

import lightning_trio as agl


def test_a_long_template_is_shortened() -> None:
    template = agl.PromptTemplate("Answer in one word. " * 100, engine="f-string")

    shown = repr(template)
    assert shown.startswith("PromptTemplate(template='Answer in one word.")
    assert shown.endswith("engine='f-string')")
    assert len(shown) < 160


def test_a_short_one_is_shown_whole() -> None:
    assert repr(agl.PromptTemplate("Why {x}?", engine="jinja")) == "PromptTemplate(template='Why {x}?', engine='jinja')"


def test_neither_the_key_of_a_model_is_shown_nor_a_password_in_its_endpoint() -> None:
    for kind in (agl.LLM, agl.ProxyLLM):
        shown = repr(kind(endpoint="http://ada:s3cret@h:1/v1", model="m", api_key="sk-secret"))

        assert shown.startswith(f"{kind.__name__}(endpoint='http://***@h:1/v1', model='m', ")
        assert "sk-secret" not in shown
