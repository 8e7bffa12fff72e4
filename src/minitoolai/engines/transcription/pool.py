"""The parent's side of transcription: a process that measures recordings, and engines that transcribe in a process."""

from __future__ import annotations

import logging
from importlib import util
from itertools import count
from pathlib import Path

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.catalog.suppliers import THE_ENGINE
from minitoolai.core.errors import EngineError, InvalidRequest
from minitoolai.core.transcription import Recording, TranscriptionRequest, TranscriptPart, UploadedFile
from minitoolai.engines.command_process import CommandProcess
from minitoolai.engines.concurrency import ConcurrencyLimit
from minitoolai.engines.fetching import FetchableModel, find_file
from minitoolai.engines.transcription.messages import (
    BeginRecording,
    DropRecording,
    LoadModel,
    MeasureFile,
    NextPart,
    TranscriptReply,
)

log = logging.getLogger(__name__)

#: CPU time for half a minute of audio. Whisper `base` takes three to ten seconds, and may try three times.
HANG_AFTER_S = 120.0
#: Address space of the child that measures, and of one that transcribes. Libraries reserve far more than they use.
MEASURE_MB, TRANSCRIBE_MB = 2_000, 6_000


class TranscriptionProcess(CommandProcess[TranscriptReply]):
    """A child process that measures or transcribes."""

    module = "minitoolai.engines.transcription.child"
    after_hang = "the audio processed so far is charged"

    def __init__(self, name: str, load: LoadModel) -> None:
        super().__init__(name, TranscriptReply, load, hang_after_s=HANG_AFTER_S)

    def check_loaded(self, reply: TranscriptReply) -> None:
        if error := reply.error or reply.refusal:
            raise EngineError(f"{self.name} could not be loaded: {error}")


class RecordingMeter:
    """Measures uploaded recordings in a child process, which starts with the first of them."""

    def __init__(self) -> None:
        self.process = TranscriptionProcess("recordings", LoadModel(MEASURE_MB))

    async def measure(self, file: UploadedFile) -> Recording:
        """Return the recording in a file. Raise InvalidRequest if it is none that can be read, EngineError."""
        await self.process.start()
        reply = await self.process.request(MeasureFile(str(file.path)))
        _check(reply, self.process.name)
        return Recording(file.path, file.name, file.size, reply.container, reply.length_ms)

    async def stop(self) -> None:
        """Stop the process."""
        await self.process.stop()


class EmbeddedTranscriber:
    """Whisper or a fake in a child process, which starts with the first recording."""

    forwards: frozenset[str] = frozenset()
    bills_after_cancel = False

    def __init__(
        self,
        name: str,
        entry: EngineEntry,
        *,
        fetched: tuple[FetchableModel, Path] | None,
        threads: int,
        max_running: int,
        max_queued: int,
    ) -> None:
        self.name = name
        self._entry = entry
        self._fetched = fetched
        self._threads = threads
        self._concurrency = ConcurrencyLimit(max_running, max_queued, name)
        self._ids = count(1)
        self.process: TranscriptionProcess | None = None

    def why_not_ready(self) -> str | None:
        if self._entry.kind == "fake":
            return None
        if util.find_spec("faster_whisper") is None:
            return "no faster-whisper: pip install 'minitoolai[whisper]'"
        if self._folder() is None:
            if self._fetched is not None:
                return f"its model is not here: minitoolai fetch {self._fetched[0].name}"
            return f"no model in {self._entry.file}: put a model of faster-whisper there"
        return None

    def _folder(self) -> Path | None:
        if self._entry.file:
            folder = Path(self._entry.file)
            return folder if (folder / "model.bin").is_file() else None
        path = None if self._fetched is None else find_file(*self._fetched)
        return None if path is None else path.parent

    def served_model(self, model: str) -> str:
        return self._entry.model

    def check_capacity(self) -> None:
        self._concurrency.check_capacity()

    async def open(self, request: TranscriptionRequest, recording: Recording) -> EmbeddedTranscript:
        """Wait for a slot, and begin."""
        await self._concurrency.acquire(request.account_id)
        transcript: EmbeddedTranscript | None = None
        try:
            await self.start()
            assert self.process is not None
            transcript = EmbeddedTranscript(self, self.process, next(self._ids), request.account_id)
            await transcript.begin(request, recording)
        except BaseException:
            if transcript is None:
                self.release(request.account_id)
            else:
                await transcript.close()
            raise
        return transcript

    def release(self, account_id: int) -> None:
        """Return the slot of a recording that has ended."""
        self._concurrency.release(account_id)

    async def start(self) -> None:
        """Start the process, unless it runs. The model is loaded with the first recording: it takes 0.3 GB."""
        if self.process is None:
            folder = self._folder()
            load = LoadModel(TRANSCRIBE_MB, self._entry.kind, str(folder or ""), self._threads, self._entry.delay_ms)
            self.process = TranscriptionProcess(self.name, load)
            self.process.host.is_background = True
        await self.process.start()
        if not self.process.is_up:
            raise EngineError(f"{THE_ENGINE} is restarting; retry in a moment", retry_after_s=2)

    async def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            await process.stop()


class EmbeddedTranscript:
    """A recording that the child transcribes. Occupies a slot until it is closed."""

    def __init__(
        self, engine: EmbeddedTranscriber, process: TranscriptionProcess, number: int, account_id: int
    ) -> None:
        self._engine: EmbeddedTranscriber | None = engine
        self._name = engine.name
        self._process = process
        #: A restarted child does not know the recording.
        self._restarts = process.restarts
        self._id = number
        self._account_id = account_id
        self._is_complete = False

    async def begin(self, request: TranscriptionRequest, recording: Recording) -> None:
        """Tell the child about the recording. Raise InvalidRequest if its model cannot do what the request asks."""
        command = BeginRecording(
            id=self._id,
            path=str(recording.path),
            task=request.task,
            language=request.language,
            prompt=request.prompt,
            temperature=request.temperature,
            words=request.words,
        )
        _check(await self._process.request(command), self._name)

    async def next_part(self) -> TranscriptPart | None:
        if self._is_complete:
            return None
        if self._process.restarts != self._restarts or not self._process.is_up:
            raise EngineError(f"{THE_ENGINE} broke off; the audio processed so far is charged")
        reply = await self._process.request(NextPart(self._id))
        _check(reply, self._name)
        self._is_complete = reply.is_complete
        return TranscriptPart(
            processed_ms=reply.processed_ms,
            text="".join(segment.text for segment in reply.segments),
            segments=reply.segments,
            language=reply.language,
        )

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            if not self._is_complete:
                self._process.send(DropRecording(self._id))
            engine.release(self._account_id)


def _check(reply: TranscriptReply, name: str) -> None:
    """Raise the error of a reply."""
    if reply.refusal is not None:
        code = "invalid_file" if reply.param == "file" else None
        raise InvalidRequest(f"{reply.param}: {reply.refusal}", param=reply.param, code=code)
    if reply.error is not None:
        # The text of the error may contain parts of the recording's text: log it nowhere but here.
        log.error("%s failed: %s", name, reply.error)
        raise EngineError(f"{THE_ENGINE} could not process the recording; the audio processed so far is charged")
