"""`llamahost chat`: a conversation, with a model opened here or behind a URL. Replies alone go to standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from llamahost.commands.exits import DONE, INTERRUPTED, NO_MODEL, UNEXPECTED, USAGE, fail, leave, told
from llamahost.commands.layers import GpuLayers
from llamahost.commands.opening import (
    MODEL_HELP,
    ChatTemplate,
    ManifestPath,
    MaxTokens,
    NCtx,
    Seed,
    System,
    Temperature,
    Threads,
    TopK,
    TopP,
    Verbose,
    manifest_at,
    opened,
    options_of,
    spec_of,
)
from llamahost.core.errors import LlamahostError

if TYPE_CHECKING:
    from llamahost.core.events import Delta
    from llamahost.given import Options
    from llamahost.sync import Host

Turn = dict[str, str]
Replies = Callable[[list[Turn]], Generator["Delta", None, None]]
"""Makes the next turn, as it comes; closing the generator stops it."""

HELP = "/reset forgets the conversation, /system TEXT tells the model something first, /exit ends; Ctrl-C stops a reply"


def chat(
    model: Annotated[str | None, typer.Argument(help=f"{MODEL_HELP} [the manifest's first]")] = None,
    url: Annotated[str | None, typer.Option(help="Talk to this running server instead; or unix:PATH.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="LLAMAHOST_API_KEY", help="For --url.")] = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    n_ctx: NCtx = None,
    threads: Threads = None,
    gpu_layers: GpuLayers = None,
    template: ChatTemplate = None,
    manifest: ManifestPath = None,
    verbose: Verbose = False,
) -> None:
    """Talk with a model. Ctrl-C stops a reply, Ctrl-D ends; /help tells more.

    With --url, MODEL is the name that the server knows it by. [its first that is ready]
    """
    status = DONE
    with told():
        options = options_of(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
        talk = Talk(system)
        is_script = not sys.stdin.isatty()
        if url is not None:
            from llamahost.commands.remote import Remote, first_that

            with Remote(url, api_key) as remote:
                if model is None:
                    speaker = first_that("completion", remote.models())
                    if speaker is None:
                        fail(NO_MODEL, f"{remote.url} serves no model that answers in words")
                    model = speaker.id
                body = {"model": model, **{key: value for key, value in options.items() if value is not None}}
                _greet(f"{model} at {remote.url}")
                status = talk.hold(lambda turns: remote.chat(turns, body), _line, is_script=is_script)
        else:
            spec = spec_of(
                model if model is not None else manifest_at(manifest).models[0],
                manifest,
                {"n_ctx": n_ctx, "n_threads": threads, "n_gpu_layers": gpu_layers, "template": template},
            )
            with opened(spec, is_verbose=verbose) as ready:
                if not ready.card.generates:
                    fail(USAGE, f"{ready.card.name} is for embeddings or scores, and answers nothing in words")
                _greet(f"{ready.card.name}, {ready.card.n_ctx} tokens")
                if not ready.has_template:
                    print("it has no chat template; ChatML is used, which it may not know", file=sys.stderr)
                status = talk.hold(lambda turns: _from_host(ready.host, turns, options), _line, is_script=is_script)
    if status:
        leave(status)


class Talk:
    """The turns so far. Owned by the main thread, which Ctrl-C interrupts."""

    def __init__(self, system: str | None) -> None:
        self._system = system
        self._turns: list[Turn] = []

    def hold(self, replies: Replies, read: Callable[[], str | None], *, is_script: bool) -> int:
        """Until `read` has no line, /exit, or a second Ctrl-C in a row; returns the exit status.

        A person has seen what failed; a script is told by the status.
        """
        n_interrupts, status = 0, DONE
        while True:
            try:
                line = read()
                if line is None:
                    return status
                n_interrupts = 0
                if not line.strip():
                    continue
                if line.startswith("/"):
                    if not self._command(line):
                        return status
                    continue
            except KeyboardInterrupt:
                n_interrupts += 1
                if n_interrupts > 1:
                    return INTERRUPTED
                _note("\nCtrl-D or /exit ends, Ctrl-C again too")
                continue
            if not self._answer(line, replies) and is_script:
                status = UNEXPECTED

    def _command(self, line: str) -> bool:
        """Whether to go on."""
        name, _, rest = line.strip().partition(" ")
        match name:
            case "/exit" | "/quit" | "/bye":
                return False
            case "/reset" | "/clear":
                self._turns.clear()
                _note("forgotten")
            case "/system" if rest:
                self._system = rest.strip()
                _note("told from the next reply on")
            case "/system":
                _note(self._system or "no system message; /system TEXT gives one")
            case "/help":
                _note(HELP)
            case _:
                _note(f"no command {name}; {HELP}")
        return True

    def _answer(self, line: str, replies: Replies) -> bool:
        """Whether it was answered. A failed turn is forgotten; what was said of a stopped one is kept."""
        self._turns.append({"role": "user", "content": line})
        first = [{"role": "system", "content": self._system}] if self._system else []
        said: list[str] = []
        try:
            with closing(replies([*first, *self._turns])) as deltas:
                for delta in deltas:
                    is_answer = delta.channel == "text"
                    if is_answer:
                        said.append(delta.text)
                    print(delta.text, end="", flush=True, file=sys.stdout if is_answer else sys.stderr)
        except KeyboardInterrupt:
            end = "" if sys.stdout.isatty() else "\n"  # a terminal shows both streams, and the reply's end follows
            print(" [stopped]", end=end, file=sys.stderr, flush=True)
        except LlamahostError as error:
            self._turns.pop()
            print(f"llamahost: {error}", file=sys.stderr, flush=True)
            return False
        print(flush=True)
        self._turns.append({"role": "assistant", "content": "".join(said)})
        return True


def _from_host(host: Host, turns: list[Turn], options: Options) -> Generator[Delta, None, None]:
    with host.chat(turns, stream=True, **options) as stream:
        yield from stream


def _line() -> str | None:
    """The next line without its end; None at the end of input."""
    try:
        if sys.stdin.isatty():
            return input("> ")
        line = sys.stdin.readline()
    except EOFError:
        print(flush=True)
        return None
    except UnicodeDecodeError as error:
        fail(USAGE, f"the input is not UTF-8: {error.reason} at byte {error.start}")
    return line.rstrip("\r\n") if line else None


def _greet(who: str) -> None:
    if sys.stdin.isatty():
        import contextlib

        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  imported so that input() edits lines and remembers them
        _note(f"{who} · /help tells more, Ctrl-D ends")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
