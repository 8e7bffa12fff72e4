"""What is spoken of a text, and why some texts are not: checked before anything is held."""

from __future__ import annotations

import re
from collections.abc import Iterator

from minitoolai.core.catalog import nearest
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import Piece, SpeechRequest
from minitoolai.core.voices import VoiceEntry, find_voice, language_of, spoken_names
from minitoolai.speech.language import LANGUAGE_NAMES, foreign_script, guessed_language, unreadable
from minitoolai.speech.sentences import sentences

_SPEAKABLE = re.compile(r"[^\W_]")
# Bounded, so that no text makes the search slow.
_MARKUP = re.compile(
    r"<\s{0,3}/?\s{0,3}(speak|break|prosody|phoneme|say-as|emphasis|voice|audio|sub)\b[^<>]{0,200}>", re.I
)
#: The language of a voice that takes any text as it is.
ANY = "*"


class SpeechText:
    """A text as one voice will speak it. `unspoken` characters are in scripts that it does not read."""

    def __init__(self, text: str, voice: VoiceEntry) -> None:
        self._text = text
        self._skips = None if voice.language == ANY or text.isascii() else unreadable(voice.language)
        self.unspoken = sum(len(run) for run in self._skips.findall(text)) if self._skips else 0

    @property
    def characters(self) -> int:
        """Characters to be paid for."""
        return len(self._text) - self.unspoken

    def pieces(self) -> Iterator[Piece]:
        """Sentences, lazily."""
        skipped = 0
        for sentence, end in sentences(self._text):
            spoken = sentence
            if self._skips:
                spoken = self._skips.sub("", sentence)
                skipped += len(sentence) - len(spoken)
            yield Piece(spoken, end - skipped)


def choose_voice(request: SpeechRequest, default: str, voices: list[VoiceEntry]) -> VoiceEntry:
    """The voice that was asked for, among those that are ready. InvalidRequest lists the nearest."""
    if request.language is not None:
        voices = _speaking(request.language, voices)
    if request.voice is None:
        return find_voice(default, voices) or voices[0]
    voice = find_voice(request.voice, voices)
    if voice is None:
        near = nearest(request.voice, spoken_names(voices))
        raise InvalidRequest(f"there is no voice {request.voice[:80]!r}; {near}", param="voice", code="voice_not_found")
    return voice


def _speaking(language: str, voices: list[VoiceEntry]) -> list[VoiceEntry]:
    code = language_of(language)
    found = [voice for voice in voices if voice.language == ANY or language_of(voice.language) == code]
    if not found:
        name = LANGUAGE_NAMES.get(code, repr(language[:40]))
        raise _not_spoken(f"no voice here speaks {name}", voices, "language")
    return found


def check_text(request: SpeechRequest, voice: VoiceEntry, voices: list[VoiceEntry]) -> None:
    """InvalidRequest where this voice could only stammer: nothing to speak, markup, another language."""
    text = request.text
    if _SPEAKABLE.search(text) is None:
        raise InvalidRequest(
            "input has nothing to speak: no letter and no digit", param="input", code="nothing_to_speak"
        )
    if voice.language == ANY:
        return
    markup = _MARKUP.search(text)
    if markup is not None:
        raise InvalidRequest(
            f"input holds {markup[0][:40]!r}: SSML is not understood here and would be read aloud; send plain text",
            param="input",
            code="markup_not_supported",
        )
    script = foreign_script(text, voice.language)
    if script is not None:
        raise _not_spoken(f"input is written in {script}, which the voice {voice.id} does not speak", voices, "input")
    if request.language is None:
        _check_small_words(text, voice, voices)


def _check_small_words(text: str, voice: VoiceEntry, voices: list[VoiceEntry]) -> None:
    code, spoken = guessed_language(text), language_of(voice.language)
    # English is quoted everywhere; a voice of any language is given it now and then.
    if code is None or code in ("en", spoken):
        return
    raise _not_spoken(
        f'input reads as {LANGUAGE_NAMES[code]}, which the voice {voice.id} does not speak (add "language": "{spoken}" '
        "if that is wrong)",
        voices,
        "input",
    )


def _not_spoken(message: str, voices: list[VoiceEntry], param: str) -> InvalidRequest:
    offered = ", ".join(
        f"{voice.id} ({'any language' if voice.language == ANY else voice.language})" for voice in voices
    )
    return InvalidRequest(f"{message}; the voices are {offered}", param=param, code="language_not_supported")
