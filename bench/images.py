"""Measure the GPU engine with SDXL's real shape and random weights: speed, memory, and the gain of batching.

Speed does not depend on the values of the weights, so none are needed. `--shape tiny` checks on a CPU that the bench
runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from minitoolai.engines.diffusers.batch import Denoiser, DiffusersBatch, Row
from minitoolai.engines.diffusers.checkpoint import Networks, TextEncoder
from minitoolai.engines.diffusers.engine import find_device, precision_of
from minitoolai.engines.diffusers.prompts import clip_tokenizer
from minitoolai.engines.protocols import ImageRequest
from minitoolai.engines.sampling import SCHEDULERS, SIGMA_MAX

_EXAMPLES = """examples:
  python -m bench.images                                       SDXL at 1024 x 1024 on the first GPU
  python -m bench.images --images 1,2,4,8,16 --cfg 1 --steps 8
  python -m bench.images --shape tiny --device cpu --size 64 --rounds 1
"""
_PROMPT = "a photograph of a red apple on a wooden table, soft light, shallow depth of field"
#: Block widths, transformers per block, width and layers of each text encoder, widths of the VAE.
_SHAPES = {
    "sdxl": ([320, 640, 1280], [1, 2, 10], (768, 12), (1280, 32), [128, 256, 512, 512]),
    "tiny": ([32, 64, 128], [1, 1, 2], (64, 2), (64, 2), [32, 32, 64, 64]),
}


def networks(shape: str, device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype) -> Networks:
    """Create SDXL's networks on the device."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.utils import logging
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    logging.set_verbosity_error()
    widths, depths, first, second, of_vae = _SHAPES[shape]
    tokens = clip_tokenizer()

    def clip(width: int, layers: int) -> Any:
        return CLIPTextConfig(
            vocab_size=49_408,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            projection_dim=width,
            eos_token_id=tokens.end,
        )

    unet = {
        "block_out_channels": widths,
        "transformer_layers_per_block": depths,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [max(1, width // 64) for width in widths],
        "cross_attention_dim": first[0] + second[0],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": second[0] + 6 * 256,
    }
    vae = {
        "block_out_channels": of_vae,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "scaling_factor": 0.13025,
    }
    made = Networks(
        f"random-{shape}",
        _made(lambda: UNet2DConditionModel.from_config(unet), device, dtype),
        _made(lambda: AutoencoderKL.from_config(vae), device, vae_dtype),
        [
            TextEncoder(_made(lambda: CLIPTextModel(clip(*first)), device, dtype), tokens, tokens.end),
            TextEncoder(_made(lambda: CLIPTextModelWithProjection(clip(*second)), device, dtype), tokens, 0),
        ],
        is_xl=True,
    )
    made.vae.encoder = None
    return made


def _made(make: Callable[[], Any], device: torch.device, dtype: torch.dtype) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            network = make().to(device=device, dtype=dtype).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    return network.to(memory_format=torch.channels_last) if device.type == "cuda" else network


class Bench:
    """A denoiser and the measurements of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = find_device(options.device)
        dtype = precision_of(options.precision, self.device)
        careful = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        made = networks(options.shape, self.device, dtype, careful)
        self.denoiser = Denoiser(made, self.device, rows_per_call=options.rows, free_memory=lambda: False)
        self.seed = 0

    def timed(self, work: Callable[[], object]) -> float:
        """Return the median seconds of some runs, after a warm-up run."""
        times = []
        for _ in range(self.options.rounds + 1):
            self._wait()
            since_s = time.perf_counter()
            work()
            self._wait()
            times.append(time.perf_counter() - since_s)
        return statistics.median(times[1:])

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def requests(self, images: int, *, mixed: bool = False) -> list[ImageRequest]:
        """Return requests that differ in their seeds; with `mixed`, in scheduler and guidance as well."""
        o = self.options
        return [
            ImageRequest(
                prompt=_PROMPT,
                steps=o.steps,
                width=o.size,
                height=o.size,
                seed=i,
                scheduler=SCHEDULERS[i % len(SCHEDULERS)] if mixed else "DPM++ 2M",
                cfg_scale=o.cfg + (0.1 * i if mixed and o.cfg != 1 else 0.0),
            )
            for i in range(images)
        ]

    def generate(self, requests: list[ImageRequest]) -> None:
        """Generate all of them in one batch, from prompt to PNG."""
        batch = DiffusersBatch(lambda: self.denoiser, trailing=False)
        for request in requests:
            batch.add(request)
        while len(batch):
            batch.step()

    def call(self, rows: int) -> float:
        """Return the seconds of one UNet call."""
        side = -(-self.options.size // 8)
        conditioning = self.denoiser.prompts.encode(_PROMPT)
        x = torch.randn(4, side, side, device=self.device)
        return self.timed(lambda: self.denoiser.denoise([Row(x, SIGMA_MAX, conditioning)] * rows))

    def decoding(self) -> float:
        """Return the seconds of decoding one image with the VAE."""
        side = -(-self.options.size // 8)
        latents = torch.randn(4, side, side, device=self.device)
        return self.timed(lambda: self.denoiser.decode(latents))

    def peak_gb(self) -> float:
        """Return the peak memory since the last call; 0 without a GPU."""
        if self.device.type != "cuda":
            return 0.0
        peak = torch.cuda.max_memory_allocated(self.device) / 1e9
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak


def main() -> None:
    """Measure and print a table."""
    options = _parse()
    bench = Bench(options)
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "the CPU"
    rows = 1 if options.cfg == 1 else 2
    print(
        f"{options.shape}, {options.size} x {options.size}, {options.steps} steps, guidance {options.cfg:g}, on {name}"
    )
    weights_gb = bench.denoiser.networks.bytes() / 1e9
    print(f"weights {weights_gb:.1f} GB; decoding one image {1e3 * bench.decoding():.0f} ms\n")
    print("| images in a batch | s | images/s | × one alone | one UNet call, ms | peak GB |")
    print("|---|---|---|---|---|---|")
    alone = 0.0
    for images in options.images:
        bench.peak_gb()
        requests = bench.requests(images)
        together = bench.timed(lambda requests=requests: bench.generate(requests))
        alone = alone or images / together
        call = 1e3 * bench.call(min(images * rows, options.rows))
        rate = images / together
        print(f"| {images} | {together:.3f} | {rate:.2f} | {rate / alone:.2f} | {call:.0f} | {bench.peak_gb():.1f} |")
    mixed = bench.requests(options.images[-1], mixed=True)
    together = bench.timed(lambda: bench.generate(mixed))
    apart = bench.timed(lambda: [bench.generate([request]) for request in mixed])
    print(f"\n{len(mixed)} of different schedulers: {together:.3f} s together, {apart:.3f} s one by one", end="")
    print(f" ({apart / together:.2f} times).")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.images",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="", help="like cuda:0 or cpu; by default the first GPU, or the CPU")
    parser.add_argument(
        "--precision", default="", help="float16, bfloat16 or float32; by default the best for the device"
    )
    parser.add_argument("--shape", choices=list(_SHAPES), default="sdxl")
    parser.add_argument("--size", type=int, default=1024, help="width and height in pixels (1024)")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--cfg", type=float, default=2.0, help="guidance; 1 halves the rows (2)")
    parser.add_argument("--rows", type=int, default=16, help="maximum rows per model call (16)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each measurement; the median counts (3)")
    parser.add_argument("--images", type=_counts, default=[1, 2, 4, 8], help="batch sizes, like 1,2,4,8")
    return parser.parse_args()


def _counts(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


if __name__ == "__main__":
    main()
