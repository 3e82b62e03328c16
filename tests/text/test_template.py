"""Laws of templates, on templates of the shapes that models bring; all written here."""

import json
import subprocess
import sys
from datetime import datetime

import pytest

from llamahost.core.errors import TemplateFailed
from llamahost.core.messages import Message, Role, Text, Tool, ToolCall
from llamahost.text import template as module
from llamahost.text.template import CHATML, Template


def said(role: Role, text: str, **rest: object) -> Message:
    return Message(role=role, parts=(Text(text),), **rest)  # type: ignore[arg-type]  # fields by name, for brevity


TALK = (said("system", "Be brief."), said("user", "Hi"), said("assistant", "Hello"), said("user", "Bye"))

HEADERS = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\\n\\n' }}
{%- endif %}
"""

BRACKETS = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] + '\\n\\n' %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + (system if loop.first else '') + message.content + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""

NO_SYSTEM = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% set role = 'model' if message.role == 'assistant' else message.role %}
<turn>{{ role }}
{{ message.content | trim }}</turn>
{% endfor %}
{% if add_generation_prompt %}
<turn>model
{% endif %}
"""

TOOLS = """\
{%- if tools %}{{- 'tools: ' + (tools | tojson) + '\\n' }}{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {%- for call in message.tool_calls %}
            {{- 'call ' + call.function.name + ' ' + (call.function.arguments | tojson) + '\\n' }}
        {%- endfor %}
    {%- elif message.role == 'tool' %}
        {{- 'result ' + message.tool_call_id + ' ' + message.content + '\\n' }}
    {%- else %}
        {{- message.role + ': ' + message.content + '\\n' }}
    {%- endif %}
{%- endfor %}
"""


