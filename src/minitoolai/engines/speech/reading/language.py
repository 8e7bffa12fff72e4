"""Tell which language a text is written in, to refuse what a voice would mispronounce. Runs in the child process.

py3langid gives the probabilities. It takes names for words: "Kuala Lumpur, Jakarta, Manila." is Indonesian to it. So an
English voice refuses a text only if its words are evidence too. Frequent words of the language found are evidence, and
words that no English dictionary has. A capitalised word inside a sentence is a name and is no evidence; function words
of English outweigh frequent foreign words, because an English sentence may quote a foreign phrase.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
import tomllib
from collections.abc import Callable, Container, Sequence
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

Dictionary = Callable[[str], bool]

#: The languages that are distinguished. More of them would make short texts less certain.
LANGUAGES = ("en", "de", "fr", "es", "pt", "it", "nl", "tr", "id", "pl", "sv", "da", "no", "fi", "cs", "hu", "ro", "vi")
#: Characters examined. Bounds the time for a long text to 3 ms.
SAMPLE = 2000
#: A text is foreign to a voice if its language has less than this probability.
MAX_OWN = 0.15
#: The language found must be this probable, or this many times as probable as the voice's own.
MIN_FOUND, MIN_RATIO = 0.9, 10.0
#: For an English voice: the share of ordinary words that are frequent in the language found. It proves that language.
MIN_FREQUENT = 0.34
#: The same without the probability: so many words and this share of them.
MIN_WORDS_ALONE, MIN_FREQUENT_ALONE = 2, 0.5
#: Least letters of an English past tense such as "wanted". Shorter words may be of any language.
MIN_PAST = 5
#: How many frequent foreign words are outweighed by an English past tense, function word and other frequent word.
PAST_WEIGHT, FUNCTION_WEIGHT, CONTENT_WEIGHT = 3, 2, 1
#: The share of words, names left out, that no English dictionary has: with a frequent word of the language, and without.
MIN_UNKNOWN, MIN_UNKNOWN_ONLY, MIN_UNKNOWN_IF_CERTAIN = 0.2, 0.6, 0.34
#: py3langid is certain at these probabilities, of the language found and of English.
CERTAIN, CERTAINLY_NOT = 0.98, 0.002
#: So many words that are also English, or parts of names, are evidence without any other.
MIN_SHARED = 2
#: This many articles and prepositions, which also occur in names, are a sentence.
MIN_PARTICLES = 3

#: Endings of English words, of which dictionaries have the stem only, and what the stem ends in.
_ENDINGS = (
    ("'s", ""),
    ("s", ""),
    ("es", ""),
    ("ies", "y"),
    ("d", ""),
    ("ed", ""),
    ("ing", ""),
    ("ing", "e"),
    ("ly", ""),
)
#: French and Italian words that lost their vowel, as in "l'eau". In a name a capital follows: "L'Oréal".
_ELISION = re.compile(r"(?i:[ldjnscmt]|qu|un|dell|all|nell)['’](?=[^\W\d_])[^A-ZÀ-Þ]")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
#: Marks after which a word with a capital need not be a name.
_STARTS = re.compile(r"[.!?:;…¿¡\"“«„\n]")
#: Words with digits, addresses and code say nothing about the language.
_NO_WORD = re.compile(r"\S*[\d@/\\_=<>{}#]\S*|\S+\.\S+")
_DATA = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
#: Parts of names, which say nothing about the language of a text.
_PARTICLES = frozenset(_DATA.pop("names").split())
#: Foreign expressions that English uses, a line each.
_LOANS = re.compile(rf"\b(?:{'|'.join(filter(None, _DATA.pop('loans').splitlines()))})\b", re.I)
_FUNCTION, _CONTENT = frozenset(_DATA.pop("en").split()), frozenset(_DATA.pop("en_content").split())
_ENGLISH = _FUNCTION | _CONTENT
_FREQUENT: dict[str, frozenset[str]] = {code: frozenset(words.split()) for code, words in _DATA.items()}
_FOREIGN = frozenset().union(*_FREQUENT.values()) - _ENGLISH
#: Languages that write all nouns with a capital.
_CAPITALISED_NOUNS = frozenset(("de",))


class _Guess(NamedTuple):
    """The most probable language, and whether hardly another one is possible."""

    language: str
    is_certain: bool


class LanguageDetector:
    """Detects the language of texts. `dictionary` tells whether a word is English; by default hibari's, if installed."""

    def __init__(self, dictionary: Dictionary | None = None) -> None:
        self._model: Any = None
        self._loading: threading.Thread | None = None
        self._dictionary = dictionary

    def preload(self) -> None:
        """Load the model in a thread, so that the voices need not wait for it."""
        self._loading = threading.Thread(target=self._load, name="language model", daemon=True)
        self._loading.start()

    def _load(self) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        model.set_languages(LANGUAGES)
        # Release the 100 other languages: 26 MB.
        model._full_model = None
        self._model = model

    def probabilities(self, text: str) -> dict[str, float]:
        """Return the probability of each language."""
        if self._loading is None:
            self.preload()
        if self._loading is not None:
            self._loading.join()
        return dict(self._model.rank(text))

    def foreign_language(self, text: str, spoken: str) -> str | None:
        """Return the language of a text that a voice of the language `spoken` cannot read; None if it can.

        English is accepted for every voice, because texts in all languages quote it.
        """
        if spoken not in LANGUAGES:
            return None
        text = _NO_WORD.sub(" ", text[:SAMPLE])
        text = text.lower() if text.isupper() else text
        if spoken == "en":
            return self._foreign_to_english(_tokens(_LOANS.sub(" ", text.replace("’", "'"))))
        found = self._judge(" ".join(_WORD.findall(text)), spoken)
        return None if found is None or found.language == "en" else found.language

    def _foreign_to_english(self, words: list[_Word]) -> str | None:
        if self._is_plainly_english(words):
            return None
        text = " ".join(word.text for word in words)
        # Names mislead the model, so the text is judged without them as well.
        plain = " ".join(word.text for word in words if word.text[0].islower())
        for part in (text, plain) if plain and plain != text else (text,):
            found = self._judge(part, "en")
            if found is not None and self._is_foreign(words, found):
                return found.language
        return self._foreign_by_words(words, text)

    def _is_plainly_english(self, words: list[_Word]) -> bool:
        """Return True if no word is frequent in another language and all are in the dictionary. Needs no model."""
        is_foreign = any(word.lower in _FOREIGN or _ELISION.match(word.text) for word in words)
        return not is_foreign and not self._unknown(words)[0]

    def _unknown(self, words: list[_Word]) -> tuple[int, int]:
        """Return how many words are in no English dictionary, and of how many. Names and their parts do not count.

        A first word may be a name, so it counts only beside others. Letters that English does not have count twice.
        """
        ordinary = [word.text for word in words if not word.is_name and word.lower not in _PARTICLES]
        unknown = [word for word in ordinary if not self._is_english_word(word)]
        if not any(word[0].islower() for word in unknown):
            return 0, len(ordinary)
        return sum(1 if word.isascii() or not word[0].islower() else 2 for word in unknown), len(ordinary)

    def _is_english_word(self, word: str) -> bool:
        if self._dictionary is None:
            self._dictionary = english_dictionary()
        return self._dictionary(word)

    def _is_foreign(self, words: list[_Word], found: _Guess) -> bool:
        """Return True if the words are not an English text with foreign names, but of the language found."""
        foreign = _Evidence.of(words, found.language).total
        english = sum(self._english_weight(word.lower, found.language) for word in words)
        unknown, of = self._unknown(words)
        if english and english >= foreign + self._count_marked(words):
            return False
        if foreign == 1 and of > 1 and all(self._is_english_word(word.text) for word in words):
            return False
        if foreign >= max(1, MIN_FREQUENT * _count_ordinary(words)):
            return True
        if not english and unknown and sum(word.text in _PARTICLES for word in words) >= MIN_PARTICLES:
            return True
        share = MIN_UNKNOWN if foreign else MIN_UNKNOWN_IF_CERTAIN if found.is_certain else MIN_UNKNOWN_ONLY
        return unknown >= max(1, share * of)

    def _english_weight(self, word: str, language: str) -> int:
        """Return how much a word proves that a text is English: nothing if it is frequent in the other language too."""
        if word in _PARTICLES or word in _FREQUENT[language]:
            return 0
        if word in _FUNCTION:
            return FUNCTION_WEIGHT
        if word.endswith("ed") and len(word) >= MIN_PAST and self._is_english_word(word):
            return PAST_WEIGHT
        return CONTENT_WEIGHT if word in _CONTENT else 0

    def _count_marked(self, words: list[_Word]) -> int:
        """Return how many words in lower case have letters that English does not have, and are not in its dictionary."""
        return sum(
            word.text[0].islower() and not word.text.isascii() and not self._is_english_word(word.text)
            for word in words
        )

    def _foreign_by_words(self, words: list[_Word], text: str) -> str | None:
        """Return the language if most words of a text without English ones are frequent in it, whatever the letters say.

        A text of a few words is too short for py3langid. One word is enough if English has no such word.
        """
        if any(word.lower in _ENGLISH for word in words):
            return None
        counts = {code: _Evidence.of(words, code).certain for code in _FREQUENT}
        most = max(counts.values())
        best = [code for code, count in counts.items() if count == most]
        is_one = len(words) == 1 and not self._is_english_word(words[0].text)
        if most < (1 if is_one else MIN_WORDS_ALONE) or most < MIN_FREQUENT_ALONE * _count_ordinary(words):
            return None
        chances = self.probabilities(text)
        return max(best, key=lambda code: chances[code])

    def _judge(self, text: str, spoken: str) -> _Guess | None:
        """Return the most probable language if it is not the one spoken, clearly."""
        if not text:
            return None
        chances = self.probabilities(text)
        own = chances.pop(spoken)
        best = max(chances, key=lambda code: chances[code])
        if own > MAX_OWN or (chances[best] < MIN_FOUND and chances[best] < MIN_RATIO * own):
            return None
        return _Guess(best, chances[best] >= CERTAIN and own <= CERTAINLY_NOT)


