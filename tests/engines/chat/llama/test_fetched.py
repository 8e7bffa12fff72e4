"""A model that is fetched while the server runs takes over without a restart; until then another one answers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from minitoolai.chat.router import Router
from minitoolai.core.catalog.catalog import Catalog, ChatModel, EngineEntry
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.clock import SystemClock
from minitoolai.engines.chat.fake import FakeEngine
from minitoolai.engines.chat.llama.engine import LlamaEngine
from minitoolai.engines.factory import ConcurrencyLimits, make_engine
from minitoolai.httpclient.client import HttpClient
from minitoolai.settings import Settings
from tests.support.small_model import SMALL as SMALL_MODEL
from tests.support.small_model import small_model_file

ENTRY = EngineEntry(kind="llama", model="better", fetched="better", context=512)
SMALL = EngineEntry(kind="fake", model="small")
MODEL = ChatModel("m", Prices.of(1000, 1000), 512, 100, ("better", "small"), None)


TOY = msgspec.structs.replace(SMALL_MODEL, name="better", file="better.gguf", member="not_installed/model.gguf")


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
        os.link(small_model_file(), tmp_path / "new")
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
    os.link(small_model_file(), tmp_path / "better.gguf")

    async def work() -> None:
        better = engine(tmp_path)
        assert better.why_not_ready() is None
        await better.start()
        await better.start_when_fetched()
        assert better.is_up
        await better.stop()

    asyncio.run(work())


def test_a_model_that_was_here_but_is_not_used_is_not_started(tmp_path: Path) -> None:
    os.link(small_model_file(), tmp_path / "better.gguf")

    async def work() -> None:
        better = engine(tmp_path)
        await asyncio.wait_for(better.start_when_fetched(), 1)
        assert not better.is_up

    asyncio.run(work())


def small_engine(settings: Settings) -> LlamaEngine:
    entry = EngineEntry(kind="llama", model="small")
    made = make_engine("smollm2", entry, settings, HttpClient(), ConcurrencyLimits())
    assert isinstance(made, LlamaEngine)
    return made


def test_without_a_file_of_its_own_an_engine_has_the_small_model(tmp_path: Path) -> None:
    assert small_engine(Settings(data_dir=tmp_path)).why_not_ready() is None
    own = tmp_path / "own.gguf"
    settings = Settings(data_dir=tmp_path, llama_model=str(own))
    assert small_engine(settings).why_not_ready() == f"no file {own}: MINITOOLAI_LLAMA_MODEL must name a GGUF file"


def test_without_its_package_the_small_model_is_the_fetched_file(tmp_path: Path) -> None:
    model, entry = msgspec.structs.replace(SMALL_MODEL, member="not_installed/x"), EngineEntry("llama", model="small")

    def why_not_ready() -> str | None:
        return LlamaEngine("smollm2", entry, HttpClient(), fetched=(model, tmp_path)).why_not_ready()

    assert why_not_ready() == "not here: minitoolai fetch smollm2-135m"
    os.link(small_model_file(), tmp_path / model.file)
    assert why_not_ready() is None
