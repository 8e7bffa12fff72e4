"""Keep a copy of a request and its response, for accounts that have them stored. Other requests never come here."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Final

import msgspec

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.accounts.request_bodies import Body, BodyKeeper, Exchange, cut
from minitoolai.core.clock import parse_generation_name
from minitoolai.core.models import Caller
from minitoolai.http.asgi import Receive, Scope, Send, header
from minitoolai.http.request_context import REQUEST_CONTEXT

#: Key of the recording in the ASGI scope.
RECORDING: Final = "minitoolai.recording"
#: Bytes that are kept until the end of a request: a body may hold images, which are left out before it is cut.
MAX_KEPT_BYTES = 8 * 1024 * 1024
#: A longer text without blanks in base64 is a file.
_is_base64 = re.compile(r"[A-Za-z0-9+/_-]{256,}={0,2}").fullmatch
Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]


class Copy:
    """The first bytes of a body, and its size."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self._kept = 0

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if data and self._kept < MAX_KEPT_BYTES:
            self.parts.append(data[: MAX_KEPT_BYTES - self._kept])
            self._kept += len(self.parts[-1])


class CopiedRequest:
    """One request that is copied while it runs."""

    def __init__(self, caller: Caller, scope: Scope) -> None:
        self._caller = caller
        self._scope = scope
        self._is_json = b"json" in header(scope, b"content-type").lower()
        self._request, self._response = Copy(), Copy()
        self._response_type = b""
        #: Fields of a form, without its files. Set by endpoints that receive forms.
        self.parameters: dict[str, Any] | None = None

    def receive(self, receive: Receive) -> Receive:
        """Return a `receive` that copies a JSON body. Others hold recordings and images."""
        if not self._is_json:
            return receive

        async def copying() -> MutableMapping[str, Any]:
            message = await receive()
            self._request.add(message.get("body", b""))
            return message

        return copying

    def send(self, send: Send) -> Send:
        """Return a `send` that copies a response in text. Audio and images are not copied."""

        async def copying(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower(): value for name, value in message.get("headers", ())}
                self._response_type = names.get(b"content-type", b"").partition(b";")[0]
            elif _is_text(self._response_type):
                self._response.add(message.get("body", b""))
            await send(message)

        return copying

    def exchange(self) -> Exchange | None:
        """Return what to store, or None if the request became no generation."""
        context = self._scope.get(REQUEST_CONTEXT)
        name = None if context is None else context.generation
        generation_id = None if name is None else parse_generation_name(name)
        if generation_id is None:
            return None
        held = sum(len(part) for copy in (self._request, self._response) for part in copy.parts)
        return Exchange(self._caller.account_id, generation_id, self._caller.body_days, held, self._prepare)

    def _prepare(self) -> tuple[Body | None, Body | None]:
        request = None
        if self.parameters is not None:
            request = cut(_json(without_media(self.parameters)))
        elif self._request.size:
            request = as_text(b"".join(self._request.parts), self._request.size)
        response = None
        if self._response.size:
            body, size = b"".join(self._response.parts), self._response.size
            is_stream = self._response_type == b"text/event-stream"
            response = cut(stream_text(body), None) if is_stream else as_text(body, size)
            if is_stream and size > len(body):
                response = Body(response.text, size)
        return request, response


def _is_text(media_type: bytes) -> bool:
    return media_type.startswith(b"text/") or b"json" in media_type


async def record(
    endpoint: Endpoint, keys: KeyVerifier, caller: Caller, scope: Scope, receive: Receive, send: Send
) -> None:
    """Run an endpoint again from its beginning, and store both bodies."""
    keeper = keys.bodies
    assert keeper is not None, "without it, callers have no days"
    recording = CopiedRequest(caller, scope)
    scope[RECORDING] = recording
    try:
        await endpoint(scope, recording.receive(receive), recording.send(send))
    finally:
        exchange = recording.exchange()
        if exchange is not None:
            keeper.keep(exchange)


def note_parameters(scope: Scope, parameters: object) -> None:
    """Tell the recording of this request, if there is one, what the request asks for."""
    recording = scope.get(RECORDING)
    if recording is not None:
        recording.parameters = msgspec.to_builtins(parameters)


def keep_parameters(keeper: BodyKeeper, caller: Caller, generation_id: int, parameters: object) -> None:
    """Store what a job asks for. Its images are stored elsewhere, or not at all."""
    text = msgspec.to_builtins(parameters)

    def prepare() -> tuple[Body | None, Body | None]:
        return cut(_json(without_media(text))), None

    keeper.keep(Exchange(caller.account_id, generation_id, caller.body_days, 1000, prepare))


# ── text of bodies ────────────────────────────────────────────────────────────────────────────────────────


def as_text(body: bytes, size: int) -> Body:
    """Return a JSON body without images and recordings, or the beginning of one that is no JSON."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return cut(body.decode("utf-8", "replace"), size)
    shorter = _json(without_media(value))
    return cut(shorter)


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def without_media(value: Any) -> Any:
    """Return a JSON value in which files are replaced by their size."""
    if isinstance(value, dict):
        return {name: without_media(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_media(item) for item in value]
    if isinstance(value, str) and len(value) >= 256 and (_is_data_url(value) or _is_base64(value)):
        return f"[{len(value)} characters of a file, not stored]"
    return value


def _is_data_url(text: str) -> bool:
    return text[:5].lower() == "data:" and "," in text[:200]


def stream_text(body: bytes) -> str:
    """Return the text and the tool calls of a stream of events, of any of the formats of chats and transcripts."""
    found: dict[str, list[str]] = {}
    for event in _events(body):
        for name, text in _deltas(event):
            found.setdefault(name, []).append(text)
    if not found:
        return body.decode("utf-8", "replace")
    whole = {name: "".join(texts) for name, texts in found.items()}
    return whole["text"] if tuple(whole) == ("text",) else _json(whole)


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    for line in body.split(b"\n"):
        if line.startswith(b"data:"):
            try:
                value = msgspec.json.decode(line[5:])
            except (msgspec.DecodeError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value


def _deltas(event: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield part → text of one event."""
    kind = event.get("type")
    delta = event.get("delta")
    if isinstance(kind, str) and isinstance(delta, str):
        # Responses and transcripts: `response.output_text.delta`, `transcript.text.delta`.
        yield ("text" if "text" in kind else kind.removesuffix(".delta")), delta
    elif isinstance(delta, dict):
        # Messages: `text_delta`, `thinking_delta`, `input_json_delta`.
        for name in ("text", "thinking", "partial_json"):
            if isinstance(delta.get(name), str):
                yield name, delta[name]
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        index = choice.get("index") or 0 if isinstance(choice, dict) else 0
        suffix = f" of choice {index}" if index else ""
        inner = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(choice, dict) and isinstance(choice.get("text"), str):
            yield f"text{suffix}", choice["text"]
        if not isinstance(inner, dict):
            continue
        for name in ("content", "reasoning_content", "refusal"):
            if isinstance(inner.get(name), str):
                yield ("text" if name == "content" else name) + suffix, inner[name]
        calls = inner.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                name = f"tool call {call.get('index') or 0}{suffix}"
                yield name, f"{function.get('name') or ''}{function.get('arguments') or ''}"
