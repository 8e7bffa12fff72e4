"""Step 5: the encoder that edits need, trained against the shipped model alone: no pictures have to be fetched.

usage: train_encoder.py WORK FOLDER [--steps 600] [--pixel-steps 60]. The shipped networks draw their own training
pictures. Phase one learns the latents that pictures were decoded from; phase two, on pictures put on other grounds,
moved, mirrored and recoloured, what the fixed decoder makes of the latents. Writes FOLDER/encoder.onnx.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from export import to_onnx
from model import Decoder, Encoder
from onnx import numpy_helper
from torch import Tensor
from train_pictures import differences

from minitoolai.engines.images.prompts.captions import STYLES
from minitoolai.engines.images.sketch import SketchEngine
from minitoolai.engines.protocols import ImageRequest

BATCH, LEARNING_RATE, AVERAGED = 8, 1.5e-3, 0.995
#: Weight of the latents' own error, for pictures whose latents are known.
LATENT_WEIGHT = 0.1


def shipped_decoder(folder: Path) -> Decoder:
    """Return the decoder with the weights that the package ships."""
    stored = {w.name: numpy_helper.to_array(w) for w in onnx.load(folder / "decoder.onnx").graph.initializer}
    weights = {name.removesuffix(".small"): torch.from_numpy(w.astype(np.float32)) for name, w in stored.items()}
    net = Decoder()
    net.load_state_dict(weights, strict=False)
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def drawn_latents(path: Path, count: int) -> Tensor:
    """Return latents (N, 4, 16, 16) of the model's own pictures, each of a name in a style."""
    if not path.exists():
        engine = SketchEngine(2)
        batch = engine.open()
        names, random = batch._model.captions.names, np.random.default_rng(0)
        found: list[np.ndarray] = []
        for start in range(0, count, 64):
            for i in range(start, min(start + 64, count)):
                prompt = f"{names[random.integers(len(names))]}, {STYLES[random.integers(4)]}"
                batch.add(ImageRequest(prompt=prompt, scheduler="Euler a", steps=6, cfg_scale=2, seed=i))
            while len(batch):
                found += [latents for latents, _ in batch.advance().values()]
        np.save(path, np.stack(found).astype(np.float16))
    return torch.from_numpy(np.load(path).astype(np.float32))


