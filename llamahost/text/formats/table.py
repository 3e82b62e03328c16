"""Which format a chat template speaks: the first of the table that knows it. Knows families by their names alone."""

from __future__ import annotations

import re
from dataclasses import replace

from llamahost.text.formats.apertus import APERTUS
from llamahost.text.formats.command_r import COMMAND_R, COMMAND_R_PLUS
from llamahost.text.formats.deepseek import DEEPSEEK_3_1, DEEPSEEK_3_2, DEEPSEEK_4, DEEPSEEK_R1
from llamahost.text.formats.format import Family, Format, Talk, Thinking
from llamahost.text.formats.functionary import FUNCTIONARY_3_2, is_functionary
from llamahost.text.formats.gemma import FUNCTION_GEMMA, GEMMA_4
from llamahost.text.formats.generic import GENERIC
from llamahost.text.formats.gigachat import GIGACHAT
from llamahost.text.formats.glm import GLM, HUNYUAN
from llamahost.text.formats.granite import GRANITE
from llamahost.text.formats.harmony import HARMONY, is_harmony
from llamahost.text.formats.hermes import HERMES
from llamahost.text.formats.kimi import KIMI
from llamahost.text.formats.kimi_3 import KIMI_3, THINKING_3
from llamahost.text.formats.lfm import LFM
from llamahost.text.formats.llama import FUNCTIONARY_3_1, LLAMA, LLAMA_PYTHON
from llamahost.text.formats.minimax import MINICPM, MINIMAX_1, MINIMAX_2
from llamahost.text.formats.minimax_3 import MINIMAX_3
from llamahost.text.formats.mistral import MISTRAL, MISTRAL_IDS, MISTRAL_LIST
from llamahost.text.formats.muse import MUSE, is_muse
from llamahost.text.formats.nemotron import NEMOTRON
from llamahost.text.formats.phi import PHI
from llamahost.text.formats.qwen_coder import QWEN_CODER, SEED
from llamahost.text.formats.solar import SOLAR, SOLAR_THINKING

FAMILIES: tuple[Family, ...] = (
    MINIMAX_3,
    KIMI_3,
    SOLAR,
    SEED,
    HUNYUAN,
    GLM,
    MINIMAX_2,
    MINICPM,
    QWEN_CODER,
    DEEPSEEK_3_2,
    DEEPSEEK_4,
    DEEPSEEK_R1,
    DEEPSEEK_3_1,
    KIMI,
    MISTRAL_IDS,
    MISTRAL,
    MISTRAL_LIST,
    GEMMA_4,
    FUNCTION_GEMMA,
    COMMAND_R,
    COMMAND_R_PLUS,
    APERTUS,
    GIGACHAT,
    GRANITE,
    PHI,
    NEMOTRON,
    FUNCTIONARY_3_1,
    MINIMAX_1,
    HERMES,
    LLAMA_PYTHON,
    LFM,
    LLAMA,
    GENERIC,
)
"""In order: what is more particular stands first."""

_THINK = Thinking("<think>", "</think>")

THINKING: tuple[tuple[str, Thinking], ...] = (
    ("<seed:think>", Thinking("<seed:think>", "</seed:think>")),
    # A turn without thoughts begins with the closing mark.
    ("<mm:think>", Thinking("<mm:think>", "</mm:think>", dropped=("</mm:think>",))),
    ("'<|open|>'", THINKING_3),
    ("<|begin|>assistant<|think|>", SOLAR_THINKING),
    ("'<think{}>'", Thinking("<think:opensource>", "</think:opensource>")),
    ("[THINK]", Thinking("[THINK]", "[/THINK]", recurs=True)),
    ("<|START_THINKING|>", Thinking("<|START_THINKING|>", "<|END_THINKING|>")),
    (
        "[BEGIN FINAL RESPONSE]",
        Thinking(
            "Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]", dropped=("[END FINAL RESPONSE]",), tokens=()
        ),
    ),
    (
        "<|channel>thought",
        Thinking("<|channel>thought\n", "<channel|>", recurs=True, tokens=("<|channel>", "<channel|>")),
    ),
    ("<|inner_prefix|>", Thinking("<|inner_prefix|>", "<|inner_suffix|>")),
    ("<response>", Thinking("<think>", "</think>", dropped=("<response>", "</response>"))),
    ("</think>", _THINK),
)
"""Thoughts, each by what its template holds."""


def format_of(template: str, *, is_native: bool = True) -> Format:
    """The format of whoever answers to this template's source; the generic one where none is known.

    With `is_native` false the model is told of tools in words, and so writes the generic form whatever it knows.
    """
    if is_harmony(template):
        return HARMONY
    if is_muse(template):
        return MUSE
    if is_native and is_functionary(template):
        return FUNCTIONARY_3_2
    family = next(family for family in FAMILIES if family.is_spoken(template)) if is_native else GENERIC
    thinking = next((thinking for sign, thinking in THINKING if sign in template), None)
    if thinking is not None:
        thinking = replace(thinking, closing=_closing(template, thinking.close.strip()))
    return Talk(family, thinking)


def _closing(template: str, mark: str) -> str:
    """The mark with the line breaks that the template's own strings put around it, at most: models learnt it so."""
    found = re.findall(rf"((?:\\n)*){re.escape(mark)}((?:\\n)*)", template)
    before, after = max(found, key=lambda pair: len(pair[0]) + len(pair[1]), default=("", ""))
    return f"{before}{mark}{after}".replace("\\n", "\n")
