"""Stable Diffusion XL and 1.5 on this machine's GPU, from the operator's weights, through our own samplers."""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from minitoolai.core.errors import EngineError
from minitoolai.engines.diffusers.checkpoint import Weights
from minitoolai.engines.protocols import FailedImage, GeneratedImage, ImageRequest, OnProgress

if TYPE_CHECKING:
    import torch

    from minitoolai.engines.diffusers.batch import Denoiser, DiffusersBatch

_LOG = logging.getLogger(__name__)
PACKAGES = ("torch", "diffusers", "transformers", "safetensors")
#: Of a device's memory, for weights; the rest is for pictures under way.
_SHARE_OF_GPU, _SHARE_OF_HOST = 0.6, 0.5


class Wanted(msgspec.Struct, frozen=True):
    """A model of the catalog: where its weights lie, and its schedule (`discrete` or `trailing`)."""

    weights: str
    schedule: str = "discrete"


class DiffusersConfig(msgspec.Struct, frozen=True):
    """Plain data, for it travels to the child process."""

    models: dict[str, Wanted]
    folder: str
    #: "" takes the first GPU, and the processor where there is none.
    device: str = ""
    #: float16, bfloat16, float32; "" takes float16 on a GPU and float32 on a processor.
    precision: str = ""
    #: Bytes of weights kept loaded; 0 takes most of the device's memory.
    resident_bytes: int = 0
    #: Rows of one model call at most; a picture has one, or two with guidance.
    rows_per_call: int = 16


class DiffusersEngine:
    """Facts anywhere; work in the child process, after `start`."""

    name = "diffusers"

    def __init__(self, config: DiffusersConfig) -> None:
        self._config = config
        self._weights = Weights(Path(config.folder))
        self._device: torch.device | None = None
        #: By the weights' name, the longest unused first.
        self._residents: OrderedDict[str, Denoiser] = OrderedDict()
        self._canvases: weakref.WeakSet[DiffusersBatch] = weakref.WeakSet()

    def why_not_ready(self, model: str) -> str | None:
        wanted = self._config.models.get(model)
        if wanted is None:
            return f"the catalog gives {model} to somebody else"
        if (missing := self._weights.why_missing(wanted.weights)) is not None:
            return missing
        absent = [package for package in PACKAGES if find_spec(package) is None]
        return f"{', '.join(absent)} not installed: see docs/howto/gpu.md" if absent else None

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Same weights, same schedule, same latent size."""
        wanted = self._config.models.get(model, Wanted(model))
        return f"{wanted.weights} {wanted.schedule} {-(-width // 8)}x{-(-height // 8)}"

    def start(self) -> None:
        """Find the device. Without any model that could be drawn, nothing is imported. EngineError."""
        if self._device is None and any(self.why_not_ready(model) is None for model in self._config.models):
            self._device = find_device(self._config.device)

    def stop(self) -> None:
        self._residents.clear()

    def open(self, model: str) -> DiffusersBatch:
        """An empty canvas. Its weights are loaded with its first picture."""
        from minitoolai.engines.diffusers.batch import DiffusersBatch

        if fault := self.why_not_ready(model):
            raise EngineError(fault)
        wanted = self._config.models[model]
        canvas = DiffusersBatch(lambda: self.painter(wanted.weights), trailing=wanted.schedule == "trailing")
        self._canvases.add(canvas)
        return canvas

    # ── what is loaded ────────────────────────────────────────────────────────────────────────────────────

    def painter(self, weights: str) -> Denoiser:
        """The networks of these weights, loaded where they are not yet; others leave for them. EngineError."""
        if weights in self._residents:
            self._residents.move_to_end(weights)
            return self._residents[weights]
        path = self._weights.find(weights)
        if path is None:
            raise EngineError(f"{weights} is gone from {self._config.folder}")
        self._make_room_for(_size_of(path))
        try:
            painter = self._load(path)
        except RuntimeError as error:
            # Out of memory: with everything idle gone it may fit.
            fault = str(error)[:200]
        else:
            self._residents[weights] = painter
            return painter
        if not self._drop_idle():
            raise EngineError(f"no memory for {weights}: {fault}")
        return self.painter(weights)

    def resident(self) -> list[str]:
        """The weights that are loaded, the longest unused first."""
        return list(self._residents)

    def _load(self, path: Path) -> Denoiser:
        import torch

        from minitoolai.engines.diffusers.batch import Denoiser
        from minitoolai.engines.diffusers.checkpoint import load_networks

        device = self._device = self._device or find_device(self._config.device)
        dtype = precision_of(self._config.precision, device)
        has_bfloat = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        vae_dtype = torch.bfloat16 if has_bfloat and dtype != torch.float32 else torch.float32
        networks = load_networks(path, device=device, dtype=dtype, vae_dtype=vae_dtype)
        _LOG.info("loaded %s, %.1f GB, on %s", networks.name, networks.bytes() / 1e9, device)
        return Denoiser(networks, device, rows_per_call=self._config.rows_per_call, free_memory=self._drop_idle)

    def _make_room_for(self, size: int) -> None:
        budget = self._config.resident_bytes or _usual_budget(self._config.device)
        while self._residents and self._held() + size > budget and self._drop_idle(most=1):
            pass

    def _held(self) -> int:
        return sum(painter.networks.bytes() for painter in self._residents.values())

    def _drop_idle(self, most: int = 1_000_000) -> bool:
        """Let go of weights that draw nothing now, the longest unused first; whether there were any."""
        busy = {id(canvas.painter) for canvas in self._canvases}
        idle = [name for name, painter in self._residents.items() if id(painter) not in busy][:most]
        for name in idle:
            del self._residents[name]
        if idle and self._device is not None and self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()
        return bool(idle)


def find_device(name: str) -> torch.device:
    """The device of this name; "" is the first GPU, else the processor. EngineError where it is not there."""
    import torch

    if not name:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EngineError(f"there is no device {name}: {str(error).splitlines()[0][:200]}") from error
    return device


def precision_of(name: str, device: torch.device) -> torch.dtype:
    """The type of that name; "" is float16 on a GPU and float32 elsewhere. EngineError for another name."""
    import torch

    types = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    types[""] = torch.float16 if device.type == "cuda" else torch.float32
    if name not in types:
        raise EngineError(f"MINITOOLAI_PRECISION={name!r} is wrong: float16, bfloat16 or float32")
    return types[name]


def _usual_budget(device_name: str) -> int:
    import os

    import torch

    device = find_device(device_name)
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * _SHARE_OF_GPU)
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _SHARE_OF_HOST)


def _size_of(path: Path) -> int:
    """Bytes on disk, about as many as in memory."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*.safetensors")))


def draw(
    engine: DiffusersEngine, model: str, request: ImageRequest, on_progress: OnProgress | None = None
) -> GeneratedImage:
    """One picture from start to end. EngineError where it fails."""
    canvas = engine.open(model)
    canvas.add(request, on_progress)
    ended: Sequence[GeneratedImage | FailedImage] = ()
    while not ended:
        ended = canvas.step()
    image = ended[0]
    if isinstance(image, FailedImage):
        raise EngineError(image.error)
    return image


def make_canvas_engine(config: dict[str, Any]) -> DiffusersEngine:
    """From the fields of DiffusersConfig."""
    return DiffusersEngine(msgspec.convert(config, DiffusersConfig))
