"""Stable Diffusion XL and 1.5 on the local GPU, with the operator's weights and the samplers of this package."""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from minitoolai.core.errors import EngineError
from minitoolai.engines.diffusers.checkpoint import WeightsFolder
from minitoolai.engines.diffusers.flow import FlowBatch, FlowModel, is_flow
from minitoolai.engines.diffusers.lora_files import why_unusable
from minitoolai.engines.protocols import FailedImage, GeneratedImage, ImageRequest, OnProgress

if TYPE_CHECKING:
    import torch

    from minitoolai.engines.diffusers.batch import Denoiser, DiffusersBatch

log = logging.getLogger(__name__)
PACKAGES = ("torch", "diffusers", "transformers", "safetensors")
#: Shares of the device memory for weights; the remainder is for images in flight.
_SHARE_OF_GPU, _SHARE_OF_HOST = 0.6, 0.5


class ModelWeights(msgspec.Struct, frozen=True):
    """The weights, the schedule (`discrete` or `trailing`) and the LoRAs of a model of the catalog."""

    weights: str
    schedule: str = "discrete"
    #: Name in a prompt → file.
    loras: dict[str, str] = {}


class DiffusersConfig(msgspec.Struct, frozen=True):
    """Configuration as plain data, because it is sent to the child process."""

    models: dict[str, ModelWeights]
    folder: str
    #: "" selects the first GPU, or the CPU if there is none.
    device: str = ""
    #: float16, bfloat16 or float32; "" selects float16 on a GPU and float32 on a CPU.
    precision: str = ""
    #: Keep this many bytes of weights loaded; 0 selects a share of the device memory.
    resident_bytes: int = 0
    #: Maximum rows of one model call; an image has one, or two with guidance.
    rows_per_call: int = 16