def foreign(x: Tensor, other: Tensor) -> Tensor:
    """Make pictures that the model did not draw: on a ground, moved, mirrored, other colours, some of two at once."""
    n, device_size = len(x), x.shape[-1]
    angle, zoom = (torch.rand(n) - 0.5) * 0.8, 0.7 + torch.rand(n) * 0.9
    turn = torch.stack([angle.cos() / zoom, -angle.sin() / zoom, angle.sin() / zoom, angle.cos() / zoom], -1)
    theta = torch.cat([turn.view(n, 2, 2), (torch.rand(n, 2, 1) - 0.5) * 0.6], -1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    corners = torch.rand(n, 3, 2, 2) * 2 - 1
    ground = F.interpolate(corners, size=device_size, mode="bilinear", align_corners=True)
    rough = F.interpolate(torch.randn(n, 3, 16, 16), size=device_size, mode="bicubic", align_corners=False)
    ground = (ground + rough * torch.rand(n, 1, 1, 1) * 0.25).clamp(-1, 1)
    paper = ((moved.amin(1, keepdim=True) - 0.8) * 6).clamp(0, 1)
    mixed = moved * (1 - paper) + ground * paper
    second = ((other.amin(1, keepdim=True) - 0.8) * 6).clamp(0, 1)
    two = other * (1 - second) + mixed * second
    mixed = torch.where(torch.rand(n, 1, 1, 1) < 0.3, two, mixed)
    channels = torch.stack([torch.randperm(3) for _ in range(n)])
    mixed = mixed.gather(1, channels[..., None, None].expand(-1, -1, *mixed.shape[2:]))
    light, contrast = torch.rand(n, 1, 1, 1) * 0.4 - 0.2, 0.6 + torch.rand(n, 1, 1, 1) * 0.5
    return (mixed * contrast + light).clamp(-1, 1)


def varied(z: Tensor) -> Tensor:
    """Return latents of pictures that are not on white: mixtures of two, other colours, other contrast, some noise."""
    n = len(z)
    other = z[torch.randperm(n)]
    shape = F.interpolate(torch.randn(n, 1, 4, 4), size=16, mode="bicubic", align_corners=False)
    share = torch.sigmoid(shape * 6) * (torch.rand(n, 1, 1, 1) < 0.5)
    mixed = z * (1 - share) + other * share
    shift = torch.randn(n, 4, 1, 1) * 0.5 * (torch.rand(n, 1, 1, 1) < 0.6)
    slope = F.interpolate(torch.randn(n, 4, 2, 2), size=16, mode="bilinear", align_corners=True)
    slope = slope * 0.5 * (torch.rand(n, 1, 1, 1) < 0.4)
    rough = torch.randn_like(z) * 0.25 * torch.rand(n, 1, 1, 1) * (torch.rand(n, 1, 1, 1) < 0.6)
    return mixed * (0.7 + 0.6 * torch.rand(n, 1, 1, 1)) + shift + slope + rough


@torch.no_grad()
def pairs(plan: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Return pictures (N, 3, 256, 256) as bytes, and the latents that they were decoded from."""
    path = plan.work / "pairs.pt"
    if not path.exists():
        decoder, z = shipped_decoder(plan.folder), drawn_latents(plan.work / "drawn.npy", plan.pictures)
        z = torch.cat([z[: len(z) // 3], varied(z)])
        pictures = []
        with torch.autocast("cpu", torch.bfloat16):
            for some in z.split(8):
                x = decoder(some).float().clamp(-1, 1)
                pictures.append(((x + 1) * 127.5).round().to(torch.uint8))
        torch.save((torch.cat(pictures), z), path)
    pictures, z = torch.load(path)
    return pictures, z


class Training:
    """A network, its average and its optimiser."""

    def __init__(self, path: Path, rate: float, steps: int) -> None:
        self.net, self.average = Encoder(), Encoder()
        if path.exists():
            self.net.load_state_dict(torch.load(path))
        self.average.load_state_dict(self.net.state_dict())
        self._optimiser = torch.optim.AdamW(self.net.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01)
        self._rate, self._steps, self._done = rate, steps, 0
        self._mean, self._began_s = 0.0, time.monotonic()

    def learn(self, loss: Tensor) -> None:
        done = self._done = self._done + 1
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * min(1.0, done / 50, (self._steps + 1 - done) / (self._steps * 0.6))
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self._optimiser.step()
        with torch.no_grad():
            for a, p in zip(self.average.parameters(), self.net.parameters(), strict=True):
                a.lerp_(p, max(1 - AVERAGED, 1 / done))
        self._mean += (float(loss.detach()) - self._mean) * max(0.02, 1 / done)
        if done % 50 == 0:
            print(done, round(self._mean, 4), f"{time.monotonic() - self._began_s:.0f}s", flush=True)


def learn_latents(plan: argparse.Namespace) -> None:
    """Phase one: the latents of pictures that were decoded from known ones. Cheap, since the decoder is not needed."""
    path = plan.work / "encoder-1.pt"
    if path.exists():
        return
    pictures, z = pairs(plan)
    training = Training(path, LEARNING_RATE, plan.steps)
    for _ in range(plan.steps):
        which = torch.randint(len(z), (2 * BATCH,))
        with torch.autocast("cpu", torch.bfloat16):
            found = training.net(pictures[which].float() / 127.5 - 1)
        training.learn((found.float() - z[which]).abs().mean())
    torch.save(training.average.state_dict(), path)


def learn_pixels(plan: argparse.Namespace) -> None:
    """Phase two: what the decoder makes of the latents, for pictures that no latents are known of."""
    decoder, z = shipped_decoder(plan.folder), drawn_latents(plan.work / "drawn.npy", plan.pictures)
    training = Training(plan.work / "encoder-1.pt", LEARNING_RATE / 3, plan.pixel_steps)
    for _ in range(plan.pixel_steps):
        some = z[torch.randint(len(z), (BATCH,))]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            x = decoder(some).float().clamp(-1, 1)
            x[2:] = foreign(x[2:], x.roll(1, 0)[2:])
        with torch.autocast("cpu", torch.bfloat16):
            found = training.net(x)
            seen = differences(decoder(found).float(), x)
        own = (found[:2].float() - some[:2]).abs().mean()
        # Latents of foreign pictures stay where the denoiser knows its way about.
        wide = (found.float().abs() - 3).clamp(min=0).mean()
        training.learn(seen[0] + 0.5 * seen[1] + LATENT_WEIGHT * own + 0.1 * wide)
    torch.save(training.average.state_dict(), plan.work / "encoder-2.pt")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("work", type=Path)
    words.add_argument("folder", type=Path)
    words.add_argument("--steps", type=int, default=600)
    words.add_argument("--pixel-steps", type=int, default=60)
    words.add_argument("--pictures", type=int, default=2000)
    plan = words.parse_args()
    torch.manual_seed(0)
    plan.work.mkdir(exist_ok=True, parents=True)
    learn_latents(plan)
    learn_pixels(plan)
    net = Encoder()
    net.load_state_dict(torch.load(plan.work / "encoder-2.pt"))
    to_onnx(net, {"pixels": torch.rand(3, 3, 256, 256)}, plan.folder / "encoder.onnx")


if __name__ == "__main__":
    main()
