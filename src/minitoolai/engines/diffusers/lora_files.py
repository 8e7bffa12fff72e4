"""Read LoRA files: which tensors belong to which module of which network, and whether each has both its halves.

Two ways to name tensors are in use, by kohya's scripts (`lora_unet_…lora_down.weight`) and by diffusers
(`unet.….lora_A.weight`). Only the header of a file is read here, which needs no torch.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from minitoolai.core.errors import EngineError

#: The networks that a LoRA can change.
IMAGE, TEXT, TEXT_2 = "image", "text_encoder", "text_encoder_2"
_NETWORKS = {
    "unet": IMAGE,
    "transformer": IMAGE,
    "te": TEXT,
    "te1": TEXT,
    "text_encoder": TEXT,
    "te2": TEXT_2,
    "text_encoder_2": TEXT_2,
}
_KOHYA = re.compile(r"lora_(unet|transformer|te1|te2|te)_([^.]+)\.(lora_down\.weight|lora_up\.weight|alpha)")
_DIFFUSERS = re.compile(
    r"(?:base_model\.model\.)?(?:(unet|transformer|text_encoder_2|text_encoder)\.)?(.+?)\."
    r"(?:(?:lora_linear_layer|lora)\.(down|up)\.weight|lora_(A|B|down|up)(?:\.\w+)?\.weight|(alpha))"
)
#: Diffusers' first format: the processor of an attention held the LoRA of each of its projections.
_PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight$")
_PARTS = {"lora_down.weight": "down", "lora_up.weight": "up", "A": "down", "B": "up"}
#: Tensors of other kinds of adapters, which change a network in another way.
_OTHER_KINDS = {
    "hada": "a LoHa",
    "lokr": "a LoKr",
    "dora": "a DoRA",
    "lora_magnitude": "a DoRA",
    "lora_mid": "a LoCon with a core of its own",
    "oft": "an OFT",
    "boft": "a BOFT",
    "diff": "a full difference of weights",
    "on_input": "an IA3",
}
_OTHER = re.compile(r"\.(hada|lokr|dora|lora_magnitude|lora_mid|boft|oft|diff|on_input)(?:_\w+)?(?:\.\w+)*$")
_TYPES = ("F64", "F32", "F16", "BF16")
_MAX_HEADER_BYTES = 100_000_000


class LoraKey(NamedTuple):
    """One module of one network; its name has underscores for dots."""

    network: str
    module: str


class LoraPair(NamedTuple):
    """The names of the two halves of a LoRA of one module, and how much their product counts."""

    down: str
    up: str
    #: The name of its alpha, or None.
    alpha: str | None
    rank: int


class LoraHeader(NamedTuple):
    """What a file contains."""

    pairs: dict[LoraKey, LoraPair]
    #: Alphas that stand in the header instead of in tensors, as peft writes them: of each network.
    settings: dict[str, dict[str, Any]]


def read_lora_header(path: Path) -> LoraHeader:
    """Read which modules a LoRA changes. Raises EngineError, for the operator, if it is not complete."""
    try:
        tensors, metadata = _safetensors_header(path)
        pairs = _pairs(tensors)
        settings = _peft_settings(metadata)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{path.name} is no readable LoRA: {error}"[:300]) from error
    return LoraHeader(pairs, settings)


def why_unusable(path: Path) -> str | None:
    """Return the fault of a LoRA file, as far as its header shows, or None."""
    if path.suffix != ".safetensors":
        return f"{path.name} is not a .safetensors file, and no other is read"
    if not path.is_file():
        return f"no file {path}: put it there"
    try:
        read_lora_header(path)
    except EngineError as error:
        return error.message
    return None


def _safetensors_header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the shapes of all tensors, and the metadata. Raises ValueError if the file is cut off or too long."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise ValueError("it is cut off, or no safetensors file")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", None) or {}
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size != 8 + length + end:
        raise ValueError(f"it has {size:,} bytes, but its header promises {8 + length + end:,}: it is cut off")
    strange = next((name for name, entry in header.items() if entry["dtype"] not in _TYPES), None)
    if strange is not None:
        raise ValueError(f"{strange} has numbers of type {header[strange]['dtype']}; readable are {', '.join(_TYPES)}")
    return {name: tuple(entry["shape"]) for name, entry in header.items()}, metadata


def _pairs(shapes: dict[str, tuple[int, ...]]) -> dict[LoraKey, LoraPair]:
    found: dict[LoraKey, dict[str, str]] = {}
    for name in shapes:
        if other := _OTHER.search(name):
            raise ValueError(f"it is {_OTHER_KINDS[other[1]]} ({name}), which is not supported")
        key, part = _place_of(name)
        if part in found.setdefault(key, {}):
            raise ValueError(f"it has two tensors for {part} of {key.module}: {found[key][part]} and {name}")
        found[key][part] = name
    if not found:
        raise ValueError("it contains no tensors")
    return {key: _pair(key, parts, shapes) for key, parts in found.items()}


def _pair(key: LoraKey, parts: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> LoraPair:
    for part in ("down", "up"):
        if part not in parts:
            present = parts.get("down") or parts.get("up") or parts["alpha"]
            raise ValueError(f"it is half a LoRA: {present} has no counterpart ({part} is missing)")
    down, up = shapes[parts["down"]], shapes[parts["up"]]
    if len(down) not in (2, 4) or len(up) not in (2, 4) or down[0] != up[1] or 0 in down + up:
        raise ValueError(f"the halves of {key.module} do not fit: down is {list(down)}, up is {list(up)}")
    alpha = parts.get("alpha")
    if alpha is not None and math.prod(shapes[alpha]) != 1:
        raise ValueError(f"{alpha} is not one number")
    return LoraPair(parts["down"], parts["up"], alpha, down[0])


def _place_of(name: str) -> tuple[LoraKey, str]:
    """Return the module that a tensor belongs to, and whether it is its down, up or alpha. Raises ValueError."""
    if match := _KOHYA.fullmatch(name):
        return LoraKey(_NETWORKS[match[1]], match[2]), _PARTS.get(match[3], match[3])
    usual = _PROCESSOR.sub(lambda m: f".to_{m[1]}{'.0' if m[1] == 'out' else ''}.lora.{m[2]}.weight", name)
    if match := _DIFFUSERS.fullmatch(usual):
        part = match[3] or match[4] or match[5]
        return LoraKey(_NETWORKS[match[1] or "unet"], match[2].replace(".", "_")), _PARTS.get(part, part)
    raise ValueError(f"it contains {name[:80]}, which is no part of a LoRA of a known kind")


def _peft_settings(metadata: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return what peft's configuration in the header says, for each network."""
    settings: dict[str, dict[str, Any]] = {}
    for name, value in json.loads(metadata.get("lora_adapter_metadata") or "{}").items():
        network, _, field = name.partition(".")
        if network in _NETWORKS and field:
            settings.setdefault(_NETWORKS[network], {})[field] = value
    if any(own.get("use_dora") for own in settings.values()):
        raise ValueError("it is a DoRA, which is not supported")
    return settings


def scale_of(key: LoraKey, pair: LoraPair, alpha: float | None, settings: dict[str, Any]) -> float:
    """Return the factor of the product of both halves: alpha by rank. Without an alpha it is 1."""
    if alpha is None and settings:
        by_name: dict[str, float] = settings.get("alpha_pattern") or {}
        own = (value for name, value in by_name.items() if key.module.endswith(name.replace(".", "_")))
        alpha = next(own, settings.get("lora_alpha"))
        if alpha is not None and settings.get("use_rslora"):
            return float(alpha / math.sqrt(pair.rank))
    return 1.0 if alpha is None else float(alpha / pair.rank)
