"""Make the built-in model: learn a vocabulary, train, export, score.

    python -m tools.train_builtin train --folder run                 # from scratch; again to resume
    python -m tools.train_builtin train --folder run --from llamahost/builtin/builtin.gguf --tokens 120e6
    python -m tools.train_builtin mean --folder one --folder other  # of runs at once, now and then
    python -m tools.train_builtin export --folder run --out builtin.gguf
    python -m tools.train_builtin score builtin.gguf
    python -m tools.train_builtin show --kind calls                  # what examples look like
    python -m tools.train_builtin embed --from llamahost/builtin/builtin.gguf --out embed.gguf
    python -m tools.train_builtin adapter --from llamahost/builtin/builtin.gguf --out pirate.gguf

Needs the extra `train` (PyTorch, gguf). A run may be stopped at any time (Ctrl-C) and goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.train_builtin.shape import Shape


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.train_builtin", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands.add_parser("train", help="train, or go on training"))
    mean = commands.add_parser("mean", help="set the weights of several runs, that are stopped, to their mean")
    mean.add_argument("--folder", type=Path, required=True, action="append", help="where a checkpoint lies")
    export = commands.add_parser("export", help="a checkpoint as a GGUF file")
    export.add_argument(
        "--folder", type=Path, required=True, action="append", help="where a checkpoint lies; of several: their mean"
    )
    export.add_argument("--out", type=Path, required=True)
    show = commands.add_parser("show", help="print examples")
    show.add_argument("--kind", help="of this kind alone")
    show.add_argument("--held", action="store_true", help="from the held-out side")
    show.add_argument("--seed", type=int, default=0)
    show.add_argument("-n", type=int, default=5)
    score = commands.add_parser("score", help="held-out scores by kind, through llamahost")
    score.add_argument("model", type=Path, help="a GGUF file")
    score.add_argument("-n", type=int, default=200, help="examples of each kind")
    score.add_argument("--kind", action="append", help="of this kind alone; may be given again")
    score.add_argument("--wrong", type=int, default=0, help="print so many wrong answers of each kind")
    score.add_argument("--threads", type=int, help="fewer help where others use the machine too")
    score.add_argument("--card", type=Path, help="write the table into this model card")
    embed = commands.add_parser("embed", help="train the embedding model, and score it")
    embed.add_argument("--from", dest="start", type=Path, required=True, help="a GGUF file whose vocabulary it takes")
    embed.add_argument("--out", type=Path, required=True)
    embed.add_argument("--steps", type=int, default=2000)
    embed.add_argument("--seed", type=int, default=0)
    embed.add_argument("--threads", type=int, default=2)
    adapter = commands.add_parser("adapter", help="train a LoRA adapter: a style")
    adapter.add_argument("--from", dest="start", type=Path, required=True, help="the GGUF file that it is for")
    adapter.add_argument("--out", type=Path, required=True)
    adapter.add_argument("--steps", type=int, default=600)
    adapter.add_argument("--seed", type=int, default=0)
    adapter.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    does = {"train": _train, "mean": _mean, "export": _export, "show": _show, "score": _score}
    does |= {"embed": _embed, "adapter": _adapter}
    does[args.command](args)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, required=True, help="for checkpoint, vocabulary and log")
    parser.add_argument("--from", dest="start", type=Path, help="a GGUF file made here, to begin with its weights")
    parser.add_argument("--tokens", type=float, default=60e6, help="to have seen at the end [%(default)g]")
    parser.add_argument("--decay", type=float, help="tokens of the last part, in which the rate falls [a third]")
    parser.add_argument("--warm", type=float, default=40e3)
    parser.add_argument("--lr", type=float, default=0.012, help="of Muon, for the matrices")
    parser.add_argument("--lr-rest", type=float, default=0.003, help="of AdamW, for embeddings, norms and biases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", type=int, default=3072, help="tokens of one step, at least")
    parser.add_argument("--longest", type=int, default=640, help="tokens of an example; longer ones are left out")
    parser.add_argument("--long-every", type=int, default=8, help="each so-manieth step fills whole contexts; 0: none")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=float, default=180.0, help="seconds between checkpoints")
    parser.add_argument(
        "--grow", action="store_true", help="first to the shape below; what is new begins by adding nothing"
    )
    shape = parser.add_argument_group("shape, of a model from scratch or of one that grows")
    shape.add_argument("--vocab", type=int, default=1792)
    shape.add_argument("--d-model", type=int, default=Shape.d_model)
    shape.add_argument("--layers", type=int, default=Shape.n_layer)
    shape.add_argument("--heads", type=int, default=Shape.n_head)
    shape.add_argument("--kv-heads", type=int, default=Shape.n_kv)
    shape.add_argument("--d-ff", type=int, default=Shape.d_ff)


def _train(args: argparse.Namespace) -> None:
    from tools.train_builtin import train
    from tools.train_builtin.export import grown

    plan = train.Plan(
        folder=args.folder,
        n_tokens=int(args.tokens),
        n_decay=int(args.decay if args.decay is not None else args.tokens / 3),
        n_warm=int(args.warm),
        seed=args.seed,
        lr=args.lr,
        lr_rest=args.lr_rest,
        n_step=args.step,
        n_longest=args.longest,
        long_every=args.long_every,
        save_every_s=args.save_every,
        device=args.device,
        n_threads=args.threads,
    )
    shape = Shape(
        args.vocab, args.d_model, args.layers, args.heads, args.kv_heads, args.d_model // args.heads, args.d_ff
    )
    saved = None
    checkpoint = args.folder / train.CHECKPOINT
    if checkpoint.is_file():  # also where the run began with a file: the same command goes on with it
        state, saved = train.from_checkpoint(checkpoint)
    elif args.start is not None:
        state = train.from_gguf(args.start)
    else:
        state = train.fresh(args.seed, shape, args.folder / train.VOCABULARY)
    if args.grow and state.model.shape != shape:
        state.model, saved = grown(state.model, shape), None
    if state.n_seen >= plan.n_tokens:
        raise SystemExit(f"{state.n_seen / 1e6:.2f}M tokens are seen already: give more with --tokens")
    print(f"{state.model.shape.n_params / 1e6:.2f}M parameters, {state.n_seen / 1e6:.2f}M tokens seen")
    train.run(plan, state, saved)


def _mean(args: argparse.Namespace) -> None:
    from tools.train_builtin import train

    train.to_mean(args.folder)


def _export(args: argparse.Namespace) -> None:
    from tools.train_builtin import export, train

    states = [train.from_checkpoint(folder / train.CHECKPOINT)[0] for folder in args.folder]
    state = train.mean(states) if len(states) > 1 else states[0]
    export.write(args.out, state.model, state.vocabulary, export.Notes(n_tokens_seen=state.n_seen))
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB, {state.n_seen / 1e6:.2f}M tokens seen")


def _show(args: argparse.Namespace) -> None:
    from tools.train_builtin import mixture
    from tools.train_builtin.render import pieces
    from tools.train_builtin.score import KINDS

    if args.held:
        examples = mixture.held_out(*KINDS[args.kind or "calls"], args.seed, args.n)
    else:
        made = mixture.stream(args.seed, lambda: 1.0)
        examples = []
        while len(examples) < args.n:
            example = next(made)
            if args.kind in (None, example.kind):
                examples.append(example)
    for example in examples:
        print(f"--- {example.kind}")
        print("".join(piece.text for piece in pieces(example)))


def _score(args: argparse.Namespace) -> None:
    from tools.train_builtin import score

    kinds = args.kind or score.KINDS
    text = score.table(score.score(args.model, n=args.n, kinds=kinds, n_shown=args.wrong, n_threads=args.threads))
    print(text)
    if args.card is not None:
        score.write_into(args.card, text)


def _embed(args: argparse.Namespace) -> None:
    from tools.train_builtin import embed

    plan = embed.EmbedPlan(args.start, args.out, n_steps=args.steps, seed=args.seed, n_threads=args.threads)
    embed.run(plan)
    for name, (n_right, n) in embed.score(args.out, args.threads).items():
        print(f"| {name} | {n_right} | {n} | {100 * n_right / n:.1f} |")


def _adapter(args: argparse.Namespace) -> None:
    from tools.train_builtin import adapter

    adapter.run(adapter.AdapterPlan(args.start, args.out, n_steps=args.steps, seed=args.seed, n_threads=args.threads))


if __name__ == "__main__":
    main()
