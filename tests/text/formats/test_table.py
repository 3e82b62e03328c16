"""Laws of the table: each template is known for what it is."""

from __future__ import annotations

import pytest

from llamahost.text.formats.format import Talk
from llamahost.text.formats.table import format_of
from tests.archive import texts

EXCERPTS = {
    "hermes": "<tools></tools> return <tool_call>{'name': ...}</tool_call>",
    "qwen-coder": "<tool_call>\n<function=f>\n<parameter=p>\n1\n</parameter>\n</function>\n</tool_call>",
    "seed": "<seed:tool_call><function=f><parameter=p>1</parameter></function></seed:tool_call>",
    "glm": "<tool_call>{{ name }}\n<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }}</arg_value>",
    "hunyuan": "'<tool_sep{}>'.format(T) '<arg_key{}>'.format(T)",
    "minimax-m1": "<tool_calls>\n{{ call | tojson }}\n</tool_calls>",
    "minimax-m2": "<minimax:tool_call>",
    "minimax-m3": "set ns_token = ']<]minimax[>['",
    "kimi-k3": "'<|open|>' + tag + '<|sep|>'",
    "solar": "<|tool_call:begin|>{{ id }}<|tool_call:name|>{{ n }}<|tool_call:args|>{{ a }}<|tool_call:end|>",
    "minicpm": '<function name="{{ n }}"><param name="{{ k }}">{{ v }}</param></function>',
    "deepseek-r1": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function\n```json",
    "deepseek-v3.1": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
    "deepseek-function_calls": "set dsml_token = '｜DSML｜' '<' + dsml_token + 'function_calls>'",
    "deepseek-tool_calls": "set dsml_token = '｜DSML｜' '<' + dsml_token + 'tool_calls>'",
    "kimi-k2": "<|tool_calls_section_begin|><|tool_call_begin|>{{ id }}<|tool_call_argument_begin|>",
    "mistral-ids": "[AVAILABLE_TOOLS] [TOOL_CALLS]{{ name }}[CALL_ID]{{ id }}[ARGS]",
    "mistral": "[AVAILABLE_TOOLS] [TOOL_CALLS]{{ name }}[ARGS]",
    "mistral-list": "[AVAILABLE_TOOLS] [TOOL_CALLS][",
    "function-gemma": "<start_function_call>call:",
    "gemma-4": "'<|tool_call>call:' + name",
    "command-r": "<|START_ACTION|>",
    "command-r-plus": "<|CHATBOT_TOKEN|>Action: ```json",
    "gigachat": "<|role_sep|><|message_sep|>",
    "functionary-v3.2": "{{ '>>>all\\n' + message['content'] }}",
    "apertus": "{%- set tool_calls_token = '<|tools_prefix|>' -%}",
    "granite": "<|start_of_role|> respond only with <|tool_call|>",
    "phi": "<|tool|>{{ tools }}<|/tool|>",
    "nemotron": "<TOOLCALL>",
    "functionary": "<function={{ name }}>{{ arguments }}</function>",
    "llama": "<|start_header_id|>assistant '\"parameters\": ' {{ arguments }}",
    "llama-python": "<|header_start|> [func_name1(params_name1=params_value1)]",
    "lfm": "List of tools: {{ tools }}",
    "muse": "'<|message|>' '<atem:function_calls>\\n<atem:invoke'",
    "harmony": "<|start|>assistant<|channel|>final<|message|>",
    "generic": "<|im_start|>{{ message.content }}<|im_end|>",
}

