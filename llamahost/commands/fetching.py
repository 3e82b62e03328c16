"""A model by a name that is no file: of the hub, or of another program here. Fetched where it has to be, with a bar."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llamahost.commands.progress import transfers

if TYPE_CHECKING:
    from llamahost.files.download import Pulled
    from llamahost.files.repo import Reference


def fetched(reference: Reference) -> Pulled:
    """The model, brought here with a bar; what is not as asked for is told. Raises PullFailed."""
    from llamahost.files.download import Puller

    try:
        with transfers(str(reference)) as on_step:
            pulled = Puller.of(os.environ).pull(reference, on_step)
    except KeyboardInterrupt:
        print("interrupted; what has come is kept, and the next pull goes on from there", file=sys.stderr, flush=True)
        raise
    if pulled.note:
        print(f"{reference}: {pulled.note}", file=sys.stderr, flush=True)
    return pulled


def how_else(text: str) -> str:
    """What to say where a model was named by one word, and no file is called so."""
    if "/" in text or "." in text:
        return ""
    return "; `llamahost list` tells the models on this machine, and OWNER/NAME is fetched from Hugging Face"


def path_of(text: str) -> Path | None:
    """Where the model lies that goes by this name of the hub or of another program; fetched if it has to be.

    None where nothing is meant by it but a file. Raises PullFailed.
    """
    from llamahost.files.local import Places, named
    from llamahost.files.repo import looks_like_repo, parse_reference

    if Path(text).exists() or Path(text).is_absolute() or text.startswith(("./", "../", "~")):
        return None
    if here := named(Places.of(os.environ), text):
        return here.path
    owner, _, rest = text.partition("/")
    is_file = rest.lower().endswith(".gguf") and ("/" not in rest or Path(owner).is_dir())  # that is not there
    if is_file or not looks_like_repo(text):
        return None
    return fetched(parse_reference(text)).paths[0]
