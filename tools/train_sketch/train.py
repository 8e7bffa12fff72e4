"""Step 2: train one part of the model; each phase starts from what the phase before it left in WORK.

usage: train.py autoencoder|impression|transformer WORK --steps N [--decay N] [--start FILE]
Budgets count steps, so the result does not depend on how busy the machine is. The transformer writes a
checkpoint every few minutes and when it is asked to stop (SIGTERM), and goes on from it when started again.
"""

import argparse
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from captions import CAPTIONS_PER_PICTURE, Words, bank
from model import Autoencoder, Transformer
from muon import Muon
from torch import Tensor, nn

SEED = 0
DROPPED = 0.1
CAPTION_NOISE = 0.25
IMPRESSION_SHARE = 0.3
AVERAGED = 0.998
CHECKPOINT_STEPS = 1000


def pictures_at(pictures: np.ndarray, which: Tensor, size_px: int) -> Tensor:
    """(B, 3, size_px, size_px) in [-1, 1] of the stored uint8 pictures."""
    x = torch.from_numpy(pictures[which.numpy()]).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.avg_pool2d(x, x.shape[-1] // size_px)


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def learning_rate(step: int, steps: int, decay: int, warm: int = 100) -> float:
    """Level, then straight to zero over the last `decay` steps, as a share of the peak."""
    return min(1.0, (step + 1) / warm, max(0.0, (steps - step) / max(1, decay)))


def train_autoencoder(work: Path, steps: int, decay: int) -> None:
    pictures = np.load(work / "pictures.npy", mmap_mode="r")
    net = Autoencoder()
    optimiser = torch.optim.AdamW(net.parameters(), 1.2e-3)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1.2e-3 * learning_rate(step, steps, decay)
        x = pictures_at(pictures, torch.randint(len(pictures), (16,)), 128)
        z = net.encoder(x)
        y = net.decoder(z + 0.03 * torch.randn_like(z))
        loss = (y - x).abs().mean() + 1e-3 * z.pow(2).mean()
        loss = loss + 0.5 * sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x), strict=True))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1)
        optimiser.step()
        if step % 100 == 0:
            print("autoencoder", step, round(loss.item(), 4), flush=True)
    torch.save(net.state_dict(), work / "autoencoder.pt")


@torch.no_grad()
def encode(work: Path) -> Tensor:
    """Every picture as latents of zero mean, unit variance (N, 4, 16, 16); also kept in WORK/latents.pt."""
    path = work / "latents.pt"
    if not path.exists():
        pictures = np.load(work / "pictures.npy", mmap_mode="r")
        net = Autoencoder()
        net.load_state_dict(torch.load(work / "autoencoder.pt"))
        z = torch.cat(
            [net.encoder(pictures_at(pictures, i, 128)) for i in torch.arange(len(pictures)).split(64)]
        )
        mean, std = z.mean((0, 2, 3), keepdim=True), z.std((0, 2, 3), keepdim=True)
        if (work / "scale.pt").exists():  # a start from weights that knew these latents under another scale
            mean, std = torch.load(work / "scale.pt")
        torch.save({"latents": (z - mean) / std, "mean": mean, "std": std}, path)
    return torch.load(path)["latents"]


