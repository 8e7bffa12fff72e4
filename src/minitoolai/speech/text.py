"""Prepare a text for speech: choose the voice, check script and language, split it into sentences.

Runs before the cost is held, so that a text which the voice cannot speak is refused without a charge. The word lists
are in words.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from minitoolai.core.catalog.catalog import VoiceEntry, find_voice, language_of, suggest_names, voices_by_name
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import SpeechRequest, SpeechSegment
from minitoolai.speech.markup import FILL, blank_markup

_SPEAKABLE = re.compile(r"[^\W_]")
#: Language of a voice that accepts text in any language.
ANY = "*"


class SpeechText:
    """Text as spoken by one voice, its markup blanked. `unspoken` counts characters in scripts that it cannot read."""

    def __init__(self, text: str, voice: VoiceEntry) -> None:
        self.text = text if voice.language == ANY else blank_markup(text)
        self._skips = None if voice.language == ANY or text.isascii() else unreadable_words(voice.language)
        self.unspoken = sum(len(run) for run in self._skips.findall(text)) if self._skips else 0

    @property
    def characters(self) -> int:
        """The number of characters to charge for."""
        return len(self.text) - self.unspoken

    def pieces(self) -> Iterator[SpeechSegment]:
        """Yield the segments to speak, lazily."""
        skipped = 0
        for sentence, end in sentences(self.text):
            spoken = sentence
            if self._skips:
                spoken = self._skips.sub("", sentence)
                skipped += len(sentence) - len(spoken)
            if spoken := spoken.replace(FILL, "").strip():
                yield SpeechSegment(spoken, end - skipped)


def choose_voice(request: SpeechRequest, default: str, voices: list[VoiceEntry]) -> VoiceEntry:
    """Return the requested voice, or the default one, among those available. InvalidRequest suggests similar names."""
    if request.language is not None:
        voices = _voices_for(request.language, voices)
    if request.voice is None:
        return find_voice(default, voices) or voices[0]
    voice = find_voice(request.voice, voices)
    if voice is None:
        near = suggest_names(request.voice, voices_by_name(voices))
        raise InvalidRequest(f"there is no voice {request.voice[:80]!r}; {near}", param="voice", code="voice_not_found")
    return voice


def _voices_for(language: str, voices: list[VoiceEntry]) -> list[VoiceEntry]:
    code = language_of(language)
    matching = [voice for voice in voices if voice.language == ANY or language_of(voice.language) == code]
    if not matching:
        name = LANGUAGE_NAMES.get(code, repr(language[:40]))
        raise _language_error(f"language is {name}, which no voice here speaks", voices, "language")
    return matching


def check_text(speech: SpeechText, voice: VoiceEntry, voices: list[VoiceEntry]) -> None:
    """Raise InvalidRequest if the voice cannot speak the text: no letters or digits, or mostly another script."""
    if _SPEAKABLE.search(speech.text) is None:
        raise InvalidRequest(
            "input has nothing to speak: it needs at least one letter or digit outside of markup and code",
            param="input",
            code="nothing_to_speak",
        )
    if voice.language == ANY:
        return
    script = foreign_script(speech.text, voice.language)
    if script is not None:
        raise _language_error(
            f"input is written in {script}, which the voice {voice.id} does not speak", voices, "input"
        )


def sample_of(request: SpeechRequest, speech: SpeechText, voice: VoiceEntry) -> str | None:
    """Return the part of the text to detect the language of; None if the voice or the caller makes that needless."""
    if voice.language == ANY or request.language is not None:
        return None
    return speech.text[:SAMPLE].replace(FILL, "")


def wrong_language(code: str, voice: VoiceEntry, voices: list[VoiceEntry]) -> InvalidRequest:
    """Return the error for a text in another language than the voice's."""
    return _language_error(
        f"input reads as {LANGUAGE_NAMES.get(code, code)}, which the voice {voice.id} does not speak "
        f'(add "language": "{language_of(voice.language)}" if that is wrong)',
        voices,
        "input",
    )


def _language_error(message: str, voices: list[VoiceEntry], param: str) -> InvalidRequest:
    offered = ", ".join(
        f"{voice.id} ({'any language' if voice.language == ANY else voice.language})" for voice in voices
    )
    return InvalidRequest(f"{message}; the voices are {offered}", param=param, code="language_not_supported")


# ── sentences ─────────────────────────────────────────────────────────────────────────────────────────────
#
# The text is split lazily, so that the first sentence can be spoken before the end of a long text has been read.
# Numbers, abbreviations and initials are never split; sentences that are too long are split at a clause.

#: Maximum length of the first segment, in characters. It is short, so that the audio starts soon.
FIRST_LONGEST = 100
#: A digit is read as about this many characters: "$45.90" is "forty-five dollars and ninety cents".
_DIGIT_LENGTH = 3
#: Maximum length of all other segments.
LONGEST = 400

# Every alternative can only match where it starts, so the search takes linear time for any text.
_SENTENCE_END = re.compile(
    r"""(?<![.!?…])[.!?…]++["'”’»)\]\u200b]*+\s[\s\u200b]*|[。！？]++["'”’»」』）]*+\s*|\n[\s\u200b]*"""
)
_CLAUSE_END = re.compile(r"[,;:—–]\s+|[、，；：]")
_WORD = re.compile(r"""[^\s"'“”‘’«»()\[\]]*\Z""")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]\Z")
_LIST_NUMBER = re.compile(r"\s*[(\[]?(?:\d{1,3}|[ivxIVX]{1,4})\Z")


