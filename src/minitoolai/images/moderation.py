"""Which prompts are refused before anything is held: the default policy, an operator's own, a moderation upstream."""

from __future__ import annotations

import importlib.metadata
import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from minitoolai.core.errors import ContentRefused, EngineError, EngineTimeout, SettingsError
from minitoolai.httpclient.client import HttpClient, HttpError
from minitoolai.settings import Settings

# (merged from policy_words) The vocabulary of the default policy, and the reading of a prompt that sees through disguises.
# (merged from policy_words)
# (merged from policy_words) Words of harm stand here because a refusal has to know them. Every list is of whole words or phrases, never of parts:
# (merged from policy_words) `Essex` has no sex in it.

#: Refused by themselves, in whatever company.
ALONE = (
    "child porn|child pornography|kiddie porn|kiddy porn|childporn|pedo porn|pedophilia|paedophilia|pedophilic|"
    "paedophilic|lolicon|lolicons|shotacon|shotacons|toddlercon|jailbait|csam|underage sex|underage nude|"
    "preteen sex|child erotica|pthc|pornografia infantil|kinderporno|kinderpornographie|pedopornographie|"
    "cocuk pornosu|pornografi anak"
)

#: People under 18.
MINORS = (
    "child|children|childlike|kid|kids|toddler|toddlers|infant|infants|baby|babies|newborn|newborns|preteen|preteens|"
    "pre teen|pre teens|tween|tweens|teen|teens|teenage|teenaged|teenager|teenagers|underage|underaged|under age|"
    "minor|minors|schoolgirl|schoolgirls|school girl|school girls|schoolboy|schoolboys|school boy|school boys|"
    "schoolchild|schoolchildren|kindergartner|kindergartners|kindergartener|preschooler|preschoolers|"
    "pupil|pupils|middle schooler|elementary schooler|high schooler|high schoolers|"
    "elementary school student|middle school student|high school student|primary school student|"
    "little girl|little girls|little boy|little boys|small girl|small boy|young girl|young girls|young boy|young boys|"
    "tiny girl|preteen girl|prepubescent|pubescent|prepubertal|adolescent|adolescents|juvenile|juveniles|"
    "loli|lolis|lolita|shota|shotas|"
    # pt, es
    "crianca|criancas|menininha|menininho|garotinha|garotinho|menina pequena|menor de idade|menores de idade|"
    "menor de edad|menores de edad|nino|ninos|nina pequena|ninas|ninita|bebe|bebes|adolescente|adolescentes|"
    "colegiala|colegialas|infantil|"
    # de, fr
    "kinder|kleinkind|kleinkinder|kleines madchen|kleine madchen|kleiner junge|schulmadchen|minderjahrige|"
    "minderjahriges|minderjahriger|minderjahrig|nacktes kind|teenagerin|jugendliche|saugling|"
    "enfant|enfants|fillette|fillettes|petite fille|petites filles|garconnet|ecoliere|ecolieres|lyceenne|collegienne|"
    "mineure|mineures|"
    # id, tr
    "anak kecil|anak anak|anak perempuan|anak laki laki|balita|bocah|gadis kecil|di bawah umur|remaja|"
    "cocuk|cocuklar|kiz cocugu|erkek cocugu|kucuk kiz|bebek|ergen|resit olmayan"
)

#: Sex and nakedness.
SEXUAL = (
    "nude|nudes|nudity|naked|nakedness|nsfw|porn|porno|pornographic|pornography|hentai|ecchi|ahegao|erotic|erotica|"
    "eroticism|sexual|sexually|sexualized|sexualised|sexy|sex|sexe|having sex|intercourse|orgasm|orgasming|orgy|"
    "masturbating|masturbation|masturbate|masturbates|fellatio|cunnilingus|blowjob|blow job|handjob|hand job|"
    "deepthroat|creampie|cum|cumming|cumshot|bukkake|gangbang|threesome|penis|penises|vagina|vaginal|vulva|pussy|"
    "dick|cock|genitals|genitalia|nipples|nipple|areola|areolas|boobs|tits|titties|breasts|big breasts|cleavage|"
    "topless|bottomless|unclothed|undressed|undressing|disrobed|disrobing|stripping|striptease|stripper|"
    "without clothes|no clothes|not wearing anything|wearing nothing|without panties|no panties|no underwear|"
    "exposed genitals|spread legs|spread eagle|lingerie|thong|g string|upskirt|cameltoe|camel toe|seductive|"
    "seductively|seduction|seducing|lewd|horny|aroused|arousing|fetish|bdsm|bondage|kinky|rape|raped|raping|molested|"
    "molesting|xxx|r18|x rated|onlyfans|fucking|fucked|fuck|milf|slut|slutty|whore|busty|"
    # pt, es
    "nua|nuas|pelada|pelado|peladas|nudez|desnuda|desnudo|desnudas|desnudos|sexo|sexual explicito|erotico|erotica|"
    "pornografia|pornografico|sem roupa|sin ropa|"
    # de, fr
    "nackt|nackte|nackter|nacktes|nacktheit|erotisch|sexuell|pornografisch|nackig|ohne kleidung|"
    "nue|nues|denudee|denude|erotique|sexuel|sexuelle|pornographique|sans vetements|"
    # id, tr
    "telanjang|bugil|porno anak|seks|cabul|mesum|erotis|"
    "ciplak|cinsel|erotik|mustehcen|porno"
)

