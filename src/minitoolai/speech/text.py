"""What is spoken of a text, and why some texts are not: checked before anything is held."""

from __future__ import annotations

import re
from collections.abc import Iterator

from minitoolai.core.catalog import VoiceEntry, find_voice, language_of, suggest_names, voices_by_name
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import SpeechRequest, SpeechSegment

# (merged from sentences) A text into sentences, one at a time: what is spoken first is known before the end has been looked at.
# (merged from sentences)
# (merged from sentences) Never breaks inside a number, an abbreviation or a name's initials; breaks a sentence without end where it breathes.

#: Characters of the first piece and of every other: the first is kept short, so that the voice begins soon.
FIRST_LONGEST = 160
LONGEST = 400

# Every alternative begins at the only place where it can match: no text makes the search slow.
_END = re.compile(r"""(?<![.!?…])[.!?…]++["'”’»)\]]*+\s+|[。！？]++["'”’»」』）]*+\s*|\n\s*""")
_BREATH = re.compile(r"[,;:—–]\s+|[、，；：]")
_WORD = re.compile(r"""[^\s"'“”‘’«»()\[\]]*\Z""")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]\Z")
_LIST_NUMBER = re.compile(r"\s*[(\[]?(?:\d{1,3}|[ivxIVX]{1,4})\Z")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Words whose full stop ends no sentence, whatever follows.
_ABBREVIATIONS = _words(
    """adm asst attn ave blvd brig capt cf cmdr col comdr dept dr drs ed eds eg esp est al fr gen gov hon ie lt maj
    messrs mlle mme mr mrs ms mt mx prof pvt rep rev rt sen sgt sr st ste supt univ vs viz approx ca hrs mins ext"""
)
#: Words whose full stop ends no sentence if a number follows: `No. 5`, but `He said no. 5 came.` reads as well.
_BEFORE_A_NUMBER = _words(
    """jan feb mar apr jun jul aug sep sept oct nov dec no nos nr op p pp pg fig figs vol vols ch sec sect art min max
    mon tue tues wed thu thur thurs fri sat sun"""
)
#: Words whose full stop ends a sentence only if a capital follows.
_OFTEN_LAST = _words("etc inc ltd co corp jr bros llc plc")


def sentences(text: str) -> Iterator[tuple[str, int]]:
    """(sentence without the blanks around it, where it ends in the text), lazily and in order."""
    start, longest = 0, FIRST_LONGEST
    while start < len(text):
        end = _end_of_sentence(text, start, longest)
        sentence = text[start:end].strip()
        start = end
        if sentence:
            yield sentence, end
            longest = LONGEST


def _end_of_sentence(text: str, start: int, longest: int) -> int:
    """Where the sentence that begins at `start` ends, with the blanks behind it."""
    start += len(text[start : start + longest]) - len(text[start : start + longest].lstrip())
    stop = min(len(text), start + longest)
    for match in _END.finditer(text, start, min(len(text), stop + 8)):
        if match.start() > stop:
            break
        if _ends(text, start, match):
            return match.end()
    return len(text) if stop == len(text) else _breath(text, start, stop)


