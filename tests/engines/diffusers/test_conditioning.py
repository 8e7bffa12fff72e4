"""Tests of the parts of prompt encoding that need no torch; test_engine.py tests the rest with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from minitoolai.engines.diffusers import conditioning
from minitoolai.engines.diffusers.conditioning import Conditioning, PromptEncoder, _with_marks
from minitoolai.engines.diffusers.lora import UsedLoras
from minitoolai.engines.diffusers.prompts import Window


class Recording(PromptEncoder):
    """Records the prompts that it encodes, as numbers instead of tensors."""

    def __init__(self, *, is_xl: bool) -> None:
        networks: Any = SimpleNamespace(is_xl=is_xl)
        device: Any = None
        super().__init__(networks, device)
        self.encoded: list[str] = []

    def _encode(self, prompt: str, loras: UsedLoras) -> Conditioning:
        self.encoded.append(prompt)
        words: Any = 5
        return Conditioning(words, words)


def test_a_window_gets_a_start_mark_an_end_mark_and_padding_to_77_tokens() -> None:
    encoder: Any = SimpleNamespace(tokens=SimpleNamespace(start=1, end=2), pad=9)
    marked = _with_marks(Window((7, 8), (1.0, 1.0)), encoder)
    assert marked[:5] == [1, 7, 8, 2, 9]
    assert len(marked) == 77
    full = _with_marks(Window((7,) * 75, (1.0,) * 75), encoder)
    assert (len(full), full[-1]) == (77, 2)


def test_repeated_prompts_come_from_the_cache_until_they_are_the_oldest() -> None:
    encoder = Recording(is_xl=False)
    for number in range(conditioning._CACHE_SIZE):
        encoder.encode(str(number))
    encoder.encode("0")
    assert len(encoder.encoded) == conditioning._CACHE_SIZE
    encoder.encode("new")
    encoder.encode("0")
    assert encoder.encoded.count("0") == 1
    encoder.encode("1")
    assert encoder.encoded.count("1") == 2


def test_only_sdxl_encodes_an_empty_negative_prompt_as_zeros() -> None:
    for is_xl, expected in ((True, 0), (False, 5)):
        encoder = Recording(is_xl=is_xl)
        assert encoder.encode("  ", is_negative=True) == Conditioning(expected, expected)  # type: ignore[arg-type]
        assert encoder.encode("  ").words == 5  # type: ignore[comparison-overlap]
        assert encoder.encode("worm", is_negative=True).words == 5  # type: ignore[comparison-overlap]
