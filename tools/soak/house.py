"""What the soaked server serves: files of models, and manifests that change. Knows no request and no process."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.gguf_adapters import write_adapter
from tests.gguf_encoders import write_encoder
from tests.gguf_models import write_model

ROOT = Path(__file__).resolve().parent.parent.parent
KEYS = ("soak-one", "soak-two")
LATE_KEY = "soak-late"  # comes and goes with the manifest
TIMEOUT_S = 20.0
STALL_S = 4.0
DRAIN_S = 8.0
HOST_BYTES = 36_000_000
GENERATING = ("chat", "llama", "swa", "hybrid", "recurrent")

SERVER = f"""
[server]
api_key = "{KEYS[0]}"
api_key_file = "keys.txt"
timeout_s = {TIMEOUT_S}
drain_s = {DRAIN_S}
stall_s = {STALL_S}
ping_s = 0.5
max_body_bytes = 1500000
host_bytes = @HOST_BYTES@
prefix_bytes = 400000
prefix_disk_bytes = 4000000
adapter_folders = ["adapters"]
breaker_s = 3
"""

MODELS = {
    "chat": """
path = "builtin"
aliases = ["gpt-*"]
replicas = @CHAT_REPLICAS@
n_ctx = 512
n_slots = @CHAT_SLOTS@
n_threads = 1
max_queue = 16
keep_prefixes = true
idle_s = 4
[[models.adapters]]
name = "pirate"
path = "builtin-pirate"
[models.sampling]
temperature = @CHAT_TEMPERATURE@
""",
    "embed": """
path = "builtin-embed"
load = "request"
idle_s = @IDLE@
n_threads = 1
n_slots = 2
""",
    "llama": """
path = "llama.gguf"
load = "request"
idle_s = @IDLE@
n_ctx = 256
n_slots = 4
kv_layout = "unified"
n_cells = @LLAMA_CELLS@
n_threads = 1
embeddings = true
keep_prefixes = true
[[models.adapters]]
name = "poet"
path = "poet.gguf"
scale = 1.0
[[models.adapters]]
name = "judge"
path = "judge.gguf"
scale = 0.5
""",
    "swa": """
path = "swa.gguf"
load = "request"
idle_s = @IDLE@
n_ctx = 256
n_slots = 2
n_threads = 1
keep_prefixes = @KEEP@
""",
    "hybrid": """
path = "hybrid.gguf"
load = "request"
idle_s = 1.5
n_ctx = 256
n_slots = 3
n_threads = 1
keep_prefixes = true
""",
    "recurrent": """
path = "recurrent.gguf"
load = "request"
idle_s = @IDLE@
n_ctx = 256
n_slots = 3
n_threads = 1
when_loading = "@WHEN@"
timeout_s = 12
""",
    "rank": """
path = "rank.gguf"
load = "request"
idle_s = @IDLE@
n_threads = 1
""",
    "broken": """
path = "broken.gguf"
load = "request"
n_threads = 1
""",
}

ROUTES = """
[[routes]]
name = "any"
models = ["broken", "llama", "chat"]
aliases = ["any-*"]
[[routes]]
name = "halves"
models = ["chat", "llama"]
strategy = "split"
weights = [@WEIGHT@, 1]
[[routes]]
name = "soonest"
models = ["chat", "swa", "hybrid"]
strategy = "@STRATEGY@"
"""

CHOICES: dict[str, tuple[str, ...]] = {
    "CHAT_REPLICAS": ("2", "2", "1", "3"),
    "CHAT_SLOTS": ("3", "3", "2", "4"),
    "CHAT_TEMPERATURE": ("0.8", "0.5"),
    "IDLE": ("2", "1", "5"),
    "LLAMA_CELLS": ("320", "640"),
    "KEEP": ("false", "true"),
    "WHEN": ("auto", "refuse", "wait"),
    "WEIGHT": ("3", "1"),
    "STRATEGY": ("speed", "balanced", "quality"),
}
"""The first is what the manifest begins with, and comes back to."""

MAY_GO = ("embed", "swa", "recurrent", "rank")
"""Models that an edit may take out; of these a route names `swa` alone, and is another without it."""

BROKEN = (
    "[server\n",
    "[[models]]\nname = 'x'\n",
    "[[models]]\nname = 'x'\npath = 'llama.gguf'\nn_slot = 3\n",
    "",
    "[[models]]\nname = 'x'\npath = 'llama.gguf'\n[[models]]\nname = 'x'\npath = 'swa.gguf'\n",
    "\x00\xff",
    "[server]\napi_key_file = 'nowhere.txt'\n[[models]]\nname = 'x'\npath = 'llama.gguf'\n",
)


class House:
    """A folder with the files of all models, and the manifest as it is now."""

    def __init__(self, folder: Path, host_bytes: int = HOST_BYTES) -> None:
        self.folder = folder
        self.manifest = folder / "model_manifest.toml"
        self.host_bytes = host_bytes
        for name in ("llama", "swa", "hybrid", "recurrent"):
            write_model(folder / f"{name}.gguf", name, has_fim=name in ("llama", "swa"))
        write_encoder(folder / "rank.gguf", "rank")
        (folder / "broken.gguf").write_text("this is no model")
        (folder / "adapters").mkdir()
        for seed, name in enumerate(("poet", "judge"), 1):
            write_adapter(folder / f"{name}.gguf", seed)
        for seed, name in enumerate(("late", "later"), 3):
            write_adapter(folder / "adapters" / f"{name}.gguf", seed)
        (folder / "adapters" / "no.gguf").write_text("no adapter")
        self.write()

    def write(self, chance: random.Random | None = None) -> None:
        """The plain manifest, or one that differs from it here and there."""
        gone = chance.choice([*MAY_GO, "", "", "", ""]) if chance is not None else ""
        parts = [SERVER]
        parts += [f'[[models]]\nname = "{name}"{text}' for name, text in MODELS.items() if name != gone]
        parts.append(ROUTES.replace('"swa", ', "") if gone == "swa" else ROUTES)
        text = "\n".join(parts).replace("@HOST_BYTES@", str(self.host_bytes))
        for name, choices in CHOICES.items():
            value = choices[0] if chance is None or chance.random() < 0.6 else chance.choice(choices)
            text = text.replace(f"@{name}@", value)
        keys = [KEYS[1], *([LATE_KEY] if chance is not None and chance.random() < 0.5 else [])]
        (self.folder / "keys.txt").write_text("\n".join(keys) + "\n")
        self._put(text.encode())

    def spoil(self, chance: random.Random) -> None:
        self._put(chance.choice(BROKEN).encode("latin-1"))

    def touch(self, chance: random.Random) -> None:
        """Replace a model's file by its like, as a download does."""
        path = self.folder / f"{chance.choice(['llama', 'swa', 'hybrid'])}.gguf"
        new = path.with_suffix(".new")
        new.write_bytes(path.read_bytes())
        new.replace(path)

    def _put(self, data: bytes) -> None:
        new = self.manifest.with_suffix(".new")
        new.write_bytes(data)
        new.replace(self.manifest)


def known_answers() -> list[tuple[str, str]]:
    path = ROOT / "llamahost" / "builtin" / "known_answers.json"
    return [(each["question"], each["answer"]) for each in json.loads(path.read_text(encoding="utf-8"))]
