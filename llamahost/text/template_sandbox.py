"""The Jinja that templates of model files run in: what Hugging Face gives to its own, bounded. Knows no message.

A template comes with a model file, so it is not trusted: no attribute of Python's own is in reach, and whatever takes
longer than a step is measured (`template_meter`) before it is done. Two things differ from Hugging Face's on purpose: a
template may change the lists that it is given, which are copies, as llama.cpp lets it; and there is no `lipsum`.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from datetime import datetime
from typing import Any, cast

import jinja2
from jinja2 import meta, nodes
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import Namespace

from llamahost.text.template_meter import MAX_CHARS, Meter

_METER = " meter"  # no name of a template's, so that none can reach it

_SHALLOW = frozenset(
    {"length", "count", "first", "last", "default", "d", "items", "map", "select", "reject", "selectattr", "rejectattr"}
    | {"attr", "int", "float", "abs", "reverse", "random"}
)
"""Filters that look at no more than a value's own size, or do their work in the loop that asks for it."""

_WIDE = frozenset({"center", "indent", "wordwrap", "truncate", "batch", "slice", "round", "tojson", "filesizeformat"})
"""Filters with a number that says how much they make."""

_COMPARING = frozenset({"eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<", "le", "<=", "gt", "greaterthan"})
_TESTS = _COMPARING | {">", "ge", ">=", "in"}


class Compiled:
    """A template, which may render in several threads at once. Raises TemplateSyntaxError, RecursionError."""

    def __init__(self, source: str, now: Callable[[], datetime]) -> None:
        environment = _environment(now)
        self._template = environment.from_string(source)
        self._template.globals = dict(self._template.globals)  # a chain of maps, which each rendering would copy anew
        # what blocks, macros and `set` are joined by
        self._template.root_render_func.__globals__["concat"] = _concatenated
        self.undeclared = meta.find_undeclared_variables(environment.parse(source))
        """The names that it takes from outside."""

    def rendered(self, given: Mapping[str, object], n_steps: int) -> str:
        """Raises whatever the template makes Jinja raise, and OverflowError where it goes too far."""
        parts: list[str] = []
        n_chars = 0
        context = self._template.new_context({**given, _METER: Meter(n_steps)})
        for chunk in self._template.root_render_func(context):
            n_chars += len(chunk)
            if n_chars > MAX_CHARS:
                raise OverflowError(f"the prompt grew beyond {MAX_CHARS} characters")
            parts.append(chunk)
        return "".join(parts)


def _concatenated(parts: Iterable[str]) -> str:
    found = list(parts)
    if sum(map(len, found)) > MAX_CHARS:
        raise OverflowError(f"a part of the prompt grew beyond {MAX_CHARS} characters")
    return "".join(found)


class Generation(Extension):
    """`{% generation %}` marks an assistant's words for training; here it is only a block."""

    tags = {"generation"}  # noqa: RUF012  the form that Jinja asks for

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Metered(Context):
    """What compiled code calls before it does what may take long."""

    def __init__(self, environment: Any, parent: dict[str, Any], *rest: Any, **more: Any) -> None:
        super().__init__(environment, parent, *rest, **more)
        self.meter: Meter = parent[_METER]
        self.step = self.meter.step
        self.found_in = self.meter.found_in
        self.made = self.meter.made

    def told(self, value: Any) -> Any:
        if type(value) is str:
            self.meter.move(len(value))
        else:
            self.meter.weigh(value)
        return value

    def told_together(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        n_chars = sum(self.meter.weigh(value) for value in values)
        self.meter.move(n_chars)
        return values


class Code(CodeGenerator):
    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        self.writeline("context.step()")
        super().blockvisit(nodes, frame)

    def _output_child_pre(self, node: Any, frame: Frame, finalize: Any) -> None:
        super()._output_child_pre(node, frame, finalize)
        self.write("context.told(")

    def _output_child_post(self, node: Any, frame: Frame, finalize: Any) -> None:
        self.write(")")
        super()._output_child_post(node, frame, finalize)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        is_markup = frame.eval_ctx.volatile or frame.eval_ctx.autoescape
        self.write(f"{'markup_join' if is_markup else 'str_join'}(context.told_together((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write(")))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        is_flat = sum(not _is_constant(each) for each in (node.expr, *(op.expr for op in node.ops))) < 2
        self.write("(")
        self._operand(node.expr, frame, "" if is_flat else "told")
        for op in node.ops:
            self.write(f" {operators[op.op]} ")
            is_searched = op.op in ("in", "notin") and not _is_constant(op.expr)
            self._operand(op.expr, frame, ("found_in" if is_searched else "") if is_flat else "told")
        self.write(")")

    def _operand(self, node: nodes.Expr, frame: Frame, guard: str) -> None:
        self.write(f"context.{guard}(" if guard else "(")
        self.visit(node, frame)
        self.write(")")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        guard = "made" if isinstance(node.arg, nodes.Slice) else ""
        self.write(f"context.{guard}(" if guard else "(")
        super().visit_Getitem(node, frame)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for number, item in enumerate(node.items):
            self.write(", " if number else "")
            self.write("context.told(")  # a key is hashed with all that it holds
            self.visit(item.key, frame)
            self.write("): ")
            self.visit(item.value, frame)
        self.write("}")


