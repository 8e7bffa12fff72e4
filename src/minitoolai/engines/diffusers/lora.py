"""Apply LoRAs to single rows of a model call. The weights of the networks never change.

During a call, a hook adds `weight · scale · up(down(x))` to what a module gives for the rows that use the LoRA. So rows
with different LoRAs, or none, share a call, nothing has to be undone, and no failure leaves a changed network behind.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minitoolai.core.errors import EngineError, EngineRefused
from minitoolai.engines.diffusers.lora_files import IMAGE, LoraHeader, LoraKey, read_lora_header, scale_of
from minitoolai.engines.images.lora_tags import InvalidTag, LoraWeight, split_tags

if TYPE_CHECKING:
    import torch

    from minitoolai.engines.protocols import ImageRequest

log = logging.getLogger(__name__)
#: Most LoRAs that stay loaded with a checkpoint.
_MAX_LOADED = 16


class LoraModule(NamedTuple):
    """The two halves of a LoRA of one module, and the factor of their product."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float


class Lora:
    """A loaded LoRA: the halves that it has for modules of each network."""

    def __init__(self, name: str, version: tuple[int, int], modules: dict[str, dict[Any, LoraModule]]) -> None:
        #: Unlike its name, the version tells a file from one that replaced it.
        self.key = (name, version)
        self.version = version
        self.modules = modules


class UsedLora(NamedTuple):
    """A LoRA of an image, with its weights."""

    lora: Lora
    weight: LoraWeight

    @property
    def text_key(self) -> tuple[Any, ...]:
        """Return what tells encoded prompts apart."""
        return (*self.lora.key, self.weight.text)


UsedLoras = tuple[UsedLora, ...]


class LoraLibrary:
    """The LoRAs of one checkpoint. Loads each with the first image that names it."""

    def __init__(
        self, networks: Mapping[str, Any], device: torch.device, checkpoint: str, *, max_loaded: int = _MAX_LOADED
    ) -> None:
        self._networks, self._device, self._checkpoint = networks, device, checkpoint
        self._max_loaded = max_loaded
        self._loaded: OrderedDict[Path, Lora] = OrderedDict()

    def used_by(self, request: ImageRequest, files: Mapping[str, Path]) -> tuple[str, UsedLoras]:
        """Return the prompt of a request without tags, and its LoRAs. Raises EngineRefused."""
        try:
            prompt, weights = split_tags(request.prompt, files)
        except InvalidTag as error:
            raise EngineRefused(f"prompt: {error}") from None
        return prompt, tuple(UsedLora(self._load(name, files[name]), weight) for name, weight in weights.items())

    def bytes(self) -> int:
        """Return the size of all loaded LoRAs on the device."""
        halves = (
            half
            for lora in self._loaded.values()
            for modules in lora.modules.values()
            for module in modules.values()
            for half in (module.down, module.up)
        )
        return sum(half.numel() * half.element_size() for half in halves)

    def _load(self, name: str, path: Path) -> Lora:
        try:
            stat = path.stat()
            version = stat.st_mtime_ns, stat.st_size
            lora = self._loaded.get(path)
            if lora is None or lora.version != version:
                lora = Lora(name, version, self._read(path))
        except (OSError, EngineError) as error:
            fault = error.message if isinstance(error, EngineError) else str(error)
            log.error("LoRA %s cannot be used with %s, its images fail: %s", name, self._checkpoint, fault)
            raise EngineRefused(f"the LoRA {name!r} cannot be used at the moment: its file is faulty") from error
        self._loaded[path] = lora
        self._loaded.move_to_end(path)
        if len(self._loaded) > self._max_loaded:
            self._loaded.popitem(last=False)
        return lora

    def _read(self, path: Path) -> dict[str, dict[Any, LoraModule]]:
        """Load a file and find its modules. Raises EngineError if it does not fit the checkpoint."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        header = read_lora_header(path)
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise EngineError(f"{path.name} cannot be read: {error}") from error
        by_name = {network: _modules_of(module, network) for network, module in self._networks.items()}
        missing = [key for key in header.pairs if key.module not in by_name.get(key.network, {})]
        if missing:
            raise EngineError(
                f"{path.name} was made for another kind of model than {self._checkpoint}: {len(missing)} of its "
                f"{len(header.pairs)} modules do not exist there, such as {missing[0].module} of {missing[0].network}"
            )
        found: dict[str, dict[Any, LoraModule]] = {}
        for key in header.pairs:
            module = by_name[key.network][key.module]
            found.setdefault(key.network, {})[module] = self._fitted(path, key, header, module, tensors)
        return found

    def _fitted(self, path: Path, key: LoraKey, header: LoraHeader, module: Any, tensors: Any) -> LoraModule:
        pair = header.pairs[key]
        down, up, alpha = tensors[pair.down], tensors[pair.up], None if pair.alpha is None else tensors[pair.alpha]
        weight = module.weight
        if weight.ndim == 2:
            # A linear layer was a convolution of one pixel in some networks.
            down, up = (half.flatten(1) if half.shape[2:] in ((), (1, 1)) else half for half in (down, up))
        elif down.ndim == 2:
            down, up = down[:, :, None, None], up[:, :, None, None]
        if down.shape[1:] != weight.shape[1:] or up.shape[0] != weight.shape[0] or any(n != 1 for n in up.shape[2:]):
            raise EngineError(
                f"{path.name} does not fit {self._checkpoint}: {key.module} has weights {list(weight.shape)}, but its "
                f"LoRA has down {list(down.shape)} and up {list(up.shape)}"
            )
        down, up = (half.to(device=self._device, dtype=weight.dtype) for half in (down, up))
        scale = scale_of(key, pair, None if alpha is None else float(alpha), header.settings.get(key.network, {}))
        return LoraModule(down, up, scale)


def _modules_of(network: Any, kind: str) -> dict[str, Any]:
    """Return the modules that a LoRA can change, by all names in use, with underscores for dots."""
    import torch

    found: dict[str, Any] = {}
    for path, module in network.named_modules():
        if not isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            continue
        if kind != IMAGE:
            bare = path.removeprefix("text_model.").replace(".", "_")
            found |= {bare: module, f"text_model_{bare}": module}
            continue
        found[path.replace(".", "_")] = module
        if hasattr(network, "down_blocks"):
            found[ldm_name(path, network.config).replace(".", "_")] = module
    return found


_LDM_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
}
_LDM_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def ldm_name(path: str, config: Any) -> str:
    """Return the name of a module of a UNet in the files of Stability AI, by which kohya's scripts know SDXL."""
    side, *rest = path.split(".")
    if side not in ("down_blocks", "mid_block", "up_blocks"):
        return _LDM_ENDS.get(path, path)
    per_block = config["layers_per_block"] + 1
    if side == "mid_block":
        kind, index, *inner = rest
        return ".".join(("middle_block", str(2 * int(index)) if kind == "resnets" else "1", *_ldm_inner(kind, inner)))
    block, kind, index, *inner = rest
    first = per_block * int(block)
    if kind == "downsamplers":
        return f"input_blocks.{first + per_block}.0.op"
    if kind == "upsamplers":
        has_attention = "CrossAttn" in config["up_block_types"][int(block)]
        return f"output_blocks.{first + per_block - 1}.{2 if has_attention else 1}.conv"
    number = first + int(index) + (1 if side == "down_blocks" else 0)
    name = "input_blocks" if side == "down_blocks" else "output_blocks"
    return ".".join((name, str(number), "0" if kind == "resnets" else "1", *_ldm_inner(kind, inner)))


