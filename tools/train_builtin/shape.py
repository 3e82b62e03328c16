"""What the network looks like, in numbers. Needs nothing: who only reads or scores a file has no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """What the weights look like; `d_model` and `d_ff` are multiples of 32, which Q8_0 asks for."""

    n_vocab: int
    d_model: int = 256
    n_layer: int = 6
    n_head: int = 4
    n_kv: int = 2
    d_head: int = 64
    d_ff: int = 640
    n_ctx: int = 2048
    rope_base: float = 1e6  # slow, so that half of a head compares tokens at any distance
    eps: float = 1e-6

    @property
    def n_params(self) -> int:
        attention = self.d_model * self.d_head * (2 * self.n_head + 2 * self.n_kv)
        return self.n_vocab * self.d_model + self.n_layer * (attention + 3 * self.d_model * self.d_ff)
