"""Read a prompt: which things it asks for, in which colour and number, where they are, and in which style.

The head of a prompt counts most. Words of style steer the look, not the subject; clothes and features belong to their
owner; a later clause adds a place or a style, rarely another thing. Works by rules and word lists in the portal's
seven languages, with the weights of `(word:1.3)`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from minitoolai.engines.diffusers.prompts import weighted_parts
from minitoolai.engines.images.prompts.folding import fold
from minitoolai.engines.images.prompts.words import BY_HAND, KEYWORD, OWN_NAME, WORD, Meaning, Words

#: Ignore words with less weight, such as `[blurry]` twice or `(text:0.2)`.
SMALLEST_WEIGHT = 0.6
#: A thing with this much more weight than the head is the head.
HEAVIER = 0.25
#: Draw at most this many things, copies included.
MOST_THINGS = 6
#: Read only the beginning of a long prompt.
MOST_WORDS = 300
#: Backgrounds that are a time of day: they light another background.
LIGHTS = ("night", "sunset")
_CLAUSE = re.compile(r"[,.;:|!?\n()\[\]{}/]+|\bBREAK\b")
_SPOKEN_AGE = re.compile(
    r"\d+[\s-]{0,4}(?:years?|yrs?|yo|y/o|ans|jahre?|anos|años|tahun|yaş\w*|jährige?[rsnm]?)\b"
    r"[\s-]{0,4}(?:old|de idade|alte?[rsnm]?)?",
    re.I,
)
_FEMALE = (
    "female",
    "woman",
    "lady",
    "girl",
    "femme",
    "frau",
    "mujer",
    "mulher",
    "kadin",
    "wanita",
    "weibliche",
    "she",
    "her",
)
_MALE = ("male", "man", "guy", "homme", "mann", "hombre", "homem", "adam", "erkek", "pria", "mannlicher", "he", "his")
#: Languages whose colours follow the noun, and whose first noun is the head.
_NOUN_FIRST = ("fr", "es", "pt", "id")
_RELATIONS = frozenset(("and", "place", "with", "verbs", "of"))
_PEOPLE = ("woman", "man", "girl", "boy", "person", "child", "baby", "old man", "old woman")


class Subject(NamedTuple):
    """A thing to draw: a name of the model, its colour ("" for its own), and how many."""

    name: str
    colour: str = ""
    number: int = 1


class Scene(NamedTuple):
    """What a prompt asks for. `subjects` is empty for a landscape, or if no word is known."""

    subjects: tuple[Subject, ...] = ()
    #: A thing that the first subject stands on.
    support: Subject | None = None
    background: str = ""
    #: night, sunset or "".
    light: str = ""
    #: The colour of a plain background.
    plain: str = ""
    #: painting, drawing, flat, render, photo or "".
    style: str = ""
    language: str = "en"
    #: The words of the head that have no known meaning.
    unknown: str = ""


@dataclass
class _FoundThing:
    """A thing on the way: its role is subject, place, with, object, of or tag."""

    name: str
    strength: int
    role: str
    weight: float
    clause: int
    colour: str = ""
    count: int = 1
    joined: bool = False


@dataclass
class _Reading:
    """State while the words are read from left to right."""

    language: str
    found: list[_FoundThing] = field(default_factory=list)
    backgrounds: list[tuple[str, str]] = field(default_factory=list)
    plain: str = ""
    styles: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    role: str = "subject"
    clause: int = 0
    colour: str = ""
    count: int = 1
    joined: bool = False
    #: The previous word of this phrase was a thing, so another one makes a compound.
    after_thing: bool = False
    is_backdrop: bool = False
    starts_with_article: bool = False

    @property
    def noun_first(self) -> bool:
        return self.language in _NOUN_FIRST

    def end_phrase(self) -> None:
        self.colour, self.count, self.after_thing, self.is_backdrop = "", 1, False, False


class PromptReader:
    """Reads prompts with the words of one model."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._names = frozenset(words.names)

    def read(self, prompt: str) -> Scene:
        """Return what a prompt asks for. Any text is accepted."""
        clauses = self._clauses(prompt)
        every_word = [word for words, _ in clauses for word in words]
        reading = _Reading(self._words.language_of(every_word[:MOST_WORDS]))
        self._read_whole_name(clauses, reading)
        for words, weights in clauses:
            self._read_clause(words, weights, reading)
        scene = _scene_of(reading, set(every_word))
        return scene._replace(subjects=tuple(self._by_own_name(subject) for subject in scene.subjects))

    def _by_own_name(self, subject: Subject) -> Subject:
        """Return a green "red apple" as the "green apple" that the model knows."""
        first, _, rest = subject.name.partition(" ")
        plain = rest if rest and first in self._words.rgb else subject.name
        coloured = f"{subject.colour} {plain}"
        return subject._replace(name=coloured, colour="") if coloured in self._names else subject

    def _clauses(self, prompt: str) -> list[tuple[list[str], list[float]]]:
        """Return the words of each clause with their weights."""
        clauses: list[tuple[list[str], list[float]]] = [([], [])]
        text = _SPOKEN_AGE.sub(" ", self._words.replace_emoji(prompt))
        for part in weighted_parts(text):
            if part.text is None:
                clauses.append(([], []))
            elif part.weight >= SMALLEST_WEIGHT:
                for i, piece in enumerate(_CLAUSE.split(part.text)):
                    if i > 0:
                        clauses.append(([], []))
                    words = WORD.findall(fold(piece))
                    clauses[-1][0].extend(words)
                    clauses[-1][1].extend([part.weight] * len(words))
        kept = [clause for clause in clauses if clause[0]]
        total, last = 0, len(kept)
        for i, (words, _) in enumerate(kept):
            total += len(words)
            if total > MOST_WORDS:
                last = i + 1
                break
        return kept[:last]

    def _read_whole_name(self, clauses: list[tuple[list[str], list[float]]], reading: _Reading) -> None:
        """A clause that is exactly a name of the model means that thing, even if its words mean more elsewhere."""
        for i, (words, weights) in enumerate(clauses[:3]):
            length, meaning = self._words.find(words, 0, reading.language)
            if length == len(words) and meaning.strength >= OWN_NAME and not meaning.style and not meaning.colour:
                if "ignored" in meaning.roles and len(clauses) > 1:
                    return
                reading.found.append(_FoundThing(meaning.thing, 5, "subject", weights[0], i + 1))
                clauses[i] = ([], [])
                reading.clause = 1
                return
            if not meaning.style:
                return

    def _read_clause(self, words: list[str], weights: list[float], reading: _Reading) -> None:
        if not words:
            return
        reading.clause += 1
        reading.end_phrase()
        has_subject = any(thing.role == "subject" for thing in reading.found)
        reading.role, reading.joined, reading.starts_with_article = "tag" if has_subject else "subject", False, False
        at = 0
        while at < len(words):
            length, meaning = self._words.find(words, at, reading.language)
            if length == 0:
                if words[at].isalpha() and not has_subject:
                    reading.unknown.append(words[at])
                reading.after_thing = False
                at += 1
                continue
            if at == 0 and ("ignored" in meaning.roles or meaning.number) and has_subject:
                reading.starts_with_article = True
            following = self._words.find(words, at + length, reading.language)[1] if at + length < len(words) else None
            _take(
                reading,
                meaning,
                weights[at],
                _next_content(self._words, words, at + length, reading.language) or following,
            )
            at += length