def batch(latents: Tensor, captions: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random latents, a caption vector for each with a little noise on it, and which captions to drop."""
    which = torch.randint(len(latents), (size,))
    chosen = captions[which, torch.randint(CAPTIONS_PER_PICTURE, (size,))].float()
    rms = chosen.pow(2).mean(1, keepdim=True).sqrt()
    chosen = chosen + CAPTION_NOISE * torch.rand(size, 1) * rms * torch.randn_like(chosen)
    return latents[which], chosen, (torch.rand(size) < DROPPED)[:, None]


def noise_levels(size: int) -> Tensor:
    """Half the levels evenly in ln sigma over SD's range, half around those that decide what is drawn."""
    even = torch.empty(size).uniform_(math.log(0.02), math.log(16.0))
    deciding = torch.randn(size) * 1.0 + 0.7
    return torch.where(torch.rand(size) < 0.5, even, deciding).clamp(math.log(0.015), math.log(20.0)).exp()


def train_impression(net: Transformer, latents: Tensor, captions: Tensor, steps: int, decay: int) -> None:
    """The impression alone, as plain regression: it costs a hundredth of a step of the whole."""
    parameters = [*net.impression.parameters(), net.nothing]
    optimiser = torch.optim.AdamW(parameters, 1e-3, betas=(0.9, 0.98), weight_decay=0.0)
    mean = 0.0
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * learning_rate(step, steps, decay)
        x, caption, dropped = batch(latents, captions, 512)
        with torch.autocast("cpu", torch.bfloat16):
            patches, _ = net.impression(torch.where(dropped, net.nothing, caption))
        loss = F.mse_loss(patches.float(), F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        mean = 0.98 * mean + 0.02 * loss.item() if step else loss.item()
        if step % 100 == 0:
            print("impression", step, round(mean, 4), flush=True)


def losses(
    net: Transformer, x: Tensor, noise: Tensor, sigma: Tensor, caption: Tensor, dropped: Tensor
) -> Tensor:
    """The denoising loss in the preconditioner's own units, and the impression's: means over the batch."""
    s = sigma[:, None, None, None]
    clean, impression = net.with_impression(x + s * noise, sigma, torch.where(dropped, net.nothing, caption))
    denoising = ((s * s + 1) / (s * s) * (clean.float() - x) ** 2).mean()
    return torch.stack([denoising, ((impression.float() - x) ** 2).mean()])


def optimiser_of(net: Transformer, lr: float) -> Muon:
    """Muon for the matrices of the blocks, Adam for the rest; the impression, learnt already, moves less."""
    groups: dict[str, list[nn.Parameter]] = {"turned": [], "impression": [], "rest": []}
    for name, p in net.named_parameters():
        turned = name.startswith("blocks.") and p.ndim == 2
        kind = "turned" if turned else "impression" if name.startswith("impression.") else "rest"
        groups[kind].append(p)
    return Muon(
        [
            {"params": groups["turned"], "muon": True, "share": 1.0},
            {"params": groups["impression"], "muon": False, "share": 0.1},
            {"params": groups["rest"], "muon": False, "share": 1.0},
        ],
        lr,
    )


def train_transformer(
    work: Path, net: Transformer, latents: Tensor, captions: Tensor, plan: argparse.Namespace
) -> None:
    """All of it, with a running average of the weights, from WORK/checkpoint.pt if there is one."""
    optimiser, average, first = optimiser_of(net, plan.lr), Transformer(), 0
    average.load_state_dict(net.state_dict())
    if (work / "checkpoint.pt").exists():
        kept = torch.load(work / "checkpoint.pt")
        net.load_state_dict(kept["net"])
        average.load_state_dict(kept["average"])
        optimiser.load_state_dict(kept["optimiser"])
        first = kept["step"]
        torch.manual_seed(SEED + first)

    def keep(step: int) -> None:
        kept = {"net": net.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
        torch.save({**kept, "step": step}, work / "checkpoint.new")
        os.replace(work / "checkpoint.new", work / "checkpoint.pt")

    asked_to_stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked_to_stop.append(number))
    compiled, parameters = torch.compile(losses), list(net.parameters())
    averaged = [p.detach() for p in average.parameters()]
    mean, began = None, time.process_time()
    for step in range(first, plan.steps):
        for group in optimiser.param_groups:
            group["lr"] = plan.lr * group["share"] * learning_rate(step, plan.steps, plan.decay)
        x, caption, dropped = batch(latents, captions, plan.batch)
        with torch.autocast("cpu", torch.bfloat16):
            both = compiled(net, x, torch.randn_like(x), noise_levels(plan.batch), caption, dropped)
        optimiser.zero_grad()
        (both[0] + IMPRESSION_SHARE * both[1]).backward()
        nn.utils.clip_grad_norm_(parameters, 1)
        optimiser.step()
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1 - AVERAGED)
        mean = both.detach() if mean is None else mean.lerp(both.detach(), 0.02)
        if (step + 1) % 100 == 0:
            spent_s = time.process_time() - began
            print(
                "transformer", step + 1, *(round(m, 4) for m in mean.tolist()), f"{spent_s:.0f}s", flush=True
            )
        if (step + 1) % CHECKPOINT_STEPS == 0:
            keep(step + 1)
        if asked_to_stop:
            return keep(step + 1)
    keep(plan.steps)
    return torch.save(average.state_dict(), work / "transformer.pt")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("phase", choices=["autoencoder", "impression", "transformer"])
    words.add_argument("work", type=Path)
    words.add_argument("--steps", type=int, required=True)
    words.add_argument("--decay", type=int, default=0)
    words.add_argument("--batch", type=int, default=128)
    words.add_argument("--lr", type=float, default=1e-3)
    words.add_argument("--start", type=Path)
    plan = words.parse_args()
    torch.manual_seed(SEED)
    if plan.phase == "autoencoder":
        return train_autoencoder(plan.work, plan.steps, plan.decay)
    latents, captions, net = encode(plan.work), bank(plan.work, Words(plan.work)), Transformer()
    if plan.start:
        net.load_state_dict(torch.load(plan.start), strict=False)
    if plan.phase == "impression":
        train_impression(net, latents, captions, plan.steps, plan.decay)
        return torch.save(net.state_dict(), plan.work / "impression.pt")
    net.load_state_dict(torch.load(plan.work / "impression.pt"))
    return train_transformer(plan.work, net, latents, captions, plan)


if __name__ == "__main__":
    main()
