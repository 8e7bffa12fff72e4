"""What networks a single file of Stable Diffusion weights holds, told by the names and shapes of its tensors.

Files carry no configuration; those of SD 1.5 and SDXL differ in shape and in three facts that shapes do not show:
attention heads (8 of any width, or as many as there are of width 64), the VAE's scale, and CLIP's activations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from minitoolai.core.errors import EngineError

#: Name → shape.
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
    """SDXL, or SD 1.5. EngineError for anything else."""
    if f"{UNET}input_blocks.0.0.weight" not in shapes:
        raise EngineError("the file holds no UNet of Stable Diffusion: it is another model, or a part of one")
    if shapes[f"{UNET}input_blocks.0.0.weight"][1] != 4:
        raise EngineError("the file is an inpainting checkpoint; a plain one is needed")
    if any(name.startswith(OPEN_CLIP_OF_XL) for name in shapes):
        if not any(name.startswith(CLIP_OF_XL) for name in shapes):
            raise EngineError("the file lacks SDXL's first text encoder")
        return True
    if not any(name.startswith(CLIP_OF_15) for name in shapes):
        raise EngineError("the file holds no text encoder of SD 1.5 or SDXL (an SDXL refiner or SD 2 is not supported)")
    return False


def unet_config(shapes: Shapes) -> dict[str, Any]:
    """diffusers' configuration of the UNet."""
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
        told = own["label_emb.0.0.weight"][1]
        pooled = shapes[f"{OPEN_CLIP_OF_XL}text_projection"][1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (told - pooled) // 6,
            "projection_class_embeddings_input_dim": told,
        }
    return config


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """diffusers' configuration of the VAE."""
    blocks = _count(shapes, rf"{re.escape(VAE)}encoder\.down\.(\d+)\.")
    if not blocks:
        raise EngineError("the file holds no VAE: one with a VAE inside is needed")
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
    """transformers' configuration of OpenAI's CLIP text encoder below `prefix` (with or without `text_model.`)."""
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
    """transformers' configuration of SDXL's second text encoder, OpenCLIP's bigG."""
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
    """One more than the highest number that the pattern finds."""
    found = (re.match(numbered, name) for name in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)
