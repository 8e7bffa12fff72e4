"""Transcribe a recording with Whisper, in a child process, in pieces of at most half a minute.

The pieces are cut at pauses, which a small model (Silero VAD) finds. So a recording of any length takes constant
memory, silence and noise never reach Whisper, which would invent words for them, and no word is cut in two.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from minitoolai.core.transcription import Segment, Word
from minitoolai.engines.transcription.audio import RATE_HZ, read_samples
from minitoolai.engines.transcription.messages import BeginRecording, TranscriptReply

if TYPE_CHECKING:
    from minitoolai.engines.transcription.audio import Samples

#: Whisper reads 30 seconds at a time.
WINDOW = 30 * RATE_HZ
#: End a piece at a pause of this length; a piece that is shorter than SHORTEST goes on until the next pause.
LONG_PAUSE = 2 * RATE_HZ
SHORTEST = 15 * RATE_HZ
#: Keep this much of the silence before a window's end, because speech may begin in it.
KEPT = RATE_HZ // 2
#: Pauses between words that may end a piece, and how much around speech belongs to it.
PAUSE_MS, PAD_MS = 300, 200
#: Tried one after the other, if the text looks wrong and the caller chose no temperature.
TEMPERATURES = (0.0, 0.4, 0.8)
#: Only a language that is as sure as this is kept for all following pieces.
SURE_LANGUAGE = 0.5
BEAMS = 5


class SpeechPiece(NamedTuple):
    """Speech from `start` of the recording, in samples; after it, `processed` samples are done."""

    start: int
    samples: Samples | None
    processed: int


class WhisperModel:
    """A loaded model."""

    def __init__(self, folder: str, threads: int) -> None:
        import faster_whisper

        # Without `local_files_only` it might download a model.
        self.model = faster_whisper.WhisperModel(
            folder, device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True
        )

    def begin(self, command: BeginRecording) -> WhisperJob | TranscriptReply:
        """Begin a recording, or refuse what this model cannot do."""
        multilingual, known = self.model.model.is_multilingual, self.model.supported_languages
        if command.task == "translate" and not multilingual:
            return TranscriptReply(refusal="this model hears English only and cannot translate", param="model")
        if command.language is not None and command.language not in known:
            return TranscriptReply(
                refusal=f"the language is not supported; supported are {', '.join(known)}", param="language"
            )
        return WhisperJob(self.model, command)


class WhisperJob:
    """One recording in progress."""

    def __init__(self, model: Any, command: BeginRecording) -> None:
        self._model = model
        self._command = command
        self._language = command.language
        self._pieces = cut_into_pieces(read_samples(command.path))
        self._processed_ms = 0

    def next(self) -> TranscriptReply:
        """Transcribe the next piece. Raise UnreadableFile."""
        piece = next(self._pieces, None)
        if piece is None:
            return TranscriptReply(processed_ms=self._processed_ms, is_complete=True)
        self._processed_ms = piece.processed * 1000 // RATE_HZ
        segments = [] if piece.samples is None else self._transcribe(piece.samples, piece.start / RATE_HZ)
        name = None if self._language is None else language_name(self._language)
        return TranscriptReply(segments=segments, processed_ms=self._processed_ms, language=name)

    def _transcribe(self, samples: Samples, offset_s: float) -> list[Segment]:
        command = self._command
        segments, info = self._model.transcribe(
            samples,
            language=self._language,
            task=command.task,
            beam_size=BEAMS,
            temperature=command.temperature or TEMPERATURES,
            initial_prompt=command.prompt or None,
            condition_on_previous_text=False,
            word_timestamps=command.words,
        )
        if self._language is None and info.language_probability >= SURE_LANGUAGE:
            self._language = info.language
        return [_segment(segment, offset_s) for segment in segments if segment.text.strip()]


def _segment(segment: Any, offset_s: float) -> Segment:
    return Segment(
        start=_rounded(segment.start + offset_s),
        end=_rounded(segment.end + offset_s),
        text=segment.text,
        seek=round(offset_s * 100),
        tokens=list(segment.tokens),
        temperature=float(segment.temperature or 0.0),
        avg_logprob=float(segment.avg_logprob),
        compression_ratio=float(segment.compression_ratio),
        no_speech_prob=float(segment.no_speech_prob),
        words=[
            Word(word.word.strip(), _rounded(word.start + offset_s), _rounded(word.end + offset_s))
            for word in segment.words or ()
        ],
    )


def _rounded(seconds: float) -> float:
    # NumPy's numbers would not be encoded.
    return round(float(seconds), 2)


def cut_into_pieces(blocks: Iterator[Samples]) -> Iterator[SpeechPiece]:
    """Yield the speech of a recording in pieces of at most WINDOW, and silence as pieces without samples."""
    import numpy as np

    window = np.zeros(0, np.float32)
    begin, is_ended = 0, False
    while not is_ended or len(window):
        while len(window) < WINDOW and not is_ended:
            parts, size = [window], len(window)
            for block in blocks:
                parts.append(block)
                size += len(block)
                if size >= WINDOW:
                    break
            else:
                is_ended = True
            window = np.concatenate(parts)
        if not len(window):
            return
        now = window[:WINDOW]
        is_last = is_ended and len(window) <= WINDOW
        spans = find_speech(now)
        if not spans:
            used = len(now) if is_last else len(now) - KEPT
            yield SpeechPiece(begin, None, begin + used)
        else:
            start, end = spans[0][0], _end_of_piece(spans, len(now), is_last=is_last)
            is_rest_silent = is_last and end == spans[-1][1]
            used = len(now) if is_rest_silent else end
            # A copy, so that the window can be freed.
            yield SpeechPiece(begin + start, now[start:end].copy(), begin + used)
        window, begin = window[used:], begin + used


def _end_of_piece(spans: list[tuple[int, int]], size: int, *, is_last: bool) -> int:
    """Return where to end the piece: at a long pause, else at the last pause, else with the window."""
    start = spans[0][0]
    for (_, end), (following, _) in itertools.pairwise(spans):
        if following - end >= LONG_PAUSE:
            return end
    if is_last or spans[-1][1] < size - KEPT:
        return spans[-1][1]
    ends = [end for _, end in spans[:-1] if end - start >= SHORTEST]
    return ends[-1] if ends else size


def find_speech(samples: Samples) -> list[tuple[int, int]]:
    """Return begin and end of all speech."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(min_silence_duration_ms=PAUSE_MS, speech_pad_ms=PAD_MS)
    return [(int(span["start"]), int(span["end"])) for span in get_speech_timestamps(samples, options)]


def language_name(code: str) -> str:
    """Return the English name of a language in lower case, as OpenAI writes it: `german` for `de`."""
    from babel import Locale

    return str(Locale("en").languages.get({"jw": "jv"}.get(code, code), code)).lower()
