"""Step 2: train one part of the model; each phase starts from what the phases before it left in WORK.

usage: train.py autoencoder|decoder|impression|transformer WORK --steps N [--decay N] [--batch N] [--lr F]
       [--start FILE]    (weights to begin the impression phase from, where they fit)
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from captions import CAPTIONS_PER_PICTURE, Words, bank
from model import Transformer
from muon import Muon, muon_and_adam
from running import SEED, Run
from torch import Tensor
from train_pictures import encode, train_autoencoder, train_decoder

DROPPED = 0.1
CAPTION_NOISE = 0.25
IMPRESSION_SHARE = 0.3


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


def train_impression(net: Transformer, latents: Tensor, captions: Tensor, plan: argparse.Namespace) -> None:
    """The impression alone, as plain regression: it costs a hundredth of a step of the whole."""
    weights = [*net.impression.parameters(), net.nothing]
    chosen = {id(p) for p in weights}
    for p in net.parameters():
        p.requires_grad_(id(p) in chosen)
    run = Run(net, Muon([{"params": weights, "share": 1.0}], plan.lr), plan)
    for _ in run:
        x, caption, dropped = batch(latents, captions, plan.batch)
        with torch.autocast("cpu", torch.bfloat16):
            patches, _thought = net.impression(torch.where(dropped, net.nothing, caption))
        loss = F.mse_loss(patches.float(), F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2))
        run.learn(loss, loss[None])
    if run.finished:
        torch.save(net.state_dict(), plan.work / "impression.pt")


def losses(net: Transformer, x: Tensor, noise: Tensor, sigma: Tensor, caption: Tensor, dropped: Tensor) -> Tensor:
    """The denoising loss in the preconditioner's own units, and the impression's: means over the batch."""
    s = sigma[:, None, None, None]
    clean, impression = net.with_impression(x + s * noise, sigma, torch.where(dropped, net.nothing, caption))
    denoising = ((s * s + 1) / (s * s) * (clean.float() - x) ** 2).mean()
    return torch.stack([denoising, ((impression.float() - x) ** 2).mean()])


def train_transformer(net: Transformer, latents: Tensor, captions: Tensor, plan: argparse.Namespace) -> None:
    """All of it: Muon for the matrices of the blocks; the impression, learnt already, moves less."""
    optimiser = muon_and_adam(
        net,
        lambda name, p: name.startswith("blocks.") and p.ndim == 2,
        plan.lr,
        slower=lambda name: name.startswith("impression."),
    )
    run, compiled = Run(net, optimiser, plan), torch.compile(losses)
    for _ in run:
        x, caption, dropped = batch(latents, captions, plan.batch)
        with torch.autocast("cpu", torch.bfloat16):
            both = compiled(net, x, torch.randn_like(x), noise_levels(plan.batch), caption, dropped)
        run.learn(both[0] + IMPRESSION_SHARE * both[1], both)
    if run.finished:
        torch.save(run.average.state_dict(), plan.work / "transformer.pt")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("phase", choices=["autoencoder", "decoder", "impression", "transformer"])
    words.add_argument("work", type=Path)
    words.add_argument("--steps", type=int, required=True)
    words.add_argument("--decay", type=int, default=0)
    words.add_argument("--batch", type=int, default=128)
    words.add_argument("--lr", type=float, default=1e-3)
    words.add_argument("--start", type=Path)
    plan = words.parse_args()
    torch.manual_seed(SEED)
    if plan.phase in ("autoencoder", "decoder"):
        return {"autoencoder": train_autoencoder, "decoder": train_decoder}[plan.phase](plan)
    latents, captions, net = encode(plan.work), bank(plan.work, Words(plan.work)), Transformer()
    if plan.start:
        net.load_state_dict(torch.load(plan.start), strict=False)
    if plan.phase == "impression":
        return train_impression(net, latents, captions, plan)
    net.load_state_dict(torch.load(plan.work / "impression.pt"))
    return train_transformer(net, latents, captions, plan)


if __name__ == "__main__":
    main()
