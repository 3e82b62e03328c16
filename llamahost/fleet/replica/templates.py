"""Which chat template a model gets: the spec's, by text, file or name, else the file's own. Knows no message.

Text and files come from who runs the server; no request can name one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from llamahost.core.backend import Vocabulary
from llamahost.core.errors import LoadFailed, TemplateFailed
from llamahost.fleet.request.known import spelling
from llamahost.fleet.settings.manifest import ModelSpec, is_template_name
from llamahost.text.template import CHATML, Template

logger = logging.getLogger("llamahost.fleet")

MAX_BYTES = 2**20
"""Of a template's file; the largest known are below 32 KiB."""

_VARIANT = "tokenizer.chat_template."
_SPECIALS = {
    "tokenizer.ggml.unknown_token_id": "unk_token",
    "tokenizer.ggml.padding_token_id": "pad_token",
    "tokenizer.ggml.seperator_token_id": "sep_token",  # as the format spells it
    "tokenizer.ggml.mask_token_id": "mask_token",
    "tokenizer.ggml.cls_token_id": "cls_token",
}


class Templated(Protocol):
    """What is asked of a model."""

    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def vocab(self) -> Vocabulary: ...
    def chat_template(self, name: str = "") -> str | None: ...


def given_source(spec: ModelSpec) -> str:
    """The Jinja text that the spec gives, empty if it gives none or a name. Raises LoadFailed; needs no model."""
    if spec.template == "chatml":
        return CHATML
    if is_template_name(spec.template) or not spec.template:
        return ""
    if "{" in spec.template:
        return spec.template
    path = Path(spec.template)
    try:
        if not path.is_file():  # a pipe would never end, a device neither
            raise LoadFailed(f"template of {spec.name}: there is no file {path}")
        if path.stat().st_size > MAX_BYTES:
            raise LoadFailed(f"template of {spec.name}: {path} is larger than {MAX_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise LoadFailed(f"template of {spec.name}: {path}: {error}") from error


def template_of(spec: ModelSpec, model: Templated, given: str) -> tuple[Template | None, str]:
    """The chat template, or why there is none: a model whose own is broken can still complete text.

    Raises LoadFailed if one that the spec gives is malformed, or names none of the file's.
    """
    if given or spec.template:
        source = given or _named(spec, model)
        try:
            return _made(source, model), ""
        except TemplateFailed as error:
            raise LoadFailed(f"template of {spec.name}: {error}") from error
    tool_use = model.chat_template("tool_use")
    own = model.chat_template() or model.chat_template("default") or tool_use
    if not own:
        logger.warning("%s has no chat template; ChatML is used, which it may not know", spec.name)
    try:
        with_tools = _made(tool_use, model) if tool_use and tool_use != own else None
    except TemplateFailed as error:
        logger.warning("%s: its variant for tools: %s; the default one is used", spec.name, error)
        with_tools = None
    try:
        return _made(own or CHATML, model, with_tools), ""
    except TemplateFailed as error:
        logger.warning("%s: %s; chats are refused, give a template in the manifest", spec.name, error)
        return None, f"{error}; give `{spec.name}` a template in model_manifest.toml"


def _named(spec: ModelSpec, model: Templated) -> str:
    if spec.template == "default":
        found = model.chat_template() or model.chat_template("default")
    else:
        found = model.chat_template(spec.template)
    if found:
        return found
    names = sorted(key.removeprefix(_VARIANT) for key in model.metadata if key.startswith(_VARIANT))
    has = f"its templates are {', '.join(('default', *names))}" if names else "the file has none by name"
    raise LoadFailed(
        f"template of {spec.name}: there is none named `{spec.template}`: {has}, `chatml` is built in; "
        f"a file is written with its folder, as ./{spec.template}"
    )


def _made(source: str, model: Templated, tool_use: Template | None = None) -> Template:
    vocab = model.vocab
    specials: dict[str, str] = {}
    for key, name in _SPECIALS.items():
        token = model.metadata.get(key, "")
        if token.isdecimal() and (spelled := spelling(vocab, int(token))):
            specials[name] = spelled
    bos, eos = spelling(vocab, vocab.bos), spelling(vocab, vocab.eos)
    return Template(source, bos=bos, eos=eos, specials=specials, tool_use=tool_use)