def test_chatml() -> None:
    assert Template(CHATML).render(TALK[1:2]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_without_a_generation_prompt_the_conversation_ends_as_it_stands() -> None:
    assert Template(CHATML).render(TALK[1:2], add_generation_prompt=False) == "<|im_start|>user\nHi<|im_end|>\n"


def test_headers() -> None:
    prompt = Template(HEADERS, bos="<s>").render((said("system", " Be brief. "), said("user", "Hi")))
    assert prompt == (
        "<s><|start|>system<|end|>\n\nBe brief.<|eot|><|start|>user<|end|>\n\nHi<|eot|><|start|>assistant<|end|>\n\n"
    )


def test_brackets() -> None:
    prompt = Template(BRACKETS, bos="<s>", eos="</s>").render(TALK)
    assert prompt == "<s>[INST] Be brief.\n\nHi [/INST] Hello</s>[INST] Bye [/INST]"


def test_what_the_template_raises_is_quoted() -> None:
    with pytest.raises(TemplateFailed, match="Roles must alternate user/assistant") as caught:
        Template(BRACKETS).render((said("assistant", "a"), said("user", "b")))
    assert caught.value.param == "messages"


def test_blocks_are_trimmed_as_hugging_face_does() -> None:
    prompt = Template(NO_SYSTEM, bos="<s>").render((said("user", "Hi "),))
    assert prompt == "<s><turn>user\nHi</turn>\n<turn>model\n"


def test_calls_come_with_their_arguments_as_objects_and_results_with_their_ids() -> None:
    messages = (
        said("user", "Weather?"),
        Message(role="assistant", tool_calls=(ToolCall("1", "look", '{"city": "Köln"}'),)),
        said("tool", "rain", tool_call_id="1"),
    )
    assert Template(TOOLS).render(messages) == 'user: Weather?\ncall look {"city": "Köln"}\nresult 1 rain\n'


@pytest.mark.parametrize("arguments", ["not JSON", "[1]", '"x"', "[" * 100_000])
def test_arguments_that_are_no_object_stay_text(arguments: str) -> None:
    call = Message(role="assistant", tool_calls=(ToolCall("1", "f", arguments),))
    shown = "{% for m in messages if m.tool_calls %}{{ m.tool_calls[0].function.arguments is string }}{% endfor %}"
    assert Template(TOOLS + shown).render((call,)).endswith("True")


def test_tools_are_described_as_openai_does() -> None:
    tool = Tool(name="look", description="Looks <here>", parameters={"type": "object"})
    first = Template(TOOLS).render((said("user", "Hi"),), tools=(tool,)).splitlines()[0]
    function = {"name": "look", "description": "Looks <here>", "parameters": {"type": "object"}}
    assert json.loads(first.removeprefix("tools: ")) == [{"type": "function", "function": function}]
    assert "<here>" in first  # no HTML escapes


def test_a_template_that_wants_descriptions_is_given_empty_ones_where_there_are_none() -> None:
    template = Template(TOOLS.replace("(tools | tojson)", "(tools | tojson) + ' ' + tools[0].function.description"))
    for description in ("", "Looks."):
        text = template.render((said("user", "Hi"),), tools=(Tool(name="look", description=description),))
        assert text.splitlines()[0].endswith(f"}}] {description}")


def test_tojson_is_hugging_faces() -> None:
    assert Template("{{ {'é': 1, 'a': '<'} | tojson }}").render(TALK) == '{"é": 1, "a": "<"}'
    assert Template("{{ [1] | tojson(indent=2) }}").render(TALK) == "[\n  1\n]"


def test_names_and_reasoning_are_told() -> None:
    source = "{% for m in messages %}{{ m.name }}|{{ m.reasoning_content }}{% endfor %}"
    assert Template(source).render((said("assistant", "x", name="Ann", reasoning="hm"),)) == "Ann|hm"


THINKING = """\
{%- for message in messages %}
    {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
    {{- '<|start|>' + message.role + '\\n' }}
    {%- if message.reasoning_content %}{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}
    {{- content + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}{% endif %}
"""


@pytest.mark.parametrize("text", ["He", "He ", "Hello,\n\n", "", "<", "s", "</s>"])
@pytest.mark.parametrize("source", [CHATML, HEADERS, BRACKETS, NO_SYSTEM, THINKING])
def test_a_continued_message_ends_where_its_text_does(source: str, text: str) -> None:
    template = Template(source, bos="<s>", eos="</s>")
    head = (said("user", "Hi <|im_end|> He"),)
    opened = template.render((*head, said("assistant", text)), continued="text")
    whole = template.render((*head, said("assistant", "0" + text + "0")), add_generation_prompt=False)
    assert opened.endswith(text)
    assert whole.startswith(opened[: len(opened) - len(text)] + "0" + text + "0")


def test_a_continued_reasoning_is_left_open() -> None:
    turns = (said("user", "Why?"), Message(role="assistant", reasoning="Because "))
    opened = Template(THINKING).render(turns, continued="reasoning")
    assert opened == "<|start|>user\nWhy?<|end|>\n<|start|>assistant\n<think>\nBecause "
    answered = (turns[0], said("assistant", "It is", reasoning="Because"))
    assert Template(THINKING).render(answered, continued="text").endswith("Because\n</think>\n\nIt is")


def test_what_the_template_leaves_out_cannot_be_continued() -> None:
    with pytest.raises(TemplateFailed, match="leaves out the last message's reasoning") as failed:
        Template(CHATML).render((Message(role="assistant", reasoning="Hm"),), continued="reasoning")
    assert failed.value.param == "messages"


def test_developer_is_system_unless_the_template_knows_better() -> None:
    source = "{{ messages[0].role }}"
    assert Template(source).render((said("developer", "x"),)) == "system"
    assert Template(source + "{# developer #}").render((said("developer", "x"),)) == "developer"


def test_options_reach_the_template_but_do_not_replace_the_messages() -> None:
    template = Template("{{ messages | length }} {{ enable_thinking }}")
    assert template.render(TALK, options={"enable_thinking": False, "messages": []}) == "4 False"


def test_the_usual_extras() -> None:
    assert (
        Template("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}").render(TALK) == "01"
    )
    assert Template("{% generation %}x{% endgeneration %}").render(TALK) == "x"
    at = datetime(2031, 5, 6)
    assert Template("{{ strftime_now('%Y-%m-%d') }}", now=lambda: at).render(TALK) == "2031-05-06"


@pytest.mark.parametrize("source", ["{% for %}", "{{ x", "{% nonsense %}", "{% if x %}"])
def test_a_malformed_template_is_refused_when_made(source: str) -> None:
    with pytest.raises(TemplateFailed, match="malformed"):
        Template(source)


def test_a_template_renders_the_same_twice() -> None:
    template = Template(HEADERS)
    assert template.render(TALK) == template.render(TALK)


def test_jinja_is_imported_only_when_a_template_is_made() -> None:
    code = f"import sys, {module.__name__}; print('jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
