"""What a UNet is told of a prompt: its windows through the text encoders, weighted, one after the other."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from minitoolai.engines.diffusers.checkpoint import Networks, TextEncoder
from minitoolai.engines.diffusers.prompts import WINDOW, Window, windows

if TYPE_CHECKING:
    import torch

#: Prompts whose conditioning is kept: negative ones come again and again.
_KEPT = 32


class Told(NamedTuple):
    """`words` (77 k, width) for k windows; `pooled` (width of the second encoder,) for SDXL, else None."""

    words: torch.Tensor
    pooled: torch.Tensor | None


class Conditioning:
    """Prompts to conditioning, on the networks of one checkpoint."""

    def __init__(self, networks: Networks, device: torch.device) -> None:
        self._networks, self._device = networks, device
        self._kept: OrderedDict[tuple[str, bool], Told] = OrderedDict()

    def of(self, prompt: str, *, is_negative: bool = False) -> Told:
        """An empty negative prompt is nothing at all to SDXL: zeros, as it was trained with."""
        key = (prompt, is_negative and not prompt.strip())
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        told = self._encoded(prompt)
        if key[1] and self._networks.is_xl:
            told = Told(told.words * 0, told.pooled * 0 if told.pooled is not None else None)
        self._kept[key] = told
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return told

    def _encoded(self, prompt: str) -> Told:
        import torch

        with torch.inference_mode():
            words, pooled = zip(*(self._read(prompt, encoder) for encoder in self._networks.encoders), strict=True)
            return Told(torch.cat(words, dim=-1), pooled[-1])

    def _read(self, prompt: str, encoder: TextEncoder) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(77 k, width) of one encoder, and what it makes of the first window as a whole."""
        import torch

        read = windows(prompt, encoder.tokens.encode, encoder.tokens.comma)
        ids = torch.tensor([_marked(window, encoder) for window in read], device=self._device)
        out: Any = encoder.network(input_ids=ids, output_hidden_states=True)
        # SDXL was trained on the last layer but one, without the closing normalisation.
        hidden = out.hidden_states[-2] if self._networks.is_xl else out.last_hidden_state
        weighted = torch.stack([_weighted(states, window) for states, window in zip(hidden, read, strict=True)])
        return weighted.flatten(0, 1), out.text_embeds[0] if "text_embeds" in out else None


def _marked(window: Window, encoder: TextEncoder) -> list[int]:
    """77 tokens: start mark, tokens, end mark, padding."""
    marked = [encoder.tokens.start, *window.tokens, encoder.tokens.end]
    return marked + [encoder.pad] * (WINDOW + 2 - len(marked))


def _weighted(states: torch.Tensor, window: Window) -> torch.Tensor:
    """States (77, width) times their tokens' weights, with the mean that they had before."""
    import torch

    if all(weight == 1.0 for weight in window.weights):
        return states
    weights = [1.0, *window.weights] + [1.0] * (WINDOW + 1 - len(window.weights))
    weighted = states * torch.tensor(weights, device=states.device, dtype=states.dtype)[:, None]
    before, after = states.float().mean(), weighted.float().mean()
    return weighted * (before / after).to(states.dtype)
