"""A speech engine in child processes, and the texts it has under way. Its work never meets the event loop."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from importlib import util
from itertools import count
from pathlib import Path

from minitoolai.core.catalog import EngineEntry
from minitoolai.core.errors import EngineError, Overloaded
from minitoolai.core.inference import Piece, Sound, SpeechRequest
from minitoolai.core.voices import VoiceEntry
from minitoolai.engines.slots import Slots
from minitoolai.engines.voice_child import VoiceChild
from minitoolai.engines.voice_process import Begin, Drop, Load, More, Say, VoiceFile

log = logging.getLogger(__name__)


class PooledAnswer:
    """A text on its way through one child; it occupies a slot until it is closed."""

    def __init__(self, pool: VoicePool, child: VoiceChild, text_id: int, pieces: Iterator[Piece]) -> None:
        self._pool: VoicePool | None = pool
        self._name = pool.name
        self._child = child
        self._life = child.restarts
        self._id = text_id
        self._pieces = pieces
        self._samples = 0
        self._characters = 0
        self._has_more = False
        self._is_whole = False

    async def next_sound(self) -> Sound | None:
        if self._is_whole:
            return None
        order = self._next_order()
        if self._child.restarts != self._life or not self._child.is_up:
            raise EngineError(f"{self._name} broke off; what was spoken is charged")
        said = await self._child.ask(order)
        if said.error:
            # Not the order itself: a customer's text is in it.
            log.error("%s could not carry out %s: %s", self._name, type(order).__name__, said.error)
            raise EngineError(f"{self._name} could not speak a sentence; what was spoken before is charged")
        self._has_more = said.more
        self._samples += said.samples
        return Sound(said.audio, self._characters, self._samples)

    def _next_order(self) -> More | Say:
        if self._has_more:
            return More(self._id)
        piece = next(self._pieces, None)
        if piece is None:
            self._is_whole = True
            return Say(self._id, None)
        self._characters = piece.characters
        return Say(self._id, piece.text)

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            if not self._is_whole:
                self._child.tell(Drop(self._id))
            pool.give_back(self._child)


@cache
def is_installed(package: str) -> bool:
    """Without importing it; asked on every request, so the file system is asked once."""
    return util.find_spec(package) is not None


class VoicePool:
    """A speech engine whose voices live in child processes: the texts at once are bounded, and so is the queue."""

    #: Where the child finds `make_speaker`.
    module: str

    def __init__(
        self,
        name: str,
        entry: EngineEntry,
        voices: list[VoiceEntry],
        *,
        folder: Path,
        processes: int,
        at_once: int,
        queue: int,
    ) -> None:
        self.name = name
        self._entry = entry
        self._voices = voices
        self._folder = folder
        self._processes = processes
        self._slots = Slots(at_once, queue, name)
        self._ids = count(1)
        self.children: list[VoiceChild] = []
        self._loaded: frozenset[str] | None = None

    # ── readiness ─────────────────────────────────────────────────────────────────────────────────────────

    def is_bundled(self, voice: VoiceEntry) -> bool:
        """Whether the engine brings this voice along."""
        return False

    def path_of(self, voice: VoiceEntry) -> str:
        """Where the voice's file lies, or should."""
        return str(self._folder / voice.file) if voice.file else ""

    def why_not_ready(self) -> str | None:
        """None as soon as one voice is there."""
        reasons = [self.why_not_voice(voice) for voice in self._voices]
        return None if None in reasons else "; ".join(filter(None, reasons)) or "the catalog gives it no voice"

    def why_not_voice(self, voice: VoiceEntry) -> str | None:
        path = self.path_of(voice)
        if path and not Path(path).is_file():
            return f"no file {path}: put it there, or set MINITOOLAI_VOICES_DIR"
        if not path and not self.is_bundled(voice):
            return f"{self.name} brings no voice {voice.id}: give it a file in the catalog"
        if self._loaded is not None and voice.id not in self._loaded:
            return "its file came after the server had started: restart it"
        return None

    def served_model(self, model: str) -> str:
        return self._entry.model

    def unsupported_field(self, request: SpeechRequest) -> str | None:
        return next(iter(request.fields), None)

    def check_room(self) -> None:
        self._slots.check()

    # ── speaking ──────────────────────────────────────────────────────────────────────────────────────────

    async def open(self, request: SpeechRequest, voice: VoiceEntry, pieces: Iterator[Piece]) -> PooledAnswer:
        await self._slots.take()
        up = [child for child in self.children if child.is_up]
        if not up:
            self._slots.give_back()
            raise Overloaded(f"{self.name} is starting; try in a moment", retry_after_s=2)
        child = min(up, key=lambda each: each.texts)
        child.texts += 1
        text_id = next(self._ids)
        child.tell(Begin(text_id, voice.id, request.format, request.speed))
        return PooledAnswer(self, child, text_id, pieces)

    def give_back(self, child: VoiceChild) -> None:
        """A text has ended, whole or not."""
        child.texts -= 1
        self._slots.give_back()

    @property
    def texts(self) -> int:
        """Texts under way."""
        return sum(child.texts for child in self.children)

    async def start(self) -> None:
        if self.children or self.why_not_ready() is not None:
            return
        files = [VoiceFile(voice.id, self.path_of(voice)) for voice in self._voices if not self.why_not_voice(voice)]
        self._loaded = frozenset(file.id for file in files)
        load = Load(self.module, files, self._entry.delay_ms)
        self.children = [VoiceChild(self.name, load) for _ in range(self._processes)]
        for child in self.children:
            await child.start()

    async def stop(self) -> None:
        for child in self.children:
            await child.stop()
        self.children = []
