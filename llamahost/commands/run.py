"""`llamahost run`: one prompt, one answer on standard output. Everything else goes to standard error."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from llamahost.commands.exits import INTERRUPTED, USAGE, fail, leave, told
from llamahost.commands.layers import GpuLayers
from llamahost.commands.lora import Lora
from llamahost.commands.opening import (
    MODEL_HELP,
    ChatTemplate,
    ManifestPath,
    MaxTokens,
    NCtx,
    Ready,
    Seed,
    System,
    Temperature,
    Threads,
    TopK,
    TopP,
    Verbose,
    opened,
    options_of,
    spec_of,
)

if TYPE_CHECKING:
    from llamahost.core.results import ChatResult, CompletionResult
    from llamahost.given import Options
    from llamahost.sync import Stream


def run(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    prompt: Annotated[str, typer.Argument(help="What to answer; `-` or nothing: standard input.")] = "-",
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    stop: Annotated[list[str] | None, typer.Option(help="End the answer before this text. Repeatable.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as it is, without a chat template.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: text, usage, timings.")] = False,
    n_ctx: NCtx = None,
    threads: Threads = None,
    gpu_layers: GpuLayers = None,
    template: ChatTemplate = None,
    lora: Lora = None,
    manifest: ManifestPath = None,
    verbose: Verbose = False,
) -> None:
    """Answer one prompt and end.

    A model with a chat template answers it as a user's message; one without continues it, as --raw does with any. The
    prompt from standard input loses one newline at its end.
    """
    if raw and system is not None:
        raise typer.BadParameter("a raw completion has no system message", param_hint="--system")
    status = 0
    with told():
        spec = spec_of(
            model,
            manifest,
            {"n_ctx": n_ctx, "n_threads": threads, "n_gpu_layers": gpu_layers, "template": template},
            lora=lora,
        )
        text = _read() if prompt == "-" else prompt  # after a wrong model was told: its name may be the prompt
        if not text:
            fail(USAGE, "the prompt is empty")
        options = options_of(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
        options["stop"] = tuple(stop or ())
        with opened(spec, is_verbose=verbose) as ready:
            is_chat = ready.has_template and not raw
            if system is not None and not is_chat:
                fail(USAGE, f"{ready.card.name} has no chat template, so --system cannot be said to it")
            try:
                with _answer(ready, text, system, options, is_chat=is_chat) as stream:
                    _show(stream, ready, is_json=as_json)
            except KeyboardInterrupt:
                status = INTERRUPTED
    if status:
        leave(status)


def _read() -> str:
    """Standard input, whole."""
    if sys.stdin.isatty():
        print("the prompt, then Ctrl-D:", file=sys.stderr, flush=True)
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        fail(USAGE, f"the prompt is not UTF-8: {error.reason} at byte {error.start}")
    return text.removesuffix("\n").removesuffix("\r")


def _answer(
    ready: Ready, text: str, system: str | None, options: Options, *, is_chat: bool
) -> Stream[ChatResult] | Stream[CompletionResult]:
    if not is_chat:
        return ready.host.complete(text, stream=True, **options)
    turns = [{"role": "user", "content": text}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    return ready.host.chat(turns, stream=True, **options)


def _show(stream: Stream[ChatResult] | Stream[CompletionResult], ready: Ready, *, is_json: bool) -> None:
    """The text as it comes, ended by a newline; what the model thinks goes to standard error."""
    last = ""
    for delta in stream:
        if not is_json and delta.text:
            is_answer = delta.channel == "text"
            print(delta.text, end="", flush=True, file=sys.stdout if is_answer else sys.stderr)
            last = delta.text if is_answer else last
    if is_json:
        print(json.dumps(_told(stream.result, ready), ensure_ascii=False))
    elif not last.endswith("\n"):
        print()


def _told(result: ChatResult | CompletionResult, ready: Ready) -> dict[str, object]:
    usage, timings = result.usage, result.timings
    reasoning = getattr(result, "reasoning", "")
    rate = (usage.n_generated - 1) / timings.generation_s if timings.generation_s > 0 else 0.0
    return {
        "model": result.model,
        "text": result.text,
        **({"reasoning": reasoning} if reasoning else {}),
        "finish_reason": result.finish_reason,
        "usage": {
            "prompt_tokens": usage.n_prompt,
            "cached_tokens": usage.n_cached,
            "completion_tokens": usage.n_generated,
            "total_tokens": usage.n_total,
        },
        "timings": {
            "load_s": round(ready.load_s, 4),
            "prompt_s": round(timings.prompt_s, 6),
            "generation_s": round(timings.generation_s, 6),
            "tokens_per_s": round(rate, 2),
        },
    }