SHIPPED = {
    "generic": (
        "HuggingFaceTB-SmolLM3-3B", "fireworks-ai-llama-3-firefunction-v2", "google-gemma-2-2b-it",
        "llama-cpp-rwkv-world", "microsoft-Phi-3.5-mini-instruct",
    ),
    "hermes": (
        "Bielik-11B-v3.0-Instruct", "MiMo-VL", "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "Qwen-QwQ-32B", "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B",
        "Reka-Edge", "ibm-granite-granite-4.0", "ibm-granite-granite-4.1",
    ),
    "qwen-coder": ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "Qwen3-Coder", "Qwen3.5-4B", "StepFun3.5-Flash"),
    "seed": ("ByteDance-Seed-OSS",),
    "glm": (
        "GLM-4.6", "GLM-4.7-Flash", "Spark2.5", "inclusionai-ling-3.0-flash", "poolside-Laguna-S-2.1",
        "poolside-Laguna-XS-2.1", "poolside-Laguna-XS.2",
    ),
    "hunyuan": ("tencent-Hy3",),
    "minimax-m1": ("Apriel-1.6-15b-Thinker-fixed", "MiniMax-M1", "unsloth-Apriel-1.5"),
    "minimax-m2": ("MiniMax-M2",),
    "minimax-m3": ("MiniMax-M3",),
    "kimi-k3": ("Kimi-K3",),
    "solar": ("upstage-Solar-Open-100B",),
    "minicpm": ("openbmb-MiniCPM5-1B",),
    "deepseek-r1": (
        "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "llama-cpp-deepseek-r1",
    ),
    "deepseek-v3.1": ("deepseek-ai-DeepSeek-V3.1",),
    "deepseek-function_calls": ("deepseek-ai-DeepSeek-V3.2",),
    "deepseek-tool_calls": ("deepseek-ai-DeepSeek-V4", "deepseek-ai-DeepSeek-V4-Flash-0731"),
    "kimi-k2": ("Kimi-K2-Instruct", "Kimi-K2-Thinking", "moonshotai-Kimi-K2"),
    "mistral-ids": ("Mistral-Small-3.2-24B-Instruct-2506",),
    "mistral": ("mistralai-Ministral-3-14B-Reasoning-2512", "unsloth-mistral-Devstral-Small-2507"),
    "mistral-list": ("mistralai-Mistral-Nemo-Instruct-2407",),
    "gemma-4": ("google-gemma-4-31B-it", "google-gemma-4-31B-it-interleaved"),
    "command-r": ("Cohere2MoE", "CohereForAI-c4ai-command-r7b-12-2024-tool_use"),
    "command-r-plus": ("CohereForAI-c4ai-command-r-plus-tool_use",),
    "gigachat": ("GigaChat3-10B-A1.8B", "GigaChat3.1-10B-A1.8B"),
    "functionary-v3.2": ("meetkai-functionary-medium-v3.2",),
    "apertus": ("Apertus-8B-Instruct",),
    "granite": ("ibm-granite-granite-3.3-2B-Instruct",),
    "nemotron": ("NVIDIA-Nemotron-Nano-v2",),
    "functionary": ("meetkai-functionary-medium-v3.1",),
    "llama": (
        "meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct", "meta-llama-Llama-3.3-70B-Instruct",
    ),
    "lfm": ("LFM2-8B-A1B", "LFM2.5-8B-A1B", "LFM2.5-Instruct"),
    "muse": ("muse-glimmer",),
    "harmony": ("openai-gpt-oss-120b",),
}  # fmt: skip
"""The templates that llama.cpp ships, by the family that each is of."""


@pytest.mark.parametrize(("name", "excerpt"), EXCERPTS.items())
def test_a_template_is_known_by_its_marks(name: str, excerpt: str) -> None:
    assert format_of(excerpt).name == name


def test_a_model_that_is_told_of_tools_in_words_is_read_in_the_generic_form() -> None:
    assert format_of(EXCERPTS["granite"], is_native=False).name == "generic"


@pytest.mark.parametrize(
    ("prompt", "is_begun"),
    [("<|assistant|><think>\n", True), ("<|assistant|><think>\n\n</think>\n\n", False), ("<|assistant|>", False)],
)
def test_the_end_of_a_prompt_tells_whether_thoughts_are_open(prompt: str, is_begun: bool) -> None:
    form = format_of("<think> </think> <tool_call>")
    assert isinstance(form, Talk)
    assert form.begins_thinking(prompt) is is_begun


@pytest.mark.slow
def test_every_template_that_llama_cpp_ships_is_known_for_what_it_is() -> None:
    shipped = texts("models/templates", ".jinja")
    wanted = {name: family for family, names in SHIPPED.items() for name in names}
    assert {name: format_of(source).name for name, source in shipped.items()} == wanted
