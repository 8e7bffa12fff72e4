"""Suppliers with telling names: everything that they send names them, in every place where a real one does."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image, PngImagePlugin

from tests.support.upstream import Exchange

#: Names that no customer may see: of chat, Anthropic-shaped chat, images and speech.
NAMES = ("glorpnet", "zorptech", "vexlabs", "quaxvoice")
#: Supplier → the port of its server.
PORTS: dict[str, int] = {}
HEADERS = {
    "server": "glorpnet/1.0",
    "x_glorpnet_request_id": "glorp-1",
    "openai_organization": "org-glorpnet",
    "x_powered_by": "glorpnet",
}
_MESSAGES = (
    "Glorpnet cannot read this. The prompt was refused by glorpnet's filter; see https://docs.glorpnet.example/errors.",
    "org-glorpnet exceeded its quota at Glorpnet.",
    "Glorpnet is overloaded.",
)
Json = dict[str, Any]


def catalog(urls: dict[str, str]) -> str:
    """Return engines and models; each supplier has names of its own for the models."""
    text = ""
    for name, url in urls.items():
        kind = "anthropic" if name == "zorptech" else "upstream"
        text += f'\n[engines.{name}]\nkind = "{kind}"\nbase_url = "{url}"\nretries = 0\ncooldown_after = 0\n'
        text += {
            "glorpnet": 'complete_chunks = true\nnames = { "gpt-4o" = "glorpnet/gpt-4o-glorp" }\n',
            "zorptech": 'names = { "claude-sonnet" = "zorptech.claude-sonnet-v1" }\n',
            "vexlabs": 'names = { "painter" = "vexlabs/painter-xl" }\n',
            "quaxvoice": 'names = { "teller" = "quaxvoice-tts", "hearer" = "quaxvoice-stt" }\n',
        }[name]
    for name, engine in (("gpt-4o", "glorpnet"), ("plain", "glorpnet"), ("claude-sonnet", "zorptech")):
        text += f'\n[chat."{name}"]\ninput = "0.15"\noutput = "0.60"\ncontext = 128_000\nmax_output = 4096\n'
        text += f'engines = ["{engine}"]\n'
    return text + (
        '\n[embedding.vectors]\ninput = "0.02"\ncontext = 8191\nengines = ["glorpnet"]\n'
        '\n[image.painter]\nprice = "0.0015"\nengines = ["vexlabs"]\n'
        '\n[speech.teller]\nprice = "15.00"\nmax_characters = 2000\nvoice = "amy"\n'
        'voices = [{ id = "amy", engine = "quaxvoice", language = "en", licence = "quaxvoice terms" }]\n'
        '\n[transcription.hearer]\nprice = "0.003"\ntranslates = true\nengines = ["quaxvoice"]\n'
        # Without an engine that is ready: an embedded model, a supplier without a key, and weights that are missing.
        '\n[engines.smollm2]\nkind = "llama"\nmodel = "smollm2-135m-instruct"\ncontext = 4096\n'
        '\n[engines.glorpnet_two]\nkind = "upstream"\nbase_url = "https://glorpnet.example/v1"\nneeds_key = true\n'
        '\n[chat.lacking]\ninput = "1"\noutput = "1"\ncontext = 4096\nmax_output = 4096\n'
        'engines = ["glorpnet_two", "smollm2"]\n'
    )


def picture() -> bytes:
    """Return a PNG that names its maker, as those of some services do."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "vexlabs painter-xl")
    file = io.BytesIO()
    Image.new("RGB", (256, 256), (90, 120, 200)).save(file, "PNG", pnginfo=text)
    return file.getvalue()