class DiffusersEngine:
    """Loads checkpoints and opens batches on them. Images are generated in the child process, after `start`."""

    name = "diffusers"

    def __init__(self, config: DiffusersConfig) -> None:
        self._config = config
        self._weights = WeightsFolder(Path(config.folder))
        self._device: torch.device | None = None
        #: By file name, least recently used first.
        self._loaded: OrderedDict[str, Denoiser | FlowModel] = OrderedDict()
        self._batches: weakref.WeakSet[DiffusersBatch | FlowBatch] = weakref.WeakSet()

    def why_not_ready(self, model: str) -> str | None:
        entry = self._config.models.get(model)
        if entry is None:
            return f"the catalog assigns {model} to another engine"
        if (missing := self._weights.why_missing(entry.weights)) is not None:
            return missing
        absent = [package for package in PACKAGES if find_spec(package) is None]
        return f"{', '.join(absent)} not installed: see docs/howto/gpu.md" if absent else None

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Return one batch per weights, schedule and latent size."""
        entry = self._config.models.get(model, ModelWeights(model))
        return f"{entry.weights} {entry.schedule} {-(-width // 8)}x{-(-height // 8)}"

    def start(self) -> None:
        """Select the device, and log faulty LoRAs. Imports nothing if no model is ready. Raises EngineError."""
        for fault in self.lora_faults():
            log.error("%s; its images fail, uncharged", fault)
        if self._device is None and any(self.why_not_ready(model) is None for model in self._config.models):
            self._device = find_device(self._config.device)

    def stop(self) -> None:
        self._loaded.clear()

    # ── LoRAs ─────────────────────────────────────────────────────────────────────────────────────────────

    def lora_names(self, model: str) -> Collection[str]:
        return self.lora_files(model).keys()

    def lora_files(self, model: str) -> dict[str, Path]:
        """Return the LoRA files of a model of the catalog by name, whether they exist or not."""
        entry = self._config.models.get(model)
        return {name: Path(self._config.folder) / file for name, file in entry.loras.items()} if entry else {}

    def lora_faults(self) -> list[str]:
        """Return the faults of the LoRA files of models with weights, as far as their headers show.

        Imports nothing.
        """
        return [
            f"LoRA {name} of {model} cannot be used: {why}"
            for model, entry in self._config.models.items()
            if self._weights.find(entry.weights) is not None
            for name, path in self.lora_files(model).items()
            if (why := why_unusable(path)) is not None
        ]

    def open(self, model: str) -> DiffusersBatch | FlowBatch:
        """Return an empty batch, which loads its weights with its first image."""
        from minitoolai.engines.diffusers.batch import DiffusersBatch

        if fault := self.why_not_ready(model):
            raise EngineError(fault)
        entry = self._config.models[model]
        path = self._weights.find(entry.weights)
        batch: DiffusersBatch | FlowBatch

        def loras(asked: str) -> dict[str, Path]:
            return self.lora_files(asked or model)

        if path is not None and is_flow(path):
            batch = FlowBatch(lambda: cast(FlowModel, self.denoiser(entry.weights)), loras=loras)
        else:
            batch = DiffusersBatch(
                lambda: cast("Denoiser", self.denoiser(entry.weights)),
                trailing=entry.schedule == "trailing",
                loras=loras,
            )
        self._batches.add(batch)
        return batch

    # ── loaded weights ─────────────────────────────────────────────────────────────────────────────────────

    def denoiser(self, weights: str) -> Denoiser | FlowModel:
        """Return the networks of a checkpoint, loading it and unloading others as needed. Raises EngineError."""
        if weights in self._loaded:
            self._loaded.move_to_end(weights)
            return self._loaded[weights]
        path = self._weights.find(weights)
        if path is None:
            raise EngineError(f"{weights} is missing from {self._config.folder}")
        self._evict_for(_size_of(path))
        try:
            denoiser = self._load(path)
        except RuntimeError as error:
            # Out of memory: it may fit once idle weights are unloaded.
            fault = str(error)[:200]
        else:
            self._loaded[weights] = denoiser
            return denoiser
        if not self._evict_idle():
            raise EngineError(f"no memory for {weights}: {fault}")
        return self.denoiser(weights)

    def loaded(self) -> list[str]:
        """Return the names of the loaded weights, least recently used first."""
        return list(self._loaded)

    def _load(self, path: Path) -> Denoiser | FlowModel:
        import torch

        from minitoolai.engines.diffusers.batch import Denoiser
        from minitoolai.engines.diffusers.checkpoint import load_networks

        device = self._device = self._device or find_device(self._config.device)
        dtype = precision_of(self._config.precision, device)
        if is_flow(path):
            return FlowModel(path, device, dtype)
        has_bfloat = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        vae_dtype = torch.bfloat16 if has_bfloat and dtype != torch.float32 else torch.float32
        networks = load_networks(path, device=device, dtype=dtype, vae_dtype=vae_dtype)
        log.info("loaded %s, %.1f GB, on %s", networks.name, networks.bytes() / 1e9, device)
        return Denoiser(networks, device, rows_per_call=self._config.rows_per_call, free_memory=self._evict_idle)

    def _evict_for(self, size: int) -> None:
        budget = self._config.resident_bytes or _default_budget(self._config.device)
        while self._loaded and self._loaded_bytes() + size > budget and self._evict_idle(limit=1):
            pass

    def _loaded_bytes(self) -> int:
        return sum(denoiser.networks.bytes() + denoiser.loras.bytes() for denoiser in self._loaded.values())

    def _evict_idle(self, limit: int = 1_000_000) -> bool:
        """Unload weights without images in flight, least recently used first. Return True if there were any."""
        busy = {id(batch.denoiser) for batch in self._batches}
        idle = [name for name, denoiser in self._loaded.items() if id(denoiser) not in busy][:limit]
        for name in idle:
            del self._loaded[name]
        if idle and self._device is not None and self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()
        return bool(idle)


def find_device(name: str) -> torch.device:
    """Return the device of this name; "" is the first GPU, else the CPU. Raises EngineError if it does not exist."""
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
    """Return the data type; "" is float16 on a GPU, else float32. Raises EngineError for an unknown name."""
    import torch

    types = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    types[""] = torch.float16 if device.type == "cuda" else torch.float32
    if name not in types:
        raise EngineError(f"MINITOOLAI_PRECISION={name!r} is invalid: use float16, bfloat16 or float32")
    return types[name]


def _default_budget(device_name: str) -> int:
    import os

    import torch

    device = find_device(device_name)
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * _SHARE_OF_GPU)
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _SHARE_OF_HOST)


def _size_of(path: Path) -> int:
    """Return the size on disk, which is close to the size in memory."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*.safetensors")))


def generate(
    engine: DiffusersEngine, model: str, request: ImageRequest, on_progress: OnProgress | None = None
) -> GeneratedImage:
    """Generate one image from start to end. Raises EngineError."""
    batch = engine.open(model)
    batch.add(request, on_progress)
    ended: Sequence[GeneratedImage | FailedImage] = ()
    while not ended:
        ended = batch.step()
    image = ended[0]
    if isinstance(image, FailedImage):
        raise EngineError(image.error)
    return image


def make_batch_engine(config: dict[str, Any]) -> DiffusersEngine:
    """Create an engine from the fields of DiffusersConfig."""
    return DiffusersEngine(msgspec.convert(config, DiffusersConfig))
