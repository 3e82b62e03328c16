"""`llamahost ps`: the models of a running server, as they stand."""

from __future__ import annotations

import json
import shutil
import sys
import time
from typing import Annotated

import typer

from llamahost.commands.exits import told

Url = Annotated[
    str,
    typer.Option(
        "--url", envvar="LLAMAHOST_URL", help="The running server, or unix:PATH; https and a base path are well too."
    ),
]
ApiKey = Annotated[str | None, typer.Option("--api-key", envvar="LLAMAHOST_API_KEY", help="If it asks for one.")]
HERE = "http://127.0.0.1:8080"
ANSWER_S = 30.0
WIDE = 10_000
"""Columns of what is no terminal: nothing is left out for a file or another program."""


def ps(
    url: Url = HERE,
    api_key: ApiKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="What GET /api/models answers.")] = False,
) -> None:
    """List the models that a running server knows, and how each stands.

    `busy` are the answers in slots, of so many slots; `queue` those that wait for one. Rates are measured: tokens over
    the last 10 seconds, requests over the last minute. `used` is how long ago a request ended. Below the table stands
    why a model is not ready.
    """
    with told():
        from llamahost.api.admin_types import ModelsInfo
        from llamahost.commands.frame import models_told
        from llamahost.commands.remote import Remote

        with Remote(url, api_key, timeout_s=ANSWER_S) as remote:
            if as_json:
                print(json.dumps(remote.told("/api/models", dict), ensure_ascii=False, indent=2))
                return
            models = remote.told("/api/models", ModelsInfo).models
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
        for line in models_told(models, width=width, now=time.time()):
            print(line.text)
