"""Check the LoRAs that a prompt names before its job is queued, so that a wrong name costs nothing and no time."""

from __future__ import annotations

from collections.abc import Collection

from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import ImageJobRequest
from minitoolai.engines.images.lora_tags import InvalidTag, has_tags, split_tags


def check_lora_tags(request: ImageJobRequest, model: str, known: Collection[str] | None) -> None:
    """Raise InvalidRequest for a tag that the engine of a job could not honour.

    `known` are the LoRAs on offer, or None if the engine reads tags itself.
    """
    if known is None:
        return
    if has_tags(request.negative_prompt):
        raise InvalidRequest(
            "negativePrompt contains a tag such as <lora:…>; move it to prompt, it changes the whole image",
            param="negativePrompt",
        )
    if not has_tags(request.prompt):
        return
    if not known:
        raise InvalidRequest(
            f"prompt names a LoRA in angle brackets, but {model} offers none; remove the tag", param="prompt"
        )
    try:
        split_tags(request.prompt, known)
    except InvalidTag as error:
        raise InvalidRequest(f"prompt: {error}", param="prompt") from None
