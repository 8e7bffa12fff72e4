"""A speech engine in child processes, and the texts it has under way. Its work never meets the event loop."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Iterator
from functools import cache
from importlib import util
from itertools import count
from pathlib import Path

import msgspec

from minitoolai.core.catalog import EngineEntry, VoiceEntry
from minitoolai.core.errors import EngineError, EngineTimeout, Overloaded
from minitoolai.core.inference import AudioChunk, SpeechRequest, SpeechSegment
from minitoolai.engines.concurrency import ConcurrencyLimit
from minitoolai.engines.speech.child import HEAD, Begin, Drop, LoadVoices, More, Order, Said, Say, VoiceFile, to_frame

# (merged from voice_child) One child process that speaks, as its parent sees it: orders out, answers in, and back to life if it dies.

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
LONGEST_RESTART_S = 10.0
_decode = msgspec.msgpack.Decoder(Said).decode


class VoiceChild:
    """One child. Orders are carried out one after the other, so answers come in the order of their questions."""

    def __init__(self, name: str, load: LoadVoices) -> None:
        self._name = name
        self._load = load
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: deque[asyncio.Future[Said]] = deque()
        self._keeper: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self.is_up = False
        self.restarts = 0
        #: Texts it has under way.
        self.texts = 0

    @property
    def pid(self) -> int | None:
        """For tests that kill it."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Spawn, and wait until the voices are loaded; if they are not, it is tried again. EngineError."""
        try:
            await self._spawn()
        finally:
            self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Kill it; nothing is lost that matters."""
        self.is_up = False
        for task in (self._keeper, self._reader):
            if task is not None:
                task.cancel()
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    def kill(self) -> None:
        """It hangs: a new one will come."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def tell(self, order: Order) -> None:
        """Send an order that is not answered."""
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(to_frame(order))

    def ask(self, order: Order) -> asyncio.Future[Said]:
        """Send an order and await its answer. A caller who leaves meanwhile only loses the answer."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self.tell(order)
        return future

    async def _spawn(self) -> None:
        command = [sys.executable, "-m", "minitoolai.engines.speech.child"]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        self._process = process
        self._reader = asyncio.create_task(self._hand_out(process))
        try:
            said = await asyncio.wait_for(self.ask(self._load), START_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            said = Said(error=f"it took more than {START_TIMEOUT_S:g} s")
        if said.error:
            raise EngineError(f"{self._name}: the voices could not be loaded: {said.error}")
        self.is_up = True

    async def _keep(self) -> None:
        """Bring the child back whenever it dies, at once the first time, ever slower if it keeps dying."""
        delay_s, loop = 0.0, asyncio.get_running_loop()
        while True:
            born_s = loop.time()
            assert self._reader is not None
            assert self._process is not None
            await asyncio.wait([self._reader])
            log.error("%s died with status %s; starting it again", self._name, await self._process.wait())
            delay_s = 0.0 if loop.time() - born_s > 60 else min(LONGEST_RESTART_S, delay_s * 2 + 0.1)
            await asyncio.sleep(delay_s)
            self.restarts += 1
            try:
                await self._spawn()
            except (EngineError, OSError) as error:
                log.error("%s did not start again: %s", self._name, error)

    async def _hand_out(self, process: asyncio.subprocess.Process) -> None:
        """Hand out answers as they come, until the child dies."""
        assert process.stdout is not None
        try:
            while True:
                head = await process.stdout.readexactly(HEAD.size)
                said = _decode(await process.stdout.readexactly(HEAD.unpack(head)[0]))
                future = self._waiting.popleft()
                if not future.done():
                    future.set_result(said)
        except (asyncio.IncompleteReadError, OSError):
            self.is_up = False
            self._fail_all(f"{self._name} died and is starting again; try in a moment")

    def _fail_all(self, message: str) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(EngineError(message, retry_after_s=2))


#: No sentence takes a second; this one hangs.
SENTENCE_TIMEOUT_S = 30.0


class PooledAnswer:
    """A text on its way through one child; it occupies a slot until it is closed."""

    def __init__(self, pool: VoicePool, child: VoiceChild, text_id: int, pieces: Iterator[SpeechSegment]) -> None:
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

    async def next_sound(self) -> AudioChunk | None:
        if self._is_whole:
            return None
        order = self._next_order()
        if self._child.restarts != self._life or not self._child.is_up:
            raise EngineError(f"{self._name} broke off; what was spoken is charged")
        try:
            said = await asyncio.wait_for(self._child.ask(order), SENTENCE_TIMEOUT_S)
        except TimeoutError:
            self._child.kill()
            raise EngineTimeout(f"{self._name} hung; what was spoken is charged") from None
        if said.error:
            # Not the order itself: a customer's text is in it.
            log.error("%s could not carry out %s: %s", self._name, type(order).__name__, said.error)
            raise EngineError(f"{self._name} could not speak a sentence; what was spoken before is charged")
        self._has_more = said.more
        self._samples += said.samples
        return AudioChunk(said.audio, self._characters, self._samples)

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
            pool.release(self._child)


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
        self._slots = ConcurrencyLimit(at_once, queue, name)
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

    def check_capacity(self) -> None:
        self._slots.check()

    # ── speaking ──────────────────────────────────────────────────────────────────────────────────────────

    async def open(self, request: SpeechRequest, voice: VoiceEntry, pieces: Iterator[SpeechSegment]) -> PooledAnswer:
        await self._slots.take()
        up = [child for child in self.children if child.is_up]
        if not up:
            self._slots.release()
            raise Overloaded(f"{self.name} is starting; try in a moment", retry_after_s=2)
        child = min(up, key=lambda each: each.texts)
        child.texts += 1
        text_id = next(self._ids)
        child.tell(Begin(text_id, voice.id, request.format, request.speed))
        return PooledAnswer(self, child, text_id, pieces)

    def release(self, child: VoiceChild) -> None:
        """A text has ended, whole or not."""
        child.texts -= 1
        self._slots.release()

    @property
    def texts(self) -> int:
        """Texts under way."""
        return sum(child.texts for child in self.children)

    async def start(self) -> None:
        if self.children or self.why_not_ready() is not None:
            return
        files = [VoiceFile(voice.id, self.path_of(voice)) for voice in self._voices if not self.why_not_voice(voice)]
        self._loaded = frozenset(file.id for file in files)
        load = LoadVoices(self.module, files, self._entry.delay_ms)
        self.children = [VoiceChild(self.name, load) for _ in range(self._processes)]
        for child in self.children:
            await child.start()

    async def stop(self) -> None:
        for child in self.children:
            await child.stop()
        self.children = []
