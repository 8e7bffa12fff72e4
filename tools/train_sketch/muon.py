"""Muon for the transformer's matrices, Adam for everything else, in one optimiser with one learning rate.

Muon (Jordan et al. 2024) makes each matrix's momentum orthogonal before stepping along it; the step is scaled
to the size of an Adam step as in arXiv 2502.16982, so both kinds share their learning rate.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(matrix: Tensor, rounds: int = 5) -> Tensor:
    """The nearest half-orthogonal matrix, nearly: a quintic Newton-Schulz iteration in bfloat16."""
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16()
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.T).float()


class Muon(Optimizer):
    """Parameter groups say `muon` True or False; every group has `lr`."""

    def __init__(self, groups: list[dict], lr: float, momentum: float = 0.95, betas: tuple = (0.9, 0.98)) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "muon": False})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if group["muon"]:
                    self._turn(p, group)
                else:
                    self._adapt(p, group)

    def _turn(self, p: Tensor, group: dict) -> None:
        state = self.state[p]
        speed = state.setdefault("speed", torch.zeros_like(p))
        speed.lerp_(p.grad, 1 - group["momentum"])
        ahead = p.grad.lerp(speed, group["momentum"])
        matrix = ahead.flatten(1)
        size = -group["lr"] * 0.2 * max(matrix.shape) ** 0.5
        p.add_(orthogonal(matrix).view_as(p), alpha=size)

    def _adapt(self, p: Tensor, group: dict) -> None:
        state, (slow, slower) = self.state[p], group["betas"]
        mean = state.setdefault("mean", torch.zeros_like(p))
        square = state.setdefault("square", torch.zeros_like(p))
        state["count"] = count = state.get("count", 0) + 1
        mean.lerp_(p.grad, 1 - slow)
        square.mul_(slower).addcmul_(p.grad, p.grad, value=1 - slower)
        size = group["lr"] / (1 - slow**count)
        p.addcdiv_(mean, (square / (1 - slower**count)).sqrt_().add_(1e-8), value=-size)


def muon_and_adam(
    net: nn.Module,
    turned: Callable[[str, Tensor], bool],
    lr: float,
    slower: Callable[[str], bool] = lambda name: False,
) -> Muon:
    """Muon for the parameters that `turned` picks, Adam for the rest, a tenth of the rate for `slower`."""
    groups: dict[str, list[nn.Parameter]] = {"turned": [], "slower": [], "rest": []}
    for name, p in net.named_parameters():
        groups["turned" if turned(name, p) else "slower" if slower(name) else "rest"].append(p)
    return Muon(
        [
            {"params": groups["turned"], "muon": True, "share": 1.0},
            {"params": groups["slower"], "muon": False, "share": 0.1},
            {"params": groups["rest"], "muon": False, "share": 1.0},
        ],
        lr,
    )
