"""Normalize an engine's stream to the documented chat format, server-sent events (SSE).

Events that already have the documented form are forwarded as bytes; all others are parsed and rewritten. Collects the
reported usage, the end of the stream and errors, and counts the delivered text in case the engine reports no usage.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from minitoolai.chat.stream.chunks import DONE, SERVICE_TIERS, Chunk, ChunkWithoutUsage, fingerprint, full_usage
from minitoolai.chat.stream.decoding import (
    BOM,
    FAILED,
    Json,
    Received,
    ReceivedChoice,
    clean_json,
    decode_json,
    has_half,
    index_or,
    json_with_halves,
    objects_of,
    read_event,
    read_finish_reason,
    read_received,
    read_usage,
    text_of,
    text_or,
    timestamp_or,
)
from minitoolai.chat.stream.deltas import (
    Repair,
    decode_documented,
    match_arguments,
    match_text,
    repair_logprobs,
    repair_text_logprobs,
)
from minitoolai.chat.templates import MAX_TEMPLATE_PARSES, NO_TEMPLATE, ChunkTemplate, template_of
from minitoolai.core.catalog.suppliers import THE_ENGINE, EngineLabel
from minitoolai.core.counting import (
    Judgement,
    PromptCount,
    count_deltas,
    estimate_output_tokens,
    is_believed,
    is_plausible,
    judge_usage,
    least_output,
    merge_usage,
    message_size,
    text_size,
)
from minitoolai.core.errors import EngineBroken, EngineError, ServiceError
from minitoolai.core.inference import Usage
from minitoolai.engines.chat.failures import Fault, failure_in_answer, find_fault

LARGEST_EVENT = 16 * 1024 * 1024
# A block without any of these holds only ordinary chunks. A false positive costs one parse.
_USAGE, _SPACED_USAGE, _ERROR, _END = b'"usage":{', b'"usage": {', b'"error"', b"[DONE]"


#: Integers, because `in` is five times slower with a bytes operand: it tries to convert it to a number first.
_QUOTE, _LINE_END, _RETURN, _ESCAPE = b'"\n\r\\'


_encode = msgspec.json.Encoder().encode
_FIRST_DELTA = msgspec.Raw(b'{"role":"assistant","content":""}')
#: First delta of engines that have no text yet, where OpenAI sends `_FIRST_DELTA`.
_SILENT_DELTA = b'{"role":"assistant","content":null}'


class ChunkNormalizer:
    """Turn the bytes of an engine's event stream into whole documented events, and collect usage, end and errors."""

    __slots__ = (
        "_around",
        "_choices", "_created_s", "_engine", "_finished", "_forwards", "_head", "_include_usage", "_incomplete",
        "_model", "_name", "_parses_left", "_repair", "_seen", "_shelved_template", "_skips_line_feed", "_template",
        "done", "error", "pieces", "reported_pieces", "reported_size", "served_model", "size", "usage",
        "was_absurd",
    )  # fmt: skip

    def __init__(
        self,
        *,
        forwards: bool,
        include_usage: bool,
        name: str,
        created_s: int,
        model: str = "",
        engine: str = THE_ENGINE,
        choices: int = 1,
        head: Chunk | None = None,
    ) -> None:
        """`model` is the requested model, for engines that name none. `choices` is the number of requested choices.

        `head` contains the fields that all chunks share, if another engine began the stream.
        """
        self._forwards = forwards and include_usage and head is None
        self._include_usage = include_usage
        self._name = name
        self._created_s = created_s
        self._model = model
        self._engine = engine
        self._choices = choices
        self._incomplete = b""
        self._skips_line_feed = False
        self._head = head
        #: The fields of the head that came before the first choice.
        self._seen = Chunk()
        self._repair = Repair(name)
        self._around: dict[int, tuple[bytes, bytes]] = {}
        self._finished: set[int] = set()
        self._template: ChunkTemplate | None = None
        #: The template, while half an emoji awaits its other half.
        self._shelved_template: ChunkTemplate | None = None
        self._parses_left = MAX_TEMPLATE_PARSES
        self.done = False
        self.error: ServiceError | None = None
        self.usage: Usage | None = None
        self.served_model: str | None = None
        #: Number of deltas that carried text, and the bytes of that text.
        self.pieces = self.size = 0
        #: The same two counts at the time of the last reported usage.
        self.reported_pieces = self.reported_size = 0
        #: The engine reported an impossible usage.
        self.was_absurd = False

    @property
    def head(self) -> Chunk | None:
        """Return the fields that all chunks share, or None if none was sent."""
        return self._head

    @property
    def has_spoken(self) -> bool:
        """Return True if the caller received text or a finish reason. Before that, another engine can take over."""
        return self.pieces > 0 or bool(self._finished)

    def match_template(self, data: bytes) -> bytes | None:
        """Return the event to send for one that differs from an earlier one in its text only, else None: use `feed`."""
        # Nearly every chunk of a stream takes only this path, so make no Python-level calls here.
        template = self._template
        if (
            template is None
            or self._incomplete
            or not data.startswith(template.before)
            or not data.endswith(template.after)
        ):
            return None
        text = data[template.start : template.end]
        if _QUOTE in text or _LINE_END in text or len(data) < template.size:
            return None
        if not text.isascii():
            try:
                text.decode()
            except UnicodeDecodeError:
                return None
        if _ESCAPE in text:
            if text.endswith(b"\\") or has_half(text):
                return None
            self.size += text_size(text)
        else:
            self.size += len(text)
        self.pieces += text != b""
        return data if template.is_unchanged else template.sent_before + text + template.sent_after

    def feed(self, data: bytes) -> bytes:
        """Return the whole events to send now. The end and the usage are held back for `final_events`.

        Sets `error` if the engine reported an error, or sent something that cannot be read.
        """
        if (
            self._head is not None
            and not self._incomplete
            and data.find(b"\n") == len(data) - 2
            and data.endswith(b"\n\n")
            and _RETURN not in data
        ):
            # A read is usually one event.
            matched = self.match_template(data)
            return self._event(data[:-2]) if matched is None else matched
        if self._skips_line_feed:
            self._skips_line_feed = False
            data = data.removeprefix(b"\n")
        before = len(self._incomplete)
        if before:
            data = self._incomplete + data
        if _RETURN in data:
            # The line feed of a carriage return at the end may be in the next read.
            self._skips_line_feed = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        cut = data.rfind(b"\n\n", max(0, before - 1)) + 2
        if cut == 1 or (self._head is None and _is_json(data)):
            self._incomplete = data
            if len(data) > LARGEST_EVENT:
                self._fail(EngineError(f"{self._engine} sent an event of more than {LARGEST_EVENT} bytes"))
            return b""
        self._incomplete = b""
        rest = data[cut:]
        block = data[:cut] if rest else data
        template = self._template
        if (
            self._forwards
            and template is not None
            and template.is_unchanged
            and block.startswith(template.before)
            and block.endswith(template.after)
        ):
            events = block.count(template.before)
            # Every event has the known bytes before and after its text, and there is nothing else.
            if (
                events == block.count(template.after)
                and 2 * events == block.count(b"\n")
                and not has_half(block)
                and _is_utf8(block)
                and (counts := count_deltas(block, events)) is not None
            ):
                self.pieces += counts[0]
                self.size += counts[1]
                self._incomplete = rest
                return block
        sent = []
        for event in block.split(b"\n\n"):
            if event:
                matched = self.match_template(event + b"\n\n")
                sent.append(self._event(event) if matched is None else matched)
        self._incomplete = rest
        return b"".join(sent)

    def end(self) -> bytes:
        """Return the events to send when the engine closed its stream. Sets `done`, or `error` if it was cut off.

        An incomplete event is read as if an empty line followed. A stream without `[DONE]` is complete if every choice
        has a finish reason.
        """
        rest, self._incomplete = self._incomplete, b""
        sent = b""
        if self._head is None and _is_json(rest):
            sent = self._json(rest)
        elif rest.strip():
            sent = b"".join([self._event(event, is_last=True) for event in rest.split(b"\n\n") if event])
        if self.done or self.error is not None:
            return sent
        if len(self._finished) >= self._choices:
            return sent + self._end()
        if self._head is None and self.usage is None:
            self._fail(EngineError(f"{self._engine} sent no answer"))
        else:
            self._fail(EngineBroken(f"{self._engine} closed the stream early; the output sent so far is charged"))
        return sent

    def final_events(self, usage: Usage) -> bytes:
        """Return the events to send once the charge is durable: the usage chunk, if requested, and `[DONE]`."""
        if not self._include_usage:
            return DONE
        head = self._head or self._new_head(self._seen)
        chunk = Chunk(
            id=head.id,
            created=head.created,
            model=head.model,
            service_tier=head.service_tier,
            system_fingerprint=head.system_fingerprint,
            usage=full_usage(usage),
        )
        return b"data: " + _encode(chunk) + b"\n\n" + DONE

    def report(self, usage: Usage) -> None:
        """Store a usage that the engine reported. `usage_if_ended` decides whether it is believed."""
        if is_plausible(usage):
            self.usage = merge_usage(self.usage, usage)
            self.reported_pieces, self.reported_size = self.pieces, self.size
        else:
            self.was_absurd = True

    def usage_if_ended(
        self, prompt: PromptCount, max_output: int, *, is_exact: bool, output: int | None = None, echoed: int = 0
    ) -> Judgement:
        """Return the usage to charge if the stream ended now.

        `prompt` is our count of the prompt. Our count of the output is at most `max_output`; it is `output` if that is
        known, one token per delta if `is_exact`, else an estimate. `echoed` bytes of the text are the prompt.
        """
        pieces, size = self.pieces, max(0, self.size - echoed)

        def count(pieces: int, size: int) -> int:
            return pieces if is_exact else estimate_output_tokens(pieces, size)

        later, least = 0, 0 if is_exact else least_output(pieces, size, output)
        is_early = self.reported_pieces <= 1 and pieces > self.reported_pieces
        is_whole = self.done and not (is_early or self.was_absurd)
        if is_whole and self.usage is not None and is_believed(self.usage, prompt, least, max_output):
            return Judgement(self.usage, False)
        if self.usage is not None and not self.done and output is not None:
            later = max(0, min(output, max_output) - self.usage.completion_tokens)
        elif self.usage is not None and not self.done:
            reported_size = max(0, self.reported_size - echoed)
            least = min(least, least_output(self.reported_pieces, reported_size))
            later = count(pieces - self.reported_pieces, size - reported_size)
            later = max(0, min(later, max_output - self.usage.completion_tokens))
        tokens = count(pieces, size) if output is None else output
        return judge_usage(
            self.usage,
            prompt=prompt,
            tokens=min(tokens, max_output),
            has_begun=pieces > 0,
            least=least,
            most=max_output,
            later=later,
            is_early=is_early,
            was_absurd=self.was_absurd,
        )

    # ── events ─────────────────────────────────────────────────────────────────────────────────────────────

    def _event(self, event: bytes, *, is_last: bool = False) -> bytes:
        """Return what to send for an event. `is_last`: it may have been cut off by the end of the stream."""
        if self.done or self.error is not None:
            return b""
        name, lines = "", [event]
        try:
            if event.startswith(b"data: ") and _LINE_END not in event:
                if self._forwards and not self._parses_left and self._is_documented(event):
                    return event + b"\n\n"
                return self._data(event[6:], event)
            name, lines = read_event(event)
            return self._data(b"\n".join(lines), None, name) if lines or name == "error" else b""
        except RecursionError:
            self._fail(EngineError(f"{self._engine} sent an invalid chunk: it is nested too deeply"))
        except ValueError:
            if len(lines) > 1:
                # Some servers end an event with a single line end.
                return b"".join([self._event(b"data: " + line, is_last=is_last) for line in lines])
            # `end` reports a stream that was cut off. After all finish reasons, nothing is lost.
            if not is_last and len(self._finished) < self._choices:
                self._fail(EngineError(f"{self._engine} sent an invalid chunk"))
        return b""

    def _json(self, body: bytes) -> bytes:
        """Return the events for a response that is JSON instead of events: one object, a list, or one a line."""
        try:
            value = decode_json(body)
        except RecursionError:
            self._fail(EngineError(f"{self._engine} sent an invalid chunk: it is nested too deeply"))
            return b""
        except ValueError:
            lines = [line for line in body.split(b"\n") if line.strip()]
            if len(lines) > 1:
                return b"".join([self._event(b"data: " + line) for line in lines])
            self._fail(EngineError(f"{self._engine} sent an invalid answer"))
            return b""
        values = objects_of(value)
        for choice in [choice for one in values for choice in objects_of(one.get("choices"))]:
            is_whole = bool(choice.get("message")) or "text" in choice
            if is_whole and read_finish_reason(choice.get("finish_reason")) is None:
                choice["finish_reason"] = "stop"
        return b"".join([self._event(b"data: " + json_with_halves(one)) for one in values])

    def _data(self, data: bytes, received: bytes | None, name: str = "") -> bytes:
        """Return what to send for the data of an event. `received` is the event if it has no other lines.

        Raises ValueError or RecursionError if it cannot be read.
        """
        if data == b"[DONE]" or (len(data) < 32 and data.strip() == b"[DONE]"):
            return self._end()
        found = read_received(data)
        if found is None:
            return self._no_object(data, name)
        chunk, is_repaired, is_extended = found
        fields: Json = {}
        if not chunk.choices or name == "error" or data.find(b'"error"') >= 0:
            fields = decode_json(data)
            fault = find_fault(fields, is_error=name == "error", is_answer=bool(chunk.choices))
            if fault is not None:
                self._fail(failure_in_answer(fault, self._engine))
                return b""
        if chunk.choices:
            sent = self._chunk(
                chunk, None if is_repaired else received, is_repaired=is_repaired, is_extended=is_extended
            )
        else:
            self._see(chunk)
            sent = b""
        if chunk.usage is not None:
            self._report(chunk.usage)
        elif fields or data.find(b'"x_groq"') >= 0:
            self._report_elsewhere(fields or decode_json(data))
        return sent

    def _no_object(self, data: bytes, name: str) -> bytes:
        """Skip text and other values that are no chunk, unless they are an error."""
        try:
            value = decode_json(data)
        except ValueError:
            value = data.decode("utf-8", "replace")
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return b"".join([self._event(b"data: " + json_with_halves(one)) for one in value])
        fault = find_fault(value, is_error=name == "error")
        if fault is not None:
            self._fail(failure_in_answer(fault, self._engine))
        return b""

    def _end(self) -> bytes:
        """End the stream. Return the halves of characters that never became whole."""
        if self._head is None and self.usage is None:
            self._fail(EngineError(f"{self._engine} sent no answer"))
            return b""
        rest = self._halves()
        self.done, self._forwards, self._template = True, False, None
        return rest

    def _fail(self, error: ServiceError) -> None:
        self.error, self._forwards, self._template, self._incomplete = error, False, None, b""

    def _is_documented(self, event: bytes) -> bool:
        """Return True if an event is a documented chunk that no template matches, and count its text.

        Such chunks have logprobs, or `obfuscation`: padding of varying length that OpenAI adds.
        """
        head = self._head
        if head is None or self._shelved_template is not None or event.find(b'"delta":{"content":"') < 0:
            return False
        try:
            chunk = decode_documented(event[6:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if (
            len(chunk.choices) != 1
            or chunk.id != head.id
            or chunk.model != head.model
            or chunk.created != head.created
            or chunk.error is not None
        ):
            return False
        size = len(chunk.choices[0].delta.content.encode())
        self.size += size
        self.pieces += size != 0
        return True

    # ── chunks ─────────────────────────────────────────────────────────────────────────────────────────────

    def _chunk(self, chunk: Received, received: bytes | None, *, is_repaired: bool, is_extended: bool = False) -> bytes:
        """Return what to send for a chunk with choices: the event as it was received, or a new one."""
        choices = chunk.choices or []
        head = self._head
        if head is None:
            self._see(chunk)
            head = self._head = self._new_head(self._seen)
            self.served_model = self._seen.model or self._model
        elif self.served_model is None:
            # Another engine began the stream, and the chunks keep the name of its model.
            self.served_model = text_or(chunk.model, self._model)
        is_same = (
            received is not None
            and self._forwards
            and not is_extended
            and chunk.usage is None
            and chunk.id == head.id
            and chunk.model == head.model
            and chunk.created == head.created
            and chunk.object == head.object
            and chunk.service_tier in (None, head.service_tier)
            and (chunk.system_fingerprint is None or chunk.system_fingerprint == head.system_fingerprint)
        )
        raw = sent = b""
        has_failed = False
        for place, choice in enumerate(choices):
            raw = bytes(choice.delta)
            simple = match_text(raw)
            if choice.finish_reason is UNSET:
                choice.finish_reason, is_same = None, False
            if (
                simple is not None
                and not is_repaired
                and self._shelved_template is None
                and choice.finish_reason is None
                and type(choice.index) is int
                and raw.isascii()
                and ((logprobs := bytes(choice.logprobs)) == b"null" or repair_logprobs(logprobs) is logprobs)
            ):
                self.size += text_size(simple[1])
                self.pieces += simple[1] != b""
                if not is_same and len(choices) == 1 and logprobs == b"null":
                    before, after = self._around.get(choice.index) or self._learn_around(choice.index)
                    sent = before + raw + after
                continue
            if choice.usage is not UNSET:
                # Moonshot reports the usage here.
                chunk.usage = chunk.usage or choice.usage
            has_failed |= read_finish_reason(choice.finish_reason) == FAILED
            is_same = self._repair_choice(choice, raw, place, is_repaired=is_repaired) and is_same
        if is_same and received is not None:
            sent = received + b"\n\n"
        elif not sent:
            sent = b"data: " + self._encode_chunk(choices) + b"\n\n"
        if self._parses_left and received is not None and len(choices) == 1 and chunk.usage is None:
            self._learn_template(received + b"\n\n", sent, raw)
        if has_failed:
            self._fail(failure_in_answer(Fault(codes=frozenset((FAILED,))), self._engine))
        return sent

    def _repair_choice(self, choice: ReceivedChoice, raw: bytes, place: int, *, is_repaired: bool) -> bool:
        """Give a choice the documented form and count its text. Return True if it already had that form."""
        is_same = type(choice.index) is int and choice.index >= 0
        if not is_same:
            choice.index = index_or(choice.index, place)
        size, is_delta_same = self._delta(choice, raw, is_repaired=is_repaired)
        is_same = is_same and is_delta_same
        reason = read_finish_reason(choice.finish_reason)
        if reason == FAILED:
            reason = None
        elif reason is not None:
            self._finished.add(choice.index)
            if rest := self._repair.rest(choice.index):
                delta = self._repair.delta_of_rest(rest, decode_json(bytes(choice.delta)))
                choice.delta, is_same = msgspec.Raw(clean_json(delta)), False
                size += 3 * len(rest)
        if reason != choice.finish_reason:
            choice.finish_reason, is_same = reason, False
        logprobs = bytes(choice.logprobs)
        if logprobs != b"null":
            is_text = choice.text is not UNSET and choice.message is UNSET and raw in (b"", b"null")
            repaired = repair_text_logprobs(logprobs) if is_text else repair_logprobs(logprobs)
            if repaired is not logprobs:
                choice.logprobs, is_same = msgspec.Raw(repaired), False
        if not (choice.usage is UNSET and choice.message is UNSET and choice.text is UNSET):
            choice.usage = choice.message = choice.text = UNSET
            is_same = False
        self.pieces += size != 0
        self.size += size
        return is_same

    def _learn_around(self, choice: int) -> tuple[bytes, bytes]:
        """Return the bytes of a sent chunk before and after a delta with text: the same for all chunks of a choice."""
        mark = b'"\\u0000delta"'
        before, _, after = self._encode_chunk(
            [ReceivedChoice(choice, msgspec.Raw(mark), finish_reason=None)]
        ).partition(mark)
        around = self._around[choice] = b"data: " + before, after + b"\n\n"
        return around

    def _learn_template(self, received: bytes, sent: bytes, delta: bytes) -> None:
        if self._repair.renumbers:
            # The pieces of a call have another index than the one that a template would repeat.
            self._parses_left, self._template = 0, None
        elif self._shelved_template is None and _is_plain(received):
            self._parses_left -= 1
            self._template = template_of(received, sent, delta) or self._template

    def _delta(self, choice: ReceivedChoice, raw: bytes, *, is_repaired: bool) -> tuple[int, bool]:
        """Repair the delta of a choice. Return the bytes of its text, and True if it is as it was received."""
        repair = self._repair
        if not is_repaired and self._shelved_template is None:
            piece = match_arguments(raw)
            if piece is not None and raw.isascii() and repair.knows_call(choice.index, int(piece[1])):
                return text_size(piece[2]), True
        if raw in (b"", b"null") and (choice.message is not UNSET or choice.text is not UNSET):
            content = {"content": text_of(choice.text)} if choice.message is UNSET else choice.message
            fields, is_changed = repair.delta(json_with_halves(content), choice.index)[0], True
        elif raw:
            fields, is_changed = repair.delta(raw, choice.index)
        else:
            fields, is_changed = {}, True
        if raw == _SILENT_DELTA and not self._forwards:
            choice.delta = _FIRST_DELTA
            return 0, False
        if is_changed:
            encoded = clean_json(fields)
            choice.delta = msgspec.Raw(encoded)
            # Without halves of surrogate pairs, which have no size.
            fields = decode_json(encoded) if is_repaired else fields
        if repair.awaits_half:
            self._shelved_template = self._shelved_template or self._template or NO_TEMPLATE
            self._template = None
        elif self._shelved_template is not None:
            shelved, self._shelved_template = self._shelved_template, None
            self._template = None if shelved is NO_TEMPLATE else shelved
        return message_size(fields), not is_changed

    def _halves(self) -> bytes:
        """Return an event for each choice with half a character that never became whole: it is sent as U+FFFD."""
        rest = self._repair.rest()
        sent = b""
        for index in dict.fromkeys(key[0] for key, _ in rest):
            delta = clean_json(self._repair.delta_of_rest([half for half in rest if half[0][0] == index], {}))
            self.pieces += 1
            self.size += 3
            sent += (
                b"data: "
                + self._encode_chunk([ReceivedChoice(index, msgspec.Raw(delta), finish_reason=None)])
                + b"\n\n"
            )
        return sent

    def _encode_chunk(self, choices: list[ReceivedChoice]) -> bytes:
        head = self._head or self._new_head(self._seen)
        shared = (head.id, head.object, head.created, head.model, head.service_tier, head.system_fingerprint)
        if self._include_usage:
            return _encode(Chunk(*shared, choices))
        return _encode(ChunkWithoutUsage(*shared, choices))

    # ── what all chunks share ──────────────────────────────────────────────────────────────────────────────

    def _see(self, chunk: Received) -> None:
        """Take the shared fields from the first chunk that has them."""
        seen = self._seen
        seen.id = seen.id or text_or(chunk.id, "")
        seen.created = seen.created or timestamp_or(chunk.created, 0)
        seen.model = seen.model or text_or(chunk.model, "")
        seen.system_fingerprint = seen.system_fingerprint or text_or(chunk.system_fingerprint, "") or None
        if isinstance(chunk.service_tier, str) and chunk.service_tier in SERVICE_TIERS:
            seen.service_tier = seen.service_tier or chunk.service_tier

    def _new_head(self, seen: Chunk) -> Chunk:
        """Fill in the shared fields that the engine leaves out."""
        model, own_id, label = seen.model or self._model, seen.id or self._name, self._engine
        reported = seen.system_fingerprint
        if isinstance(label, EngineLabel):
            model, own_id = label.shown_model(self._model, model), label.shown_id(own_id, self._name)
            reported = None if reported and label.betrays(reported) else reported
        return Chunk(
            id=own_id,
            created=seen.created or self._created_s,
            model=model,
            service_tier=seen.service_tier or "default",
            system_fingerprint=fingerprint(model, reported),
        )

    def _report(self, value: Any) -> None:
        usage = read_usage(value)
        if usage is not None:
            self.report(usage)

    def _report_elsewhere(self, fields: Json) -> None:
        """Read a usage from a field that only Groq or Gemini has."""
        groq = fields.get("x_groq")
        usage = groq.get("usage") if isinstance(groq, dict) else fields.get("usageMetadata")
        if usage is not None:
            self._report(usage)


def _is_json(data: bytes) -> bool:
    """Return True if a response begins like JSON, and not like an event."""
    return data.removeprefix(BOM).lstrip()[:1] in (b"{", b"[")


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_plain(block: bytes) -> bool:
    # Four calls of `find` are ten times faster than one regular expression, or than `in` with a bytes operand.
    find = block.find
    return find(_END) < 0 and find(_USAGE) < 0 and find(_ERROR) < 0 and find(_SPACED_USAGE) < 0
