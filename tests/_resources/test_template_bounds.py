"""A template that would fill the memory or never end is an error of its own, as is every fault of a rendering."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import trio

import lightning_trio as agl
from lightning_trio._resources import _rendering


class Endless:
    """Endless, and no iterator itself."""

    def __iter__(self) -> Iterator[int]:
        return itertools.count()


def render(template: str, **values: object) -> str:
    return agl.PromptTemplate(template, engine="jinja").format(**values)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) if i < 0 %}{% endfor %}" * 2,
        "{% for i in endless %}{% endfor %}",
        "{% for i in each_number %}{{ i }}{% endfor %}",
        "{% for a in [1, 2] recursive %}{{ loop(each_number) if a == 2 }}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(30) }}",
        "{{ endless | list }}",
        "{{ endless | map('string') | join }}",
        "{{ each_number | join }}",
        "{{ each_number | sum }}",
        "{{ ','.join(each_number | map('string')) }}",
        "{{ -1 in each_number }}",
        "{{ -1 in endless }}",
        "{{ dict(*each_number) }}",
        "{{ ('word ' * 1000000) | wordwrap(3) }}",
        "{{ ([[1] * 1000] * 300) | map('list') | map('sum') | list }}" * 20,
    ],
)
def test_a_rendering_of_too_many_steps_is_stopped(template: str) -> None:
    with pytest.raises(agl.ResourceError, match=r"stopped: it takes more than 100,000 iterations, .* \{\{ text \}\}"):
        render(template, endless=Endless(), each_number=itertools.count())


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 10**10 }}",
        "{{ 10**10 * 'x' }}",
        "{{ (1,) * 10**9 }}",
        "{{ '%0999999999d' % 1 }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ '%(a)99999999d' % {'a': 1} }}",
        "{{ '%0999999999d' | format(1) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 10**9) }}",
        "{{ '{x:>{w}}'.format_map({'x': 1, 'w': 10**9}) }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x'.center(10**9) }}",
        "{{ 'x'.ljust(10**9) }}",
        "{{ 'x'.zfill(10**9) }}",
        "{{ ('\t' * 100).expandtabs(10**8) }}",
        "{{ (1).to_bytes(10**10, 'big') }}",
        "{{ 'a\nb' | indent(10**9) }}",
        "{{ [1] | batch(10**9, 'x') | list }}",
        "{{ [1] | slice(10**9) | list }}",
        "{{ [1] | tojson(indent=10**9) }}",
        "{{ ['x'] | map('center', 10**9) | list }}",
        "{% set a = 'x' * 100000 %}{{ a | replace('x', a) }}",
        "{% set a = 'x' * 100000 %}{{ a.replace('x', a) }}",
        "{% set a = 'x' * 100000 %}{{ range(9999) | join(a) }}",
        "{% set a = 'x' * 100000 %}{{ ([a] * 90) | join(a) }}",
        "{% set a = 'x' * 100000 %}{{ a.join(['a'] * 9999) }}",
        "{% set a = 'x' * 100000 %}{% for i in range(101) %}{{ a }}{% endfor %}",
        "{% set n = namespace(x='12345678') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='12345678') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}",
        "{% set n = namespace(x=(1,)) %}{% for i in range(60) %}{% set n.x = (n.x, n.x) %}{% endfor %}",
        "{% set n = namespace(x=1) %}{% for i in range(60) %}{% set n.x = {1: n.x, 2: n.x} %}{% endfor %}",
        "{% macro m() %}{% for i in range(99999) %}" + "y" * 200 + "{% endfor %}{% endmacro %}{{ m() | length }}",
        "{% set x %}{% for i in range(99999) %}" + "y" * 200 + "{% endfor %}{% endset %}{{ x | length }}",
    ],
)
def test_a_rendering_of_a_huge_text_is_stopped_before_the_text_is_made(template: str) -> None:
    with pytest.raises(agl.ResourceError, match=r"stopped: it makes more than 10,000,000 characters"):
        render(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 10 ** (10 ** 8) }}",
        "{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    ],
)
def test_a_rendering_of_a_huge_number_is_stopped(template: str) -> None:
    with pytest.raises(agl.ResourceError, match=r"stopped: it computes a number of more than 16,384 bits"):
        render(template)


def test_what_the_steps_do_not_measure_is_stopped_by_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rendering, "_MOST_SECONDS", 0.0)

    with pytest.raises(agl.ResourceError, match=r"stopped: it takes more than 0 s"):
        render("{% for i in range(99999) %}{% if a == b %}{% endif %}{% endfor %}", a="x" * 9999, b="x" * 9999)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 / 0 }}", "failed: ZeroDivisionError: division by zero"),
        ("{{ 1 + 'a' }}", "failed: TypeError: unsupported operand"),
        ("{{ 10.0 ** 400 }}", "failed: OverflowError: "),
        ("{{ '%s %s' % (1,) }}", "failed: TypeError: not enough arguments"),
        ("{{ '{}'.format() }}", "failed: IndexError: "),
        ("{{ '{:q}'.format('') }}", "failed: ValueError: "),
        ("{% for i in range(10**9) %}{% endfor %}", "failed: OverflowError: Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "failed: RecursionError: "),
        ("{% include 'x' %}", "failed: TypeError: no loader"),
        ("{{ ['a'] | map('nothing') | list }}", "failed: TemplateRuntimeError: No filter named 'nothing'"),
        ("{{ [].append(1) }}", "sandbox forbids: access to attribute 'append'"),
        ("{{ {}.update(a=1) }}", "sandbox forbids: access to attribute 'update'"),
        ("{{ 'abc'.translate({97: 'y'}) }}", "sandbox forbids: the method 'translate'"),
        ("{{ ''.__class__ }}", "sandbox forbids: access to attribute '__class__'"),
    ],
)
def test_every_fault_of_a_rendering_is_a_resource_error(template: str, message: str) -> None:
    with pytest.raises(agl.ResourceError, match=f"the jinja prompt template .*{message}"):
        render(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{% for a in x %}" * 30 + "{% endfor %}" * 30,
        "{{ " + "9" * 5000 + " }}",
    ],
)
def test_a_template_that_python_cannot_compile_is_refused_when_it_is_made(template: str) -> None:
    with pytest.raises(agl.ResourceError, match="is nested too deeply, or has a number that is too long: "):
        agl.PromptTemplate(template, engine="jinja")


def test_an_error_of_a_method_that_a_template_calls_is_that_error() -> None:
    class Failing:
        def read(self) -> str:
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        render("{{ page.read() }}", page=Failing())


def test_an_ordinary_template_renders_as_jinja_does() -> None:
    template = (
        "{% macro line(n, text) %}{{ n }}. {{ text | trim }}{% endmacro %}"
        "{% for m in messages if m.role != 'system' %}"
        "{{ line(loop.index, m['text'] ~ '!') }}{{ ', ' if not loop.last }}{% else %}none{% endfor %}"
        "{% set total = namespace(n=0) %}{% for m in messages %}{% set total.n = total.n + loop.length %}{% endfor %}"
        "; {{ total.n }} {{ [1, 2] + [3] }} {{ {'a': (1, 'b')} }} {{ messages | map(attribute='role') | join('/') }}"
        " {{ '%s-%03d' % ('x', 7) }} {{ '{:>4}'.format('y') }} {{ 'a b' | replace(' ', '_') }} {{ 'c' in 'abc' }}"
        "{% for node in tree recursive %}<{{ node[0] }}{{ loop(node[1]) }}>{% endfor %}"
    )
    messages = [{"role": "system", "text": "s"}, {"role": "user", "text": " a "}, {"role": "bot", "text": "b"}]

    assert render(template, messages=messages, tree=[("r", [("s", [])])]) == (
        "1. a !, 2. b!; 9 [1, 2, 3] {'a': (1, 'b')} system/user/bot x-007    y a_b True<r<s>>"
    )


def test_several_renderings_of_a_template_have_each_their_own_steps() -> None:
    template = agl.PromptTemplate("{% for i in range(60000) %}{% endfor %}{{ inner }}", engine="jinja")

    class Inner:
        def __str__(self) -> str:
            return template.format(inner="done")

    assert template.format(inner=Inner()) == "done"


# f-strings.


@pytest.mark.parametrize("template", ["{x:>999999999}", "{x:.999999999f}", "{x:>6000000}{x:>6000000}"])
def test_a_placeholder_of_a_huge_width_is_refused(template: str) -> None:
    with pytest.raises(agl.ResourceError, match=r"characters wide; up to 10,000,000 are possible, write a smaller"):
        agl.PromptTemplate(template).format(x=1)


def test_a_huge_width_that_is_a_placeholder_itself_is_refused() -> None:
    template = agl.PromptTemplate("{x:>{width}}")

    assert template.format(x="a", width=3) == "  a"
    with pytest.raises(agl.ResourceError, match=r"cannot be filled in: .*more than 10,000,000 characters"):
        template.format(x="a", width=10**9)


@pytest.mark.parametrize("template", ["{x.gi_frame.f_globals}", "{x.real.__class__}", "{x[0].cr_frame}"])
def test_a_placeholder_cannot_reach_frames_and_private_attributes(template: str) -> None:
    with pytest.raises(agl.ResourceError, match="reads the private attribute"):
        agl.PromptTemplate(template).format(x=1)


@pytest.mark.parametrize(("template", "name"), [("{x:c}", "OverflowError"), ("{x}", "ValueError"), ("{x.a}", "Attr")])
def test_a_value_that_does_not_fit_its_placeholder_is_a_resource_error(template: str, name: str) -> None:
    with pytest.raises(agl.ResourceError, match=f"cannot be filled in: {name}"):
        agl.PromptTemplate(template).format(x=10**5000)


def test_a_value_that_cannot_be_written_into_a_template_with_json_is_a_resource_error() -> None:
    with pytest.raises(agl.ResourceError, match="cannot be filled in: ValueError"):
        agl.PromptTemplate('{"a": {x}}').format(x=10**5000)


# In a run.


@agl.rollout
async def fills_in(task: str, prompt_template: agl.PromptTemplate) -> float:
    return float(len(agl.PromptTemplate(task, engine="jinja").format(a=1)))


def test_a_hostile_template_fails_its_own_rollout() -> None:
    runner = agl.Runner(fills_in, resources={"prompt_template": agl.PromptTemplate("{a}")})
    tasks = ["{{ a }}", "{{ 'x' * 10**10 }}", "{% for i in range(99999) %}{{ range(99) | list }}{% endfor %}"]
    result = trio.run(runner.fit, tasks)

    assert (result.counts["succeeded"], result.counts["failed"]) == (1, 2)
