"""Prompts with placeholders."""

from __future__ import annotations

import re
import string
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

import attrs

from .._errors import MissingPlaceholder, ResourceError
from .._plain_values import spaced_json
from .._public import public
from .._repr import shortened
from ._rendering import MOST_TEXT, RenderingStopped, check_size, rendering, spec_width
from ._resource import Resource

PromptEngine: TypeAlias = Literal["f-string", "jinja"]


@public
@attrs.frozen(init=False)
class PromptTemplate(Resource, resource_type="prompt_template"):
    r"""A prompt with placeholders.

    Args:
        template: the text.
        engine: ``"f-string"``: ``{name}`` with the attribute, index, conversion and format parts of
            `str.format` (the default); ``"jinja"``: Jinja2, rendered in its sandbox.
        resource_type: the class's own type name, which Agent-lightning 0.3 wrote out; may be left out.

    Double literal braces in an f-string template (``{{"label": 1}}``), as in `str.format`. A template that is not a
    valid format string, such as a prompt with plain JSON, works too: only ``{name}`` with a plain name is replaced
    in it, and every other brace is text. A placeholder with an attribute, index or format, such as ``{price:.2f}``,
    is left unchanged there, with a warning.

    >>> PromptTemplate("Answer {question} as {\"a\": 1}").format(question="why?")
    'Answer why? as {"a": 1}'
    """

    template: str = attrs.field(repr=shortened)
    engine: PromptEngine = "f-string"

    def __init__(self, template: str, engine: PromptEngine = "f-string", *, resource_type: str | None = None) -> None:
        self._check_type_name(resource_type)
        init: Any = getattr(self, "__attrs_init__")  # noqa: B009  # pyright does not know it
        init(template, engine)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.template, str):
            raise ResourceError.not_a_string("PromptTemplate", "template", self.template)
        if self.engine not in get_args(PromptEngine):
            raise ResourceError.unknown_engine(self.engine)
        if self.engine == "jinja":
            _compile_jinja(self.template)
        elif not _is_format_string(self.template) and (lost := _PARTS.search(self.template)) is not None:
            warnings.warn(
                f"the prompt template has braces that are not placeholders, so only plain placeholders are filled in "
                f"and {lost[0]!r} is left unchanged; double the braces that are text, or pass a formatted value for "
                f"{{{lost[1]}}}",
                stacklevel=4,
            )

    @property
    def placeholders(self) -> frozenset[str]:
        """The names that `format` needs; of a jinja template, those that it may need."""
        return self._compiled().names

    def format(self, /, **values: object) -> str:
        """Return the text with its placeholders filled in; values that it does not use are ignored.

        Raises:
            MissingPlaceholder: a placeholder has no value; the message names it and the values passed.
        """
        return self._compiled().render(values)

    def _compiled(self) -> _Compiled:
        compile_ = _compile_jinja if self.engine == "jinja" else _compile_format
        return compile_(self.template)


@attrs.frozen
class _Compiled:
    names: frozenset[str]
    render: Callable[[Mapping[str, object]], str]