class _Word(NamedTuple):
    """A word, and where it stands."""

    text: str
    lower: str
    #: It begins with a capital inside a sentence, as names do.
    is_name: bool
    #: It begins with a capital at the start of a sentence, and a name or a part of one follows: "Calle de Alcalá".
    begins_name: bool
    #: The next word is an ordinary one in lower case.
    leads_word: bool


def _tokens(text: str) -> list[_Word]:
    found = list(_WORD.finditer(text))
    leads_name = leads_word = False
    start_after = len(text)
    tokens: list[_Word] = []
    # From the last word to the first, because a word is judged by what follows.
    for at in range(len(found) - 1, -1, -1):
        word, end = found[at][0], found[at].end()
        if text[end:start_after] != " ":
            leads_name = leads_word = False
        start_after = found[at].start()
        before = found[at - 1].end() if at else None
        is_first = before is None or _STARTS.search(text, before, start_after) is not None
        # Also in "d'Orsay".
        has_capital = not word[0].islower() or (word[1:2] == "'" and not word[2].islower())
        is_name = has_capital and not is_first
        begins_name = has_capital and is_first and leads_name
        tokens.append(_Word(word, word.lower(), is_name, begins_name, leads_word))
        # "de la" leads to what follows it.
        if has_capital or (word not in _PARTICLES and len(word) > 1):
            leads_name, leads_word = has_capital, not has_capital
    return tokens[::-1]


