#!/usr/bin/env python3
"""Measure what a step of the engine costs beside llama_decode and sampling, without HTTP: a figure for each load.

python tools/measure_step.py model.gguf --streams 1,8,32
"""

from __future__ import annotations

import argparse
import statistics
import time
from array import array
from pathlib import Path

from llamahost.core.sampling import Sampling
from llamahost.core.work import Job
from llamahost.engine.engine import Engine
from llamahost.engine.scheduler import Scheduler
from llamahost.native.backend import LlamaBackend
from llamahost.native.context import ContextOptions
from llamahost.native.model import Model

N_PROMPT = 64
N_WARM = 30


def measure(model: Model, n_streams: int, *, temperature: float, n_threads: int, n_steps: int) -> None:
    options = ContextOptions(
        n_ctx=N_PROMPT + N_WARM + n_steps + 64,
        n_slots=n_streams,
        n_cells=None,
        is_unified=False,
        n_batch=2048,
        n_ubatch=512,
        kv_type_k="f16",
        kv_type_v="f16",
        flash_attention="auto",
        n_threads=n_threads,
        n_threads_batch=n_threads,
    )
    backend = LlamaBackend(model, options)
    engine = Engine(backend, Scheduler.for_backend(backend), lambda emissions: None)
    sampling = Sampling(temperature=temperature, seed=1)
    for i in range(n_streams):
        tokens = array("i", [(100 + 7 * i + k) % model.vocab.n_tokens for k in range(N_PROMPT)])
        engine.submit(Job(id=i, tokens=tokens, n_max=N_WARM + n_steps + 32, sampling=sampling))
    for _ in range(N_WARM):
        engine.step()
    others, decodes, samplings = [], [], []
    for _ in range(n_steps):
        decode_s, sampling_s, began = backend.decode_s, backend.sampling_s, time.perf_counter()
        engine.step()
        step_s = time.perf_counter() - began
        decodes.append(backend.decode_s - decode_s)
        samplings.append(backend.sampling_s - sampling_s)
        others.append(step_s - decodes[-1] - samplings[-1])
    engine.close()
    decode, sampling_ms, other = (1e3 * statistics.median(values) for values in (decodes, samplings, others))
    quartiles = [1e3 * value for value in statistics.quantiles(others, n=4)]
    print(
        f"{n_streams:4} streams: decode {decode:7.3f} ms, sampling {sampling_ms:6.3f} ms, "
        f"all else {other:6.3f} ms ({quartiles[0]:.3f} .. {quartiles[2]:.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--streams", default="1,8,32", help="loads, comma-separated")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    with Model.open(options.model) as model:
        for n_streams in map(int, options.streams.split(",")):
            measure(
                model,
                n_streams,
                temperature=options.temperature,
                n_threads=options.threads,
                n_steps=options.steps,
            )


if __name__ == "__main__":
    main()