#: What is innocent although a word in it is not; taken out before anything is looked for.
INNOCENT = (
    "naked mole rat|naked mole rats|naked eye|naked oat|buck naked pork|naked cake|naked bike|"
    "nude lipstick|nude color|nude colour|nude colors|nude colours|nude tone|nude tones|nude heels|nude makeup|"
    "nude pumps|nude shoes|nude shade|nude nails|nude nail polish|"
    "same sex|sex education|sex ed|opposite sex|sex of the baby|gender reveal|"
    "baby doll lingerie|babydoll lingerie|babydoll dress|baby doll dress|baby oil|baby blue|baby pink|sugar baby|"
    "sugar babies|baby fat|baby hair|baby hairs|baby shower|baby face|baby tee|kid leather|kid gloves|"
    "child of the|inner child|minor key|c minor|a minor chord|ursa minor|asia minor|canis minor|minor details|"
    "minor detail|minor chord|minor scale|d minor|e minor|g minor|minor imperfections|minor flaws|"
    "eye pupil|eye pupils|dilated pupils|dilated pupil|detailed pupils|round pupils|slit pupils|bright pupils|"
    "pupils of the eyes|pupils of her eyes|pupil of her eye|black pupils|visible pupils|heart shaped pupils|"
    "bottle nipple|bottle nipples|summa cum laude|magna cum laude|cum laude|chicken breasts|duck breasts|"
    "turkey breasts|robin breasts|cock crow|weather cock|game cock|cock of the walk|moby dick|dick tracy|"
    "spotted dick|dick van dyke|pussy willow|pussy willows|pussy cat|pussycat|great tits|blue tits|coal tits|"
    "great tit|blue tit|willow tits|g string guitar|bondage of|strip mall|goat kid|goat kids|kid goat|"
    "kid goats|baby goat|baby goats|"
    "gothic lolita dress|gothic lolita|sweet lolita|classic lolita|lolita fashion|lolita dress|billie the kid|"
    "billy the kid|sundance kid|karate kid|non nude|non sexual|adults only|kids menu|x rated movie sign|"
    "bebe rexha|il nino|el nino|la nina"
)

#: Somebody says what should not be there. Only words right after it are meant.
NEGATIONS = r"(?:no|not|non|never|without|zero|free of|avoid|sem|sin|sans|ohne|kein|keine|tanpa|pas de)"

#: In a negative prompt: asking for clothes to go away.
CLOTHES = "clothes|clothing|clothed|dressed|dress|shirt|pants|underwear|outfit|garment|garments|bra|panties|swimsuit"

#: Things that are some years old without being somebody.
_THINGS = (
    "whisky|whiskey|scotch|bourbon|rum|wine|port|cognac|brandy|cheese|car|house|home|building|tree|oak|dog|cat|horse|"
    "mare|stallion|pony|company|marriage|relationship|tradition|photo|photograph|laptop|phone|computer"
)
_NUMBERS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "1[0-7]|0?[1-9]"
)
_YEARS = r"(?:years?|yrs?|y|anos|ans|jahre|jahriges?|jahriger?|yasinda|tahun)"
#: `14 year old`, `aged twelve`, `15yo`; not `14 year old whisky`, not `114 years`.
AGES = re.compile(
    rf"\b(?:{_NUMBERS}) ?{_YEARS} ?(?:of age|old|o|olds)\b(?! (?:{_THINGS})\b)"
    rf"|\b(?:{_NUMBERS}) ?years? (?:girl|girls|boy|boys)\b"
    rf"|\b(?:{_NUMBERS}) ?yo\b|\b(?:{_NUMBERS}) y o\b"
    rf"|\b(?:age|aged|ages) (?:of )?(?:{_NUMBERS})\b(?! (?:{_THINGS}|years (?:in|ago))\b)"
    rf"|\b(?:{_NUMBERS}) (?:anos|ans|jahre alt|jahriges|jahriger|jahrige|yasinda|tahun)\b(?! (?:{_THINGS})\b)"
)

#: Letters of other alphabets that pass for ours.
_LOOKALIKES = str.maketrans("асеіјорѕухкмтнԁɡıⅼαονρτ", "aceijopsyxkmthdgilaovpt")
_DIGITS = str.maketrans("013457@$!", "oieastasi")
#: l o l i, n-u-d-e
_SPELLED = re.compile(r"\b[a-z]([ ._*-])[a-z](?:\1[a-z])+\b")
_DISGUISED = re.compile(r"[^\W_]*[013457@$!][a-z@$!0-9]*", re.ASCII)


