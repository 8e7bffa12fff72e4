"""What single words and phrases mean: the vocabulary and the lexicon of the sketch model, in seven languages."""

from __future__ import annotations

import gzip
import json
import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from minitoolai.engines.images.prompts.folding import fold

LANGUAGES = ("en", "pt", "de", "id", "tr", "es", "fr")
#: The strength of a thing: named by hand, by its own name, by a keyword, as a kind of it.
BY_HAND, OWN_NAME, KEYWORD, KIND = 4, 3, 2, 1
#: Longest phrase in words.
LONGEST = 7
#: A compound's last part has at least this many letters: "apfelkuchen" is a "kuchen".
SHORTEST_HEAD = 4
WORD = re.compile(r"\w+|&")
#: Languages whose compounds are one word that ends with its head.
_COMPOUNDING = ("de",)
#: Regular endings by language: what to cut, and what to put in its place.
_ENDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man")),
    "de": tuple((cut, "") for cut in ("e", "en", "n", "er", "ern", "es", "s", "em", "chen", "lein"))
    + (("chen", "e"), ("lein", "e"), ("innen", "")),
    "fr": (("s", ""), ("x", ""), ("aux", "al"), ("e", ""), ("es", ""), ("eaux", "eau")),
    "es": (("s", ""), ("es", ""), ("ces", "z"), ("ito", "o"), ("ita", "a"), ("itos", "o"), ("itas", "a"), ("as", "o")),
    "pt": (
        ("s", ""),
        ("es", ""),
        ("oes", "ao"),
        ("aes", "ao"),
        ("ais", "al"),
        ("eis", "el"),
        ("ois", "ol"),
        ("ns", "m"),
    )
    + (("inho", "o"), ("inha", "a"), ("zinho", ""), ("zinha", "")),
    "id": (("nya", ""), ("ku", ""), ("an", "")),
    "tr": (),
}
_TURKISH_PLACES = ("daki", "deki", "taki", "teki", "nda", "nde", "da", "de", "ta", "te")
#: The first reading that is a known word counts, so long endings come first.
_TURKISH_ENDINGS = (
    *_TURKISH_PLACES[:4],
    *("nin", "nun", "lar", "ler", "dan", "den", "tan", "ten"),
    *_TURKISH_PLACES[4:],
    *("in", "un", "yi", "yu", "si", "su", "ya", "ye", "i", "u", "a", "e"),
)
#: "Elmalı" is "with apples": it describes what comes next.
_TURKISH_WITH = re.compile(r"(li|lu|siz|suz)$")
#: So many words tell a prompt's language.
_MOST_TELLING = 40
_SOFTENED = {"b": "p", "c": "c", "d": "t", "g": "k"}


class Meaning(NamedTuple):
    """What a phrase may be. Several may hold: "crown" is a thing and something to wear."""

    thing: str = ""
    strength: int = 0
    colour: str = ""
    background: str = ""
    style: str = ""
    number: int = 0
    #: Roles in the grammar: and, place, with, verbs, of, backdrop, clothes, body, ignored, years.
    roles: frozenset[str] = frozenset()
    #: In Turkish: the ending says that something is there.
    is_place: bool = False


