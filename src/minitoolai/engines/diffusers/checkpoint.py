"""Load Stable Diffusion weights from a file or folder. Safetensors only: executes and downloads nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitoolai.core.errors import EngineError
from minitoolai.engines.diffusers.lora_files import IMAGE, TEXT, TEXT_2
from minitoolai.engines.diffusers.prompts import ClipTokenizer, clip_tokenizer, tokenizer_of_folder

if TYPE_CHECKING:
    import torch

EXTENSION = ".safetensors"


class WeightsFolder:
    """The folder of MINITOOLAI_WEIGHTS_DIR, one file or folder per model. Not cached."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str) -> Path | None:
        """Return the file or folder of this name, or None. `x.safetensors` may also be a diffusers folder `x`."""
        path = self._folder / name
        if path.is_file() and path.suffix == EXTENSION:
            return path
        folder = path.with_suffix("") if path.suffix == EXTENSION else path
        return folder if (folder / "model_index.json").is_file() else None

    def why_missing(self, name: str) -> str | None:
        """Return None if the weights exist, else which file to put where."""
        if self.find(name) is not None:
            return None
        path = self._folder / name
        folder = path.with_suffix("") if path.suffix == EXTENSION else path
        file = path if path.suffix == EXTENSION else path.with_name(path.name + EXTENSION)
        if file.is_file() or folder.is_dir():
            return f"{folder} is not a diffusers folder (no model_index.json): copy all of it, or provide {file}"
        return f"no file {file}: put it there, or a diffusers folder {folder.name}"


# ── networks ──────────────────────────────────────────────────────────────────────────────────────────────────

Tensors = dict[str, Any]


@dataclass
class TextEncoder:
    """A text encoder with its tokenizer. `pad` is the token that follows the end mark."""

    network: Any
    tokens: ClipTokenizer
    pad: int


@dataclass
class Networks:
    """The networks of one checkpoint. SDXL has two text encoders, SD 1.5 one."""

    name: str
    unet: Any
    vae: Any
    encoders: list[TextEncoder]
    is_xl: bool
    #: The UNet predicts `v` instead of the noise (arXiv 2202.00512).
    predicts_v: bool = False
    #: Its last training timestep is pure noise (arXiv 2305.08891).
    zero_snr: bool = False
    #: What the VAE adds to scaled latents.
    shift: float = 0.0

    def by_name(self) -> dict[str, Any]:
        """Return the networks that LoRAs can change."""
        texts = zip((TEXT, TEXT_2), self.encoders, strict=False)
        return {IMAGE: self.unet, **{name: encoder.network for name, encoder in texts}}

    def bytes(self) -> int:
        """Return the size of all parameters on the device."""
        networks = [self.unet, self.vae, *(encoder.network for encoder in self.encoders)]
        return sum(p.numel() * p.element_size() for network in networks for p in network.parameters())


def load_networks(path: Path, *, device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype) -> Networks:
    """Load a checkpoint of SDXL or SD 1.5. `vae_dtype` is for SDXL's VAE, which overflows in float16.

    Raises EngineError for any other model.
    """
    from diffusers.utils import logging
    from safetensors import SafetensorError

    # Silence its warning about an intended cast of each network.
    logging.set_verbosity_error()
    load = _load_file if path.is_file() else _load_folder
    try:
        networks = load(path)
    except (OSError, KeyError, ValueError, IndexError, RuntimeError, StopIteration, SafetensorError) as error:
        if "out of memory" in str(error).lower():
            raise
        raise EngineError(f"{path.name} cannot be loaded: {type(error).__name__}: {error}"[:500]) from error
    for network in (networks.unet, *(encoder.network for encoder in networks.encoders)):
        network.to(device=device, dtype=dtype).eval().requires_grad_(False)
    needs_upcast = networks.is_xl and getattr(networks.vae.config, "force_upcast", True)
    networks.vae.to(device=device, dtype=vae_dtype if needs_upcast else dtype).eval().requires_grad_(False)
    if device.type == "cuda":
        import torch

        for network in (networks.unet, networks.vae):
            network.to(memory_format=torch.channels_last)
    return networks