def _next_content(words: Words, listed: list[str], at: int, language: str) -> Meaning | None:
    """Return the meaning of the next word that says something, or None."""
    while at < len(listed):
        length, meaning = words.find(listed, at, language)
        if length and not ("ignored" in meaning.roles and not meaning.strength >= OWN_NAME):
            return meaning
        at += max(1, length)
    return None


def _take(reading: _Reading, meaning: Meaning, weight: float, following: Meaning | None) -> None:
    """Take the next phrase."""
    roles = meaning.roles
    if "backdrop" in roles:
        reading.is_backdrop = True
        if reading.colour:
            reading.plain, reading.colour = reading.colour, ""
    elif meaning.colour and _is_colour(reading, meaning, following):
        _take_colour(reading, meaning.colour)
    elif meaning.style and not (meaning.strength >= OWN_NAME and reading.role == "subject"):
        reading.styles.append(meaning.style)
        reading.after_thing = False
    elif roles & _RELATIONS and meaning.strength < BY_HAND and not meaning.background:
        _take_role(reading, roles)
    elif roles & {"clothes", "body"} and _is_worn(reading, meaning):
        reading.end_phrase()
    elif meaning.number and meaning.strength < BY_HAND:
        reading.count = meaning.number
    elif "ignored" in roles and meaning.strength <= KEYWORD and not meaning.background:
        pass
    elif meaning.thing or meaning.background:
        _take_thing(reading, meaning, weight)
    elif roles & _RELATIONS:
        _take_role(reading, roles)


