"""Which language a text is written in, as far as a voice needs to know: none should read what it cannot pronounce.

By script where that decides, else by the small words of a language; a text that gives no clear sign is let through.
"""

from __future__ import annotations

import re

from minitoolai.core.voices import language_of


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


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
_WORD = re.compile(r"[^\W\d_]+")
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
    words = [word.lower() for word in _WORD.findall(text[:_SAMPLE])]
    if len(words) < 3:
        return None
    counts = {code: sum(word in small for word in words) for code, small in _SMALL_WORDS.items()}
    best = max(counts, key=lambda code: counts[code])
    rivals = max(count for code, count in counts.items() if code != best)
    english = counts["en"]
    if best == "en" or counts[best] < 3 or counts[best] <= rivals or counts[best] < 2 * english + 1:
        return best if best == "en" and counts[best] >= 3 else None
    return best if counts[best] * 4 >= len(words) else None
