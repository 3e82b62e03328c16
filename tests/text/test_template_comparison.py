"""Every template that llama.cpp ships renders as transformers renders it; where not, the table says why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from llamahost.core.errors import TemplateFailed
from llamahost.text.template import Template
from tests.archive import texts
from tests.text.conversations import CONVERSATIONS, Conversation, described, told

N_TEMPLATES = 60  # at least; fewer means that the archive was not read as meant

CALLING = ("call", "call and answer", "call beside text", "parallel calls", "thoughts before a call")
BARE = ("call", "call and answer", "parallel calls", "thoughts before a call")
TOOLS = ("tools", "tools and system", *CALLING)
WITHOUT_TOOLS = tuple(name for name in CONVERSATIONS if name not in TOOLS)


@dataclass(frozen=True, slots=True)
class Difference:
    """Where ours is not theirs. `raises` is part of what transformers raises; None where both render."""

    templates: tuple[str, ...]
    conversations: tuple[str, ...]
    reason: str
    raises: str | None = None


GENERIC = "the template does not describe tools, or does not tell calls: they are told in words, in the generic form"
NULL = "transformers leaves a content of null out, which this template cannot do without: it gets null or no text"
SWITCH = "thinking is switched by the template's own option, where transformers hands `enable_thinking` to it in vain"
EFFORT = "the effort is handed over under the template's own name for it"
MUTABLE = "the template changes a list of its own; transformers allows no change, here all that it is given is a copy"
SINGLE = "the template tells one call a turn; several are told one by one instead of being refused or left out"

DIFFERENCES = (
    Difference(("deepseek-ai-DeepSeek-V3.1", "llama-cpp-rwkv-world", "HuggingFaceTB-SmolLM3-3B"), TOOLS, GENERIC),
    Difference(
        (
            "LFM2-8B-A1B",
            "LFM2.5-Instruct",
            "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
            "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
            "ibm-granite-granite-3.3-2B-Instruct",
            "microsoft-Phi-3.5-mini-instruct",
        ),
        ("tools", "tools and system", "call beside text"),
        GENERIC,
    ),
    Difference(("google-gemma-2-2b-it",), ("tools",), GENERIC),
    Difference(
        ("google-gemma-2-2b-it",),
        ("system", "several turns", "tools and system", "call and answer", "thinking on", "thinking off"),
        "the system's words are folded into the first user turn",
        "System role not supported",
    ),
    Difference(
        ("google-gemma-2-2b-it",),
        ("call", "call beside text", "parallel calls", "thoughts before a call"),
        GENERIC,
        "Conversation roles must alternate",
    ),
    Difference(("LFM2-8B-A1B", "LFM2.5-Instruct"), BARE, NULL, "Undefined is not JSON serializable"),
    Difference(
        (
            "Qwen-QwQ-32B",
            "Qwen-Qwen3-0.6B",
            "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
            "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
            "ibm-granite-granite-3.3-2B-Instruct",
            "microsoft-Phi-3.5-mini-instruct",
            "unsloth-mistral-Devstral-Small-2507",
        ),
        BARE,
        NULL,
        "has no attribute 'content'",
    ),
    Difference(("ByteDance-Seed-OSS", "Cohere2MoE", "Kimi-K3"), ("thinking off",), SWITCH),
    Difference(("MiniMax-M3",), ("thinking on", "thinking off"), SWITCH),
    Difference(("tencent-Hy3",), ("thinking on",), SWITCH),
    Difference(("Kimi-K3", "muse-glimmer"), ("low effort",), EFFORT),
    Difference(("Kimi-K2-Instruct", "Kimi-K2-Thinking"), CALLING, MUTABLE, "attribute 'append'"),
    Difference(("GigaChat3-10B-A1.8B", "GigaChat3.1-10B-A1.8B", "openai-gpt-oss-120b"), ("parallel calls",), SINGLE),
    Difference(
        ("meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct", "meta-llama-Llama-3.3-70B-Instruct"),
        ("parallel calls",),
        SINGLE,
        "This model only supports single tool-calls at once!",
    ),
    Difference(
        (
            "CohereForAI-c4ai-command-r-plus-tool_use",
            "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
            "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
        ),
        WITHOUT_TOOLS,
        "a variant for requests with tools: without any it gets an empty list, where transformers has none",
        "'NoneType' object is not iterable",
    ),
    Difference(
        ("llama-cpp-deepseek-r1",),
        TOOLS,
        "the template writes what `map` gives as JSON; llama.cpp does that too",
        "Object of type generator is not JSON serializable",
    ),
    Difference(
        ("fireworks-ai-llama-3-firefunction-v2",),
        tuple(CONVERSATIONS),
        "the template wants `functions` and `datetime`, which its model's card says how to make",
        "is undefined",
    ),
)


def ours(template: Template, conversation: Conversation) -> str:
    return template.render(
        conversation.messages,
        tools=conversation.tools,
        thinking=conversation.thinking,
        add_generation_prompt=conversation.add_generation_prompt,
        continued=conversation.continued,
        options=conversation.options,
    )


def theirs(template: Template, conversation: Conversation) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    options = dict(conversation.options)
    if conversation.thinking is not None:
        options["enable_thinking"] = conversation.thinking
    is_continued = conversation.continued != "no"
    turns = [told(message, text_arguments=template.facts.text_arguments) for message in conversation.messages]
    prompts, _ = render_jinja_template(
        [turns],
        tools=[described(tool) for tool in conversation.tools] or None,
        documents=options.pop("documents", None),
        chat_template=template.source,
        add_generation_prompt=conversation.add_generation_prompt and not is_continued,
        continue_final_message=is_continued,
        bos_token="<s>",
        eos_token="</s>",
        **options,
    )
    return str(prompts[0])


def compared(template: Template) -> Iterator[tuple[str, str]]:
    """Each conversation that is not the same, with what transformers raises or nothing."""
    for name, conversation in CONVERSATIONS.items():
        try:
            wanted, raised = theirs(template, conversation), ""
        except Exception as error:  # as the template pleases
            wanted, raised = "", str(error)
        try:
            rendered: str | None = ours(template, conversation)
        except TemplateFailed as error:
            rendered = None
            if raised and raised in str(error):
                continue
        if rendered is None or rendered != wanted:
            yield name, raised if rendered is not None else f"ours raises; theirs: {raised}"


def explained(template: str, conversation: str, raised: str) -> bool:
    return any(
        template in known.templates
        and conversation in known.conversations
        and (not raised if known.raises is None else known.raises in raised)
        for known in DIFFERENCES
    )


@pytest.mark.slow
def test_every_template_renders_as_transformers_does_but_for_what_the_table_explains() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed; it comes with the extra `dev`")
    sources = texts("models/templates", ".jinja")
    assert len(sources) >= N_TEMPLATES
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name, source in sources.items():
        found[name].update(compared(Template(source, bos="<s>", eos="</s>")))
    strange = {
        f"{template}: {conversation}": raised or "differs"
        for template, names in found.items()
        for conversation, raised in names.items()
        if not explained(template, conversation, raised)
    }
    assert not strange
    gone = {
        f"{template}: {conversation}": known.reason
        for known in DIFFERENCES
        for template in known.templates
        for conversation in known.conversations
        if template not in sources or conversation not in found[template]
    }
    assert not gone, "the table explains what is no difference any more"


@pytest.mark.slow
def test_every_template_takes_a_long_conversation_in_bounded_work() -> None:
    turns = (*CONVERSATIONS["several turns"].messages[:1], *CONVERSATIONS["several turns"].messages[1:3] * 250)
    for name, source in texts("models/templates", ".jinja").items():
        template = Template(source, bos="<s>", eos="</s>")
        prompt = template.render((*turns, CONVERSATIONS["one turn"].messages[0]))
        assert prompt.count("Hi, wie geht's?") == 251, name
