"""The loop that every phase shares: learning rate, averaged weights, checkpoints, and stopping when asked.

Budgets count steps, so the result does not depend on how busy the machine is. A phase that was stopped
(SIGTERM) goes on from its checkpoint when it is started again.
"""

import argparse
import copy
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from muon import Muon
from torch import Tensor, nn

SEED = 0
AVERAGED = 0.995
CHECKPOINT_STEPS = 500


def learning_rate(step: int, steps: int, decay: int, warm: int = 100) -> float:
    """Level, then straight to zero over the last `decay` steps, as a share of the peak."""
    return min(1.0, (step + 1) / warm, max(0.0, (steps - step) / max(1, decay)))


class Run:
    """Iterate over it for the step numbers, and give each step's loss to `learn`."""

    def __init__(self, net: nn.Module, optimiser: Muon, plan: argparse.Namespace) -> None:
        self.net, self.optimiser, self.plan = net, optimiser, plan
        self.average = copy.deepcopy(net)
        self.finished = False
        self._path = plan.work / f"{plan.phase}-checkpoint.pt"
        self._first, self._mean, self._asked_to_stop = 0, None, False
        self._resume()
        self._learnt = self._first
        self._weights = [p for p in net.parameters() if p.requires_grad]
        pairs = zip(self.average.parameters(), net.parameters(), strict=True)
        self._averaged = [a.detach() for a, p in pairs if p.requires_grad]

    def __iter__(self) -> Iterator[int]:
        signal.signal(signal.SIGTERM, self._stop)
        began_s = time.process_time()
        for step in range(self._first, self.plan.steps):
            rate = self.plan.lr * learning_rate(step, self.plan.steps, self.plan.decay)
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["share"]
            yield step
            done = step + 1
            if done % 100 == 0:
                figures = " ".join(f"{m:.4f}" for m in self._mean.tolist())
                print(self.plan.phase, done, figures, f"{time.process_time() - began_s:.0f}s", flush=True)
            if done % CHECKPOINT_STEPS == 0 or self._asked_to_stop or done == self.plan.steps:
                self._keep(done)
            if self._asked_to_stop:
                return
        self.finished = True

    def learn(self, loss: Tensor, shown: Tensor) -> None:
        """One step down `loss`; `shown` (a vector) is averaged for the log."""
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._weights, 1.0)
        self.optimiser.step()
        self._learnt += 1
        kept = min(AVERAGED, self._learnt / (self._learnt + 10))
        torch._foreach_lerp_(self._averaged, [p.detach() for p in self._weights], 1 - kept)
        shown = shown.detach().float()
        self._mean = shown if self._mean is None else self._mean.lerp(shown, 0.02)

    def _stop(self, *_: object) -> None:
        self._asked_to_stop = True

    def _resume(self) -> None:
        if not self._path.exists():
            return
        kept = torch.load(self._path)
        self.net.load_state_dict(kept["net"])
        self.average.load_state_dict(kept["average"])
        self.optimiser.load_state_dict(kept["optimiser"])
        self._first = kept["step"]
        torch.manual_seed(SEED + self._first)

    def _keep(self, step: int) -> None:
        parts = {"net": self.net, "average": self.average, "optimiser": self.optimiser}
        new = Path(f"{self._path}.new")
        torch.save({**{name: part.state_dict() for name, part in parts.items()}, "step": step}, new)
        os.replace(new, self._path)
