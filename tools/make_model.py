"""Write the model that the benchmarks use: random weights, so that anyone can make the same file in a second.

About 15 million parameters and a vocabulary of 32,768: small enough that what a server adds to llama.cpp shows, large
enough in its vocabulary that sampling costs what it costs. F16, since kernels for quantised weights differ more from
build to build. Equal arguments make equal bytes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # the generator is the tests' own
    from tests.gguf_models import write_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="where to write the GGUF file")
    parser.add_argument("--architecture", choices=("llama", "swa", "recurrent", "hybrid"), default="llama")
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--embd", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--ff", type=int, default=512)
    parser.add_argument("--ctx", type=int, default=4096)
    parser.add_argument("--dtype", choices=("f32", "f16", "q8_0"), default="f16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    path: Path = write_model(
        args.path,
        args.architecture,
        n_vocab=args.vocab,
        n_embd=args.embd,
        n_layer=args.layers,
        n_head=args.heads,
        n_ff=args.ff,
        n_ctx=args.ctx,
        dtype=args.dtype,
        name=f"bench {args.architecture}",
        seed=args.seed,
    )
    n_matrices = 2 * args.vocab * args.embd
    n_blocks = args.layers * (4 * args.embd**2 + 3 * args.embd * args.ff)
    about = f", about {(n_matrices + n_blocks) / 1e6:.1f} M parameters" if args.architecture == "llama" else ""
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB{about}")


if __name__ == "__main__":
    main()
