"""How many layers go to the GPU, as a command line says it: a number, or a word that llama-server takes too."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

Layers = int | Literal["auto"]

_WORDS: dict[str, Layers] = {"auto": "auto", "all": -1}


def layers(text: str) -> Layers:
    """Raises BadParameter."""
    if text in _WORDS:
        return _WORDS[text]
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor one of {', '.join(_WORDS)}") from None


_HELP = "Layers on the GPU; auto: as many as there is room for."
# Their type is Layers or None, but typer knows no union.
LayersOfLoad = Annotated[Any, typer.Option("--gpu-layers", parser=layers, metavar="N|auto|all", help=_HELP)]
GpuLayers = Annotated[
    Any,
    typer.Option(
        "--gpu-layers", envvar="LLAMAHOST_GPU_LAYERS", parser=layers, metavar="N|auto|all", help=f"{_HELP} [auto]"
    ),
]