_DATA = tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))
#: Abbreviations: a full stop after these words never ends a sentence.
_ABBREVIATIONS = frozenset(_DATA["sentences"]["abbreviations"].split())
#: A full stop after these words does not end a sentence if a number follows.
_BEFORE_A_NUMBER = frozenset(_DATA["sentences"]["before_a_number"].split())
#: A full stop after these words ends a sentence only if a capital letter follows.
_OFTEN_LAST = frozenset(_DATA["sentences"]["often_last"].split())


def sentences(text: str) -> Iterator[tuple[str, int]]:
    """Yield (sentence without surrounding whitespace, index of its end in the text), lazily and in order."""
    start, longest = 0, FIRST_LONGEST
    while start < len(text):
        end = _end_of_sentence(text, start, longest)
        if longest == FIRST_LONGEST:
            end = _shorter_first(text, start, end)
        sentence = text[start:end].strip()
        start = end
        if sentence:
            yield sentence, end
            longest = LONGEST


def _shorter_first(text: str, start: int, end: int) -> int:
    """Return where to end the first segment: at its first clause if the numbers in it make it long."""
    segment = text[start:end]
    if len(segment) + (_DIGIT_LENGTH - 1) * sum(map(str.isdigit, segment)) <= FIRST_LONGEST:
        return end
    clause = _CLAUSE_END.search(text, start + FIRST_LONGEST // 5, end)
    return end if clause is None else clause.end()


def _end_of_sentence(text: str, start: int, longest: int) -> int:
    """Return the end of the sentence that starts at `start`, including the whitespace after it."""
    start += len(text[start : start + longest]) - len(text[start : start + longest].lstrip())
    stop = min(len(text), start + longest)
    for match in _SENTENCE_END.finditer(text, start, min(len(text), stop + 8)):
        if match.start() > stop:
            break
        if _is_sentence_end(text, start, match):
            return match.end()
    return len(text) if stop == len(text) else _split_long(text, start, stop)


def _is_sentence_end(text: str, start: int, match: re.Match[str]) -> bool:
    """Return True if this full stop or other mark ends a sentence."""
    mark = match[0]
    if "\n" in mark or mark[0] not in ".…":
        return True
    following = text[match.end() : match.end() + 1]
    if following.islower():
        return False
    if mark.startswith(".."):
        return True
    before = text[start : match.start()]
    if _LIST_NUMBER.fullmatch(before):
        return False
    last_word = _WORD.search(before)
    word = last_word[0] if last_word else ""
    if _INITIALS.match(word) or word.lower().replace(".", "") in _ABBREVIATIONS:
        return False
    if word.lower() in _BEFORE_A_NUMBER:
        return not following.isdigit()
    return word.lower() not in _OFTEN_LAST or following.isupper()


def _split_long(text: str, start: int, stop: int) -> int:
    """Return where to split a sentence that is too long: after a clause, else after whitespace, else at the limit."""
    clauses = [match.end() for match in _CLAUSE_END.finditer(text, start + (stop - start) // 4, stop)]
    if clauses:
        return clauses[-1]
    blank = max(text.rfind(mark, start + 1, stop) for mark in (" ", "\t", "\u3000"))
    return blank + 1 if blank > start else stop


# ── script ───────────────────────────────────────────────────────────────────────────────────
#
# The script tells most languages. engines/speech/reading/language.py tells those in Latin script.

#: Script → (character ranges of its letters, languages written in it, name for error messages).
_SCRIPTS: dict[str, tuple[str, frozenset[str], str]] = {
    script: (entry["letters"], frozenset(entry["languages"].split()), entry["name"])
    for script, entry in _DATA["scripts"].items()
}
#: Language code → English name.
LANGUAGE_NAMES: dict[str, str] = _DATA["language_names"]
_LETTER = re.compile(r"[^\W\d_]")
#: Number of characters examined for the language, and for scripts. Bounds the time for a long text.
SAMPLE = 4000
_LONG_SAMPLE = 20_000


def unreadable_words(voice_language: str) -> re.Pattern[str]:
    """Return a pattern that matches words in scripts which a voice of this language cannot read."""
    code = language_of(voice_language)
    letters = "".join(letters for letters, codes, _ in _SCRIPTS.values() if code not in codes)
    return re.compile(f"[{letters}](?:[{letters}\u0300-\u036f\u0900-\u0dff\u064b-\u065f]|[-'’·](?=[{letters}]))*")


def foreign_script(text: str, voice_language: str) -> str | None:
    """Return the name of the text's script if the voice cannot read most of its letters, else None."""
    if text.isascii():
        return None
    text, code = text[:_LONG_SAMPLE], language_of(voice_language)
    counts = {
        name: len(re.findall(f"[{letters}]", text))
        for name, (letters, codes, _) in _SCRIPTS.items()
        if code not in codes
    }
    if sum(counts.values()) * 2 <= len(_LETTER.findall(text)):
        return None
    # Japanese uses both Kana and Han, Chinese never uses Kana.
    name = "Kana" if counts.get("Kana") else max(counts, key=lambda script: counts[script])
    return _SCRIPTS[name][2]
