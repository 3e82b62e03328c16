"""The commands. Reads flags, environment and manifest, in that order of weight; heavy imports wait for their command.

The flags of `serve` are here, the other commands each have their file in commands/; commands/exits.py tells what every
exit status means.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamahost import __version__
from llamahost.commands import serving
from llamahost.commands.chat import chat
from llamahost.commands.check import check
from llamahost.commands.exits import EPILOG, NO_MODEL, fail, told
from llamahost.commands.fetching import how_else, path_of
from llamahost.commands.flags import Commands, Serve, given_by_flags
from llamahost.commands.layers import GpuLayers
from llamahost.commands.load import load, unload
from llamahost.commands.lora import Lora, adapters_of
from llamahost.commands.models import models
from llamahost.commands.opening import MANIFEST
from llamahost.commands.ps import ps
from llamahost.commands.pull import pull
from llamahost.commands.run import run
from llamahost.commands.shelf import list_models, rm, show
from llamahost.commands.top import top

if TYPE_CHECKING:
    from llamahost.fleet.settings.manifest import Manifest

app = typer.Typer(
    name="llamahost",
    cls=Commands,
    help="Serve GGUF language models behind an OpenAI-compatible API.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(on_ready: Callable[[], None] = lambda: None) -> None:
    """Run the command of `sys.argv`. `on_ready` is called when all is imported that every command needs."""
    command = typer.main.get_command(app)
    on_ready()
    command(prog_name="llamahost")  # also where `python -m` names it otherwise


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"llamahost {__version__}")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(cls=Serve, short_help="Serve a model, or those of the manifest.")
def serve(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="A GGUF file, `builtin`, a model that `list` names, or OWNER/NAME[:QUANT] on Hugging Face, which is "
            "fetched first. [the manifest's models]",
            envvar="LLAMAHOST_MODEL",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(envvar="LLAMAHOST_HOST", help="Listen here. [127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(envvar="LLAMAHOST_PORT", min=0, max=65535, help="0 takes any free one. [8080]")
    ] = None,
    unix_socket: Annotated[
        Path | None, typer.Option(envvar="LLAMAHOST_UNIX_SOCKET", help="Listen on this unix socket instead.")
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(envvar="LLAMAHOST_ALIAS", help="The model's name; may be given again for more names."),
    ] = None,
    n_ctx: Annotated[
        int | None, typer.Option("--n-ctx", envvar="LLAMAHOST_N_CTX", help="Tokens that one request may hold.")
    ] = None,
    slots: Annotated[int | None, typer.Option(envvar="LLAMAHOST_SLOTS", help="Requests computed at once.")] = None,
    threads: Annotated[int | None, typer.Option(envvar="LLAMAHOST_THREADS", help="CPU threads.")] = None,
    gpu_layers: GpuLayers = None,
    template: Annotated[
        str | None,
        typer.Option(
            envvar="LLAMAHOST_TEMPLATE",
            help="Chat template: a file, or a name: chatml, or one in the GGUF, as tool_use. [the GGUF's own]",
        ),
    ] = None,
    embeddings: Annotated[
        bool | None,
        typer.Option(
            "--embeddings",
            envvar="LLAMAHOST_EMBEDDINGS",
            help="Also embed with a model that generates; one made for embeddings always does.",
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            envvar="LLAMAHOST_POOLING", help="Of embeddings: mean, cls, last, rank or none. [the GGUF's own, else last]"
        ),
    ] = None,
    lora: Lora = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LLAMAHOST_API_KEY", help="Ask clients for this key.", show_envvar=True)
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(envvar="LLAMAHOST_API_KEY_FILE", help="More keys, one a line; a line that begins with # is none."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            envvar="LLAMAHOST_CORS_ORIGINS",
            help="Whose web pages may use this server, as https://example.org, or * for all; may be given again.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="LLAMAHOST_ALLOWED_HOSTS",
            help="Without a key: a name that a proxy here passes on, as llm.example.org; may be given again.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(envvar="LLAMAHOST_TLS_CERT", help="Serve https with this PEM certificate.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(envvar="LLAMAHOST_TLS_KEY", help="Its key, where that file does not hold it.")
    ] = None,
    base_path: Annotated[
        str | None, typer.Option(envvar="LLAMAHOST_BASE_PATH", help="Where a proxy shows this server, as /llm.")
    ] = None,
    forwarded_allow_ips: Annotated[
        str | None,
        typer.Option(
            envvar="LLAMAHOST_FORWARDED_ALLOW_IPS",
            help="Proxies whose X-Forwarded-* are believed: addresses and networks with commas between, or *.",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(envvar="LLAMAHOST_TIMEOUT", help="Seconds a request may take when it says nothing itself."),
    ] = None,
    max_body_bytes: Annotated[
        int | None, typer.Option(envvar="LLAMAHOST_MAX_BODY_BYTES", help="Refuse larger requests. [67108864]")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(envvar="LLAMAHOST_MANIFEST", help="Models and settings. [./model_manifest.toml]")
    ] = None,
    strict_model: Annotated[
        bool, typer.Option("--strict-model", envvar="LLAMAHOST_STRICT_MODEL", help="Answer to the model's names alone.")
    ] = False,
    drain: Annotated[
        float | None,
        typer.Option(envvar="LLAMAHOST_DRAIN", help="Seconds that running requests have at shutdown. [30]"),
    ] = None,
    log_level: Annotated[
        str, typer.Option(envvar="LLAMAHOST_LOG_LEVEL", help="debug, info, warning or error.")
    ] = "info",
    log_format: Annotated[str, typer.Option(envvar="LLAMAHOST_LOG_FORMAT", help="text or json.")] = "text",
) -> None:
    """Serve a GGUF file, or what the manifest names; where neither is there, the small model of the package."""
    from llamahost.core.errors import ManifestError
    from llamahost.fleet.machine.located import missing
    from llamahost.fleet.settings.builtin import is_alone
    from llamahost.ops import log

    if log_level.lower() not in log.LEVELS:
        raise typer.BadParameter(f"one of {', '.join(log.LEVELS)}", param_hint="--log-level")
    if log_format not in ("text", "json"):
        raise typer.BadParameter("text or json", param_hint="--log-format")
    if model is not None and manifest is not None:
        raise typer.BadParameter("give a model or a manifest, not both", param_hint="--manifest")
    if lora and model is None:
        raise typer.BadParameter("give the model that it is for, too", param_hint="--lora")
    log.set_up(log_level.lower(), "json" if log_format == "json" else "text")
    try:
        adapters = adapters_of(lora)
    except ManifestError as error:
        raise typer.BadParameter(str(error), param_hint="--lora") from error
    spec_flags = {
        "n_ctx": n_ctx,
        "n_slots": slots,
        "n_threads": threads,
        "n_gpu_layers": gpu_layers,
        "template": template,
        "embeddings": embeddings,
        "pooling": pooling,
        "adapters": adapters,
    }
    server_flags = {
        "host": host,
        "port": port,
        "unix_socket": unix_socket,
        "api_key": api_key,
        "api_key_file": api_key_file,
        "cors_origins": tuple(cors_origin) if cors_origin else None,
        "allowed_hosts": tuple(allowed_host) if allowed_host else None,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "base_path": base_path,
        "forwarded_allow_ips": _listed(forwarded_allow_ips),
        "timeout_s": timeout,
        "max_body_bytes": max_body_bytes,
        "drain_s": drain,
    }
    if model is not None:
        with told():
            found = path_of(str(model))
        if found is not None:
            alias, model = alias or [str(model)], found
    if model is None and manifest is None and MANIFEST.is_file():
        manifest = MANIFEST  # where it is gone when it is read again, the package's model is not what is meant
    meant: dict[str, Path] = {}
    with told():
        wanted = _wanted(model, manifest, alias or [], _given(spec_flags), _given(server_flags), meant)
    is_one = model is not None or is_alone(wanted)
    lacking = [why for spec in wanted.models if not spec.repo and (why := missing(spec))]  # the hub may have it
    if lacking and len(lacking) == len(wanted.models) and not is_alone(wanted):
        fail(NO_MODEL, lacking[0] + (how_else(str(model)) if model is not None else ""))

    def again() -> Manifest:
        flags = _given(spec_flags), _given(server_flags)
        return _wanted(model, manifest, alias or [], *flags, meant, is_again=not is_alone(wanted))

    serving.serve(wanted, again, _given(server_flags), is_strict=strict_model or not is_one, from_manifest=not is_one)


app.command()(run)
app.command()(chat)
app.command(short_help="List what the manifest names.")(models)
app.command(short_help="Tell what is well here, or of a running server.")(check)
app.command()(pull)
app.command("list", short_help="List the models that lie on this machine.")(list_models)
app.command(short_help="Tell what a model's file says of itself.")(show)
app.command(short_help="Remove a pulled model from this machine.")(rm)
app.command()(ps)
app.command()(load)
app.command(short_help="Take a model of a running server out of memory.")(unload)
app.command()(top)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    short_help="Tell each setting's value and where it came from.",
)
def config(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="A JSON list.")] = False
) -> None:
    """Tell each setting's value and where it came from; takes the flags of `serve`."""
    from llamahost.commands.config import show

    show(context, context.args, _wanted, is_json=as_json)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
    short_help="Measure a server, or several side by side.",
)
def bench(context: typer.Context) -> None:
    """Measure a server, or two side by side; `llamahost bench --help` tells more."""
    from llamahost.bench.command import bench as measure

    names = {"help_option_names": ["-h", "--help"]}
    one = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, context_settings=names
    )
    one.command()(measure)
    one(args=context.args, prog_name="llamahost bench")


