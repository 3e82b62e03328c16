"""Muon for the matrices, AdamW for the rest, one schedule for both. Knows parameters; knows no data."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tools.train_builtin.model import Model


class Muon(torch.optim.Optimizer):
    """Momentum whose every update is made orthogonal, so that no direction of a matrix is left behind."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                momentum = state.setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(momentum, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def orthogonal(g: Tensor, n_steps: int = 5) -> Tensor:
    """Nearly U V^T of the singular value decomposition, by Newton-Schulz."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    for _ in range(n_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def optimisers(model: Model, *, lr: float, lr_rest: float) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name != "token_embd.weight"]
    rest = [p for name, p in model.named_parameters() if p.ndim < 2 or name == "token_embd.weight"]
    made: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=lr),
        torch.optim.AdamW(rest, lr=lr_rest, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for one in made:
        for group in one.param_groups:
            group["peak"] = group["lr"]
    return made


def scale(n_seen: float, n_total: float, n_warm: float, n_decay: float) -> float:
    """Up, level, then down in a line to nearly nothing."""
    if n_seen < n_warm:
        return max(0.02, n_seen / n_warm)
    return max(0.01, min(1.0, (n_total - n_seen) / max(1.0, n_decay)))
