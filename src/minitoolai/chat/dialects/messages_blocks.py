"""Translate the messages of a request for `/v1/messages` into those of a chat, block by block.

A chat cannot express every block. Such a block does not end the translation: it is recorded as the reason why only an
engine that speaks Anthropic's format can serve the request.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import MessagesForm
from minitoolai.http.validation import shortened

Json = dict[str, Any]

_encode = msgspec.json.Encoder().encode
IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_TOOL_ID = re.compile(r"[A-Za-z0-9_-]{1,256}")
#: Begin of a block that Claude Code adds to its system prompt. It differs in each version and would only cost tokens.
_BILLING_HEADER = "x-anthropic-billing-header:"
_USER_BLOCKS = "text, image, document, search_result or tool_result"
_ASSISTANT_BLOCKS = "text, tool_use, thinking or redacted_thinking"
_ELSEWHERE = "it needs a model that is served by an engine with Anthropic's API. Leave it out, or choose another model"


def refuse(at: str, remedy: str) -> InvalidRequest:
    """Return the error for a field that has the wrong type or value. `remedy`: the expected value."""
    return InvalidRequest(f"{at} must be {remedy}", param=at)


def text_at(fields: Json, name: str, at: str, *, may_be_empty: bool = False) -> str:
    """Return a string field of the object at `at`."""
    value = fields.get(name)
    if not isinstance(value, str) or not (value or may_be_empty):
        raise refuse(f"{at}.{name}", "a string" if may_be_empty else "a non-empty string")
    return value


def check_cache_control(fields: Json, at: str) -> None:
    """Raise InvalidRequest for a wrong `cache_control` in the object at `at`, which is "" for the body itself."""
    control = fields.get("cache_control")
    if control is None:
        return
    name = f"{at}.cache_control" if at else "cache_control"
    if not isinstance(control, dict) or control.get("type") != "ephemeral":
        raise refuse(name, 'an object like {"type": "ephemeral"}')
    if control.get("ttl") not in (None, "5m", "1h"):
        raise refuse(f"{name}.ttl", "5m or 1h")


def system_text(system: Any) -> str:
    """Return the system prompt as one text."""
    if isinstance(system, str):
        return system
    if not isinstance(system, list):
        raise refuse("system", "a string or a list of text blocks")
    return "\n\n".join(_texts_of(system, "system", skip=_BILLING_HEADER))


def _texts_of(blocks: list[Any], at: str, *, skip: str | None = None) -> list[str]:
    texts = []
    for index, block in enumerate(blocks):
        place = f"{at}[{index}]"
        if not isinstance(block, dict) or block.get("type") != "text":
            raise refuse(place, 'a block like {"type": "text", "text": "…"}')
        check_cache_control(block, place)
        text = text_at(block, "text", place, may_be_empty=True)
        if skip is None or not text.startswith(skip):
            texts.append(text)
    return texts


class ChatMessages:
    """Messages of a chat, in the order of the request. Records in `form` the facts that a chat cannot express."""

    def __init__(self, form: MessagesForm) -> None:
        self._form = form
        self.messages: list[Json] = []
        #: Names of the tools in the chat, by the name that the caller uses.
        self.names: dict[str, str] = {}
        #: The tool calls of the last message, and their place, if it was the assistant's.
        self._calls: list[str] = []
        self._place = ""
        #: Parts of the chat with an image, and their places in the request.
        self._image_places: list[tuple[Json, str]] = []

    def add_all(self, messages: Any) -> None:
        """Translate all messages. Raises InvalidRequest that names the field."""
        if not isinstance(messages, list) or not messages:
            raise refuse("messages", 'a list with at least one message, like [{"role": "user", "content": "Hello"}]')
        for index, message in enumerate(messages):
            at = f"messages[{index}]"
            if not isinstance(message, dict):
                raise refuse(at, 'an object like {"role": "user", "content": "Hello"}')
            role = message.get("role")
            if role not in ("user", "assistant", "system"):
                raise InvalidRequest(
                    f"{at}.role is {shortened(role)}; it must be user or assistant. Send a system prompt in system",
                    param=f"{at}.role",
                )
            content = message.get("content")
            if not isinstance(content, str) and not isinstance(content, list):
                raise refuse(f"{at}.content", "a string or a list of content blocks")
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            if role == "assistant":
                self._add_assistant(blocks, at)
            elif role == "system":
                self.messages.append({"role": "system", "content": "\n\n".join(_texts_of(blocks, f"{at}.content"))})
            else:
                self._add_user(blocks, at)
        self._locate_images()

    def only_native(self, at: str, what: str) -> None:
        """Record that only an engine with Anthropic's format can serve the request, because of the field at `at`."""
        if self._form.refusal is None:
            self._form.refusal = InvalidRequest(f"{at}: {what}; {_ELSEWHERE}", param=at)

    # ── the user's messages ───────────────────────────────────────────────────────────────────────────────

    def _add_user(self, blocks: list[Any], at: str) -> None:
        calls, self._calls = self._calls, []
        parts: list[Json] = []
        results: list[Json] = []
        for index, block in enumerate(blocks):
            place = f"{at}.content[{index}]"
            if self._kind(block, place) == "tool_result":
                results.append(self._tool_result(block, place, calls, parts))
            else:
                self._add_part(block, place, parts)
        if calls:
            raise InvalidRequest(
                f"{self._place}: the tool_use block {shortened(calls[0])} has no result: the next message must begin "
                "with a tool_result block for it",
                param=f"{at}.content",
            )
        self.messages += results
        if parts or not results:
            self.messages.append({"role": "user", "content": _joined(parts)})

    def _kind(self, block: Any, at: str) -> str:
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise refuse(at, 'a content block like {"type": "text", "text": "…"}')
        check_cache_control(block, at)
        return str(block["type"])

    def _add_part(self, block: Json, at: str, parts: list[Json]) -> None:
        """Append the parts of a chat for a block of the user or of a tool's result."""
        kind = block["type"]
        if kind == "text":
            parts.append(_text(text_at(block, "text", at, may_be_empty=True)))
        elif kind == "image":
            parts.append(self._image(block, at))
        elif kind == "document":
            self._add_document(block, at, parts)
        elif kind == "search_result":
            parts.append(_text(_search_result(block, at)))
        elif kind in ("tool_use", "thinking", "redacted_thinking"):
            raise InvalidRequest(
                f"{at}.type is {kind}, which only a message of the assistant can have; a message of the user has "
                f"{_USER_BLOCKS}",
                param=f"{at}.type",
            )
        else:
            self._unknown(block, at, _USER_BLOCKS)

    def _unknown(self, block: Json, at: str, known: str) -> None:
        if _refers_to_files(block):
            raise refuse(f"{at}.type", f"{known}; files are not stored here")
        self._form.other_bytes += len(_encode(block))
        self.only_native(f"{at}.type", f"a block of type {shortened(block['type'])} is not {known}")

    def _tool_result(self, block: Json, at: str, calls: list[str], parts: list[Json]) -> Json:
        """Return the message of a tool. In a chat only users send images, so these are added to `parts`."""
        call = text_at(block, "tool_use_id", at)
        if call not in calls:
            raise InvalidRequest(
                f"{at}.tool_use_id is {shortened(call)}, but the message before has no tool_use block with this id, or "
                "it has a result already: send each result once, directly after the message with its call",
                param=f"{at}.tool_use_id",
            )
        calls.remove(call)
        is_error = block.get("is_error")
        if is_error is not None and not isinstance(is_error, bool):
            raise refuse(f"{at}.is_error", "true or false")
        content = block.get("content")
        found: list[Json] = []
        if isinstance(content, list):
            for index, part in enumerate(content):
                place = f"{at}.content[{index}]"
                if self._kind(part, place) == "tool_result":
                    raise refuse(f"{place}.type", "text, image, document or search_result")
                self._add_part(part, place, found)
        elif content is not None:
            found.append(_text(text_at(block, "content", at, may_be_empty=True)))
        text = "\n".join(part["text"] for part in found if part["type"] == "text")
        images = [part for part in found if part["type"] == "image_url"]
        parts += images
        text = text or ("The image follows." if images else "")
        if is_error and "error" not in text[:64].lower():
            text = f"Error: {text}"
        return {"role": "tool", "tool_call_id": call, "content": text}

    # ── images and documents ──────────────────────────────────────────────────────────────────────────────

    def _image(self, block: Json, at: str) -> Json:
        source = _source(block, at, ("base64", "url"))
        if source["type"] == "url":
            url = text_at(source, "url", f"{at}.source")
            if not url.startswith("https://"):
                raise refuse(f"{at}.source.url", "an https URL")
        else:
            kind, data = source.get("media_type"), source.get("data")
            if kind not in IMAGE_TYPES:
                raise refuse(f"{at}.source.media_type", f"one of {', '.join(IMAGE_TYPES)}")
            if not isinstance(data, str) or not data:
                raise refuse(f"{at}.source.data", "the image as base64")
            url = f"data:{kind};base64,{data}"
        image_url = {"url": url}
        self._form.images.append((source, image_url))
        part = {"type": "image_url", "image_url": image_url}
        self._image_places.append((part, f"{at}.source"))
        return part

    def _add_document(self, block: Json, at: str, parts: list[Json]) -> None:
        source = _source(block, at, ("text", "content", "base64", "url"))
        for name in ("title", "context"):
            if block.get(name) is not None:
                parts.append(_text(f"{name.capitalize()}: {text_at(block, name, at, may_be_empty=True)}"))
        if source["type"] == "text":
            parts.append(_text(text_at(source, "data", f"{at}.source", may_be_empty=True)))
        elif source["type"] == "content":
            self._add_content_of_document(source.get("content"), f"{at}.source.content", parts)
        elif source["type"] == "url":
            url = text_at(source, "url", f"{at}.source")
            if not url.startswith("https://"):
                raise refuse(f"{at}.source.url", "an https URL")
            self._form.urls.append((url, f"{at}.source.url"))
            self._form.document_bytes += 2**31
            self.only_native(f"{at}.source", "a document by URL is fetched by the engine")
        else:
            data = text_at(source, "data", f"{at}.source")
            if source.get("media_type") != "application/pdf":
                raise refuse(f"{at}.source.media_type", "application/pdf; send plain text with the source type text")
            self._form.document_bytes += len(data)
            self.only_native(f"{at}.source", "a PDF is read by the engine")

    def _add_content_of_document(self, content: Any, at: str, parts: list[Json]) -> None:
        if isinstance(content, str):
            parts.append(_text(content))
            return
        if not isinstance(content, list):
            raise refuse(at, "a string or a list of text and image blocks")
        for index, part in enumerate(content):
            place = f"{at}[{index}]"
            if self._kind(part, place) not in ("text", "image"):
                raise refuse(f"{place}.type", "text or image")
            self._add_part(part, place, parts)

    def _locate_images(self) -> None:
        """Map the places of the images in the chat to those in the request, for errors."""
        if not self._image_places:
            return
        places = {id(part): at for part, at in self._image_places}
        for index, message in enumerate(self.messages):
            content = message["content"]
            for number, part in enumerate(content if isinstance(content, list) else ()):
                if id(part) in places:
                    self._form.places[f"messages[{index}].content[{number}].image_url.url"] = places[id(part)]

    # ── the assistant's messages ──────────────────────────────────────────────────────────────────────────

    def _add_assistant(self, blocks: list[Any], at: str) -> None:
        texts: list[str] = []
        calls: list[Json] = []
        for index, block in enumerate(blocks):
            place = f"{at}.content[{index}]"
            kind = self._kind(block, place)
            if kind == "text":
                texts.append(text_at(block, "text", place, may_be_empty=True))
            elif kind == "tool_use":
                calls.append(self._call(block, place, [call["id"] for call in calls]))
            elif kind == "thinking":
                # Other engines do not read it again, so it is no part of the chat.
                self._form.other_bytes += len(text_at(block, "thinking", place, may_be_empty=True).encode())
                text_at(block, "signature", place, may_be_empty=True)
            elif kind == "redacted_thinking":
                self._form.other_bytes += len(text_at(block, "data", place))
            else:
                self._unknown(block, place, _ASSISTANT_BLOCKS)
        message: Json = {"role": "assistant", "content": "".join(texts)}
        if calls:
            message |= {"content": message["content"] or None, "tool_calls": calls}
        self._calls, self._place = [call["id"] for call in calls], at
        self.messages.append(message)

    def _call(self, block: Json, at: str, earlier: list[str]) -> Json:
        call, name, given = text_at(block, "id", at), text_at(block, "name", at), block.get("input")
        if not _TOOL_ID.fullmatch(call):
            raise refuse(f"{at}.id", "1 to 256 letters, digits, _ or -")
        if call in earlier:
            raise refuse(f"{at}.id", "an id that no other tool_use block of the message has")
        if not isinstance(given, dict):
            raise refuse(f"{at}.input", "an object")
        function = {"name": self.names.get(name, name), "arguments": _encode(given).decode()}
        return {"id": call, "type": "function", "function": function}


def _source(block: Json, at: str, kinds: tuple[str, ...]) -> Json:
    source = block.get("source")
    if not isinstance(source, dict):
        raise refuse(f"{at}.source", "an object with a type")
    if source.get("type") == "file":
        raise InvalidRequest(
            f"{at}.source.type is file, but files are not stored here: send the data itself as base64",
            param=f"{at}.source.type",
        )
    if source.get("type") not in kinds:
        raise refuse(f"{at}.source.type", f"{', '.join(kinds[:-1])} or {kinds[-1]}")
    return source


def _refers_to_files(block: Json) -> bool:
    """Return True for a block that names a file of the operator's own account with the engine."""
    return block["type"] == "container_upload" or "file_id" in block


def _search_result(block: Json, at: str) -> str:
    content = block.get("content")
    if not isinstance(content, list):
        raise refuse(f"{at}.content", "a list of text blocks")
    head = [text_at(block, "title", at, may_be_empty=True), text_at(block, "source", at, may_be_empty=True)]
    return "\n".join([*head, *_texts_of(content, f"{at}.content")])


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _joined(parts: list[Json]) -> Any:
    """Join parts that are only text, because not every engine supports parts."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts
