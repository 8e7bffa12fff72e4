"""Which prompts are refused before anything is held: the default policy, an operator's own, a moderation upstream."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Sequence
from typing import Protocol

from minitoolai.core.errors import ContentRefused, SettingsError
from minitoolai.images import policy_words as words

ENTRY_POINTS = "minitoolai.policy"


class PromptPolicy(Protocol):
    """Says no, or nothing."""

    async def check(self, prompt: str, negative_prompt: str) -> None:
        """ContentRefused where this must not be drawn; any other ServiceError where nobody could tell."""


class Policies:
    """Every one of them is asked, in order; the first refusal decides."""

    def __init__(self, policies: Sequence[PromptPolicy]) -> None:
        self._policies = policies

    async def check(self, prompt: str, negative_prompt: str) -> None:
        for policy in self._policies:
            await policy.check(prompt, negative_prompt)


def find_policies(names: str, ready: dict[str, Callable[[], PromptPolicy]]) -> Policies:
    """The policies of a setting such as `default,moderation,mine`: from `ready`, else by entry point.

    An entry point of the group `minitoolai.policy` is a callable without arguments that makes a PromptPolicy.
    SettingsError names what there is.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise SettingsError("MINITOOLAI_PROMPT_POLICY is empty; write at least one policy, such as default")
    installed = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    found: list[PromptPolicy] = []
    for name in wanted:
        if name in ready:
            found.append(ready[name]())
        elif name in installed:
            found.append(_load(name, installed[name]))
        else:
            there = ", ".join([*ready, *installed])
            raise SettingsError(f"MINITOOLAI_PROMPT_POLICY: there is no policy {name!r}; there are {there}")
    return Policies(found)


def _load(name: str, point: importlib.metadata.EntryPoint) -> PromptPolicy:
    try:
        policy: PromptPolicy = point.load()()
    except Exception as error:
        raise SettingsError(f"MINITOOLAI_PROMPT_POLICY: the policy {name} did not load: {error!r}") from error
    if not callable(getattr(policy, "check", None)):
        raise SettingsError(f"MINITOOLAI_PROMPT_POLICY: the policy {name} has no method check(prompt, negative_prompt)")
    return policy


_ALONE = words.any_of(words.ALONE)
_MINORS = words.any_of(words.MINORS)
_SEXUAL = words.any_of(words.SEXUAL)
_INNOCENT = words.any_of(words.INNOCENT)
_CLOTHES = words.any_of(words.CLOTHES)
#: "no nudity", "not nude or sexual"; but not "no clothes", which asks for the opposite.
_DENIED = re.compile(rf"\b{words.NEGATIONS} (?:any )?(?:{words.SEXUAL})(?: (?:and|or|nor) (?:{words.SEXUAL}))*\b")
_UNDRESSED = words.any_of(
    "no clothes|without clothes|no panties|without panties|no underwear|wearing nothing|not wearing anything|"
    "without clothing|no clothing|sem roupa|sin ropa|ohne kleidung|sans vetements|tanpa busana"
)


class DefaultPolicy:
    """Refuses sexual content about minors, and nothing else. It goes by words, so it cannot be right every time.

    The negative prompt names what should not be there: a child in it, or nudity in it, is what careful people write.
    Only clothes in it, with a minor in the prompt, ask for what is refused.
    """

    async def check(self, prompt: str, negative_prompt: str) -> None:
        if is_refused(prompt, negative_prompt):
            raise ContentRefused(
                "prompt: sexual content about minors is not drawn here; nothing was charged. If this prompt means "
                "something else, say so in other words",
                param="prompt",
            )


def is_refused(prompt: str, negative_prompt: str = "") -> bool:
    """Whether the default policy says no."""
    text = words.words_of(prompt)
    if _ALONE.search(text):
        return True
    text = _INNOCENT.sub(" . ", text)
    if not (_MINORS.search(text) or words.AGES.search(text)):
        return False
    if _UNDRESSED.search(text):
        return True
    if _SEXUAL.search(_DENIED.sub(" . ", text)):
        return True
    return _CLOTHES.search(_INNOCENT.sub(" . ", words.words_of(negative_prompt))) is not None
