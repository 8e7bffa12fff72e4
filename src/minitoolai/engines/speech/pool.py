"""A process pool of voices: a speech engine in child processes, so that synthesis never blocks the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from functools import cache, partial
from importlib import util
from itertools import chain, count
from pathlib import Path
from typing import Any

from minitoolai.core.catalog.catalog import EngineEntry, VoiceEntry
from minitoolai.core.catalog.suppliers import THE_ENGINE
from minitoolai.core.errors import EngineError, Overloaded
from minitoolai.core.inference import AudioChunk, SpeechRequest, SpeechSegment
from minitoolai.engines.command_process import CHECK_EVERY_S, HANG_AFTER_S, CommandProcess
from minitoolai.engines.concurrency import ConcurrencyLimit
from minitoolai.engines.host import ChildHost, MakeHost
from minitoolai.engines.servers import DialedHost, ServerOffer
from minitoolai.engines.speech.messages import (
    Begin,
    Discard,
    Identify,
    LoadVoices,
    NextSlice,
    Reply,
    Speak,
    VoiceFile,
)

log = logging.getLogger(__name__)

#: Formats with the length in their header, and how long a text may be to be sent only once its length is known.
GATHERED_FORMATS = ("wav", "flac")
GATHERED_CHARACTERS = 600


@cache
def is_installed(package: str) -> bool:
    """Return True if a package can be imported, without importing it. Cached, because every request asks."""
    return util.find_spec(package) is not None


class VoicePool:
    """A speech engine with its voices in child processes, and limits for concurrent and queued texts."""

    #: The kind of synthesizer that the children load.
    kind: str

    forwards: frozenset[str] = frozenset()

    def __init__(
        self,
        name: str,
        entry: EngineEntry,
        voices: list[VoiceEntry],
        *,
        folder: Path,
        processes: int,
        max_running: int,
        max_queued: int,
    ) -> None:
        self.name = name
        self._entry = entry
        self._voices = voices
        self._folder = folder
        self._processes = processes
        self.concurrency = ConcurrencyLimit(max_running, max_queued, name)
        self._ids = count(1)
        #: Its children are behind servers that a worker has placed on a cluster.
        self.is_placed = bool(entry.placement)
        self.children: list[VoiceChild] = []
        self._by_offer: dict[ServerOffer, VoiceChild] = {}
        self._changes: set[asyncio.Task[None]] = set()
        self._loaded: frozenset[str] | None = None

    # ── readiness ─────────────────────────────────────────────────────────────────────────────────────────

    def is_bundled(self, voice: VoiceEntry) -> bool:
        """Return True if the engine includes this voice."""
        return False

    def path_of(self, voice: VoiceEntry) -> str:
        """Return the path of the voice's file, whether it exists or not; "" for a bundled voice."""
        return str(self._folder / voice.file) if voice.file else ""

    def why_not_ready(self) -> str | None:
        """Return None if at least one voice is available, else the reasons."""
        if self.is_placed and not any(child.is_up for child in self.children):
            return "no server of it is up: run minitoolai worker --ray"
        reasons = [self.why_not_voice(voice) for voice in self._voices]
        return None if None in reasons else "; ".join(filter(None, reasons)) or "the catalog gives it no voice"

    def why_not_voice(self, voice: VoiceEntry) -> str | None:
        path = self.path_of(voice)
        if self.is_placed:
            # Its file is on the machines of the cluster.
            return None
        if path and not Path(path).is_file():
            return f"no file {path}: put it there, or set MINITOOLAI_VOICES_DIR"
        if not path and not self.is_bundled(voice):
            return f"{self.name} has no voice {voice.id}: give it a file in the catalog"
        if self._loaded is not None and voice.id not in self._loaded:
            return "its file was added after the server started: restart it"
        return None

    def served_model(self, model: str) -> str:
        return self._entry.model

    def unsupported_field(self, request: SpeechRequest) -> str | None:
        return next(iter(request.fields), None)

    def check_capacity(self) -> None:
        self.concurrency.check_capacity()

    # ── texts and processes ───────────────────────────────────────────────────────────────────────────────

    async def open(
        self, request: SpeechRequest, voice: VoiceEntry, pieces: Iterator[SpeechSegment]
    ) -> PooledSpeechResponse:
        """Wait for a slot, then assign the text to the child with the fewest texts."""
        await self.concurrency.acquire(request.account_id)
        try:
            child = self._least_busy()
        except Overloaded:
            self.concurrency.release(request.account_id)
            raise
        child.texts += 1
        text_id = next(self._ids)
        is_gathered = request.format in GATHERED_FORMATS and len(request.text) <= GATHERED_CHARACTERS
        child.send(Begin(text_id, voice.id, request.format, request.speed, request.mark, is_gathered))
        return PooledSpeechResponse(self, child, text_id, pieces, request.account_id)

    def _least_busy(self) -> VoiceChild:
        available = [child for child in self.children if child.is_up]
        if not available:
            raise Overloaded(f"{THE_ENGINE} is starting; retry in a moment", retry_after_s=2)
        return min(available, key=lambda each: each.texts)

    async def foreign_language(self, text: str, language: str) -> str | None:
        reply = await self._least_busy().request(Identify(text, language))
        if reply.error:
            log.error("%s could not detect a language, so the text is accepted: %s", self.name, reply.error)
        return reply.language

    def release(self, child: VoiceChild, account_id: int) -> None:
        """Return the slot of a text that has ended or was dropped."""
        child.texts -= 1
        self.concurrency.release(account_id)

    @property
    def texts(self) -> int:
        """Return the number of texts in progress."""
        return sum(child.texts for child in self.children)

    async def start(self) -> None:
        if self.is_placed or self.children or self.why_not_ready() is not None:
            return
        load = self._voices_to_load()
        self._loaded = frozenset(file.id for file in load.voices)
        self.children = [VoiceChild(self.name, load) for _ in range(self._processes)]
        for child in self.children:
            await child.start()

    def _voices_to_load(self) -> LoadVoices:
        files = [
            VoiceFile(voice.id, self.path_of(voice), voice.language, voice.pitch)
            for voice in self._voices
            if not self.why_not_voice(voice)
        ]
        return LoadVoices(self.kind, files, self._entry.delay_ms)

    def set_servers(self, offers: list[ServerOffer]) -> None:
        """Have one child behind each of these placed servers, and no others."""
        for offer in self._by_offer.keys() - set(offers):
            child = self._by_offer.pop(offer)
            self.children.remove(child)
            self._change(child.stop())
        for offer in offers:
            if offer not in self._by_offer:
                host = partial(DialedHost, offer=offer)
                child = self._by_offer[offer] = VoiceChild(self.name, self._voices_to_load(), make_host=host)
                self.children.append(child)
                self._change(self._start_placed(child))

    async def _start_placed(self, child: VoiceChild) -> None:
        try:
            await child.start()
        except EngineError as error:
            log.error("%s: a placed server is not used yet: %s", self.name, error)

    def _change(self, change: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def stop(self) -> None:
        for child in self.children:
            await child.stop()
        self.children = []
        self._by_offer.clear()
        await asyncio.gather(*self._changes, return_exceptions=True)


class PooledSpeechResponse:
    """A text that one child synthesizes. Occupies a slot until it is closed."""

    def __init__(
        self, pool: VoicePool, child: VoiceChild, text_id: int, pieces: Iterator[SpeechSegment], account_id: int = 0
    ) -> None:
        self._account_id = account_id
        self._pool: VoicePool | None = pool
        self._name = pool.name
        self._child = child
        #: A restarted child does not know the text.
        self._child_restarts = child.restarts
        self._id = text_id
        self._pieces = pieces
        self._samples = 0
        #: Characters up to the end of the current sentence and before it, and its samples so far.
        self._characters = self._characters_before = 0
        self._spoken = 0
        self._is_begun = False
        self._has_more = False
        #: Whether all sentences have been requested, and whether all audio has arrived.
        self._is_ending = self._is_complete = False

    async def next_sound(self) -> AudioChunk | None:
        if self._is_complete:
            return None
        command = self._next_command()
        if self._child.restarts != self._child_restarts or not self._child.is_up:
            raise EngineError(f"{THE_ENGINE} broke off; the audio so far is charged")
        reply = await self._child.request(command)
        if reply.error:
            # Do not log the command: it contains a customer's text.
            log.error("%s could not handle %s: %s", self._name, type(command).__name__, reply.error)
            raise EngineError(f"{THE_ENGINE} could not synthesize a sentence; the audio so far is charged")
        self._has_more = reply.has_more
        self._is_complete = self._is_ending and not reply.has_more
        self._samples += reply.samples
        self._spoken += reply.samples
        return AudioChunk(reply.audio, self._characters_after(reply.samples_left), self._samples)

    def _characters_after(self, samples_left: int) -> int:
        """Return the characters spoken: those of whole sentences, and of the current one in proportion to its audio."""
        sentence = self._characters - self._characters_before
        return self._characters - sentence * samples_left // max(1, self._spoken + samples_left)

    def _next_command(self) -> NextSlice | Speak:
        if self._has_more:
            return NextSlice(self._id)
        piece = next(self._pieces, None)
        if piece is None:
            # What is left are the last bytes, or all of a gathered text.
            self._is_ending = True
            self._characters_before = self._spoken = 0
            return Speak(self._id, None)
        is_first, self._is_begun = not self._is_begun, True
        is_only = False
        if is_first:
            following = next(self._pieces, None)
            is_only = following is None
            self._pieces = self._pieces if following is None else chain((following,), self._pieces)
        self._characters_before, self._characters = self._characters, piece.characters
        self._spoken = 0
        return Speak(self._id, piece.text, is_only)

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            if not self._is_complete:
                self._child.send(Discard(self._id))
            pool.release(self._child, self._account_id)


class VoiceChild(CommandProcess[Reply]):
    """One child process of the pool. It handles commands in order, so replies arrive in the order of the requests."""

    module = "minitoolai.engines.speech.child"
    after_hang = "the audio so far is charged"

    def __init__(
        self,
        name: str,
        load: LoadVoices,
        *,
        hang_after_s: float = HANG_AFTER_S,
        check_every_s: float = CHECK_EVERY_S,
        make_host: MakeHost = ChildHost,
    ) -> None:
        super().__init__(name, Reply, load, hang_after_s=hang_after_s, check_every_s=check_every_s, make_host=make_host)
        #: Texts in progress.
        self.texts = 0

    def check_loaded(self, reply: Reply) -> None:
        if reply.error:
            raise EngineError(f"{self.name}: the voices could not be loaded: {reply.error}")
