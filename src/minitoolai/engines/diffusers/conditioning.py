"""Encode prompts for the UNet: run each window through the text encoders, apply the weights, and concatenate."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from minitoolai.engines.diffusers.checkpoint import Networks, TextEncoder
from minitoolai.engines.diffusers.lora import UsedLoras, applied
from minitoolai.engines.diffusers.lora_files import TEXT, TEXT_2
from minitoolai.engines.diffusers.prompts import MAX_WEIGHT, WINDOW, Window, windows

if TYPE_CHECKING:
    import torch

#: Size of the cache of encoded prompts; negative prompts often repeat.
_CACHE_SIZE = 32


class Conditioning(NamedTuple):
    """An encoded prompt: `words` (77 k, width) for k windows; `pooled` (width of the second encoder,) for SDXL only."""

    words: torch.Tensor
    pooled: torch.Tensor | None


class PromptEncoder:
    """Encodes prompts with the networks of one checkpoint."""

    def __init__(self, networks: Networks, device: torch.device) -> None:
        self._networks, self._device = networks, device
        self._cache: OrderedDict[tuple[Any, ...], Conditioning] = OrderedDict()

    def encode(self, prompt: str, *, is_negative: bool = False, loras: UsedLoras = ()) -> Conditioning:
        """Encode a prompt. SDXL was trained with zeros for an empty negative prompt."""
        is_empty = is_negative and not prompt.strip()
        key = (prompt, is_empty, *(lora.text_key for lora in loras))
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        encoded = self._encode(prompt, loras)
        if is_empty and self._networks.is_xl:
            encoded = Conditioning(encoded.words * 0, encoded.pooled * 0 if encoded.pooled is not None else None)
        self._cache[key] = encoded
        if len(self._cache) > _CACHE_SIZE:
            self._cache.popitem(last=False)
        return encoded

    def _encode(self, prompt: str, loras: UsedLoras) -> Conditioning:
        import torch

        encoded = []
        for network, encoder in zip((TEXT, TEXT_2), self._networks.encoders, strict=False):
            with torch.inference_mode(), applied(network, [loras], lambda weight: weight.text):
                encoded.append(self._encode_windows(prompt, encoder))
        words, pooled = zip(*encoded, strict=True)
        return Conditioning(torch.cat(words, dim=-1), pooled[-1])

    def _encode_windows(self, prompt: str, encoder: TextEncoder) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return (77 k, width) of one encoder, and its pooled vector of the first window if it has one."""
        import torch

        prompt_windows = windows(prompt, encoder.tokens.encode, encoder.tokens.comma)
        ids = torch.tensor([_with_marks(window, encoder) for window in prompt_windows], device=self._device)
        out: Any = encoder.network(input_ids=ids, output_hidden_states=True)
        # SDXL was trained on the penultimate layer, without the final normalisation.
        hidden = out.hidden_states[-2] if self._networks.is_xl else out.last_hidden_state
        weighted = torch.stack(
            [_weighted(states, window) for states, window in zip(hidden, prompt_windows, strict=True)]
        )
        return weighted.flatten(0, 1), out.text_embeds[0] if "text_embeds" in out else None


def _with_marks(window: Window, encoder: TextEncoder) -> list[int]:
    """Return 77 tokens: start mark, tokens, end mark, padding."""
    marked = [encoder.tokens.start, *window.tokens, encoder.tokens.end]
    return marked + [encoder.pad] * (WINDOW + 2 - len(marked))


def _weighted(states: torch.Tensor, window: Window) -> torch.Tensor:
    """Scale states (77, width) by the weights of their tokens, then restore their mean."""
    import torch

    if all(weight == 1.0 for weight in window.weights):
        return states
    weights = [1.0, *window.weights] + [1.0] * (WINDOW + 1 - len(window.weights))
    weighted = states * torch.tensor(weights, device=states.device, dtype=states.dtype)[:, None]
    before, after = states.float().mean(), weighted.float().mean()
    # A mean near zero would make the ratio huge, or not finite.
    ratio = (before / after).nan_to_num(1.0).clamp(-MAX_WEIGHT, MAX_WEIGHT)
    return weighted * ratio.to(states.dtype)
