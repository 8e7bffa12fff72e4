"""Pictures without cameras, and what happens to pictures on their way: eight attacks on a watermark."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from minitoolai.core.marks import MarkCodec
from minitoolai.core.signing import SecretKeys

CODEC = MarkCodec(SecretKeys(b"k" * 32))
CREATED_MS = 1_790_000_000_000
#: Named in the design of the marks: at least 98 % of marks survive these.
REQUIRED = ("JPEG 70", "half size", "crop to 70 %", "brightness +10 %", "brightness -10 %")


def photograph(seed: int, size: int) -> Any:
    """Return noise with the spectrum of photographs and a gradient."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1
    layers: list[Any] = []
    for _ in range(3):
        noise = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
        layer = np.fft.irfft2(noise / frequency ** rng.uniform(1.0, 1.6), s=(size, size))
        layer = (layer - layer.mean()) / layer.std()
        layers.append(layer if not layers else 0.8 * layers[-1] + 0.3 * layer)
    slope = np.linspace(-40, 40, size)[None, :, None] * rng.uniform(-1, 1)
    pixels = np.stack(layers, -1) * rng.uniform(25, 60) + rng.uniform(60, 190) + slope
    return np.clip(pixels, 0, 255).astype(np.uint8)


def drawing(seed: int, size: int) -> Any:
    """Return flat shapes on white, like the images of the embedded model."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(image)
    for _ in range(4):
        x, y, r = int(rng.integers(size)), int(rng.integers(size)), int(rng.integers(size // 10, size // 3))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(value) for value in rng.integers(0, 256, 3)))
    return np.asarray(image)


def _saved(image: Image.Image, kind: str, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    return Image.open(file).convert("RGB")


def _cropped(image: Image.Image, share: float = 0.7) -> Image.Image:
    width, height = int(image.width * share), int(image.height * share)
    left, top = (image.width - width) // 3 + 1, (image.height - height) * 3 // 5 + 1
    return image.crop((left, top, left + width, top + height))


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    size = round(image.width * factor), round(image.height * factor)
    return image.resize(size, Image.Resampling.LANCZOS)


ATTACKS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 70": lambda image: _saved(image, "JPEG", 70),
    "JPEG 50": lambda image: _saved(image, "JPEG", 50),
    "WebP 75": lambda image: _saved(image, "WEBP", 75),
    "half size": lambda image: _scaled(image, 0.5),
    "crop to 70 %": _cropped,
    "brightness +10 %": lambda image: image.point([min(255, round(v * 1.1)) for v in range(256)] * 3),
    "brightness -10 %": lambda image: image.point([round(v * 0.9) for v in range(256)] * 3),
    "screenshot (crop, 83 %, JPEG 80)": lambda image: _saved(_scaled(_cropped(image, 0.8), 0.83), "JPEG", 80),
    "blur (radius 1.5)": lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
}


def luminance(image: Image.Image) -> Any:
    """Return what the detector works on."""
    return np.asarray(image.convert("L"), np.float32)


def psnr(one: Any, two: Any) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(255**2 / ((one.astype(float) - two) ** 2).mean()))