def _ends(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether this full stop is one."""
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
    found = _WORD.search(before)
    word = found[0] if found else ""
    if _INITIALS.match(word) or word.lower().replace(".", "") in _ABBREVIATIONS:
        return False
    if word.lower() in _BEFORE_A_NUMBER:
        return not following.isdigit()
    return word.lower() not in _OFTEN_LAST or following.isupper()


def _breath(text: str, start: int, stop: int) -> int:
    """Where to break a sentence too long to speak at once: at a clause, at a blank, or nowhere in particular."""
    clauses = [match.end() for match in _BREATH.finditer(text, start + (stop - start) // 4, stop)]
    if clauses:
        return clauses[-1]
    blank = max(text.rfind(mark, start + 1, stop) for mark in (" ", "\t", "\u3000"))
    return blank + 1 if blank > start else stop


# (merged from language) Which language a text is written in, as far as a voice needs to know: none should read what it cannot pronounce.
# (merged from language)
# (merged from language) By script where that decides, else by the small words of a language; a text that gives no clear sign is let through.

#: Script → (its letters, the languages written in it, what to call them).
_SCRIPTS: dict[str, tuple[str, frozenset[str], str]] = {
    "Greek": ("Ͱ-Ͽἀ-῿", _words("el"), "Greek"),
    "Cyrillic": (
        "Ѐ-ԯ",
        _words("ru uk bg sr mk be kk ky mn"),
        "Russian (or another language in Cyrillic)",
    ),
    "Armenian": ("Ա-֏", _words("hy"), "Armenian"),
    "Hebrew": ("א-ת", _words("he"), "Hebrew"),
    "Arabic": ("ء-يٱ-ۓݐ-ݿﭐ-﷿ﹰ-ﻼ", _words("ar fa ur"), "Arabic (or another language in its script)"),
    "Devanagari": ("ऄ-ॡ", _words("hi mr ne"), "Hindi (or another language in Devanagari)"),
    "Indic": (
        "অ-ঔক-হਅ-ਹઅ-હଅ-ହஅ-ஹఅ-హಅ-ಹഅ-ഹ",
        _words("bn pa gu or ta te kn ml"),
        "an Indian language",
    ),
    "Thai": ("ก-ฺเ-ๆ", _words("th"), "Thai"),
    "Georgian": ("Ⴀ-ჿ", _words("ka"), "Georgian"),
    "Hangul": ("ᄀ-ᇿ가-힣", _words("ko"), "Korean"),
    "Kana": ("ぁ-ゖァ-ヺｦ-ﾝ", _words("ja"), "Japanese"),
    "Han": ("㐀-䶿一-鿿豈-﫿", _words("zh yue ja ko"), "Chinese"),
}
_FOREIGN = re.compile("[" + "".join(letters for letters, _, _ in _SCRIPTS.values()) + "]")
_LETTER = re.compile(r"[^\W\d_]")
_LETTERS = re.compile(r"[^\W\d_]+")
#: Small words that the other languages here do not share.
_SMALL_WORDS: dict[str, frozenset[str]] = {
    code: _words(words)
    for code, words in {
        "en": "the and of to is are was were be been have has had this that these with for from not you it we they he "
        "she his her which what when where who how would could should there their will can do does did but or as at "
        "by on if about than then into my your our i a an in",
        "de": "der das und ist nicht ein eine einen einem wir sie ich du es mit auf für von dem des zu zum zur wie "
        "auch sich aber oder wenn noch nach bei über guten tag ihnen geht haben wird sind kann heute sehr danke",
        "fr": "le les des est une et je vous nous pas dans pour que qui sur avec ce cette sont il elle mais où très "
        "bonjour merci monde tout être aux du au plus comme aujourd hui c l d j n s qu",
        "es": "el los las es y una que por para con como pero más muy está están hola usted nosotros ellos esto del al "
        "qué cómo estás buenos días gracias hoy yo tú mi su se",
        "pt": "o os as é e uma que por para com como mas mais muito está são olá você nós isto isso do da dos das não "
        "em um obrigado obrigada hoje eu meu minha ao à se",
        "it": "il lo gli è e una che per con come ma più molto sono ciao non di della del nel questo questa buongiorno "
        "grazie oggi io mi si",
        "nl": "het een en niet van is dat ik je wij zij met voor op aan ook maar zijn heeft wordt naar goedemorgen "
        "vandaag dank hoe gaat deze",
        "tr": "ve bir bu için ile çok ne nasıl ama değil var yok ben sen biz siz gibi daha olarak merhaba teşekkür "
        "bugün günaydın dünya iyi",
        "id": "dan yang di ini itu untuk dengan tidak dari saya anda kami kita ada akan pada adalah juga selamat pagi "
        "terima kasih hari apa kabar bagaimana dunia sangat",
        "pl": "i w nie na się jest to z że do jak ale dla są dzień dobry dziękuję tak co czy ja ty jestem dzisiaj",
        "sv": "och att det är en ett som på för med inte jag du vi de har hej tack idag hur mår men eller",
    }.items()
}  # fmt: skip
LANGUAGE_NAMES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "pt": "Portuguese", "it": "Italian",
    "nl": "Dutch", "tr": "Turkish", "id": "Indonesian", "pl": "Polish", "sv": "Swedish",
}  # fmt: skip
#: Characters that are looked at for words and for scripts: enough to tell, whatever the length.
_SAMPLE = 4000
_LONG_SAMPLE = 20_000


def unreadable(voice_language: str) -> re.Pattern[str]:
    """Matches words in scripts that a voice of this language does not read."""
    code = language_of(voice_language)
    letters = "".join(letters for letters, codes, _ in _SCRIPTS.values() if code not in codes)
    return re.compile(f"[{letters}](?:[{letters}\u0300-\u036f\u0900-\u0dff\u064b-\u065f]|[-'’·](?=[{letters}]))*")


def foreign_script(text: str, voice_language: str) -> str | None:
    """What the text is written in, if most of its letters are in scripts that the voice does not read."""
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
    # Japanese is written in both, Chinese never in kana.
    name = "Kana" if counts.get("Kana") else max(counts, key=lambda script: counts[script])
    return _SCRIPTS[name][2]


def guessed_language(text: str) -> str | None:
    """The code of the language whose small words clearly prevail; None where none does."""
    words = [word.lower() for word in _LETTERS.findall(text[:_SAMPLE])]
    if len(words) < 3:
        return None
    counts = {code: sum(word in small for word in words) for code, small in _SMALL_WORDS.items()}
    best = max(counts, key=lambda code: counts[code])
    rivals = max(count for code, count in counts.items() if code != best)
    english = counts["en"]
    if best == "en" or counts[best] < 3 or counts[best] <= rivals or counts[best] < 2 * english + 1:
        return best if best == "en" and counts[best] >= 3 else None
    return best if counts[best] * 4 >= len(words) else None


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

    def pieces(self) -> Iterator[SpeechSegment]:
        """Sentences, lazily."""
        skipped = 0
        for sentence, end in sentences(self._text):
            spoken = sentence
            if self._skips:
                spoken = self._skips.sub("", sentence)
                skipped += len(sentence) - len(spoken)
            yield SpeechSegment(spoken, end - skipped)


def choose_voice(request: SpeechRequest, default: str, voices: list[VoiceEntry]) -> VoiceEntry:
    """The voice that was asked for, among those that are ready. InvalidRequest lists the nearest."""
    if request.language is not None:
        voices = _speaking(request.language, voices)
    if request.voice is None:
        return find_voice(default, voices) or voices[0]
    voice = find_voice(request.voice, voices)
    if voice is None:
        near = suggest_names(request.voice, voices_by_name(voices))
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
