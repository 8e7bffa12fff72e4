"""Tiny Stable Diffusion checkpoints with random weights, as a folder and as a single file.

The tensor names of the file follow the published layout and are implemented here independently of diffusers'
converters, through which the engine reads them.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

Tensors = dict[str, torch.Tensor]
#: Common to all published SD 1.5 and SDXL checkpoints.
NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "linspace",
    "steps_offset": 1,
}
CLIP_TOKENS = 49_408


class Tiny:
    """The networks of one checkpoint, with a vocabulary of `tokens` tokens."""

    def __init__(self, *, is_xl: bool, tokens: int = CLIP_TOKENS, seed: int = 0, **unet: Any) -> None:
        torch.manual_seed(seed)
        self.is_xl = is_xl
        self.unet = UNet2DConditionModel.from_config(unet_config(is_xl=is_xl) | unet)
        self.vae = AutoencoderKL.from_config(vae_config(is_xl=is_xl))
        first = clip(32, tokens, "quick_gelu")
        self.text_encoder = CLIPTextModel(first)
        self.text_encoder_2 = CLIPTextModelWithProjection(clip(64, tokens, "gelu")) if is_xl else None
        for network in self.networks().values():
            network.eval().requires_grad_(False)
        # Scale up the last layer, so that prompts and noise have a visible effect with random weights.
        self.unet.conv_out.weight.mul_(8)

    def networks(self) -> dict[str, Any]:
        """Return the networks by the names of their folders."""
        named = {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}
        return named | ({"text_encoder_2": self.text_encoder_2} if self.is_xl else {})

    def save_folder(self, folder: Path, *, variant: str | None = None) -> Path:
        """Save in diffusers' layout, with a vocabulary of letters and three words."""
        for name, network in self.networks().items():
            network.save_pretrained(folder / name, variant=variant)
        for name in ("tokenizer", "tokenizer_2") if self.is_xl else ("tokenizer",):
            save_vocabulary(folder / name)
        EulerDiscreteScheduler(**NOISE).save_pretrained(folder / "scheduler")
        kind = "StableDiffusionXLPipeline" if self.is_xl else "StableDiffusionPipeline"
        parts = {name: ["x", type(network).__name__] for name, network in self.networks().items()}
        (folder / "model_index.json").write_text(json.dumps({"_class_name": kind, **parts}))
        return folder

    def save_file(self, path: Path, *, dtype: torch.dtype = torch.float32, **extra: torch.Tensor) -> Path:
        """Save as one file in the layout of CompVis and Stability AI."""
        tensors = {name: tensor.to(dtype).contiguous() for name, tensor in self.published().items()}
        save_file({**tensors, **extra}, path)
        return path

    def published(self) -> Tensors:
        """Return all tensors by their published names."""
        tensors = {f"model.diffusion_model.{n}": t for n, t in unet_names(self.unet).items()}
        tensors |= {f"first_stage_model.{n}": t for n, t in vae_names(self.vae).items()}
        words = {f"text_model.{n}": t for n, t in self.text_encoder.state_dict().items()}
        words["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        if self.text_encoder_2 is None:
            return tensors | {f"cond_stage_model.transformer.{n}": t for n, t in words.items()}
        tensors |= {f"conditioner.embedders.0.transformer.{n}": t for n, t in words.items()}
        second = open_clip_names(self.text_encoder_2)
        return tensors | {f"conditioner.embedders.1.model.{n}": t for n, t in second.items()}


def unet_config(*, is_xl: bool) -> dict[str, Any]:
    """Return the shape of SDXL or SD 1.5, ten times narrower."""
    cross, plain = "CrossAttn{}Block2D", "{}Block2D"
    kinds = [plain, cross, cross] if is_xl else [cross, cross, cross, plain]
    config: dict[str, Any] = {
        "sample_size": 16,
        "layers_per_block": 2,
        "down_block_types": [kind.format("Down") for kind in kinds],
        "up_block_types": [kind.format("Up") for kind in reversed(kinds)],
        "block_out_channels": [32, 64, 128] if is_xl else [32, 64, 64, 64],
        "cross_attention_dim": 96 if is_xl else 32,
        "attention_head_dim": [1, 1, 2] if is_xl else 8,
    }
    if is_xl:
        config |= {
            "transformer_layers_per_block": [1, 1, 2],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 64 + 6 * 8,
        }
    return config


def vae_config(*, is_xl: bool) -> dict[str, Any]:
    """Return the VAE of both, narrower."""
    return {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [32, 32, 64, 64],
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": 0.13025 if is_xl else 0.18215,
        "force_upcast": is_xl,
        "sample_size": 64,
    }


def clip(width: int, tokens: int, act: str) -> CLIPTextConfig:
    """Return a text encoder with two layers. The end mark is the last token, as in CLIP's vocabulary."""
    return CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // 64),
        hidden_act=act,
        projection_dim=width,
        bos_token_id=tokens - 2,
        eos_token_id=tokens - 1,
        pad_token_id=tokens - 1,
    )


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a vocabulary of bytes, bytes that end a word, and the merges of three words."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    merges = []
    for word in ("red", "apple", "worm"):
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append((pieces[-2], pieces[-1]))
            pieces[-2:] = [pieces[-2] + pieces[-1]]
    joined = [first + second for first, second in merges]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *joined, "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


