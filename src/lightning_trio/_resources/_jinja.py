"""Jinja's immutable sandbox, in which every rendering is bounded.

What a template can repeat or enlarge is counted: iterations and calls are steps, and the size of a text, list or number
is known before it is made. Loops, texts and the like are wrapped in filters, because Jinja calls those directly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

from jinja2 import StrictUndefined, nodes
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_environment
from jinja2.visitor import NodeTransformer

from ._jinja_operations import check_method, guard
from ._rendering import (
    check_operation,
    check_size,
    counted,
    current_budget,
    format_size,
    text_size,
)

# Names that no template can have.
_EACH, _TEXT, _JOINED, _LITERAL, _SEARCHED = (f"lightning_trio: {name}" for name in ("each", "text", "~", "[]", "in"))


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """The environment of prompt templates; `bounded` makes a template that counts what it does."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, filters: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_written)
        # It makes paragraphs of nonsense, as many as it is asked for.
        del self.globals["lipsum"]
        guarded = {name: guard(name, fn) for name, fn in (self.filters | dict(filters)).items()}
        own: dict[str, Callable[..., Any]] = {
            _EACH: counted,
            _TEXT: _text,
            _JOINED: _joined,
            _LITERAL: _literal,
            _SEARCHED: _searched,
        }
        self.filters: dict[str, Callable[..., Any]] = {**guarded, "join": pass_environment(_join), **own}

    def bounded(self, template: nodes.Template) -> nodes.Template:
        """Return a parsed template that counts its iterations, texts and containers."""
        counting: nodes.Template = _Counting().visit(template)
        return cast("nodes.Template", counting.set_environment(self))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator."""
        check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, a macro or a method."""
        current_budget().step()
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str | bytes | bytearray | int):
            args = check_method(owner, obj.__name__, args, kwargs)
        elif isinstance(obj, LoopContext) and args:
            args = (counted(args[0]), *args[1:])
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return the sandboxed `str.format` or `str.format_map` if `value` is one of them."""
        sandboxed = super().wrap_str_format(value)
        if sandboxed is None:
            return None
        fn, text, takes_mapping = sandboxed, value.__self__, value.__name__ == "format_map"

        def format_(*args: Any, **kwargs: Any) -> str:
            if takes_mapping and args and isinstance(args[0], Mapping):
                check_size(format_size(text, (), args[0]))
            else:
                check_size(format_size(text, args, kwargs))
            return fn(*args, **kwargs)

        return functools.update_wrapper(format_, value)


def _written(value: Any) -> str:
    """Return the text of an expression, which is written."""
    if value.__class__ is str:
        text: str = value
    else:
        check_size(text_size(value))
        text = str(value)
    try:
        budget = current_budget()
    except LookupError:
        # A constant, in a template that is being compiled.
        return text
    budget.write(len(text))
    return text


# Filters that the rewritten template calls.


class _Counting(NodeTransformer):
    """Wrap what repeats or enlarges in filters that count."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(cast("nodes.Expr", node.iter), _EACH)
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return _filtered(nodes.Const(node.data, lineno=node.lineno), _TEXT)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _JOINED)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return node if all(isinstance(item, nodes.Const) for item in node.items) else _filtered(node, _LITERAL)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        if node.ctx != "load" or all(isinstance(item, nodes.Const) for item in node.items):
            return node
        return _filtered(node, _LITERAL)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _LITERAL) if node.items else node

    def visit_Operand(self, node: nodes.Operand) -> nodes.Node:
        self.generic_visit(node)
        if node.op in ("in", "notin"):
            node.expr = _filtered(node.expr, _SEARCHED)
        return node

    def visit_Call(self, node: nodes.Call | nodes.Filter | nodes.Test) -> nodes.Node:
        self.generic_visit(node)
        if node.dyn_args is not None:
            node.dyn_args = _filtered(node.dyn_args, _EACH)
        return node

    visit_Filter = visit_Test = visit_Call


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _text(text: str) -> str:
    # Raises while the template is compiled, so that this is not replaced by its result.
    current_budget()
    return text


def _joined(values: list[object]) -> str:
    size = sum(text_size(value) for value in values)
    check_size(size)
    current_budget().step(1 + size // 2000)
    return "".join(map(str, values))


def _literal(container: Any) -> Any:
    size = text_size(container)
    check_size(size)
    current_budget().step(1 + size // 2000)
    return container


def _searched(container: Any) -> Any:
    current_budget().step(1 + (len(container) // 50 if isinstance(container, list | tuple) else 0))
    return container if hasattr(container, "__contains__") else counted(container)


def _join(environment: BoundedSandbox, value: Any, d: Any = "", attribute: str | int | None = None) -> str:
    separator, texts, size = str(d), list[str](), 0
    for item in counted(value if attribute is None else map(make_attrgetter(environment, attribute), value)):
        check_size(size + text_size(item))
        texts.append(str(item))
        size += len(texts[-1]) + len(separator)
    check_size(size)
    return separator.join(texts)
