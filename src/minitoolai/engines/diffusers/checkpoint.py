"""From a file or folder to networks on a device. Safetensors only: nothing is ever executed or downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitoolai.core.errors import EngineError
from minitoolai.engines.diffusers import weights_shapes as told
from minitoolai.engines.diffusers.clip_tokens import ClipTokens, tokens_of_clip, tokens_of_folder

if TYPE_CHECKING:
    import torch

Tensors = dict[str, Any]


@dataclass
class Encoder:
    """A text encoder with its tokenizer; `pad` is what follows the end mark."""

    network: Any
    tokens: ClipTokens
    pad: int


@dataclass
class Networks:
    """Everything that one checkpoint needs. SDXL has two encoders, SD 1.5 one."""

    name: str
    unet: Any
    vae: Any
    encoders: list[Encoder]
    is_xl: bool
    #: The UNet answers with `v` instead of the noise (arXiv 2202.00512).
    predicts_v: bool = False

    def bytes(self) -> int:
        """Of all parameters, on the device."""
        networks = [self.unet, self.vae, *(encoder.network for encoder in self.encoders)]
        return sum(p.numel() * p.element_size() for network in networks for p in network.parameters())


def load_networks(path: Path, *, device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype) -> Networks:
    """`vae_dtype` is for SDXL's VAE, which overflows in float16. EngineError where the weights are neither."""
    from diffusers.utils import logging
    from safetensors import SafetensorError

    # It warns of a cast that is meant, once for each network.
    logging.set_verbosity_error()
    load = _of_file if path.is_file() else _of_folder
    try:
        networks = load(path)
    except (OSError, KeyError, ValueError, IndexError, RuntimeError, StopIteration, SafetensorError) as error:
        if "out of memory" in str(error).lower():
            raise
        raise EngineError(f"{path.name} cannot be loaded: {type(error).__name__}: {error}"[:500]) from error
    for network in (networks.unet, *(encoder.network for encoder in networks.encoders)):
        network.to(device=device, dtype=dtype).eval().requires_grad_(False)
    careful = networks.is_xl and getattr(networks.vae.config, "force_upcast", True)
    networks.vae.to(device=device, dtype=vae_dtype if careful else dtype).eval().requires_grad_(False)
    # Only the decoder is ever needed.
    networks.vae.encoder = networks.vae.quant_conv = None
    if device.type == "cuda":
        import torch

        for network in (networks.unet, networks.vae):
            network.to(memory_format=torch.channels_last)
    return networks


# ── a single file ─────────────────────────────────────────────────────────────────────────────────────────