def _is_colour(reading: _Reading, meaning: Meaning, following: Meaning | None) -> bool:
    """Tell an orange from an orange cat."""
    if not meaning.thing or meaning.strength <= KEYWORD:
        return True
    if reading.noun_first:
        return reading.after_thing
    if following is None:
        return False
    return bool(following.thing or following.background or following.roles & {"clothes", "body", "backdrop"})


def _take_colour(reading: _Reading, colour: str) -> None:
    if reading.is_backdrop:
        reading.plain = colour
    elif reading.noun_first and reading.after_thing and reading.found and not reading.found[-1].colour:
        reading.found[-1].colour = colour
    else:
        reading.colour = colour


def _take_role(reading: _Reading, roles: frozenset[str]) -> None:
    previous = reading.found[-1] if reading.found and reading.after_thing else None
    if "and" in roles:
        reading.joined = True
    elif reading.language == "tr" and previous is not None and roles & {"place", "verbs", "with"}:
        # Turkish says it after the noun.
        previous.role = "place" if "place" in roles else "object" if "verbs" in roles else "with"
    elif "of" in roles and not any(thing.clause == reading.clause for thing in reading.found):
        # "A bunch of grapes", "a photo of a cat": what follows is the subject.
        pass
    elif reading.language != "tr":
        reading.role = next(role for role in ("place", "verbs", "with", "of") if role in roles)
        reading.joined = False
    reading.end_phrase()


def _is_worn(reading: _Reading, meaning: Meaning) -> bool:
    """Return True for clothes and features that belong to a thing named before, or that are no thing at all."""
    if not meaning.thing:
        return True
    return reading.role in ("with", "place", "tag") and bool(reading.found) and not reading.joined


def _take_thing(reading: _Reading, meaning: Meaning, weight: float) -> None:
    role = reading.role
    if meaning.is_place:
        role = "place"
    if role == "tag" and (reading.joined or reading.starts_with_article):
        role = "subject"
    if meaning.background:
        reading.backgrounds.append((meaning.background, role))
        reading.colour = ""
        reading.after_thing = False
        return
    thing = _FoundThing(
        meaning.thing,
        meaning.strength,
        role,
        weight,
        reading.clause,
        reading.colour,
        reading.count,
        reading.joined,
    )
    previous = reading.found[-1] if reading.found and reading.after_thing and not reading.joined else None
    if previous is not None and previous.clause == reading.clause and previous.role == role:
        if (
            not reading.noun_first
            and meaning.thing != "person"
            and meaning.strength >= min(previous.strength, OWN_NAME)
        ):
            thing.colour, thing.count = thing.colour or previous.colour, max(thing.count, previous.count)
            reading.found[-1] = thing
    else:
        reading.found.append(thing)
    reading.colour, reading.count, reading.joined = "", 1, False
    reading.after_thing = True


