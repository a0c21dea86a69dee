"""Resources: prompt templates, models, users' own classes, and invalid resources."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from contextlib import suppress
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lightning_trio as agl
from lightning_trio._resources import check_resources, resource_class


def fstring(template: str) -> agl.PromptTemplate:
    return agl.PromptTemplate(template, engine="f-string")


def jinja(template: str) -> agl.PromptTemplate:
    return agl.PromptTemplate(template, engine="jinja")


# Prompt templates, f-string.


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("no placeholder", "no placeholder"),
        ("{name} and {name}", "Ada and Ada"),
        ("{name!r}", "'Ada'"),
        ("{name:>5}|", "  Ada|"),
        ("{number:.2f}", "3.14"),
        ("{number:{width}.1f}|", "     3.1|"),
        ("{user.city}", "Turin"),
        ("{scores[best]} {items[1]}", "9 b"),
    ],
)
def test_an_fstring_template_has_the_features_of_str_format(template: str, expected: str) -> None:
    values = {
        "name": "Ada",
        "number": 3.14159,
        "width": 8,
        "user": SimpleNamespace(city="Turin"),
        "scores": {"best": 9},
        "items": ["a", "b"],
    }

    assert fstring(template).format(**values) == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ('{{"label": {label}}}', '{"label": 1}'),
        ('Reply with {"label": 1} for {label}', 'Reply with {"label": 1} for 1'),
        ('{"label": {label}}', '{"label": 1}'),
        ("an empty pair {} beside {label}", "an empty pair {} beside 1"),
        ("a lone { beside {label}", "a lone { beside 1"),
        ("if (x) { return; } // {label}", "if (x) { return; } // 1"),
        ('{label: {"nested": 1}} {label}', '{label: {"nested": 1}} 1'),
        ("{label:{}} {label}", "{label:{}} 1"),
        ("{label!z} {label}", "{label!z} 1"),
        ("{0} {label}", "{0} 1"),
    ],
)
def test_braces_that_are_no_placeholder_stand(template: str, expected: str) -> None:
    assert fstring(template).format(label=1) == expected


@settings(deadline=None)
@given(st.text(), st.text())
def test_a_doubled_brace_template_renders_to_its_text(before: str, value: str) -> None:
    template = before.replace("{", "{{").replace("}", "}}") + "{value}"

    assert fstring(template).format(value=value) == before + value


@pytest.mark.filterwarnings("ignore:the prompt template has braces that are not placeholders")
@settings(deadline=None)
@given(st.text(alphabet='{}ab!:.[]"0_ ', max_size=12))
def test_whatever_the_braces_only_a_missing_value_or_a_private_attribute_fails(template: str) -> None:
    prompt = fstring(template)

    with suppress(agl.MissingPlaceholder, agl.ResourceError):
        prompt.format()


def test_a_missing_placeholder_is_named_beside_the_values_given() -> None:
    with pytest.raises(agl.MissingPlaceholder) as caught:
        fstring("{question} {context}").format(question="why?", query="x")

    assert str(caught.value) == ("the prompt template needs 'context', and the values given are: 'question', 'query'")


def test_a_missing_placeholder_is_also_a_key_error_as_in_agent_lightning() -> None:
    with pytest.raises(KeyError, match="needs 'question', and the values given are: none"):
        fstring("{question}").format()


def test_a_missing_placeholder_in_a_template_with_raw_braces_is_named_too() -> None:
    with pytest.raises(agl.MissingPlaceholder, match="needs 'label'"):
        fstring('{"a": 1} {label}').format()


def test_a_placeholder_inside_a_format_spec_counts() -> None:
    assert fstring("{number:{width}}").placeholders == {"number", "width"}


def test_values_that_the_template_does_not_use_are_ignored() -> None:
    assert fstring("{a}").format(a=1, b=2) == "1"


def test_a_placeholder_may_be_called_self() -> None:
    assert fstring("{self}").format(self="me") == "me"


@pytest.mark.parametrize("template", ["{user.__class__}", "{user.a._b}", "{a:{user.__dict__}}"])
def test_private_attributes_are_refused(template: str) -> None:
    with pytest.raises(agl.ResourceError, match=r"private attribute 'user\."):
        fstring(template).format(user=object(), a=1)


def test_values_are_not_templates_themselves() -> None:
    assert fstring("{a}").format(a="{b}", b=1) == "{b}"


# Prompt templates, jinja.


def test_a_jinja_template_is_rendered_with_loops_and_its_last_newline() -> None:
    template = jinja("{% for item in items %}- {{ item }}\n{% endfor %}")

    assert template.format(items=["a", "b"]) == "- a\n- b\n"


def test_a_jinja_template_lists_its_placeholders() -> None:
    assert jinja("{% if a %}{{ b.c }}{% endif %}{% set d = 1 %}{{ d }}").placeholders == {"a", "b"}


def test_single_braces_are_text_in_jinja() -> None:
    assert jinja('{"label": {{ label }}}').format(label=1) == '{"label": 1}'


def test_tojson_writes_what_a_model_should_read() -> None:
    tool = {"name": "find", "doc": "a<b> & 'Ü'", "limits": np.array([1, np.nan]), "half": "\ud835"}

    assert jinja("{{ tool | tojson }}").format(tool=tool) == (
        """{"name": "find", "doc": "a<b> & 'Ü'", "limits": [1.0, null], "half": "\\ud835"}"""
    )


def test_tojson_takes_the_parameters_that_it_has_in_chat_templates() -> None:
    template = jinja("{{ tool | tojson(indent=1, ensure_ascii=True, separators=(',', ':'), sort_keys=True) }}")

    assert template.format(tool={"b": "Ü", "a": 1}) == '{\n "a":1,\n "b":"\\u00dc"\n}'


def test_tojson_of_a_missing_placeholder_names_it() -> None:
    with pytest.raises(agl.MissingPlaceholder, match="needs 'tool'"):
        jinja("{{ tool | tojson }}").format(name="find")


def test_jinja_does_not_escape_for_html() -> None:
    assert jinja("{{ a }}").format(a="<b> & 'c'") == "<b> & 'c'"


def test_an_undefined_jinja_value_is_named_beside_those_given() -> None:
    with pytest.raises(agl.MissingPlaceholder, match="needs 'b', and the values given are: 'a'"):
        jinja("{{ a }}{{ b }}").format(a=1)


def test_an_undefined_jinja_attribute_is_an_error() -> None:
    with pytest.raises(agl.ResourceError, match="has no attribute 'nothing'"):
        jinja("{{ a.nothing }}").format(a=1)


@pytest.mark.parametrize(
    "template",
    ["{{ a.__class__.__mro__ }}", "{{ ''.__class__.__base__.__subclasses__() }}", "{{ a.__init__.__globals__ }}"],
)
def test_jinja_runs_in_a_sandbox(template: str) -> None:
    with pytest.raises(agl.ResourceError, match="sandbox forbids"):
        jinja(template).format(a=test_jinja_runs_in_a_sandbox)


def test_bad_jinja_syntax_is_refused_when_the_template_is_made() -> None:
    with pytest.raises(agl.ResourceError, match=r"syntax error in line 2: "):
        jinja("fine\n{{ a")


@pytest.mark.parametrize("engine", ["poml", "fstring", ""])
def test_an_unknown_engine_is_named_with_those_there_are(engine: str) -> None:
    with pytest.raises(agl.ResourceError, match=f"engine='{engine}'; the engines are 'f-string' and 'jinja'"):
        agl.PromptTemplate("x", engine=engine)  # type: ignore[arg-type]  # bad input


def test_a_template_that_is_no_string_is_refused() -> None:
    with pytest.raises(agl.ResourceError, match="template=None is not a string"):
        agl.PromptTemplate(None, engine="f-string")  # type: ignore[arg-type]  # bad input


# Models.


def test_the_api_key_is_in_no_text_about_the_model() -> None:
    llm = agl.LLM("http://h/v1", "qwen", "sk-secret", {"temperature": 0})

    assert llm.api_key == "sk-secret"
    assert "sk-secret" not in f"{llm} {llm!r} {[llm]} {vars(type(llm)).keys()}"


def test_the_api_key_stays_when_a_model_is_copied_or_evolved() -> None:
    llm = agl.LLM("http://h/v1", "qwen", api_key="sk-secret")

    copies = [copy.copy(llm), copy.deepcopy(llm), pickle.loads(pickle.dumps(llm)), attrs.evolve(llm, model="phi")]
    assert [each.api_key for each in copies] == ["sk-secret"] * 4


def test_the_api_key_is_read_from_the_environment_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = agl.LLM("http://h/v1", "qwen", api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "sk-later")

    assert llm.api_key == "sk-later"


def test_an_unset_environment_variable_gives_none_and_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    llm = agl.LLM("http://h/v1", "qwen", api_key_env="MY_KEY")

    with pytest.warns(UserWarning, match="LLM 'qwen': the environment variable MY_KEY is not set"):
        assert llm.api_key is None


def test_a_model_without_a_key_has_none_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        assert agl.LLM("http://h/v1", "qwen").api_key is None


def test_a_key_given_both_ways_is_refused_without_showing_it() -> None:
    with pytest.raises(agl.ResourceError, match="has both api_key and api_key_env") as caught:
        agl.LLM("http://h/v1", "qwen", api_key="sk-secret", api_key_env="MY_KEY")

    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("kind", [agl.LLM, agl.ProxyLLM])
def test_sampling_parameters_are_the_models_own(kind: type[agl.LLM]) -> None:
    given = {"temperature": 0.5, "extra_body": {"stop": ["."]}}
    llm = kind(endpoint="http://h/v1", model="m", sampling_parameters=given)
    copies = [pickle.loads(pickle.dumps(llm)), copy.deepcopy(llm), attrs.evolve(llm)]

    given["temperature"] = 2.0
    seen = dict(**llm.sampling_parameters)
    seen["extra_body"]["stop"].append("!")
    seen.pop("temperature")

    assert llm.sampling_parameters == {"temperature": 0.5, "extra_body": {"stop": ["."]}}
    assert copies == [llm] * 3
    assert "sampling_parameters={'temperature': 0.5, 'extra_body': {'stop': ['.']}}" in repr(llm)


def test_sampling_parameters_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(agl.ResourceError, match=r"sampling_parameters=0\.5 is not a mapping"):
        agl.LLM(endpoint="http://h/v1", model="m", sampling_parameters=0.5)  # type: ignore[arg-type]


def test_a_model_without_an_endpoint_string_is_refused() -> None:
    with pytest.raises(agl.ResourceError, match="LLM endpoint=None is not a string"):
        agl.LLM(None, "qwen")  # type: ignore[arg-type]  # bad input


def test_get_base_url_of_a_plain_model_is_its_endpoint() -> None:
    assert agl.LLM("http://h/v1", "qwen").get_base_url("r", "a") == "http://h/v1"


# Models behind a proxy.


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://h:1", "http://h:1/rollout/r/attempt/a"),
        ("http://h:1/", "http://h:1/rollout/r/attempt/a"),
        ("http://h:1/v1", "http://h:1/rollout/r/attempt/a/v1"),
        ("http://h:1/v1/", "http://h:1/rollout/r/attempt/a/v1"),
        ("http://h:1/api/v1", "http://h:1/api/rollout/r/attempt/a/v1"),
        ("http://h:1/v10", "http://h:1/v10/rollout/r/attempt/a"),
    ],
)
def test_a_proxys_base_url_carries_the_ids(endpoint: str, expected: str) -> None:
    assert agl.ProxyLLM(endpoint, "qwen").get_base_url("r", "a") == expected


def test_a_proxys_base_url_without_ids_is_its_endpoint() -> None:
    assert agl.ProxyLLM("http://h:1/v1/", "qwen").get_base_url() == "http://h:1/v1/"


@pytest.mark.parametrize(("rollout_id", "attempt_id"), [("r", None), (None, "a"), (1, 2)])
def test_one_id_alone_is_refused(rollout_id: str | None, attempt_id: str | None) -> None:
    with pytest.raises(agl.ResourceError, match="must be strings or all be empty, not "):
        agl.ProxyLLM("http://h:1", "qwen").get_base_url(rollout_id, attempt_id)


def test_a_proxy_gives_a_plain_model_for_an_attempt() -> None:
    attempt = agl.Attempt("r", "a", 1, 0.0)
    rollout = agl.AttemptedRollout("r", "task", 0.0, attempt=attempt)

    llm = agl.ProxyLLM("http://h/v1", "qwen", "sk", {"top_p": 1}).with_attempted_rollout(rollout)

    assert llm == agl.LLM("http://h/rollout/r/attempt/a/v1", "qwen", "sk", {"top_p": 1})
    assert type(llm) is agl.LLM


def test_a_proxy_passes_the_name_of_the_keys_variable_on() -> None:
    rollout = agl.AttemptedRollout("r", "task", 0.0, attempt=agl.Attempt("r", "a", 1, 0.0))

    llm = agl.ProxyLLM("http://h/v1", "qwen", api_key_env="MY_KEY").with_attempted_rollout(rollout)

    assert llm.api_key_env == "MY_KEY"


# Users' own classes.


def test_a_class_of_ones_own_is_registered_under_its_resource_type() -> None:
    @attrs.frozen
    class Rubric(agl.Resource, resource_type="test_rubric"):
        criteria: tuple[str, ...]

    assert Rubric(("short",)).resource_type == "test_rubric"
    assert resource_class("test_rubric") is Rubric


def test_the_default_resource_type_is_the_class_name_in_snake_case() -> None:
    @attrs.frozen
    class FewShotJSONExamples2(agl.Resource):
        path: str

    assert FewShotJSONExamples2("x").resource_type == "few_shot_json_examples2"


def test_a_subclass_of_a_registered_class_has_a_type_of_its_own() -> None:
    @attrs.frozen
    class TunedTestLLM(agl.LLM):
        adapter: str = attrs.field(default="", kw_only=True)

    assert TunedTestLLM("http://h", "m").resource_type == "tuned_test_llm"
    assert agl.LLM.resource_type == "llm"


def test_a_resource_type_that_is_taken_is_refused_with_both_names() -> None:
    with pytest.raises(
        agl.ResourceError, match=r"'llm' of .*Mine is already used by LLM; choose another one: class Mine"
    ):

        class Mine(agl.Resource, resource_type="llm"):
            pass


def test_a_resource_type_that_is_a_field_is_refused() -> None:
    with pytest.raises(agl.ResourceError, match=r'write: class Typed\(Resource, resource_type="…"\)'):

        @attrs.define(kw_only=True)
        class Typed(agl.Resource):
            resource_type: str = "typed"  # type: ignore[misc]


def test_redefining_a_class_as_in_a_notebook_replaces_it() -> None:
    def define() -> type[agl.Resource]:
        @attrs.frozen
        class NotebookRubric(agl.Resource):
            text: str

        return NotebookRubric

    define()
    second = define()

    assert resource_class("notebook_rubric") is second


def test_resources_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        fstring("x").template = "y"  # type: ignore[misc]  # bad use


def test_an_unknown_type_reads_as_unknown_resource() -> None:
    assert resource_class("never_defined") is agl.UnknownResource


# Mappings of resources.


def test_a_mapping_of_resources_is_copied() -> None:
    resources = {"p": fstring("x")}

    checked = check_resources(resources, "Runner(resources=…)")
    resources["q"] = fstring("y")

    assert list(checked) == ["p"]


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ([fstring("x")], r"Runner\(resources=…\) takes a mapping of names to resources, not list; for example"),
        (fstring("x"), r"takes a mapping of names to resources, not PromptTemplate"),
        ({1: fstring("x")}, r"has the key 1; the names of resources are strings"),
        ({"p": "Answer {q}"}, r"Runner\(resources=…\)\['p'\] is of type str, which is not a resource; use LLM"),
        ({"p": agl.LLM}, r"\['p'\] is of type type, which is not a resource"),
    ],
)
def test_what_is_no_mapping_of_resources_is_refused(resources: object, message: str) -> None:
    with pytest.raises(agl.ResourceError, match=message):
        check_resources(resources, "Runner(resources=…)")


@pytest.mark.parametrize("lost", ["{c.d}", "{a:.2f}", "{a[k]}", "{a!r}", "{n:>10}", "{n:03d}"])
def test_a_placeholder_with_parts_beside_json_warns_that_it_stays(lost: str) -> None:
    with pytest.warns(UserWarning, match=re.escape(f"{lost!r} is left unchanged; double the braces that are text")):
        template = fstring('Answer {a} as {"a": 1} ' + lost)

    assert template.format(a="x") == 'Answer x as {"a": 1} ' + lost


@pytest.mark.parametrize(
    "text",
    ['{"a": 1}', '{"a": {"b": [1, 2]}}', "{ }", "{}", "{a: 1}", "{{a.b}} {", "{a: string}", "{a,b}", "\\frac{1}{2}"],
)
def test_other_braces_stand_without_a_warning(text: str) -> None:
    assert fstring(text + " {").format() == text + " {"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{a} {b.c}", r"placeholder '\{b\.c\}' .* AttributeError: 'int' object has no attribute 'c'"),
        ("{a} {b[0]}", r"placeholder '\{b\[0\]\}' .* TypeError: 'int' object is not subscriptable"),
        ("{a} {a[9]}", r"placeholder '\{a\[9\]\}' .* IndexError"),
        ("{b:.2f} {a:.2f}", r"placeholder '\{a:\.2f\}' .* ValueError: Unknown format code 'f'"),
    ],
)
def test_a_placeholder_that_cannot_be_filled_in_is_named(template: str, message: str) -> None:
    with pytest.raises(agl.ResourceError, match=message):
        fstring(template).format(a="text", b=3)


# The shapes of Agent-lightning 0.3.


def test_a_prompt_is_a_format_string_by_default() -> None:
    assert agl.PromptTemplate("{name}") == fstring("{name}")


@pytest.mark.parametrize(
    ("kind", "fields", "own"),
    [
        (agl.LLM, {"endpoint": "http://h", "model": "m"}, "llm"),
        (agl.ProxyLLM, {"endpoint": "http://h", "model": "m"}, "proxy_llm"),
        (agl.PromptTemplate, {"template": "t"}, "prompt_template"),
    ],
)
def test_a_resource_may_be_made_with_its_own_type_name(
    kind: type[agl.Resource], fields: dict[str, str], own: str
) -> None:
    assert kind(resource_type=own, **fields) == kind(**fields)  # type: ignore[call-arg]


def test_a_resource_made_with_another_type_name_is_an_error() -> None:
    with pytest.raises(agl.ResourceError, match=r"ProxyLLM\(resource_type='llm'\): the type of a ProxyLLM is 'proxy"):
        agl.ProxyLLM("http://h", "m", resource_type="llm")