def _listed(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flags.items() if value is not None}


def _wanted(
    model: Path | None,
    path: Path | None,
    names: list[str],
    spec: dict[str, Any],
    server: dict[str, Any],
    meant: dict[str, Path] | None = None,
    *,
    is_again: bool = False,
) -> Manifest:
    """What to serve: flags and environment over the manifest over defaults. Raises ManifestError, InvalidRequest.

    `meant` are the files of all names that models had since the start; these are added.
    `is_again`: the manifest named models before, and where it names none now it is not whole: nor may its keys be.
    """
    from dataclasses import replace

    from llamahost.core.errors import ManifestError
    from llamahost.fleet.settings.builtin import NAME, builtin, is_named
    from llamahost.fleet.settings.manifest import Manifest, ModelSpec
    from llamahost.fleet.settings.manifest_file import load_manifest

    if server.keys() & {"host", "port"}:
        server = {"unix_socket": None, **server}  # an address that was asked for outweighs the manifest's socket
    has_manifest = model is None and (path is not None or MANIFEST.is_file())
    meant = {} if meant is None else meant
    found = load_manifest(path or MANIFEST, meant) if has_manifest else Manifest()
    meant.update((each.name, each.path) for each in found.models)
    if is_again and has_manifest and not found.models:
        raise ManifestError(f"{path or MANIFEST} names no model any more", key="models")
    with given_by_flags(spec, server, ("name", "aliases")):
        settings = replace(found.server, **server) if server else found.server
        if model is not None and not is_named(model):
            name = names[0] if names else model.stem or str(model)
            aliases = tuple(dict.fromkeys(n for n in (*names[1:], model.stem) if n and n != name))
            models: tuple[ModelSpec, ...] = (ModelSpec(name=name, path=model, aliases=aliases, **spec),)
        else:
            models = tuple(replace(each, **spec) for each in found.models) if spec else found.models
            models = models or (builtin(tuple(names), model=model or NAME, **spec),)
        return replace(found, models=models, server=settings)
