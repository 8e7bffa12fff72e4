"""Tests of the tags by which prompts name LoRAs."""

from __future__ import annotations

import contextlib
import time

import pytest

from minitoolai.engines.images.lora_tags import (
    MAX_LORA_WEIGHT,
    MAX_LORAS,
    InvalidTag,
    LoraWeight,
    has_tags,
    split_tags,
    without_tags,
)

KNOWN = ("Pencil", "oil paint", *(f"n{i}" for i in range(MAX_LORAS + 1)))


@pytest.mark.parametrize(
    ("prompt", "text", "loras"),
    [
        ("a red apple", "a red apple", {}),
        ("a red <lora:Pencil:0.8>apple", "a red apple", {"Pencil": (0.8, 0.8)}),
        ("<LORA: pencil : 0.8 >", "", {"Pencil": (0.8, 0.8)}),
        ("x<lora:oil paint>", "x", {"oil paint": (1, 1)}),
        ("<lyco:Pencil:-1>", "", {"Pencil": (-1, -1)}),
        ("<lora:Pencil:.5:+1.5>", "", {"Pencil": (1.5, 0.5)}),
        ("<lora:Pencil:99999>", "", {"Pencil": (MAX_LORA_WEIGHT, MAX_LORA_WEIGHT)}),
        ("<lora:Pencil:-999999999>", "", {"Pencil": (-MAX_LORA_WEIGHT, -MAX_LORA_WEIGHT)}),
        ("<lora:Pencil:2>a<lora:pencil:2>", "a", {"Pencil": (MAX_LORA_WEIGHT, MAX_LORA_WEIGHT)}),
        ("<lora:Pencil:0.5><lora:n1:1>", "", {"Pencil": (0.5, 0.5), "n1": (1, 1)}),
        ("a <b> lora:Pencil:1 < 3 (red:1.2)", "a <b> lora:Pencil:1 < 3 (red:1.2)", {}),
    ],
)
def test_a_prompt_is_split_into_text_and_loras(prompt: str, text: str, loras: dict[str, tuple[float, float]]) -> None:
    assert split_tags(prompt, KNOWN) == (text, {name: LoraWeight(*weights) for name, weights in loras.items()})


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("<lora:pencl:1>", "there is no LoRA 'pencl'; the nearest is Pencil"),
        ("<lora:Pencil:1", "has no end"),
        ("<lora:Pencil:1 <lora:n1:1>", "has no end"),
        ("<lora:>", "cannot be read; write it like <lora:name:0.8>"),
        ("<lora::1>", "cannot be read"),
        ("<lora:Pencil:high>", "cannot be read"),
        ("<lora:Pencil:nan>", "cannot be read"),
        ("<lora:Pencil:1e3>", "cannot be read"),
        ("<lora:Pencil:>", "cannot be read"),
        ("<lora:Pencil:1:1:1>", "cannot be read"),
        ("<lora:Pencil:unet=1>", "cannot be read"),
        ("<hypernet:Pencil:1>", "hypernetwork, which is not supported"),
        ("".join(f"<lora:n{i}:0>" for i in range(MAX_LORAS + 1)), f"it names {MAX_LORAS + 1} LoRAs"),
    ],
)
def test_a_tag_that_cannot_be_honoured_is_an_error(prompt: str, words: str) -> None:
    assert has_tags(prompt)
    with pytest.raises(InvalidTag) as refusal:
        split_tags(prompt, KNOWN)
    assert words in str(refusal.value)


def test_a_name_in_two_cases_must_be_written_exactly() -> None:
    assert split_tags("<lora:INK:1>", ("ink", "INK")).loras == {"INK": LoraWeight()}
    with pytest.raises(InvalidTag, match="there is no LoRA 'Ink'"):
        split_tags("<lora:Ink:1>", ("ink", "INK"))


def test_a_model_without_loras_says_so() -> None:
    with pytest.raises(InvalidTag, match="there is no LoRA 'ink'; this model has none"):
        split_tags("<lora:ink:1>", ())


def test_long_prompts_of_unfinished_tags_are_read_quickly() -> None:
    for prompt in ("<lora:" * 1300, "<" * 8000, "<lora:" + ":" * 7990, "<lora: " + " " * 7990, "<" + " " * 7999):
        began_s = time.perf_counter()
        has_tags(prompt)
        without_tags(prompt)
        with contextlib.suppress(InvalidTag):
            split_tags(prompt, KNOWN)
        assert time.perf_counter() - began_s < 0.5, prompt[:10]


def test_the_web_ui_removes_every_tag() -> None:
    assert without_tags("a chi<lora:x:0>ld <hypernet:y> < 3 <b>") == "a child  < 3 <b>"
