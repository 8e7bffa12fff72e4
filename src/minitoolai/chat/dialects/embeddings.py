"""Dialect of `/v1/embeddings`. Internally a chat without output tokens."""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgspec

from minitoolai.chat.dialects.completions import convert_whole_floats, is_tokens, rename_fields
from minitoolai.chat.endpoint import DialectAdapter, DialectRun, OpenAIErrors
from minitoolai.chat.preferences import requested_model, take_preferences
from minitoolai.chat.request import check_unpriced
from minitoolai.chat.run import ChatRun
from minitoolai.core.errors import InvalidRequest, ServiceError
from minitoolai.core.inference import ChatRequest
from minitoolai.core.request_fields import EMBEDDING_FIELDS, other_bytes, split_fields
from minitoolai.http.validation import flag, integer, json_object, non_empty_text, shortened

Json = dict[str, Any]

MAX_TEXTS = 2048
#: Maximum number of tokens that an engine adds to each text.
_EXTRA_TOKENS_PER_TEXT = 4
_OURS = frozenset(("model", "input", "stream"))
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class EmbeddingsDialect(OpenAIErrors):
    """OpenAI's embeddings."""

    def parse(self, body: bytes) -> ChatRequest:
        fields = json_object(body)
        model = requested_model(fields)
        texts = _texts(fields.get("input"))
        form = fields.get("encoding_format")
        if form not in (None, "float", "base64"):
            raise InvalidRequest(
                f"encoding_format is {shortened(form)}; it must be float or base64", param="encoding_format"
            )
        integer(fields, "dimensions", 1, 65_536)
        if flag(fields, "stream", default=False):
            raise InvalidRequest("stream must be false or left out: embeddings cannot be streamed", param="stream")
        if fields.get("user") is not None:
            non_empty_text(fields, "user")
        rest, extras = split_fields({key: fields[key] for key in fields if key not in _OURS}, EMBEDDING_FIELDS)
        check_unpriced(extras)
        return ChatRequest(
            model=model,
            messages=[],
            fields=rest,
            preferences=take_preferences(model, extras),
            extras=extras,
            other_bytes=other_bytes(rest),
            stream=False,
            include_usage=False,
            limit=None,
            limit_is_default=True,
            text_bytes=sum(_size(text) + _EXTRA_TOKENS_PER_TEXT for text in texts),
            embed=texts,
            form=form or "float",
        )

    def adapt(self, run: ChatRun) -> DialectRun:
        return DialectAdapter(run, EmbeddingsTranslator(run.request.form))

    def map_error(self, error: ServiceError) -> ServiceError:
        return rename_fields(error, {"messages": "input"})


class EmbeddingsTranslator:
    """Translate a completion that holds vectors to a list of embeddings."""

    def __init__(self, form: str) -> None:
        self._form = form

    def events(self, block: bytes) -> bytes:
        return block

    def final_events(self, block: bytes) -> bytes:
        return block

    def completion(self, body: bytes) -> bytes:
        completion = _decode(body)
        data = [self._embedding(index, vector) for index, vector in enumerate(completion["choices"][0]["data"])]
        tokens = completion["usage"]["prompt_tokens"]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return _encode({"object": "list", "data": data, "model": completion["model"], "usage": usage})

    def _embedding(self, index: int, vector: list[float] | str) -> Json:
        """Return the embedding in the requested encoding, whichever one the engine used."""
        if self._form == "base64" and isinstance(vector, list):
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        elif self._form == "float" and isinstance(vector, str):
            raw = base64.b64decode(vector)
            vector = list(struct.unpack(f"<{len(raw) // 4}f", raw))
        return {"object": "embedding", "index": index, "embedding": vector}


def _texts(value: Any) -> list[Any]:
    """Return the input as a list of texts, or of lists of tokens. InvalidRequest names the field."""
    if isinstance(value, str) and value:
        return [value]
    if not isinstance(value, list) or not value:
        raise InvalidRequest("input must be a non-empty string, or a list of strings or of tokens", param="input")
    convert_whole_floats(value)
    texts: list[Any] = [value] if is_tokens(value) else value
    if len(texts) > MAX_TEXTS:
        raise InvalidRequest(f"input has {len(texts)} texts; send at most {MAX_TEXTS} per request", param="input")
    for index, text in enumerate(texts):
        if not (isinstance(text, str) and text) and not (isinstance(text, list) and text and is_tokens(text)):
            raise InvalidRequest(
                f"input[{index}] is {shortened(text)}; it must be a non-empty string or a list of tokens",
                param=f"input[{index}]",
            )
    return texts


def _size(text: Any) -> int:
    return len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else len(text)