# ── a single file ─────────────────────────────────────────────────────────────────────────────────────────


def _load_file(path: Path) -> Networks:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
    from safetensors.torch import load_file

    tensors: Tensors = load_file(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    # First, because its message describes the fault of files of other models.
    of_xl = is_xl(shapes)
    unet_shape, vae_shape = unet_config(shapes), vae_config(shapes)
    unet = _build(
        lambda: UNet2DConditionModel.from_config(unet_shape), convert_ldm_unet_checkpoint(tensors, unet_shape), "UNet"
    )
    vae = _build(lambda: AutoencoderKL.from_config(vae_shape), convert_ldm_vae_checkpoint(tensors, vae_shape), "VAE")
    prefixes = (CLIP_OF_XL, OPEN_CLIP_OF_XL) if of_xl else (CLIP_OF_15,)
    tokens = clip_tokenizer()
    encoders = [_encoder_of_file(tensors, shapes, prefix, tokens) for prefix in prefixes]
    return Networks(path.stem, unet, vae, encoders, of_xl, predicts_v="v_pred" in tensors, zero_snr="ztsnr" in tensors)


def _encoder_of_file(tensors: Tensors, shapes: Shapes, prefix: str, tokens: ClipTokenizer) -> TextEncoder:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    if prefix == OPEN_CLIP_OF_XL:
        config = CLIPTextConfig(**open_clip_config(shapes), eos_token_id=tokens.end)
        network = _on_meta(lambda: CLIPTextModelWithProjection(config))
        return TextEncoder(
            _assign(network, convert_open_clip_checkpoint(network, tensors, prefix), "OpenCLIP"), tokens, 0
        )
    own = {
        name.removeprefix(prefix).removeprefix("text_model."): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and not name.endswith("position_ids")
    }
    config = CLIPTextConfig(**clip_config(shapes, prefix), eos_token_id=tokens.end)
    return TextEncoder(_build(lambda: CLIPTextModel(config), own, "CLIP"), tokens, tokens.end)


# ── a folder ──────────────────────────────────────────────────────────────────────────────────────────────


def _load_folder(path: Path) -> Networks:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    parts = json.loads((path / "model_index.json").read_text("utf-8"))
    is_xl = bool(parts.get("text_encoder_2", [None])[0])
    unet_config, vae_config = _read_json(path / "unet" / "config.json"), _read_json(path / "vae" / "config.json")
    unet = _build(lambda: UNet2DConditionModel.from_config(unet_config), _tensors_of(path / "unet"), "UNet")
    vae = _build(lambda: AutoencoderKL.from_config(vae_config), _rename_attention(_tensors_of(path / "vae")), "VAE")
    encoders = [_encoder_of_folder(path, number) for number in (("", "_2") if is_xl else ("",))]
    scheduler = path / "scheduler" / "scheduler_config.json"
    schedule = _read_json(scheduler) if scheduler.is_file() else {}
    return Networks(
        path.name,
        unet,
        vae,
        encoders,
        is_xl,
        predicts_v=schedule.get("prediction_type") == "v_prediction",
        zero_snr=bool(schedule.get("rescale_betas_zero_snr")),
    )


def _encoder_of_folder(path: Path, number: str) -> TextEncoder:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokens = tokenizer_of_folder(path / f"tokenizer{number}")
    config = CLIPTextConfig.from_json_file(path / f"text_encoder{number}" / "config.json")
    # Old configurations contain 2, which stands for the token of the highest number.
    config.eos_token_id = tokens.end
    network = _on_meta(lambda: (CLIPTextModelWithProjection if number else CLIPTextModel)(config))
    expected = set(network.state_dict())
    tensors = _tensors_of(path / f"text_encoder{number}")
    bare = {name.removeprefix("text_model."): t for name, t in tensors.items() if not name.endswith("position_ids")}
    named = {name if name in expected else f"text_model.{name}": tensor for name, tensor in bare.items()}
    # SDXL's second tokenizer pads with "!", number 0, where CLIP's own repeats its end mark.
    return TextEncoder(_assign(network, named, f"text encoder{number}"), tokens, 0 if number else tokens.end)


def _tensors_of(folder: Path) -> Tensors:
    """Load all tensors of a network, from half-precision files (`*.fp16.safetensors`) if there are no others."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    chosen = [file for file in files if len(file.suffixes) == 1] or [file for file in files if ".fp16" in file.name]
    if not chosen:
        raise EngineError(f"{folder.parent.name}/{folder.name} contains no .safetensors file")
    tensors: Tensors = {}
    for file in chosen:
        tensors |= load_file(file)
    return tensors


def _rename_attention(tensors: Tensors) -> Tensors:
    """Rename the attention tensors of a VAE to the names that diffusers has used since 0.17."""
    new = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}

    def renamed(name: str) -> str:
        old = next((old for old in new if old in name), None)
        return name.replace(old, new[old]) if old else name

    return {renamed(name): tensor for name, tensor in tensors.items()}


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


# ── building networks without weights, then assigning them ────────────────────────────────────────────────────────


def _on_meta(make: Callable[[], Any]) -> Any:
    """Build a network on the meta device, where parameters take neither memory nor time."""
    import torch

    with torch.device("meta"):
        return make()


def _build(make: Callable[[], Any], tensors: Tensors, what: str) -> Any:
    return _assign(_on_meta(make), tensors, what)


def _assign(network: Any, tensors: Tensors, what: str) -> Any:
    """Assign tensors as the parameters of a network. Raises EngineError if any are missing or unknown."""
    import torch

    missing, unknown = network.load_state_dict(tensors, strict=False, assign=True)
    if missing or unknown:
        names = ", ".join([*missing, *unknown][:3])
        raise EngineError(
            f"its {what} is not one of SD 1.5 or SDXL: {len(missing)} tensors missing, {len(unknown)} unknown: {names}"
        )
    for module in network.modules():
        if getattr(module, "position_ids", None) is not None:
            module.position_ids = torch.arange(module.position_ids.shape[-1])[None]
    return network


# ── configurations of networks, derived from the tensors of a single file ─────────────────────────────────────

# Such files contain no configuration. SD 1.5 and SDXL differ in shapes, and in three facts that shapes do not show:
# attention heads (8 of any width, or as many as there are of width 64), the VAE's scale, and CLIP's activations.

#: Shapes of tensors by name.
Shapes = Mapping[str, tuple[int, ...]]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP_OF_15, CLIP_OF_XL, OPEN_CLIP_OF_XL = (
    "cond_stage_model.transformer.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.1.model.",
)
_HEAD_WIDTH = 64
_HEADS_OF_15 = 8
_LAYERS_PER_BLOCK = 2


def is_xl(shapes: Shapes) -> bool:
    """Return True for SDXL, False for SD 1.5. Raises EngineError for anything else."""
    if f"{UNET}input_blocks.0.0.weight" not in shapes:
        raise EngineError("the file contains no Stable Diffusion UNet: it is another model, or a part of one")
    if shapes[f"{UNET}input_blocks.0.0.weight"][1] != 4:
        raise EngineError("the file is an inpainting checkpoint; use a text-to-image checkpoint")
    if any(name.startswith(OPEN_CLIP_OF_XL) for name in shapes):
        if not any(name.startswith(CLIP_OF_XL) for name in shapes):
            raise EngineError("the file lacks SDXL's first text encoder")
        return True
    if not any(name.startswith(CLIP_OF_15) for name in shapes):
        raise EngineError(
            "the file contains no text encoder of SD 1.5 or SDXL (an SDXL refiner or SD 2 is not supported)"
        )
    return False


def unet_config(shapes: Shapes) -> dict[str, Any]:
    """Return diffusers' configuration of the UNet."""
    own = {name.removeprefix(UNET): shape for name, shape in shapes.items() if name.startswith(UNET)}
    blocks = _count(own, r"input_blocks\.(\d+)\.") // (_LAYERS_PER_BLOCK + 1)
    first = [1 + i * (_LAYERS_PER_BLOCK + 1) for i in range(blocks)]
    widths = [own[f"input_blocks.{i}.0.out_layers.3.weight"][0] for i in first]
    depths = [_count(own, rf"input_blocks\.{i}\.1\.transformer_blocks\.(\d+)\.") for i in first]
    attended = next(shape for name, shape in own.items() if name.endswith("attn2.to_k.weight"))
    xl = is_xl(shapes)
    config: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "sample_size": 128 if xl else 64,
        "layers_per_block": _LAYERS_PER_BLOCK,
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "transformer_layers_per_block": [max(1, depth) for depth in depths],
        "cross_attention_dim": attended[1],
        "attention_head_dim": [max(1, width // _HEAD_WIDTH) for width in widths] if xl else _HEADS_OF_15,
        "use_linear_projection": len(next(s for n, s in own.items() if n.endswith(".proj_in.weight"))) == 2,
    }
    if xl:
        embedding_width = own["label_emb.0.0.weight"][1]
        pooled = shapes[f"{OPEN_CLIP_OF_XL}text_projection"][1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (embedding_width - pooled) // 6,
            "projection_class_embeddings_input_dim": embedding_width,
        }
    return config


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """Return diffusers' configuration of the VAE."""
    blocks = _count(shapes, rf"{re.escape(VAE)}encoder\.down\.(\d+)\.")
    if not blocks:
        raise EngineError("the file contains no VAE: use a checkpoint that includes one")
    xl = is_xl(shapes)
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "layers_per_block": _LAYERS_PER_BLOCK,
        "block_out_channels": [shapes[f"{VAE}encoder.down.{i}.block.0.conv1.weight"][0] for i in range(blocks)],
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "scaling_factor": 0.13025 if xl else 0.18215,
        "force_upcast": xl,
    }


def clip_config(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """Return transformers' configuration of the CLIP text encoder below `prefix` (with or without `text_model.`)."""
    own = _below(shapes, prefix, "text_model.")
    tokens, width = own["embeddings.token_embedding.weight"]
    return {
        "vocab_size": tokens,
        "hidden_size": width,
        "intermediate_size": own["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count(own, r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
        "max_position_embeddings": own["embeddings.position_embedding.weight"][0],
        "hidden_act": "quick_gelu",
        "projection_dim": width,
    }


def open_clip_config(shapes: Shapes) -> dict[str, Any]:
    """Return transformers' configuration of SDXL's second text encoder, OpenCLIP's bigG."""
    own = _below(shapes, OPEN_CLIP_OF_XL)
    tokens, width = own["token_embedding.weight"]
    return {
        "vocab_size": tokens,
        "hidden_size": width,
        "intermediate_size": own["transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": _count(own, r"transformer\.resblocks\.(\d+)\."),
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
        "max_position_embeddings": own["positional_embedding"][0],
        "hidden_act": "gelu",
        "projection_dim": own["text_projection"][1],
    }


def _below(shapes: Shapes, *prefixes: str) -> dict[str, tuple[int, ...]]:
    own = {name.removeprefix(prefixes[0]): s for name, s in shapes.items() if name.startswith(prefixes[0])}
    return {name.removeprefix(prefixes[-1]) if prefixes[1:] else name: shape for name, shape in own.items()}


def _count(shapes: Mapping[str, Any], numbered: str) -> int:
    """Return one more than the highest number that the pattern matches."""
    matches = (re.match(numbered, name) for name in shapes)
    return max((int(match[1]) + 1 for match in matches if match), default=0)