_PLAIN_NAME = re.compile(r"\{([A-Za-z_]\w*)\}")
_PARTS = re.compile(
    # Without a brace before or after it, because doubled braces are text.
    r"(?<!\{)\{([A-Za-z_]\w*)(?=[.\[!:])(?:\.[A-Za-z_]\w*|\[\w+\])*(?:![rsa])?"
    r"(?::(?=[^}])[<>=^]?[+\-]?#?\d*[,_]?(?:\.\d+)?[bcdeEfFgGnosxX%]?)?\}(?!\})"
)
"""Placeholders of `str.format` that are more than a plain name."""
_CONVERSIONS = (None, "r", "s", "a")
_PRIVATE = re.compile(r"\._|\.(?:gi|cr|ag|tb)_frame\b")
"""Attributes that a placeholder may not read: private ones, and frames, through which everything can be reached."""
_OF_VALUES: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What is raised when a value does not fit a template, or an operation in a template its operands."""
_FIELD_NAME = re.compile(r"([A-Za-z_]\w*)((?:\.\w+|\[[^\]]*\])*)")


def _is_format_string(template: str) -> bool:
    try:
        fields = [field for field in string.Formatter().parse(template) if field[1] is not None]
    except ValueError:
        return False
    return all(
        _FIELD_NAME.fullmatch(name or "") and conversion in _CONVERSIONS and (not spec or _is_format_string(spec))
        for _, name, spec, conversion in fields
    )


@lru_cache(maxsize=1024)
def _compile_format(template: str) -> _Compiled:
    if not _is_format_string(template):
        names = frozenset(_PLAIN_NAME.findall(template))

        def render_plain(values: Mapping[str, object]) -> str:
            _check_given(names, values)
            try:
                return _PLAIN_NAME.sub(lambda match: str(values[match[1]]), template)
            except _OF_VALUES as exc:
                raise ResourceError.template(exc) from exc

        return _Compiled(names, render_plain)

    fields = list(_format_fields(template))
    names = frozenset(field.name for field in fields)
    if private := [field.path for field in fields if _PRIVATE.search(field.path)]:
        raise ResourceError.private_attribute(private[0])
    if (width := sum(spec_width(field.spec) for field in fields)) > MOST_TEXT:
        raise ResourceError.too_wide(width, MOST_TEXT)
    # Twice as quick, but no width that is a placeholder itself could be checked.
    fill_in = _CheckedFormatter.fill_in if any("{" in field.spec for field in fields) else str.format_map

    def render_format(values: Mapping[str, object]) -> str:
        _check_given(names, values)
        try:
            return fill_in(template, values)
        except RenderingStopped as exc:
            raise ResourceError.template(exc) from exc
        except _OF_VALUES as exc:
            raise _failed_field(template, values, exc) from exc

    return _Compiled(names, render_format)


class _CheckedFormatter(string.Formatter):
    """`str.format` with a bound on the widths and precisions, added up."""

    def __init__(self) -> None:
        self._width = 0

    @classmethod
    def fill_in(cls, template: str, values: Mapping[str, object]) -> str:
        """Return a format string with its placeholders filled in."""
        return cls().vformat(template, (), values)

    def format_field(self, value: Any, format_spec: str) -> str:
        """Return a value as its specification says."""
        self._width += spec_width(format_spec)
        check_size(self._width)
        return str(super().format_field(value, format_spec))


def _failed_field(template: str, values: Mapping[str, object], exc: Exception) -> ResourceError:
    """Return the error for the placeholder that could not be filled in."""
    for _, field, spec, conversion in string.Formatter().parse(template):
        if field is None:
            continue
        placeholder = "{" + field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
        try:
            _CheckedFormatter.fill_in(placeholder, values)
        except (RenderingStopped, *_OF_VALUES) as error:
            return ResourceError.placeholder(placeholder, error)
    return ResourceError.template(exc)


def _check_given(names: frozenset[str], values: Mapping[str, object]) -> None:
    for name in sorted(names):
        if name not in values:
            raise MissingPlaceholder.missing(name, values)


class _Field(NamedTuple):
    """A placeholder of a format string."""

    name: str
    path: str
    """The name with its attributes and indices."""
    spec: str


def _format_fields(template: str) -> Iterator[_Field]:
    """Yield the placeholders of a format string, including those in its format specifications."""
    for _, field, spec, _ in string.Formatter().parse(template):
        if field is None:
            continue
        match = _FIELD_NAME.fullmatch(field)
        assert match is not None
        yield _Field(match[1], field, spec or "")
        if spec:
            yield from _format_fields(spec)


def _tojson(
    value: object,
    indent: int | None = None,
    ensure_ascii: bool = False,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return `value` as JSON for a model to read; Jinja2's own filter escapes for HTML, sorts keys and writes ASCII.

    The parameters are those that this filter has in chat templates.
    """
    return spaced_json(value, indent=indent, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=1024)
def _compile_jinja(template: str) -> _Compiled:
    # Jinja2 takes 90 ms to import, and most programs never use it.
    from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError, meta
    from jinja2.exceptions import SecurityError

    from ._jinja import BoundedSandbox

    environment = BoundedSandbox({"tojson": _tojson})
    try:
        parsed = environment.parse(template)
        names = frozenset(meta.find_undeclared_variables(parsed))
        compiled = environment.from_string(environment.bounded(parsed))
    except TemplateSyntaxError as exc:
        raise ResourceError.jinja_syntax(exc.lineno, exc.message) from exc
    except (SyntaxError, *_OF_VALUES) as exc:
        # Such as loops in loops in loops, of which Python allows 20.
        raise ResourceError.jinja_too_deep(exc) from exc

    def render(values: Mapping[str, object]) -> str:
        try:
            with rendering():
                return compiled.render(values)
        except RenderingStopped as exc:
            raise ResourceError.jinja_stopped(str(exc)) from exc
        except UndefinedError as exc:
            missing = next((name for name in sorted(names) if name not in values), None)
            if missing is None:
                raise ResourceError.jinja_failed(exc) from exc
            raise MissingPlaceholder.missing(missing, values) from exc
        except SecurityError as exc:
            raise ResourceError.jinja_forbidden(exc) from exc
        except (TemplateError, *_OF_VALUES) as exc:
            raise ResourceError.jinja_failed(exc) from exc

    return _Compiled(names, render)
