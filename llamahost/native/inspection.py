"""Open a GGUF file for nothing but to see whether the process lives: what the library reads of it, without its weights.

As a program, in a process of its own: a path as its argument, one line of JSON on standard output. Imports no more of
the package than it must, and of the binding its functions alone: a first load waits for this.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import resource
import sys
import types
from pathlib import Path
from typing import Any

MAX_BYTES = 4 * 2**30
"""Of memory of its own. Not of address space, of which drivers of GPUs reserve terabytes."""
MAX_CPU_S = 120
MAX_LOG_BYTES = 64 * 2**20
TEXT = "Hello, \u4e16\u754c 123\n".encode()


def probe(path: Path) -> str:
    """Read keys, vocabulary and tensors, lay out a context, tokenise. Returns what the library refused, if anything."""
    c = _binding()
    c.llama_backend_init()
    params = c.llama_model_default_params()
    params.no_alloc = True
    params.n_gpu_layers = 0
    params.use_extra_bufts = False
    params.check_tensors = False  # it would read all of them
    params.load_mode = c.LLAMA_LOAD_MODE_NONE  # nothing is read or mapped but what stands before the weights
    model = c.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        return "the library refuses the file"
    vocab = c.llama_model_get_vocab(model)
    n_tokens = c.llama_vocab_n_tokens(vocab)
    piece = ctypes.create_string_buffer(256)
    for token in range(n_tokens):
        c.llama_token_to_piece(vocab, token, piece, len(piece), 0, True)
    tokens = (c.llama_token * 64)()
    c.llama_tokenize(vocab, TEXT, len(TEXT), tokens, len(tokens), True, True)
    options = c.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = 64
    options.n_threads = options.n_threads_batch = 1
    context = c.llama_init_from_model(model, options)
    return "" if context else "the library refuses a context"


def _binding() -> Any:
    """The binding's functions, without the rest of the package, whose imports take five times as long."""
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.submodule_search_locations is None:
        raise ImportError("there is no llama_cpp")
    package = types.ModuleType("llama_cpp")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["llama_cpp"] = package
    return importlib.import_module("llama_cpp.llama_cpp")


def main() -> None:
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, MAX_CPU_S),
        (resource.RLIMIT_DATA, MAX_BYTES),
        (resource.RLIMIT_FSIZE, MAX_LOG_BYTES),
    ):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    refusal = probe(Path(sys.argv[1]))
    sys.stdout.write(json.dumps({"refusal": refusal}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # nothing is freed: that too could end the process, and what matters is known


if __name__ == "__main__":
    main()
