"""What pools on a card come to take is counted before, since the process ends where a step does not find it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamahost.core.machine import Machine
from llamahost.fleet.machine.facts import facts_of
from llamahost.fleet.machine.scratch import of_matrix, of_scores
from llamahost.fleet.replica.loader import load
from llamahost.fleet.settings.manifest import ModelSpec
from llamahost.native.gguf import read_metadata

F32, F16, Q4_K, BF16 = 0, 1, 12, 30
PASCAL, P40, VOLTA, TURING, AMPERE = (6, 0), (6, 1), (7, 0), (7, 5), (8, 6)


@pytest.mark.parametrize(
    ("kind", "widths"),
    [
        (Q4_K, {PASCAL: 2, P40: 0, VOLTA: 2, TURING: 0, AMPERE: 0, (5, 2): 4, None: 0}),
        (F16, {PASCAL: 0, P40: 4, VOLTA: 0, TURING: 0, AMPERE: 0, (5, 2): 4}),
        (BF16, {PASCAL: 4, P40: 4, VOLTA: 4, TURING: 4, AMPERE: 0}),
        (F32, {PASCAL: 0, P40: 0, AMPERE: 0}),
    ],
)
def test_a_matrix_is_written_out_where_ggml_has_no_kernel_for_it(
    kind: int, widths: dict[tuple[int, int] | None, int]
) -> None:
    assert {compute: of_matrix(10, kind, compute) for compute in widths} == {
        compute: 10 * width for compute, width in widths.items()
    }


def test_without_flash_attention_the_scores_of_a_long_prompt_are_counted_though_no_load_shows_them(
    tiny_llama: Path,
) -> None:
    machine = Machine(n_cpus=1, memory_bytes=2**33, available_bytes=2**33)
    options = {"n_ctx": 512, "n_slots": 2, "n_ubatch": 64, "n_threads": 1}
    taken = {}
    for attention in ("on", "off"):
        spec = ModelSpec(name="a", path=tiny_llama, flash_attention=attention, **options)  # type: ignore[arg-type]  # by name
        loaded = load(spec, machine)
        try:
            before = loaded.measured(("cpu",)).bytes["cpu"]
            loaded.model.is_on_device = True
            taken[attention] = loaded.measured(("cpu",)).bytes["cpu"] - before
        finally:
            loaded.model.is_on_device = False
            loaded.close()
    assert taken == {"on": 0, "off": of_scores(512, facts_of(spec).n_head, 64)}
    assert taken["off"] > 0


def test_the_output_s_type_is_known_where_it_is_tied_too(tiny_llama: Path) -> None:
    facts, tensors = facts_of(ModelSpec(name="a", path=tiny_llama)), read_metadata(tiny_llama).tensors
    assert facts.output_kind == tensors["token_embd.weight" if facts.is_tied else "output.weight"].kind