def _of_file(path: Path) -> Networks:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
    from safetensors.torch import load_file

    tensors: Tensors = load_file(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    is_xl = told.is_xl(shapes)
    unet_config, vae_config = told.unet_config(shapes), told.vae_config(shapes)
    unet = _filled(
        lambda: UNet2DConditionModel.from_config(unet_config), convert_ldm_unet_checkpoint(tensors, unet_config), "UNet"
    )
    vae = _filled(lambda: AutoencoderKL.from_config(vae_config), convert_ldm_vae_checkpoint(tensors, vae_config), "VAE")
    prefixes = (told.CLIP_OF_XL, told.OPEN_CLIP_OF_XL) if is_xl else (told.CLIP_OF_15,)
    tokens = tokens_of_clip()
    encoders = [_encoder_of_file(tensors, shapes, prefix, tokens) for prefix in prefixes]
    return Networks(path.stem, unet, vae, encoders, is_xl, predicts_v="v_pred" in tensors)


def _encoder_of_file(tensors: Tensors, shapes: told.Shapes, prefix: str, tokens: ClipTokens) -> Encoder:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    if prefix == told.OPEN_CLIP_OF_XL:
        config = CLIPTextConfig(**told.open_clip_config(shapes), eos_token_id=tokens.end)
        network = _on_meta(lambda: CLIPTextModelWithProjection(config))
        return Encoder(_given(network, convert_open_clip_checkpoint(network, tensors, prefix), "OpenCLIP"), tokens, 0)
    own = {
        name.removeprefix(prefix).removeprefix("text_model."): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and not name.endswith("position_ids")
    }
    config = CLIPTextConfig(**told.clip_config(shapes, prefix), eos_token_id=tokens.end)
    return Encoder(_filled(lambda: CLIPTextModel(config), own, "CLIP"), tokens, tokens.end)


# ── a folder ──────────────────────────────────────────────────────────────────────────────────────────────


def _of_folder(path: Path) -> Networks:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    parts = json.loads((path / "model_index.json").read_text("utf-8"))
    is_xl = bool(parts.get("text_encoder_2", [None])[0])
    unet_config, vae_config = _json(path / "unet" / "config.json"), _json(path / "vae" / "config.json")
    unet = _filled(lambda: UNet2DConditionModel.from_config(unet_config), _tensors_of(path / "unet"), "UNet")
    vae = _filled(lambda: AutoencoderKL.from_config(vae_config), _with_new_names(_tensors_of(path / "vae")), "VAE")
    encoders = [_encoder_of_folder(path, number) for number in (("", "_2") if is_xl else ("",))]
    scheduler = path / "scheduler" / "scheduler_config.json"
    prediction = _json(scheduler).get("prediction_type") if scheduler.is_file() else None
    return Networks(path.name, unet, vae, encoders, is_xl, predicts_v=prediction == "v_prediction")


def _encoder_of_folder(path: Path, number: str) -> Encoder:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokens = tokens_of_folder(path / f"tokenizer{number}")
    config = CLIPTextConfig.from_json_file(path / f"text_encoder{number}" / "config.json")
    # Old configurations say 2, which only means: the token of the highest number.
    config.eos_token_id = tokens.end
    network = _on_meta(lambda: (CLIPTextModelWithProjection if number else CLIPTextModel)(config))
    wanted = set(network.state_dict())
    tensors = _tensors_of(path / f"text_encoder{number}")
    bare = {name.removeprefix("text_model."): t for name, t in tensors.items() if not name.endswith("position_ids")}
    named = {name if name in wanted else f"text_model.{name}": tensor for name, tensor in bare.items()}
    # SDXL's second tokenizer pads with "!", number 0, where CLIP's own repeats its end mark.
    return Encoder(_given(network, named, f"text encoder{number}"), tokens, 0 if number else tokens.end)


def _tensors_of(folder: Path) -> Tensors:
    """Of all files of a network; of half precision (`*.fp16.safetensors`) where there are no others."""
    from safetensors.torch import load_file

    found = sorted(folder.glob("*.safetensors"))
    whole = [file for file in found if len(file.suffixes) == 1] or [file for file in found if ".fp16" in file.name]
    if not whole:
        raise EngineError(f"{folder.parent.name}/{folder.name} holds no .safetensors file")
    tensors: Tensors = {}
    for file in whole:
        tensors |= load_file(file)
    return tensors


def _with_new_names(tensors: Tensors) -> Tensors:
    """The VAE's attention as diffusers has called it since 0.17."""
    new = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}

    def renamed(name: str) -> str:
        old = next((old for old in new if old in name), None)
        return name.replace(old, new[old]) if old else name

    return {renamed(name): tensor for name, tensor in tensors.items()}


def _json(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return read


# ── networks without weights, and weights for them ────────────────────────────────────────────────────────


def _on_meta(make: Callable[[], Any]) -> Any:
    """A network whose parameters take no memory and no time yet."""
    import torch

    with torch.device("meta"):
        return make()


def _filled(make: Callable[[], Any], tensors: Tensors, what: str) -> Any:
    return _given(_on_meta(make), tensors, what)


def _given(network: Any, tensors: Tensors, what: str) -> Any:
    """The network with these tensors for parameters. EngineError where some are missing or too many."""
    import torch

    missing, unknown = network.load_state_dict(tensors, strict=False, assign=True)
    if missing or unknown:
        names = ", ".join([*missing, *unknown][:3])
        raise EngineError(
            f"its {what} is not one of SD 1.5 or SDXL: {len(missing)} missing, {len(unknown)} more: {names}"
        )
    for module in network.modules():
        if getattr(module, "position_ids", None) is not None:
            module.position_ids = torch.arange(module.position_ids.shape[-1])[None]
    return network
