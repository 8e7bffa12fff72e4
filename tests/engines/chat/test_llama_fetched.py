"""A model that is fetched while the server runs takes over without a restart; until then another one answers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from minitoolai.chat.router import Router
from minitoolai.core.catalog import Catalog, ChatModel, EngineEntry
from minitoolai.core.clock import SystemClock
from minitoolai.core.prices import Prices
from minitoolai.engines.chat.fake import FakeEngine
from minitoolai.engines.chat.llama import LlamaEngine, find_embedded_model
from minitoolai.engines.fetching import fetchable_models
from minitoolai.httpclient.client import HttpClient

ENTRY = EngineEntry(kind="llama", model="better", fetched="better", context=512)
SMALL = EngineEntry(kind="fake", model="small")
MODEL = ChatModel("m", Prices.of(1000, 1000), 512, 100, ("better", "small"), None)


TOY = msgspec.structs.replace(fetchable_models()["smollm2-135m"], file="better.gguf")


def engine(folder: Path) -> LlamaEngine:
    return LlamaEngine("better", ENTRY, HttpClient(), fetched=(TOY, folder), slots=1, queue=1)


def test_a_fetched_model_takes_over_once_it_is_loaded(tmp_path: Path) -> None:
    async def work() -> None:
        better = engine(tmp_path)
        small = FakeEngine("small", SMALL)
        engines = {"better": better, "small": small}
        router = Router(Catalog({"better": ENTRY, "small": SMALL}, {"m": MODEL}), engines, SystemClock())
        assert better.why_not_ready() == "not here: minitoolai fetch better"
        assert router.candidates(MODEL) == [small]
        following = asyncio.create_task(better.start_when_fetched())
        await asyncio.sleep(0.2)
        os.link(find_embedded_model(), tmp_path / "new")
        os.replace(tmp_path / "new", tmp_path / "better.gguf")
        assert router.candidates(MODEL) == [small]
        await asyncio.wait_for(following, 60)
        assert router.candidates(MODEL) == [better]
        assert better.why_not_ready() is None
        await better.stop()

    asyncio.run(work())


def test_a_file_that_is_no_model_never_takes_over(tmp_path: Path) -> None:
    async def work() -> None:
        better = engine(tmp_path)
        following = asyncio.create_task(better.start_when_fetched())
        await asyncio.sleep(0.1)
        (tmp_path / "better.gguf").write_bytes(b"GGUF" + bytes(1000))
        await asyncio.wait_for(following, 60)
        assert "could not load" in str(better.why_not_ready())
        await better.stop()

    asyncio.run(work())


def test_a_model_that_is_here_at_the_start_is_not_waited_for(tmp_path: Path) -> None:
    os.link(find_embedded_model(), tmp_path / "better.gguf")

    async def work() -> None:
        better = engine(tmp_path)
        assert better.why_not_ready() is None
        await better.start()
        await better.start_when_fetched()
        assert better.is_up
        await better.stop()

    asyncio.run(work())
