"""`/v1/embeddings`: texts into vectors. Inside it is a chat that writes nothing; here it is told as OpenAI tells it."""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgspec

from minitoolai.chat.dialects.completions import is_tokens, make_whole, renamed
from minitoolai.chat.endpoint import DialectAdapter, DialectRun
from minitoolai.chat.run import ChatRun
from minitoolai.core.errors import InvalidRequest, ServiceError
from minitoolai.core.inference import ChatRequest
from minitoolai.http.errors import error_event, status_and_type
from minitoolai.http.validation import flag, integer, json_object, non_empty_text, shortened

Json = dict[str, Any]

MOST_TEXTS = 2048
#: Tokens that an engine may add to a text.
_AROUND_A_TEXT = 4
_OURS = frozenset(("model", "input", "stream"))
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class EmbeddingsDialect:
    """OpenAI's."""

    def parse(self, body: bytes) -> ChatRequest:
        fields = json_object(body)
        model = non_empty_text(fields, "model")
        texts = _texts(fields.get("input"))
        form = fields.get("encoding_format")
        if form not in (None, "float", "base64"):
            raise InvalidRequest(
                f"encoding_format is {shortened(form)}; it must be float or base64", param="encoding_format"
            )
        integer(fields, "dimensions", 1, 65_536)
        if flag(fields, "stream", default=False):
            raise InvalidRequest("stream must be false or left out: vectors come in one piece", param="stream")
        if fields.get("user") is not None:
            non_empty_text(fields, "user")
        return ChatRequest(
            model=model,
            messages=[],
            fields={key: value for key, value in fields.items() if key not in _OURS and value is not None},
            stream=False,
            include_usage=False,
            limit=None,
            limit_is_default=True,
            text_bytes=sum(_size(text) + _AROUND_A_TEXT for text in texts),
            embed=texts,
            form=form or "float",
        )

    def speaker(self, run: ChatRun) -> DialectRun:
        return DialectAdapter(run, EmbeddingsTranslator(run.request.form))

    def retold(self, error: ServiceError) -> ServiceError:
        return renamed(error, {"messages": "input"})

    def last_words(self, speaker: DialectRun, error: ServiceError) -> bytes:
        return error_event(error.message, kind=status_and_type(error)[1], code=error.code, param=error.param)


class EmbeddingsTranslator:
    """A completion that holds vectors, retold as their list."""

    def __init__(self, form: str) -> None:
        self._form = form

    def events(self, block: bytes) -> bytes:
        return block

    def final_events(self, block: bytes) -> bytes:
        return block

    def whole(self, body: bytes) -> bytes:
        answer = _decode(body)
        data = [self._retold(index, vector) for index, vector in enumerate(answer["choices"][0]["data"])]
        tokens = answer["usage"]["prompt_tokens"]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return _encode({"object": "list", "data": data, "model": answer["model"], "usage": usage})

    def _retold(self, index: int, vector: Json) -> Json:
        """In the encoding that was asked for, whatever the engine made of that."""
        found = vector.get("embedding")
        if self._form == "base64" and isinstance(found, list):
            found = base64.b64encode(struct.pack(f"<{len(found)}f", *found)).decode()
        elif self._form == "float" and isinstance(found, str):
            raw = base64.b64decode(found)
            found = list(struct.unpack(f"<{len(raw) // 4}f", raw))
        return {"object": "embedding", "index": vector.get("index", index), "embedding": found}


def _texts(given: Any) -> list[Any]:
    """A list of texts, or of lists of tokens."""
    if isinstance(given, str) and given:
        return [given]
    if not isinstance(given, list) or not given:
        raise InvalidRequest("input must be a non-empty string, or a list of strings or of tokens", param="input")
    make_whole(given)
    texts: list[Any] = [given] if is_tokens(given) else given
    if len(texts) > MOST_TEXTS:
        raise InvalidRequest(f"input holds {len(texts)} texts; send at most {MOST_TEXTS} a request", param="input")
    for index, text in enumerate(texts):
        if not (isinstance(text, str) and text) and not (isinstance(text, list) and text and is_tokens(text)):
            raise InvalidRequest(
                f"input[{index}] is {shortened(text)}; it must be a non-empty string or a list of tokens",
                param=f"input[{index}]",
            )
    return texts


def _size(text: Any) -> int:
    return len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else len(text)