def _is_constant(node: nodes.Expr) -> bool:
    if isinstance(node, (nodes.List, nodes.Tuple)):
        return all(isinstance(item, nodes.Const) for item in node.items)
    return isinstance(node, nodes.Const)


class Sandbox(SandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = Code
    context_class = Metered
    concat = staticmethod(_concatenated)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        context.meter.before_binop(operator, left, right)
        return self.binop_table[operator](left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        meter: Meter = __context.meter
        if type(__obj) is types.BuiltinMethodType:
            meter.before_method(__obj.__self__, __obj.__name__, args, kwargs)
            return meter.made(super().call(__context, __obj, *args, **kwargs))
        if isinstance(__obj, types.FunctionType) and isinstance(form := getattr(__obj, "form", None), str):
            meter.format_string(form)
            meter.weigh_all(args)
            meter.weigh_all(kwargs.values())
            n_most = max((len(v) for v in (*args, *kwargs.values()) if isinstance(v, str)), default=0)
            meter.move(len(form) * (1 + n_most))
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            wrapped.form = value.__self__  # type: ignore[attr-defined]  # for `call`
        return wrapped

    def getitem(self, obj: Any, argument: Any) -> Any:
        if type(argument) is tuple:  # hashed with all that it holds
            return self.undefined(obj=obj, name="a list")
        return super().getitem(obj, argument)


def _filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    passed = getattr(function, "jinja_pass_arg", None)

    @jinja2.pass_context
    def metered(context: Any, *args: Any, **kwargs: Any) -> Any:
        meter: Meter = context.meter
        if name not in _SHALLOW:
            meter.weigh_all(args)
            meter.weigh_all(kwargs.values())
        if name in _WIDE:
            meter.widths((*args[1:], *kwargs.values()))
        _before_filter(meter, name, args, kwargs)
        head = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        first = () if passed is None else (head[passed.name],)
        return meter.made(function(*first, *args, **kwargs))

    return metered


def _test(function: Callable[..., Any]) -> Callable[..., bool]:
    @jinja2.pass_context
    def metered(context: Any, *args: Any) -> bool:
        context.meter.weigh_all(args)
        return bool(function(*args))

    return metered


class Attributes(Namespace):
    """Hugging Face's: no name with an underscore in front."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that `self` can be a name, as in Jinja's
        for name in dict(*args[1:], **kwargs):
            _named(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _named(name)
        super().__setitem__(name, value)


def _named(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace holds no name with an underscore in front, as {name!r}")


class Dictionaries:
    """`dict`, of which only these two are in reach."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _environment(now: Callable[[], datetime]) -> jinja2.Environment:
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    for name, function in list(environment.filters.items()):
        environment.filters[name] = _filter(name, function)
    for name in _TESTS:
        environment.tests[name] = _test(cast("Callable[..., Any]", environment.tests[name]))
    environment.globals.pop("lipsum")  # random words, as many as one asks for
    environment.globals["dict"] = Dictionaries()
    environment.globals["namespace"] = Attributes
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: now().strftime(form)
    return environment


def _before_filter(meter: Meter, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    value = args[0] if args else None
    if name == "join":
        meter.joined(args[1] if len(args) > 1 else kwargs.get("d", ""), value)
    elif name == "replace" and len(args) > 2:
        meter.replaced(value, args[1], args[2])
    elif name == "format" and isinstance(value, str):
        meter.formatted(value, (*args[1:], *kwargs.values()))
    elif name == "indent" and isinstance(value, str):
        width = args[1] if len(args) > 1 else kwargs.get("width", 4)
        meter.move((1 + value.count("\n")) * (width if isinstance(width, int) else len(str(width))))
    elif name == "wordwrap" and any(
        isinstance(each, str) and len(each) > 100 for each in (*args[1:], *kwargs.values())
    ):
        raise OverflowError("a line's end is too long")
    elif name == "sum" and not isinstance(args[2] if len(args) > 2 else kwargs.get("start", 0), (int, float)):
        raise OverflowError("only numbers can be summed here")
    elif name == "list" and isinstance(value, Sized):
        meter.sized(len(value))
    elif name == "urlize":
        raise OverflowError("there are no links in a prompt")


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Hugging Face's: no HTML escapes, which Jinja's own puts into what the model reads."""
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_listed
    )
    if indent is None:
        return encoder.encode(value)
    parts: list[str] = []
    n_chars = 0
    for part in encoder.iterencode(value):  # indentation grows with the depth
        n_chars += len(part)
        if n_chars > MAX_CHARS:
            raise OverflowError(f"the prompt grew beyond {MAX_CHARS} characters")
        parts.append(part)
    return "".join(parts)


def _listed(value: object) -> object:
    """What `map` and `select` give, which Hugging Face refuses and llama.cpp writes as a list."""
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
