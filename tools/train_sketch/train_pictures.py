"""The phases that learn pictures: an autoencoder at 128 px, then a decoder from its latents to 256 px."""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from model import Autoencoder, Decoder
from muon import Muon, muon_and_adam
from running import Run
from torch import Tensor

LATENT_NOISE = 0.1


def pictures_at(pictures: np.ndarray, which: Tensor, size_px: int) -> Tensor:
    """(B, 3, size_px, size_px) in [-1, 1] of the stored uint8 pictures."""
    x = torch.from_numpy(pictures[which.numpy()]).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.avg_pool2d(x, x.shape[-1] // size_px)


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def differences(drawn: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error of the pixels, and of the steps between neighbours, where sharpness is decided."""
    steps = zip(edges(drawn), edges(wanted), strict=True)
    return torch.stack([(drawn - wanted).abs().mean(), sum((a - b).abs().mean() for a, b in steps)])


def train_autoencoder(plan: argparse.Namespace) -> None:
    pictures = np.load(plan.work / "pictures.npy", mmap_mode="r")
    net = Autoencoder()
    run = Run(net, Muon([{"params": list(net.parameters()), "share": 1.0}], plan.lr), plan)
    for _ in run:
        x = pictures_at(pictures, torch.randint(len(pictures), (plan.batch,)), 128)
        z = net.encoder(x)
        shown = differences(net.decoder(z + 0.03 * torch.randn_like(z)), x)
        run.learn(shown[0] + 0.5 * shown[1] + 1e-3 * z.pow(2).mean(), shown)
    if run.finished:
        torch.save(run.average.state_dict(), plan.work / "autoencoder.pt")


def train_decoder(plan: argparse.Namespace) -> None:
    """The decoder alone, on latents as the transformer makes them: a little off."""
    pictures = np.load(plan.work / "pictures.npy", mmap_mode="r")
    latents = encode(plan.work)
    known = {name: w for name, w in torch.load(plan.work / "autoencoder.pt").items() if name.startswith("decoder.")}
    net = Decoder()
    net.load_state_dict({f"start.{name.removeprefix('decoder.')}": w for name, w in known.items()}, strict=False)
    net.scale_like(torch.load(plan.work / "latents.pt"))
    net = net.to(memory_format=torch.channels_last)
    run = Run(net, muon_and_adam(net, lambda name, p: p.ndim == 4 and "end" not in name, plan.lr), plan)
    compiled = torch.compile(lambda z, x: differences(net(z).float(), x))
    for _ in run:
        which = torch.randint(len(pictures), (plan.batch,))
        z = latents[which]
        z = z + LATENT_NOISE * torch.rand(plan.batch, 1, 1, 1) * torch.randn_like(z)
        with torch.autocast("cpu", torch.bfloat16):
            shown = compiled(z, pictures_at(pictures, which, 256))
        run.learn(shown[0] + shown[1], shown)
    if run.finished:
        torch.save(run.average.state_dict(), plan.work / "decoder.pt")


@torch.no_grad()
def encode(work: Path) -> Tensor:
    """Every picture as latents of zero mean, unit variance (N, 4, 16, 16); also kept in WORK/latents.pt."""
    path = work / "latents.pt"
    if not path.exists():
        pictures = np.load(work / "pictures.npy", mmap_mode="r")
        net = Autoencoder()
        net.load_state_dict(torch.load(work / "autoencoder.pt"))
        batches = torch.arange(len(pictures)).split(64)
        z = torch.cat([net.encoder(pictures_at(pictures, which, 128)) for which in batches])
        mean, std = z.mean((0, 2, 3), keepdim=True), z.std((0, 2, 3), keepdim=True)
        if (work / "scale.pt").exists():  # a start from weights that knew these latents under another scale
            mean, std = torch.load(work / "scale.pt")
        torch.save({"latents": (z - mean) / std, "mean": mean, "std": std}, path)
    return torch.load(path)["latents"]