class Words:
    """Look up phrases. Loads in a few tens of milliseconds."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        vocabulary: dict[str, Any] = tomllib.loads((folder / "vocabulary.toml").read_text("utf-8"))
        with gzip.open(folder / "lexicon.json.gz") as file:
            lexicon: dict[str, Any] = json.load(file)
        self.names = names
        self._lexicon: dict[str, dict[str, list[int]]] = lexicon["phrases"]
        self._emoji: dict[str, int] = lexicon["emoji"]
        #: The styles of the names that the model does not know in all four.
        self.styles: dict[str, list[str]] = lexicon["styles"]
        longest_first = sorted(self._emoji, key=len, reverse=True)
        self._emoji_pattern = re.compile("|".join(map(re.escape, longest_first)))
        self.rgb: dict[str, tuple[int, int, int]] = {
            name: (int(red), int(green), int(blue)) for name, (red, green, blue) in vocabulary["colours"]["rgb"].items()
        }
        styles = {
            phrase: {"style": style} for style, listed in vocabulary["styles"].items() for phrase in split(listed)
        }
        self._phrases = {language: _by_phrase(vocabulary, language, styles) for language in LANGUAGES}

    def replace_emoji(self, text: str) -> str:
        """Put the names of emoji in their place, as a clause of their own."""
        if text.isascii():
            return text
        return self._emoji_pattern.sub(lambda found: f" , {self.names[self._emoji[found[0]]]} , ", text)

    def language_of(self, words: list[str]) -> str:
        """Return the language that knows most of these words, English if none is ahead."""

        def known(language: str) -> float:
            ours, lexicon = self._phrases[language], self._lexicon[language]
            score = 0.9 if language == "en" else 0.0
            for word in words[:_MOST_TELLING]:
                if word in ours:
                    score += 1.0
                elif word in lexicon:
                    score += 0.6
                elif any(form in ours or form in lexicon for form, _ in _base_forms(word, language) if len(form) > 2):
                    score += 0.5
            pairs = pairwise(words[:_MOST_TELLING])
            return score + sum(1.5 for pair in pairs if (phrase := " ".join(pair)) in ours or phrase in lexicon)

        return max(LANGUAGES, key=known)

    def find(self, words: list[str], start: int, language: str) -> tuple[int, Meaning]:
        """Return the longest known phrase that begins here: its number of words, 0 for none, and its meaning."""
        longest = min(LONGEST, len(words) - start)
        for count in range(longest, 0, -1):
            phrase = " ".join(words[start : start + count])
            meaning = self._exact(phrase, language) or (self._inflected(phrase, language) if count < 4 else None)
            if meaning is not None:
                return count, meaning
        return 0, Meaning()

    def _exact(self, phrase: str, language: str) -> Meaning | None:
        found = self._in_language(phrase, language, KIND)
        if found is None and language != "en":
            found = self._in_language(phrase, "en", KEYWORD)
            if found is not None and found.roles:
                return found._replace(roles=frozenset()) if found != Meaning(roles=found.roles) else None
        return found

    def _in_language(self, phrase: str, language: str, weakest: int) -> Meaning | None:
        fields = self._phrases[language].get(phrase)
        entry = self._lexicon[language].get(phrase)
        if entry is not None and language == "en" and entry[0] <= KEYWORD and phrase.endswith("ing"):
            # "crossing" is what a train does, and no railway sign.
            entry = None
        if entry is not None and entry[0] >= weakest and "thing" not in (fields or {}):
            fields = {**(fields or {}), "thing": self.names[entry[1]], "strength": entry[0]}
        return None if fields is None else Meaning(**fields)

    def _inflected(self, phrase: str, language: str) -> Meaning | None:
        head, _, last = phrase.rpartition(" ")
        if language == "tr" and not head and (without := _TURKISH_WITH.sub("", last)) != last:
            known = self._in_language(without, language, KIND)
            return Meaning(roles=frozenset(("ignored",))) if known is not None else None
        for form, is_place in _base_forms(last, language):
            found = self._in_language(f"{head} {form}".strip(), language, KIND)
            if found is not None and (found.thing or found.background or found.colour or found.style):
                return found._replace(is_place=is_place, roles=found.roles - {"and", "place", "with", "verbs", "of"})
        if head == "" and language in _COMPOUNDING:
            return self._compound(last, language)
        return None

    def _compound(self, word: str, language: str) -> Meaning | None:
        for start in range(2, len(word) - SHORTEST_HEAD + 1):
            for form in (word[start:], *(form for form, _ in _base_forms(word[start:], language))):
                found = self._in_language(form, language, KEYWORD) if len(form) >= SHORTEST_HEAD else None
                if found is not None and (found.thing or found.background):
                    return found
        return None


def split(listed: str) -> Iterator[str]:
    """Return the folded phrases of a list that is separated by commas."""
    for phrase in listed.split(","):
        if words := WORD.findall(fold(phrase)):
            yield " ".join(words)


def _by_phrase(
    vocabulary: dict[str, Any], language: str, styles: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the meanings of a language's phrases, as fields of Meaning."""
    found: dict[str, dict[str, Any]] = {phrase: dict(fields) for phrase, fields in styles.items()}

    def add(listed: str, **fields: Any) -> None:
        for phrase in split(listed):
            found.setdefault(phrase, {}).update(fields)

    for name, listed in vocabulary["things"][language].items():
        add(listed, thing=name, strength=BY_HAND)
    for colour, listed in vocabulary["colours"][language].items():
        add(listed, colour=colour)
    for background, listed in vocabulary["backgrounds"][language].items():
        add(listed, background=background)
    grammar = vocabulary["grammar"][language]
    for number, listed in grammar["counts"].items():
        add(listed, number=int(number))
    for role, listed in grammar.items():
        if role != "counts":
            for phrase in split(listed):
                fields = found.setdefault(phrase, {})
                fields["roles"] = fields.get("roles", frozenset()) | {role}
    return found


def _base_forms(word: str, language: str) -> Iterator[tuple[str, bool]]:
    """Return what a word may be an inflection of, and whether its ending says that something is there."""
    if language == "tr":
        yield from _turkish_base_forms(word)
        return
    for ending, instead in _ENDINGS[language]:
        if word.endswith(ending) and len(word) - len(ending) + len(instead) >= 2:
            yield word[: len(word) - len(ending)] + instead, False


def _turkish_base_forms(word: str) -> Iterator[tuple[str, bool]]:
    """Cut up to three endings in every way they can be read; undo the softening of the last consonant."""
    seen = {word}
    level = [(word, False)]
    for _ in range(3):
        cut = [
            (stem.removesuffix(ending), is_place or ending in _TURKISH_PLACES)
            for stem, is_place in level
            for ending in _TURKISH_ENDINGS
            if stem.endswith(ending) and len(stem) - len(ending) >= 2
        ]
        level = [(stem, is_place) for stem, is_place in cut if stem not in seen]
        seen.update(stem for stem, _ in level)
        for stem, is_place in level:
            yield stem, is_place
            if stem[-1] in _SOFTENED:
                yield stem[:-1] + _SOFTENED[stem[-1]], is_place
