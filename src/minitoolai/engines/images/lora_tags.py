"""Parse the tags by which a prompt names LoRAs, `<lora:name:0.8>`, in the syntax of AUTOMATIC1111's web UI.

A tag is no text: what draws an image removes it before the prompt is read.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from minitoolai.core.catalog.catalog import suggest_names

#: The weight of a LoRA, all its tags added, is limited to this in both directions, as the weight of a word is.
MAX_LORA_WEIGHT = 3.0
#: Most LoRAs of one image: each costs time in every model call.
MAX_LORAS = 8
#: All tags of the web UI; on other engines each is either a LoRA or an error.
_TAG = re.compile(r"<\s*(lora|lyco|hypernet)\s*:([^<>]*)(>?)", re.IGNORECASE)
_WEB_UI_TAG = re.compile(r"<\w+:[^>]+>")
_NUMBER = re.compile(r"[+-]?(?:\d{1,9}\.?\d{0,9}|\.\d{1,9})")
#: A name with a weight, or with one for the text encoders and one for the image model.
_MOST_WEIGHTS = 2
EXAMPLE = "<lora:name:0.8>"


class InvalidTag(ValueError):
    """A tag that cannot be read or names nothing. The message is for the customer."""


class LoraWeight(NamedTuple):
    """How strongly a LoRA changes the image model and the text encoders; 1 is as it was trained."""

    image: float = 1.0
    text: float = 1.0


class TaggedPrompt(NamedTuple):
    """A prompt without its tags, and the LoRAs that they name."""

    text: str
    loras: dict[str, LoraWeight]


def has_tags(prompt: str) -> bool:
    """Return True if a prompt contains a tag, readable or not."""
    return _TAG.search(prompt) is not None


def without_tags(prompt: str) -> str:
    """Return what remains of a prompt in the web UI, which removes everything that looks like a tag."""
    return _WEB_UI_TAG.sub("", prompt)


def split_tags(prompt: str, known: Collection[str]) -> TaggedPrompt:
    """Return a prompt without its tags, and those of the known LoRAs that they name. Raises InvalidTag.

    Several tags of one LoRA add up. Every weight is limited.
    """
    loras: dict[str, LoraWeight] = {}
    for match in _TAG.finditer(prompt):
        name, weight = _read(match)
        name = _known_name(name, known)
        before = loras.get(name, LoraWeight(0.0, 0.0))
        loras[name] = LoraWeight(*(_limited(a + b) for a, b in zip(before, weight, strict=True)))
    if len(loras) > MAX_LORAS:
        raise InvalidTag(f"it names {len(loras)} LoRAs; an image may have {MAX_LORAS}")
    return TaggedPrompt(_TAG.sub("", prompt), loras)


def _read(match: re.Match[str]) -> tuple[str, LoraWeight]:
    shown = match[0][:60]
    if not match[3]:
        raise InvalidTag(f"the tag {shown!r} has no end; write it like {EXAMPLE}")
    if match[1].lower() == "hypernet":
        raise InvalidTag(f"the tag {shown!r} names a hypernetwork, which is not supported; leave it out")
    name, *weights = (part.strip() for part in match[2].split(":"))
    if not name or len(weights) > _MOST_WEIGHTS or not all(_NUMBER.fullmatch(weight) for weight in weights):
        raise InvalidTag(f"the tag {shown!r} cannot be read; write it like {EXAMPLE}")
    numbers = [_limited(float(weight)) for weight in weights] or [1.0]
    # Of two, the first is for the text encoders.
    return name, LoraWeight(image=numbers[-1], text=numbers[0])


def _limited(weight: float) -> float:
    return min(max(weight, -MAX_LORA_WEIGHT), MAX_LORA_WEIGHT)


def _known_name(name: str, known: Collection[str]) -> str:
    """Return the LoRA of this name, in any case. Raises InvalidTag, which lists those on offer."""
    if name in known:
        return name
    folded = [one for one in known if one.casefold() == name.casefold()]
    if len(folded) == 1:
        return folded[0]
    remedy = suggest_names(name, dict.fromkeys(known)) if known else "this model has none"
    raise InvalidTag(f"there is no LoRA {name[:60]!r}; {remedy}")
