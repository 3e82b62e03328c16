"""Messages in, the prompt's text out: a model's own chat template. Knows no tokens and no files.

What the template can say is asked of it once, when it is made (`template_facts`), and what it cannot is said with what
it can (`template_bridge`). What it raises is told in its own words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from llamahost.core.errors import TemplateFailed
from llamahost.core.messages import Continued, Message, Text, Tool
from llamahost.text.template_bridge import WriteCalls, bridged, in_generic_form
from llamahost.text.template_facts import Facts, probe
from llamahost.text.template_meter import MAX_STEPS
from llamahost.text.template_tools import schema, value_of

CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
"""For models that bring no template; the commonest form."""

PROBE_STEPS = 2 * 10**4
"""Of each of the small renderings that ask what a template can say; Gemma 4's takes a few hundred."""

MAX_DEPTH = 200
"""Of options and schemas; far below where Python's own recursion ends."""

_MARK = "\ue000\ue001\ue002"
"""Of the place where a message is cut: private characters, which no text has a use for."""


class Template:
    """A compiled template. Never changes; may render in several threads at once. Raises TemplateFailed if malformed.

    `specials` are the other special tokens by the names that Hugging Face gives them, such as `pad_token`. `tool_use`
    is the variant that the model has for requests with tools: `chosen` gives it. One rendering takes `n_steps` at most.
    """

    __slots__ = ("_compiled", "_n_steps", "_now", "_specials", "facts", "source", "tool_use")

    def __init__(
        self,
        source: str,
        *,
        bos: str = "",
        eos: str = "",
        specials: Mapping[str, str] | None = None,
        tool_use: Template | None = None,
        now: Callable[[], datetime] | None = None,
        n_steps: int = MAX_STEPS,
    ) -> None:
        import jinja2  # only once a template is made: it is a tenth of the start-up

        from llamahost.text.template_sandbox import Compiled

        self.source = source
        self.tool_use = tool_use
        self._specials = {**(specials or {}), "bos_token": bos, "eos_token": eos}
        self._now = now or datetime.now
        self._n_steps = n_steps
        try:
            self._compiled = Compiled(source, self._now)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateFailed(f"the chat template is malformed: line {error.lineno}: {error.message}") from error
        except RecursionError as error:
            raise TemplateFailed("the chat template is malformed: it is nested too deeply") from error
        self.facts: Facts = probe(self._probed, source)

    def chosen(self, *, has_tools: bool) -> Template:
        """The one that renders a request with or without tools."""
        return self.tool_use if has_tools and self.tool_use is not None else self

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        thinking: bool | None = None,
        add_generation_prompt: bool = True,
        continued: Continued = "no",
        options: Mapping[str, object] | None = None,
        is_generic: bool | None = None,
        write_calls: WriteCalls = in_generic_form,
    ) -> str:
        """The prompt of this conversation; `options` are what the user hands to the template by name.

        With `continued`, it ends within the last message: where its text, or its reasoning, does. Tools are told in the
        generic form or in the template's own, which None leaves to whether it has one; in its own, `write_calls` says
        the calls of earlier turns that the template leaves out.
        """
        if is_generic is None:
            is_generic = not self.facts.native_tools
        known = bridged(messages, tools, self.facts, is_generic=is_generic, write_calls=write_calls)
        turns = [self._spoken(message) for message in known]
        if continued != "no":
            _leave_open(turns[-1], continued)
            add_generation_prompt = False
        context: dict[str, object] = {
            **self._specials,
            "documents": None,
            **self._thinking(thinking),
            **plain(options or {}),
            **self._effort(options or {}),
            "messages": turns,
            "tools": self._tools(() if is_generic else tools),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            prompt = self._told(context, tools)
        except Exception as error:  # whatever a template does wrong, it is the request that fails
            said = str(error) or type(error).__name__
            raise TemplateFailed(f"the chat template of the model says: {said}", param="messages") from error
        return prompt if continued == "no" else _cut(prompt, continued)

    def _told(self, context: Mapping[str, object], tools: Sequence[Tool]) -> str:
        try:
            return self._drawn(context, self._n_steps)
        except Exception:
            if not context["tools"] or all(tool.description for tool in tools):
                raise
        # It may want a description of every tool, where one that has none is none of the request's mistakes.
        named = [plain(schema(tool, is_described=True)) for tool in tools]
        return self._drawn({**context, "tools": named}, self._n_steps)

    def _drawn(self, context: Mapping[str, object], n_steps: int) -> str:
        given = context
        if "functions" in self._compiled.undeclared:  # FireFunction's, which is handed the tools as text
            functions = json.dumps(context["tools"], indent=4, ensure_ascii=False) if context["tools"] else ""
            given = {"functions": functions, "datetime": self._now().strftime("%Y-%m-%d"), **given}
        return self._compiled.rendered(given, n_steps)

    def _probed(
        self,
        turns: Sequence[dict[str, object]],
        tools: Sequence[Mapping[str, object]] | None,
        options: Mapping[str, object],
    ) -> str | None:
        context = {**self._specials, "documents": None, "add_generation_prompt": True, **options}
        try:
            return self._drawn({**context, "messages": list(turns), "tools": tools}, PROBE_STEPS)
        except OverflowError:
            raise
        except Exception:
            return None

    def _tools(self, tools: Sequence[Tool]) -> list[dict[str, object]] | None:
        if tools and self.facts.tools:
            return [plain(schema(tool)) for tool in tools]
        return [] if self.facts.no_tools_is_empty else None

    def _thinking(self, thinking: bool | None) -> dict[str, object]:
        if thinking is None:
            return {}
        switch = self.facts.thinking_switch
        return {"enable_thinking": thinking} | ({switch.name: switch.on if thinking else switch.off} if switch else {})

    def _effort(self, options: Mapping[str, object]) -> dict[str, object]:
        """The effort under the name that this template has for it."""
        name = self.facts.effort
        return (
            {name: options["reasoning_effort"]} if name not in ("", *options) and "reasoning_effort" in options else {}
        )

    def _spoken(self, message: Message) -> dict[str, object]:
        """The form that Hugging Face's templates expect of a message."""
        facts = self.facts
        spoken: dict[str, object] = {"role": message.role}
        if not facts.text_content:
            spoken["content"] = [
                {"type": "text", "text": part.text} for part in message.parts if isinstance(part, Text)
            ]
        elif message.parts or not message.tool_calls or facts.bare_calls == "empty":
            spoken["content"] = message.text
        elif facts.bare_calls == "null":
            spoken["content"] = None
        if message.tool_calls:
            spoken["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": call.arguments if facts.text_arguments else value_of(call.arguments),
                    },
                }
                for call in message.tool_calls
            ]
        if message.tool_call_id:
            spoken["tool_call_id"] = message.tool_call_id
        if message.name:
            spoken["name"] = message.name
        if message.reasoning:
            spoken["reasoning_content"] = spoken["thinking"] = message.reasoning
        return spoken


