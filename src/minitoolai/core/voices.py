"""Speech as the catalog offers it: models, their voices, and which voice a name means."""

from __future__ import annotations

import msgspec


class VoiceEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One voice: who speaks it, in which language, and on which terms."""

    #: The name in a request, and who speaks it.
    id: str
    engine: str
    #: A tag like en-US; "*" for a voice that speaks whatever it is given.
    language: str
    #: The terms on which it may be used.
    licence: str
    #: Other names that mean this voice where no ready voice has the name itself.
    aliases: list[str] = []
    #: The voice's file, in MINITOOLAI_VOICES_DIR unless the path is absolute; "" where the engine brings it along.
    file: str = ""


class SpeechEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A speech model as offered. The price is dollars for a million characters, as text."""

    #: Dollars for a million characters, in quotes.
    price: str
    #: The longest text of one request.
    max_characters: int
    #: The voice of a request that names none, and all there are, in order.
    voice: str
    voices: list[VoiceEntry]


class SpeechModel(msgspec.Struct, frozen=True):
    """A speech model, checked. The price is nano-dollars a character."""

    name: str
    price: int
    max_characters: int
    #: The voice of a request that names none.
    default_voice: str
    voices: tuple[VoiceEntry, ...]

    @property
    def engines(self) -> tuple[str, ...]:
        """Who speaks its voices, in the order of the catalog."""
        return tuple(dict.fromkeys(voice.engine for voice in self.voices))


def find_voice(name: str, voices: list[VoiceEntry]) -> VoiceEntry | None:
    """The voice of this name; failing that, the first that has it as an alias. Letter case means nothing."""
    wanted = name.lower()
    for voice in voices:
        if voice.id.lower() == wanted:
            return voice
    return next((voice for voice in voices if wanted in (alias.lower() for alias in voice.aliases)), None)


def spoken_names(voices: list[VoiceEntry]) -> dict[str, VoiceEntry]:
    """Every name that means one of these voices."""
    names = {alias: voice for voice in voices for alias in voice.aliases}
    return names | {voice.id: voice for voice in voices}


def language_of(tag: str) -> str:
    """The language in a tag: `en` of `en-US`."""
    return tag.replace("_", "-").partition("-")[0].lower()