def words_of(text: str) -> str:
    """The words in lower case with one space between them: no accents, weights, punctuation or disguises."""
    plain = unicodedata.normalize("NFKD", text).casefold().translate(_LOOKALIKES)
    plain = "".join(c for c in plain if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
    plain = plain.replace("ß", "ss")
    # A prompt's weights: (word:1.2), [word], {word}.
    plain = re.sub(r":\s*[0-9]*\.?[0-9]+\s*(?=[)\]}>])", " ", plain)
    plain = re.sub(r"\S+", lambda match: _undisguised(match[0]), plain)
    plain = _SPELLED.sub(lambda match: match[0].replace(match[1], ""), plain)
    plain = re.sub(r"[\W_]+", " ", plain)
    return " ".join(plain.split())


def _undisguised(word: str) -> str:
    """`n4k3d` as `naked`; `14yo`, `18+` and `4k` stay what they are."""
    return _DISGUISED.sub(lambda match: _letters(match[0]), word)


def _letters(token: str) -> str:
    letters = sum(c.isalpha() for c in token)
    if letters < 2 or (token[0].isdigit() and re.fullmatch(r"[0-9]+[a-z]+", token)):
        return token
    return token.translate(_DIGITS)


def any_of(words: str) -> re.Pattern[str]:
    """Finds one of these whole words or phrases."""
    return re.compile(rf"\b(?:{words})\b")


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


_ALONE = any_of(ALONE)
_MINORS = any_of(MINORS)
_SEXUAL = any_of(SEXUAL)
_INNOCENT = any_of(INNOCENT)
_CLOTHES = any_of(CLOTHES)
#: "no nudity", "not nude or sexual"; but not "no clothes", which asks for the opposite.
_DENIED = re.compile(rf"\b{NEGATIONS} (?:any )?(?:{SEXUAL})(?: (?:and|or|nor) (?:{SEXUAL}))*\b")
_UNDRESSED = any_of(
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
    text = words_of(prompt)
    if _ALONE.search(text):
        return True
    text = _INNOCENT.sub(" . ", text)
    if not (_MINORS.search(text) or AGES.search(text)):
        return False
    if _UNDRESSED.search(text):
        return True
    if _SEXUAL.search(_DENIED.sub(" . ", text)):
        return True
    return _CLOTHES.search(_INNOCENT.sub(" . ", words_of(negative_prompt))) is not None


# (merged from moderation_moderation) A moderation upstream as a policy on prompts: any server with OpenAI's `/moderations`.

log = logging.getLogger(__name__)
LONGEST_SILENCE_S = 10.0
_LARGEST_ANSWER = 256 * 1024


class _Result(msgspec.Struct, frozen=True):
    flagged: bool
    categories: dict[str, bool | None] = {}


class _Answer(msgspec.Struct, frozen=True):
    results: list[_Result]


class ModerationPolicy:
    """Asks for every prompt. Where the server cannot be asked, nothing is drawn: silence is no consent."""

    def __init__(self, client: HttpClient, *, base_url: str, key: str, model: str) -> None:
        """`base_url` up to and including /v1."""
        self._client = client
        self._url = base_url.rstrip("/") + "/moderations"
        self._model = model
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    async def check(self, prompt: str, _: str) -> None:
        """ContentRefused with the categories that were flagged; EngineError, EngineTimeout."""
        for result in (await self._ask(prompt)).results:
            if result.flagged:
                named = ", ".join(sorted(name for name, is_flagged in result.categories.items() if is_flagged))
                raise ContentRefused(
                    f"prompt: refused by moderation ({named or 'flagged'}); nothing was charged", param="prompt"
                )

    async def _ask(self, prompt: str) -> _Answer:
        body: dict[str, str] = {"input": prompt}
        if self._model:
            body["model"] = self._model
        try:
            answer = await self._client.request(
                "POST",
                self._url,
                headers=self._headers,
                body=msgspec.json.encode(body),
                read_timeout_s=LONGEST_SILENCE_S,
                # It reads and forgets: asking twice costs nobody anything.
                may_repeat=True,
            )
            try:
                data = await answer.read(_LARGEST_ANSWER)
            finally:
                answer.close()
        except HttpError as error:
            log.error("the moderation server at %s could not be asked: %s", self._url, error)
            raise EngineTimeout("the moderation of prompts does not answer; nothing was charged") from error
        if answer.status != 200:
            # Not what it said: that might repeat the prompt.
            log.error("the moderation server at %s answered %d", self._url, answer.status)
            raise EngineError("the moderation of prompts failed; nothing was charged")
        try:
            decoded = msgspec.json.decode(data, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise EngineError("the moderation of prompts gave no usable answer; nothing was charged") from error
        if not decoded.results:
            raise EngineError("the moderation of prompts gave no result; nothing was charged")
        return decoded


def build_policy(settings: Settings, http: HttpClient) -> Policies:
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
