"""Prompt policies: refuse prompts before anything is reserved.

There are a word-based default policy, policies that an operator installs as entry points, and a moderation server.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import tomllib
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from minitoolai.core.errors import ContentRefused, EngineError, EngineTimeout, SettingsError
from minitoolai.httpclient.client import HttpClient, HttpError
from minitoolai.settings import Settings

log = logging.getLogger(__name__)

# ── policies ──────────────────────────────────────────────────────────────────────────────────────────────

#: Entry points of this group are callables without arguments that return a `PromptPolicy`.
ENTRY_POINTS = "minitoolai.policy"


class PromptPolicy(Protocol):
    """Checks a prompt."""

    async def check(self, prompt: str, negative_prompt: str) -> None:
        """Raise ContentRefused if the prompt is not allowed, or another ServiceError if it cannot be checked."""


class PolicyChain:
    """Check a prompt with several policies in order. The first refusal decides."""

    def __init__(self, policies: Sequence[PromptPolicy]) -> None:
        self._policies = policies

    async def check(self, prompt: str, negative_prompt: str) -> None:
        for policy in self._policies:
            await policy.check(prompt, negative_prompt)


def build_policy(settings: Settings, http: HttpClient) -> PolicyChain:
    """Return the prompt policy named in the settings. Raises SettingsError."""

    def moderation() -> ModerationPolicy:
        if not settings.moderation_url:
            raise SettingsError("MINITOOLAI_PROMPT_POLICY: moderation needs MINITOOLAI_MODERATION_URL")
        return ModerationPolicy(
            http,
            base_url=settings.moderation_url,
            key=settings.moderation_key,
            model=settings.moderation_model,
        )

    return find_policies(settings.prompt_policy, {"default": DefaultPolicy, "moderation": moderation})


def find_policies(names: str, built_in: dict[str, Callable[[], PromptPolicy]]) -> PolicyChain:
    """Return the policies of a setting such as `default,moderation,mine`: from `built_in`, else by entry point.

    Raises SettingsError, which lists the available policies.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise SettingsError("MINITOOLAI_PROMPT_POLICY is empty; write at least one policy, such as default")
    installed = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    policies: list[PromptPolicy] = []
    for name in wanted:
        if name in built_in:
            policies.append(built_in[name]())
        elif name in installed:
            policies.append(_load(name, installed[name]))
        else:
            available = ", ".join([*built_in, *installed])
            raise SettingsError(f"MINITOOLAI_PROMPT_POLICY: there is no policy {name!r}; there are {available}")
    return PolicyChain(policies)


def _load(name: str, point: importlib.metadata.EntryPoint) -> PromptPolicy:
    try:
        policy: PromptPolicy = point.load()()
    except Exception as error:
        raise SettingsError(f"MINITOOLAI_PROMPT_POLICY: the policy {name} did not load: {error!r}") from error
    if not callable(getattr(policy, "check", None)):
        raise SettingsError(f"MINITOOLAI_PROMPT_POLICY: the policy {name} has no method check(prompt, negative_prompt)")
    return policy


# ── default policy ────────────────────────────────────────────────────────────────────────────────────────


class DefaultPolicy:
    """Refuse sexual content about minors, and nothing else. It matches words, so it cannot always be right.

    A negative prompt names what should not appear, so a child or nudity in it is harmless. Only clothes in it, combined
    with a minor in the prompt, ask for refused content.
    """

    async def check(self, prompt: str, negative_prompt: str) -> None:
        if is_refused(prompt, negative_prompt):
            raise ContentRefused(
                "prompt: sexual content about minors is not generated here; nothing was charged. If this prompt means "
                "something else, rephrase it",
                param="prompt",
            )


def is_refused(prompt: str, negative_prompt: str = "") -> bool:
    """Return True if the default policy refuses the prompt."""
    text = normalize(prompt)
    if _REFUSED.search(text):
        return True
    text = _INNOCENT.sub(" . ", text)
    if not (_MINORS.search(text) or _AGES.search(text)):
        return False
    if _UNDRESSED.search(text):
        return True
    if _SEXUAL.search(_NEGATED.sub(" . ", text)):
        return True
    return _CLOTHES.search(_INNOCENT.sub(" . ", normalize(negative_prompt))) is not None


def normalize(text: str) -> str:
    """Return the words in lower case, separated by one space, without accents, weights, punctuation or disguises."""
    plain = unicodedata.normalize("NFKD", text).casefold().translate(_LOOKALIKES)
    plain = "".join(c for c in plain if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
    plain = plain.replace("ß", "ss")
    # Remove the weights of a prompt: (word:1.2), [word], {word}.
    plain = re.sub(r":\s*[0-9]*\.?[0-9]+\s*(?=[)\]}>])", " ", plain)
    plain = re.sub(r"\S+", lambda match: _undisguise(match[0]), plain)
    plain = _SPELLED_OUT.sub(lambda match: match[0].replace(match[1], ""), plain)
    plain = re.sub(r"[\W_]+", " ", plain)
    return " ".join(plain.split())


def _undisguise(word: str) -> str:
    """Replace digits that stand for letters: `n4k3d` becomes `naked`; `14yo`, `18+` and `4k` stay."""
    return _DISGUISED.sub(lambda match: _to_letters(match[0]), word)


def _to_letters(token: str) -> str:
    letters = sum(c.isalpha() for c in token)
    if letters < 2 or (token[0].isdigit() and re.fullmatch(r"[0-9]+[a-z]+", token)):
        return token
    return token.translate(_DIGITS)


#: Letters of other alphabets that look like Latin ones.
_LOOKALIKES = str.maketrans("асеіјорѕухкмтнԁɡıⅼαονρτ", "aceijopsyxkmthdgilaovpt")
_DIGITS = str.maketrans("013457@$!", "oieastasi")
#: Spelled-out words: l o l i, n-u-d-e.
_SPELLED_OUT = re.compile(r"\b[a-z]([ ._*-])[a-z](?:\1[a-z])+\b")
_DISGUISED = re.compile(r"[^\W_]*[013457@$!][a-z@$!0-9]*", re.ASCII)


# ── vocabulary ────────────────────────────────────────────────────────────────────────────────────────────

_WORDS: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("policy_words.toml").read_text("utf-8"))


