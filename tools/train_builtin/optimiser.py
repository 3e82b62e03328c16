"""Muon for the matrices, AdamW for the rest, one schedule for both. Knows parameters; knows no data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is asked
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault((min(p.shape), max(p.shape)), []).append(p)
            for (_, long), parameters in alike.items():
                self._step_alike(group, parameters, long)

    def _step_alike(self, group: dict[str, Any], parameters: list[nn.Parameter], long: int) -> None:
        """Matrices of one shape, lying or standing, all at once: small products alone leave cores idle."""
        wide: list[Tensor] = []
        for p in parameters:
            state = self.state[p]
            momentum = state.setdefault("momentum", torch.zeros_like(p))
            assert p.grad is not None
            momentum.lerp_(p.grad, 1 - group["momentum"])
            update = p.grad.lerp(momentum, group["momentum"])
            wide.append(update if p.shape[1] == long else update.T)
        for p, one in zip(parameters, orthogonal(torch.stack(wide)), strict=True):
            update = one if p.shape[1] == long else one.T
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def orthogonal(g: Tensor, n_steps: int = 5) -> Tensor:
    """Nearly U V^T of each singular value decomposition, by Newton-Schulz; `g` is [n, short, long].

    Every step multiplies from the left by a polynomial of the Gram matrix. Polynomials of one matrix commute, so the
    steps are taken among the small square matrices and the product meets the long side once.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT
    eye = torch.eye(gram.shape[-1], device=g.device)
    product: Tensor | None = None
    for k in range(n_steps):
        factor = torch.baddbmm(b * gram, gram, gram, beta=1.0, alpha=c).add_(eye, alpha=a)
        product = factor if product is None else factor @ product
        if k < n_steps - 1:
            gram = factor @ gram @ factor
    assert product is not None
    return product @ x


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