TINY_TOKENS = len(vocabulary()[0])


def save_vocabulary(folder: Path) -> None:
    """Write vocab.json and merges.txt."""
    tokens, merges = vocabulary()
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(tokens))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))


# ── published names ───────────────────────────────────────────────────────────────────────────────────────

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_names(unet: Any) -> Tensors:
    """Return the tensors of a UNet by LDM's names."""
    has_attention = ["Attn" in kind for kind in unet.config.up_block_types]
    return {_unet_name(name, has_attention): tensor for name, tensor in unet.state_dict().items()}


def _unet_name(name: str, has_attention: list[bool]) -> str:
    for ours, theirs in _UNET_ENDS.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    if middle := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        place = 1 if middle[1] == "attentions" else 2 * int(middle[2])
        return f"middle_block.{place}.{_inner(middle[1], middle[3])}"
    block = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name)
    assert block, name
    side, number, kind, layer, rest = block[1], int(block[2]), block[3], int(block[4]), block[5]
    if kind == "downsamplers":
        return f"input_blocks.{3 * (number + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{3 * number + 2}.{2 if has_attention[number] else 1}.{rest}"
    place = f"input_blocks.{3 * number + layer + 1}" if side == "down" else f"output_blocks.{3 * number + layer}"
    return f"{place}.{int(kind == 'attentions')}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    if kind == "attentions":
        return rest
    part, _, end = rest.partition(".")
    return f"{_RESNET[part]}.{end}"


def vae_names(vae: Any) -> Tensors:
    """Return the tensors of a VAE by LDM's names, with its attention as convolutions of one pixel."""
    blocks = len(vae.config.block_out_channels)
    tensors = {}
    for name, tensor in vae.state_dict().items():
        new = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        new = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{blocks - 1 - int(m[1])}.block.{m[2]}", new)
        new = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            new = re.sub(r"to_([qkv])\b", r"\1", new).replace("to_out.0", "proj_out")
            tensors[new] = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        else:
            tensors[new] = tensor
    return tensors


def open_clip_names(encoder: Any) -> Tensors:
    """Return the tensors of SDXL's second encoder by OpenCLIP's names, with query, key and value in one tensor."""
    state: Tensors = {n.removeprefix("text_model."): t for n, t in encoder.state_dict().items()}
    tensors = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T,
        "logit_scale": torch.tensor(4.6),
    }
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for layer in range(encoder.config.num_hidden_layers):
        ours, theirs = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            joined = [state[f"{ours}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            tensors[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(joined)
            tensors[f"{theirs}.attn.out_proj.{kind}"] = state[f"{ours}.self_attn.out_proj.{kind}"]
            for part, name in names.items():
                tensors[f"{theirs}.{name}.{kind}"] = state[f"{ours}.{part}.{kind}"]
    return tensors


# ── results and doubles ────────────────────────────────────────────────────────────────────────────────────


def pixels_of(png: bytes) -> Any:
    """Return the pixels (height, width, 3) as integers."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


class Watched:
    """A network that records the rows of each call and runs out of memory above `most` rows."""

    def __init__(self, network: Any, most: int = 1_000) -> None:
        self._network = network
        self.most = most
        self.calls: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def __call__(self, x: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        self.calls.append(len(x))
        return self._network(x, *arguments, **named)