class _Evidence(NamedTuple):
    """How many words of a text are frequent in a language: those that English does not use, and the others."""

    certain: int
    #: Words that are also English, and articles and prepositions before a word in lower case, so in no name.
    shared: int

    @property
    def total(self) -> int:
        return self.certain + self.shared if self.certain or self.shared >= MIN_SHARED else 0

    @classmethod
    def of(cls, words: list[_Word], language: str) -> _Evidence:
        """Count the words of this language."""
        frequent = _FREQUENT[language]
        certain = shared = 0
        for word in words:
            if (word.is_name or word.begins_name) and language not in _CAPITALISED_NOUNS:
                continue
            if word.lower in _PARTICLES:
                shared += word.leads_word and word.lower in frequent
            elif word.lower in frequent:
                certain, shared = (certain, shared + 1) if word.lower in _ENGLISH else (certain + 1, shared)
            elif _ELISION.match(word.text):
                certain += 1
        return cls(certain, shared)


def _count_ordinary(words: list[_Word]) -> int:
    """Return how many words are neither names nor parts of names."""
    return sum(not word.is_name and word.lower not in _PARTICLES for word in words)


def english_dictionary() -> Dictionary:
    """Return hibari's English dictionaries; without hibari, one that has no word."""
    found = util.find_spec("hibari")
    if found is None or not found.submodule_search_locations:
        return lambda _: False
    folder = Path(found.submodule_search_locations[0]) / "assets"
    files = [folder / f"lexicon_us_{level}.json.gz" for level in ("gold", "silver")]
    return dictionary_of([frozenset(json.loads(gzip.decompress(file.read_bytes()))) for file in files])


def dictionary_of(tables: Sequence[Container[str]]) -> Dictionary:
    """Return a function that tells whether a word is in one of these dictionaries, in any case."""

    def contains(word: str) -> bool:
        word = word.replace("’", "'")
        stems = [word, *(word.removesuffix(ending) + rest for ending, rest in _ENDINGS if word.endswith(ending))]
        forms = {form for stem in stems for form in (stem, stem.lower(), stem.capitalize())}
        return any(form in table for table in tables for form in forms)

    return contains
