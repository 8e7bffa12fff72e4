"""Random LoRAs for tiny checkpoints, in all the ways to name their tensors, and the networks that they should give."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from tests.support.diffusion import Tiny, _unet_name

Naming = Literal["kohya", "kohya-xl", "peft", "diffusers", "processors"]
RANK, ALPHA = 4, 2.0
#: Attention, feed-forward and convolutions; of the latter one with a stride, and those that change the width.
_UNET = ("attn1.to_q", "attn2.to_out.0", "attn2.to_v", "ff.net.2", "proj_in", "conv1", "conv_shortcut",
         "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj")  # fmt: skip
_TEXT = ("q_proj", "out_proj", "fc1")


class RandomLora:
    """A LoRA of random numbers: two halves for each of several modules of a checkpoint."""

    def __init__(self, tiny: Tiny, *, seed: int = 0, strength: float = 0.15, networks: tuple[str, ...] = ()) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tiny = tiny
        self.halves: dict[tuple[str, str], tuple[Any, Any]] = {}
        for network, module in tiny.networks().items():
            if network == "vae" or (networks and network not in networks):
                continue
            for path, part in module.named_modules():
                if path.endswith(_UNET if network == "unet" else _TEXT):
                    shape = part.weight.shape
                    down = torch.randn(RANK, *shape[1:], generator=generator) * strength
                    up = torch.randn(shape[0], RANK, *[1] * (len(shape) - 2), generator=generator) * strength
                    self.halves[network, path] = down, up

    def merged(self, *weights: float) -> Tiny:
        """Return the checkpoint with the LoRA added to its weights, computed here; of two, the first is for texts."""
        tiny = copy.copy(self.tiny)
        for name, network in self.tiny.networks().items():
            setattr(tiny, name, copy.deepcopy(network))
        for (network, path), (down, up) in self.halves.items():
            weight = tiny.networks()[network].get_submodule(path).weight
            product = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
            own = weights[-1] if network == "unet" else weights[0]
            weight.data += own * self.scale * product
        return tiny

    scale = ALPHA / RANK

    def tensors(self, naming: Naming) -> dict[str, Any]:
        """Return the tensors by the names of a tool."""
        found: dict[str, Any] = {}
        for (network, path), (down, up) in self.halves.items():
            first, second = self._names(network, path, naming)
            found |= {first: down, second: up}
            if naming.startswith("kohya"):
                found[first.replace(".lora_down.weight", ".alpha")] = torch.tensor(ALPHA)
            else:
                # The formats of diffusers have no alpha: it is part of one half.
                found[second] = up * self.scale
        return {name: tensor.contiguous() for name, tensor in found.items()}

    def _names(self, network: str, path: str, naming: Naming) -> tuple[str, str]:
        text = "" if network == "unet" or path.startswith("text_model.") else "text_model."
        if naming.startswith("kohya"):
            numbers = {"text_encoder": "te1" if self.tiny.is_xl else "te", "text_encoder_2": "te2", "unet": "unet"}
            if network == "unet" and naming == "kohya-xl":
                kinds = ["Attn" in kind for kind in self.tiny.unet.config.up_block_types]
                path = _unet_name(f"{path}.weight", kinds).removesuffix(".weight")
            name = f"lora_{numbers[network]}_{(text + path).replace('.', '_')}"
            return f"{name}.lora_down.weight", f"{name}.lora_up.weight"
        name = f"{network}.{text}{path}"
        if naming == "peft":
            return f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        if naming == "processors" and ".attn" in path:
            attention, _, projection = name.removesuffix(".0").rpartition(".")
            stem = f"{attention}.processor.{projection}_lora"
            return f"{stem}.down.weight", f"{stem}.up.weight"
        kind = "lora" if network == "unet" else "lora_linear_layer"
        return f"{name}.{kind}.down.weight", f"{name}.{kind}.up.weight"

    def save(self, path: Path, naming: Naming = "kohya") -> Path:
        """Write the file."""
        save_file(self.tensors(naming), path)
        return path
