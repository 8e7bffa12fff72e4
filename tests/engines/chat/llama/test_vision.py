"""What the embedded engine says that a picture counts, and what it then reads, are the same."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from minitoolai.chat.image_inputs import ImageInputs
from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.errors import EngineError
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.llama.engine import LlamaEngine
from minitoolai.httpclient.client import HttpClient
from tests.httpclient.test_guarded import PUBLIC, Internet
from tests.support.eyes import TOKENS, write_eyes
from tests.support.small_model import small_model_file
from tests.support.upstream import Exchange, Upstream


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (90, 60), (200, 30, 30)).save(file, "webp")
    return file.getvalue()


async def serve_picture(exchange: Exchange) -> None:
    exchange.answer(200, picture())


def about(url: str) -> ChatRequest:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    messages = [{"role": "user", "content": parts if url else parts[:1]}]
    asked = ChatRequest("m", messages, {}, stream=False, include_usage=True, limit=2)
    asked.images = ["auto"] if url else []
    return asked


def test_a_picture_behind_a_url_is_fetched_here_and_counted_exactly(tmp_path: Path) -> None:
    async def ask() -> tuple[int | None, int | None, int]:
        http = HttpClient()
        eyes = str(write_eyes(tmp_path / "eyes.gguf"))
        entry, small = EngineEntry("llama", model="m", context=512), str(small_model_file())
        engine = LlamaEngine("e", entry, http, path=small, slots=1, threads=1, mmproj=eyes)
        with Upstream(serve_picture) as web:
            internet = Internet({"pictures.example.com": [[PUBLIC]]}, web.port)
            asked = about("https://pictures.example.com/red.webp")
            seeing = ImageInputs(
                lambda url, field: internet.client.get(url, field=field),
                lambda url, field: internet.client.check(url, field=field),
            )
            await seeing.load(asked, must_fetch=not engine.fetches_images, as_png=engine.plain_images)
            assert internet.dialled == [PUBLIC]
        try:
            await engine.start()
            counted = [await engine.count_prompt(one) for one in (about(""), asked)]
            answer = await engine.open(asked, 2)
            usage = json.loads(await answer.read())["usage"]
            await answer.close()
            return counted[0], counted[1], usage["prompt_tokens"]
        finally:
            await engine.stop()
            await http.close()

    blind, counted, read = asyncio.run(ask())
    assert blind is not None
    assert counted == read == blind + TOKENS


def test_a_model_that_llama_cpp_cannot_load_is_not_ready_and_says_why(tmp_path: Path) -> None:
    async def start() -> str | None:
        (tmp_path / "model.gguf").write_bytes(b"once upon a time")
        entry, http = EngineEntry("llama", model="m", context=512), HttpClient()
        engine = LlamaEngine("e", entry, http, path=str(tmp_path / "model.gguf"))
        with pytest.raises(EngineError, match="invalid magic"):
            await engine.start()
        await http.close()
        return engine.why_not_ready()

    assert "model.gguf" in str(asyncio.run(start()))