async def serve(exchange: Exchange) -> None:
    """Answer a request as its path and the word after `do:` in its text say."""
    raw = exchange.raw.decode("utf-8", "replace")
    if "do:" in raw:
        await _fail(exchange, raw.partition("do:")[2].partition('"')[0].split()[0])
    elif exchange.path.endswith("/messages/count_tokens"):
        exchange.answer(200, {"input_tokens": 9, "zorptech": 1}, **HEADERS)
    elif exchange.path.endswith("/messages"):
        _message(exchange)
    elif exchange.path.endswith("/embeddings"):
        vector = base64.b64encode(b"\0" * 16).decode()
        data = [{"object": "embedding", "index": 0, "embedding": vector}]
        used = {"prompt_tokens": 3, "total_tokens": 3}
        exchange.answer(200, {**_head("list"), "data": data, "usage": used}, **HEADERS)
    elif exchange.path.endswith("/images/generations"):
        data = [{"b64_json": base64.b64encode(picture()).decode(), "revised_prompt": "vexlabs"}]
        exchange.answer(200, {"created": 1, "data": data, "vendor": "vexlabs"}, **HEADERS)
    elif exchange.path.endswith(("/audio/transcriptions", "/audio/translations")):
        told = {"text": "Hello.", "provider": "quaxvoice", "model": "quaxvoice-stt", "language": "en", "duration": 1.0}
        exchange.answer(200, told, **HEADERS)
    elif exchange.path.endswith("/audio/speech"):
        exchange.answer(200, b"\0" * 48_000, **(HEADERS | {"content-type": "audio/pcm"}))
    else:
        _chat(exchange)


def _head(kind: str) -> Json:
    return {
        "id": "gen-glorpnet-17", "object": kind, "created": 1_767_225_600, "model": "glorpnet/gpt-4o-glorp",
        "service_tier": "default", "system_fingerprint": "fp_glorpnet", "provider": "Glorpnet",
    }  # fmt: skip


def _chat(exchange: Exchange) -> None:
    told = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "cost": 0.001, "vendor": "glorpnet"}
    choice: Json = {"index": 0, "logprobs": None, "native_finish_reason": "glorp", "finish_reason": "stop"}
    if not exchange.body.get("stream"):
        message = {"role": "assistant", "content": "Saturn."}
        choices = [{**choice, "message": message}]
        exchange.answer(200, {**_head("chat.completion"), "choices": choices, "usage": told}, **HEADERS)
        return
    exchange.begin()
    for delta in ({"role": "assistant", "content": ""}, {"content": "Sat"}, {"content": "urn"}, {"content": "."}):
        one = {**choice, "delta": delta, "finish_reason": None}
        exchange.event({**_head("chat.completion.chunk"), "choices": [one], "usage": None})
    exchange.event({**_head("chat.completion.chunk"), "choices": [{**choice, "delta": {}}], "usage": None})
    exchange.event({**_head("chat.completion.chunk"), "choices": [], "usage": told})
    exchange.event("[DONE]")
    exchange.end()


def _message(exchange: Exchange) -> None:
    told = {"input_tokens": 7, "output_tokens": 2}
    message: Json = {
        "id": "msg_zorptech_1", "type": "message", "role": "assistant", "model": "zorptech.claude-sonnet-v1",
        "content": [{"type": "text", "text": "Saturn."}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": told, "provider": "zorptech",
    }  # fmt: skip
    if not exchange.body.get("stream"):
        exchange.answer(200, message, **HEADERS)
        return
    exchange.begin()
    block = {"type": "text", "text": ""}
    for event in (
        {"type": "message_start", "message": {**message, "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Saturn."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": told},
        {"type": "message_stop"},
    ):
        exchange.event(event)
    exchange.end()


async def _fail(exchange: Exchange, how: str) -> None:
    if how.isdigit():
        told = {"400": _MESSAGES[0], "429": _MESSAGES[1]}.get(how, _MESSAGES[2])
        name = next(name for name in NAMES if exchange.headers["host"].endswith(f":{PORTS[name]}"))
        told = told.replace("Glorpnet", name.title()).replace("glorpnet", name)
        error = {"message": told, "type": "glorpnet_error", "param": "messages", "code": "glorpnet_refused"}
        exchange.answer(int(how), {"error": error, "provider": "Glorpnet"}, **HEADERS)
    elif how == "later" and "audio" not in exchange.path:
        exchange.begin()
        choice = {"index": 0, "delta": {"content": "Sat"}, "logprobs": None, "finish_reason": None}
        exchange.event({**_head("chat.completion.chunk"), "choices": [choice], "usage": None})
        exchange.event({"error": {"message": "Glorpnet broke. It is glorpnet's fault.", "code": 500}})
        exchange.end()
    elif how == "rubbish":
        exchange.answer(200, b"<html>glorpnet is down</html>", **(HEADERS | {"content-type": "text/html"}))
    else:
        exchange.close()