def _ldm_inner(kind: str, inner: list[str]) -> list[str]:
    return [_LDM_RESNET.get(part, part) for part in inner] if kind == "resnets" else inner


# ── applying ──────────────────────────────────────────────────────────────────────────────────────────────────


class _Share(NamedTuple):
    """What one LoRA adds to the output of one module, and for which rows; None: all."""

    module: LoraModule
    rows: torch.Tensor | None
    weights: torch.Tensor


@contextmanager
def applied(network: str, rows: Sequence[UsedLoras], weight: Callable[[LoraWeight], float]) -> Iterator[None]:
    """Apply LoRAs to the rows of each call of a network; one row stands for all. `weight` chooses between its two.

    Hooks are removed at the end, also after an error.
    """
    shares: dict[Any, list[_Share]] = {}
    for used in {id(one.lora): one.lora for row in rows for one in row}.values():
        modules = used.modules.get(network)
        if modules:
            for module, halves, indices, weights in _shares_of(used, modules, rows, weight):
                shares.setdefault(module, []).append(_Share(halves, indices, weights))
    hooks = [module.register_forward_hook(_hook(own)) for module, own in shares.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _shares_of(
    lora: Lora, modules: Mapping[Any, LoraModule], rows: Sequence[UsedLoras], weight: Callable[[LoraWeight], float]
) -> Iterator[tuple[Any, LoraModule, torch.Tensor | None, torch.Tensor]]:
    """Yield each module that a LoRA changes, with the rows that use it and their weights."""
    import torch

    by_row: dict[int, float] = {}
    for i, row in enumerate(rows):
        for one in row:
            # Two names may stand for one file.
            if one.lora is lora:
                by_row[i] = by_row.get(i, 0.0) + weight(one.weight)
    device = next(iter(modules.values())).down.device
    indices = None if len(by_row) == len(rows) else torch.tensor(list(by_row), device=device)
    weights = torch.tensor(list(by_row.values()), device=device)
    for module, halves in modules.items():
        yield module, halves, indices, weights


def _hook(shares: Sequence[_Share]) -> Callable[[Any, tuple[Any, ...], torch.Tensor], torch.Tensor]:
    def add(module: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        for share in shares:
            x = inputs[0] if share.rows is None else inputs[0][share.rows]
            added = _product(module, share.module, x)
            factors = (share.weights * share.module.scale).to(added.dtype)
            added = added * factors.reshape(-1, *[1] * (added.ndim - 1))
            output = output + added if share.rows is None else output.index_add(0, share.rows, added)
        return output

    return add


def _product(module: Any, halves: LoraModule, x: torch.Tensor) -> torch.Tensor:
    import torch

    if halves.down.ndim == 2:
        return torch.nn.functional.linear(torch.nn.functional.linear(x, halves.down), halves.up)
    low = torch.nn.functional.conv2d(
        x, halves.down, stride=module.stride, padding=module.padding, dilation=module.dilation
    )
    return torch.nn.functional.conv2d(low, halves.up)