# ── from matches to a scene ────────────────────────────────────────────────────────────────────────────


def _scene_of(reading: _Reading, words: set[str]) -> Scene:
    found = _ranked(reading)
    main = [thing for thing in found if thing.role == "subject"]
    backgrounds = list(reading.backgrounds)
    if not main:
        order = (
            ("with", "object", "verbs", "place", "of", "tag")
            if backgrounds
            else ("object", "verbs", "with", "of", "place", "tag")
        )
        strong = [thing for thing in found if thing.role != "subject" and thing.strength >= KEYWORD]
        if backgrounds and backgrounds[0][1] == "subject":
            strong = [
                thing
                for thing in strong
                if thing.role in ("with", "object", "verbs", "of", "place") and thing.strength >= OWN_NAME
            ]
        main = sorted(strong, key=lambda thing: order.index(thing.role))[:1]
    support = next((t for t in found if t.role == "place" and t not in main and t.strength >= OWN_NAME), None)
    beside = [t for t in found if t.role in ("verbs", "object", "with") and t not in main and t.strength >= OWN_NAME]
    subjects = [_subject(thing, words) for thing in main]
    if main:
        subjects += [_subject(thing, words) for thing in beside[:1] if len(subjects) < 3]
    lights = [name for name, _ in backgrounds if name in LIGHTS]
    grounds = [name for name, _ in backgrounds if name not in LIGHTS]
    return Scene(
        subjects=tuple(_limited(subjects)),
        support=_subject(support, words) if support is not None and main else None,
        background=(grounds or lights or [""])[0],
        light=lights[0] if lights else "",
        plain=reading.plain,
        style=_style_of(reading.styles),
        language=reading.language,
        unknown=" ".join(reading.unknown),
    )


def _ranked(reading: _Reading) -> list[_FoundThing]:
    """Return the things, with one of much more weight first."""
    found = [thing for thing in reading.found if not (thing.role == "of" and _has_head(reading, thing))]
    heads = [thing for thing in found if thing.role == "subject"]
    if heads:
        heaviest = max(found, key=lambda thing: thing.weight)
        if heaviest.weight >= heads[0].weight + HEAVIER and heaviest.strength >= OWN_NAME and heaviest is not heads[0]:
            heaviest.role = "subject"
            found.remove(heaviest)
            found.insert(0, heaviest)
        weak = [thing for thing in heads if thing.strength < KEYWORD]
        if len(weak) < len(heads):
            # A vague word beside a clear one adds nothing.
            found = [thing for thing in found if thing not in weak or thing.joined]
    return found


def _has_head(reading: _Reading, thing: _FoundThing) -> bool:
    return any(other.role == "subject" and other.clause == thing.clause for other in reading.found)


def _subject(thing: _FoundThing, words: set[str]) -> Subject:
    name = thing.name
    if name == "person" and words & set(_FEMALE):
        name = "woman"
    elif name == "person" and words & set(_MALE):
        name = "man"
    own_colour = thing.colour and thing.colour in name.split()
    return Subject(name, "" if own_colour or name in _PEOPLE else thing.colour, thing.count)


def _limited(subjects: list[Subject]) -> list[Subject]:
    """Draw each thing once per name and colour, and not more than MOST_THINGS in all."""
    kept: list[Subject] = []
    free = MOST_THINGS
    for subject in subjects:
        is_new = all((subject.name, subject.colour) != (other.name, other.colour) for other in kept)
        if free > 0 and is_new and len(kept) < 4:
            kept.append(subject._replace(number=min(subject.number, free)))
            free -= kept[-1].number
    return kept


def _style_of(styles: list[str]) -> str:
    """Return the first style that is more than a quality."""
    chosen = [style for style in styles if style != "quality"]
    return next((style for style in chosen if style != "photo"), chosen[0] if chosen else "")