def plain(given: Mapping[str, object]) -> dict[str, object]:
    """A copy of JSON's own types: what a template changes is its own, and no other object has methods for it to call.

    Raises TemplateFailed on anything else.
    """
    return {str(key): _plain(value, 1) for key, value in given.items()}


def _plain(value: object, depth: int) -> object:
    if value is None or type(value) in (str, int, float, bool):
        return value
    if depth > MAX_DEPTH:
        raise TemplateFailed(f"what is handed to the chat template is nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    raise TemplateFailed(f"a chat template is handed JSON's types only, not {type(value).__name__}")


def _leave_open(turn: dict[str, object], continued: Continued) -> None:
    """Put the mark where the model is to go on; being no space, it also keeps templates from trimming before it."""
    if continued == "reasoning":
        turn["reasoning_content"] = turn["thinking"] = f"{turn.get('reasoning_content', '')}{_MARK}"
    elif isinstance(parts := turn["content"], list):
        turn["content"] = [*parts, {"type": "text", "text": _MARK}]
    else:
        turn["content"] = f"{parts}{_MARK}"


def _cut(prompt: str, continued: Continued) -> str:
    """All before the mark. What a template writes after a message's end goes with it."""
    before, mark, _ = prompt.rpartition(_MARK)
    if not mark:
        raise TemplateFailed(
            f"the chat template of the model leaves out the last message's {continued}, so it cannot be continued",
            param="messages",
        )
    return before