def _any_of(key: str) -> str:
    """Return the alternatives of a word list as a regular expression."""
    return "|".join(_WORDS[key])


def _matcher(key: str) -> re.Pattern[str]:
    """Return a pattern that finds one of these whole words or phrases."""
    return re.compile(rf"\b(?:{_any_of(key)})\b")


_REFUSED = _matcher("refused")
_MINORS = _matcher("minors")
_SEXUAL = _matcher("sexual")
_INNOCENT = _matcher("innocent")
_CLOTHES = _matcher("clothes")
_UNDRESSED = _matcher("undressed")
#: "no nudity", "not nude or sexual"; but not "no clothes", which asks for the opposite.
_NEGATED = re.compile(
    rf"\b(?:{_any_of('negations')}) (?:any )?(?:{_any_of('sexual')})(?: (?:and|or|nor) (?:{_any_of('sexual')}))*\b"
)
_THINGS = _any_of("aged_things")
_NUMBERS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "1[0-7]|0?[1-9]"
)
_YEARS = r"(?:years?|yrs?|y|anos|ans|jahre|jahriges?|jahriger?|yasinda|tahun)"
#: Ages under 18: `14 year old`, `aged twelve`, `15yo`; not `14 year old whisky`, not `114 years`.
_AGES = re.compile(
    rf"\b(?:{_NUMBERS}) ?{_YEARS} ?(?:of age|old|o|olds)\b(?! (?:{_THINGS})\b)"
    rf"|\b(?:{_NUMBERS}) ?years? (?:girl|girls|boy|boys)\b"
    rf"|\b(?:{_NUMBERS}) ?yo\b|\b(?:{_NUMBERS}) y o\b"
    rf"|\b(?:age|aged|ages) (?:of )?(?:{_NUMBERS})\b(?! (?:{_THINGS}|years (?:in|ago))\b)"
    rf"|\b(?:{_NUMBERS}) (?:anos|ans|jahre alt|jahriges|jahriger|jahrige|yasinda|tahun)\b(?! (?:{_THINGS})\b)"
)


# ── moderation server ─────────────────────────────────────────────────────────────────────────────────────

READ_TIMEOUT_S = 10.0
_MAX_RESPONSE_BYTES = 256 * 1024


class _Result(msgspec.Struct, frozen=True):
    flagged: bool
    categories: dict[str, bool | None] = {}


class _Moderation(msgspec.Struct, frozen=True):
    results: list[_Result]


class ModerationPolicy:
    """Check every prompt with a server that has OpenAI's `/moderations`. If the server fails, the prompt is refused."""

    def __init__(self, client: HttpClient, *, base_url: str, key: str, model: str) -> None:
        """`base_url` includes /v1."""
        self._client = client
        self._url = base_url.rstrip("/") + "/moderations"
        self._model = model
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    async def check(self, prompt: str, _: str) -> None:
        """Raise ContentRefused with the flagged categories. Raises EngineError, EngineTimeout if the server fails."""
        for result in (await self._request(prompt)).results:
            if result.flagged:
                categories = ", ".join(sorted(name for name, is_flagged in result.categories.items() if is_flagged))
                raise ContentRefused(
                    f"prompt: refused by moderation ({categories or 'flagged'}); nothing was charged", param="prompt"
                )

    async def _request(self, prompt: str) -> _Moderation:
        body: dict[str, str] = {"input": prompt}
        if self._model:
            body["model"] = self._model
        try:
            response = await self._client.request(
                "POST",
                self._url,
                headers=self._headers,
                body=msgspec.json.encode(body),
                read_timeout_s=READ_TIMEOUT_S,
                # The request is idempotent and free, so it may be sent twice.
                may_repeat=True,
            )
            try:
                data = await response.read(_MAX_RESPONSE_BYTES)
            finally:
                response.close()
        except HttpError as error:
            log.error("request to the moderation server at %s failed: %s", self._url, error)
            raise EngineTimeout("the prompt moderation does not respond; nothing was charged") from error
        if response.status != 200:
            # Log the status only: the body might repeat the prompt.
            log.error("the moderation server at %s returned status %d", self._url, response.status)
            raise EngineError("the prompt moderation failed; nothing was charged")
        try:
            moderation = msgspec.json.decode(data, type=_Moderation)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise EngineError("the prompt moderation returned an invalid response; nothing was charged") from error
        if not moderation.results:
            raise EngineError("the prompt moderation returned no result; nothing was charged")
        return moderation
