"""Tests of the factory: each kind of engine in the catalog gets its adapter, configured from the settings."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.catalog.loader import parse_catalog
from minitoolai.core.errors import EngineError, EngineFull, SettingsError
from minitoolai.engines import factory
from minitoolai.engines.chat.fake import FakeEngine
from minitoolai.engines.chat.llama.embeddings import LlamaEmbedder
from minitoolai.engines.chat.llama.engine import LlamaEngine
from minitoolai.engines.chat.openai import UpstreamEngine
from minitoolai.engines.images.openai import UpstreamImageEngine
from minitoolai.engines.images.process import EngineProcess
from minitoolai.engines.images.webui import WebuiEngine
from minitoolai.engines.speech.openai import UpstreamSpeechEngine
from minitoolai.engines.speech.voices import FakeSpeechEngine, HibariEngine, PiperEngine
from minitoolai.httpclient.client import HttpClient
from minitoolai.settings import Settings

CATALOG = """
[engines.up]
kind = "upstream"
base_url = "http://127.0.0.1:9/v1"
concurrency = 2
waiting = 3
max_characters = 100

[engines.embedded]
kind = "llama"
model = "m"
context = 512

[engines.quick]
kind = "fake"
model = "fake-1"
tokens = 4

[engines.unused]
kind = "fake"
model = "fake-1"
tokens = 4

[engines.gpu]
kind = "diffusers"

[engines.web]
kind = "webui"

[engines.sketch]
kind = "sketch"

[engines.hibari]
kind = "hibari"
model = "h"

[engines.piper]
kind = "piper"
model = "p"

[chat.a]
input = "1"
output = "1"
context = 512
max_output = 100
engines = ["up", "embedded", "quick"]

[image.b]
price = "0.001"
weights = "b.safetensors"
loras = { pencil = "styles/pencil.safetensors", "Oil paint" = "/elsewhere/oil.safetensors" }
engines = ["gpu", "web", "up", "quick", "sketch"]

[speech.c]
price = "15.00"
max_characters = 1000
voice = "alloy"
voices = [
    { id = "alloy", engine = "up", language = "en-US", licence = "x" },
    { id = "heart", engine = "hibari", language = "en-US", licence = "x" },
    { id = "joe", engine = "piper", language = "en-US", licence = "x", file = "joe.onnx" },
    { id = "tone", engine = "quick", language = "en-US", licence = "x" },
]
"""


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return parse_catalog(CATALOG)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, image_rows=3, gpu_pictures=5, speech_voices=2, speech_queue=1)


def test_each_kind_of_chat_engine_gets_its_adapter_and_unused_ones_get_none(
    catalog: Catalog, settings: Settings
) -> None:
    limits = factory.make_concurrency_limits(catalog)
    engines = factory.make_engines(catalog, settings, HttpClient(), limits)
    kinds = {name: type(engine) for name, engine in engines.items()}
    assert kinds == {"up": UpstreamEngine, "embedded": LlamaEngine, "quick": FakeEngine}


def test_each_kind_of_image_engine_gets_its_adapter_and_its_concurrency(catalog: Catalog, settings: Settings) -> None:
    engines = factory.make_image_engines(catalog, settings, HttpClient())
    kinds = {name: (type(engine), engine.max_concurrency) for name, engine in engines.items()}
    assert kinds == {
        "gpu": (EngineProcess, 5),
        "web": (WebuiEngine, 1),
        "up": (UpstreamImageEngine, 2),
        "quick": (EngineProcess, 3),
        "sketch": (EngineProcess, 3),
    }


def test_only_a_local_gpu_offers_loras_and_a_web_ui_reads_tags_itself(catalog: Catalog, settings: Settings) -> None:
    engines = factory.make_image_engines(catalog, settings, HttpClient())
    names = {name: engine.lora_names("b") for name, engine in engines.items()}
    assert set(names.pop("gpu") or ()) == {"pencil", "Oil paint"}
    assert names == {"web": None, "up": (), "quick": None, "sketch": ()}


def test_faulty_loras_are_reported_where_the_weights_are(catalog: Catalog, settings: Settings) -> None:
    assert factory.find_faulty_files(catalog, settings) == []
    folder = settings.data_dir / "weights"
    (folder / "styles").mkdir(parents=True)
    (folder / "b.safetensors").write_bytes(b"")
    (folder / "styles" / "pencil.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}{}")
    pencil, oil = factory.find_faulty_files(catalog, settings)
    assert pencil.startswith("LoRA pencil of b cannot be used: pencil.safetensors is no readable LoRA: it has 12 bytes")
    assert oil == "LoRA Oil paint of b cannot be used: no file /elsewhere/oil.safetensors: put it there"


def test_each_kind_of_speech_engine_gets_its_adapter_and_its_voices(catalog: Catalog, settings: Settings) -> None:
    limits = factory.make_concurrency_limits(catalog)
    engines = factory.make_speech_engines(catalog, settings, HttpClient(), limits)
    kinds = {name: type(engine) for name, engine in engines.items()}
    assert kinds == {
        "up": UpstreamSpeechEngine,
        "hibari": HibariEngine,
        "piper": PiperEngine,
        "quick": FakeSpeechEngine,
    }
    voice = next(voice for model in catalog.speech.values() for voice in model.voices if voice.id == "joe")
    assert f"{settings.data_dir}/voices/joe.onnx" in str(engines["piper"].why_not_voice(voice))


def test_chats_and_speech_of_one_upstream_share_a_limit(catalog: Catalog, settings: Settings) -> None:
    limits = factory.make_concurrency_limits(catalog)
    assert list(limits) == ["up"]
    chat = factory.make_engines(catalog, settings, HttpClient(), limits)["up"]
    speech = factory.make_speech_engines(catalog, settings, HttpClient(), limits)["up"]

    async def test() -> None:
        for _ in range(2):
            await limits["up"].acquire()
        assert chat.is_busy()
        limits["up"].in_use += 3
        for engine in (chat, speech):
            with pytest.raises(EngineFull, match="the engine is at capacity"):
                engine.check_capacity()

    asyncio.run(test())


@pytest.mark.parametrize("variable", ["engine_keys", "engine_urls"])
def test_a_setting_for_an_unknown_engine_is_refused(catalog: Catalog, tmp_path: Path, variable: str) -> None:
    settings = Settings(data_dir=tmp_path, **{variable: {"openia": "x"}})
    with pytest.raises(SettingsError, match=r"MINITOOLAI_OPENIA_.* names no engine of the catalog; its engines are up"):
        factory.make_engines(catalog, settings, HttpClient(), {})


def test_the_weights_folder_is_a_setting_or_below_the_data_folder(tmp_path: Path) -> None:
    assert factory.weights_folder(Settings(data_dir=tmp_path)) == tmp_path / "weights"
    assert factory.weights_folder(Settings(data_dir=tmp_path, weights_dir="/srv/w")) == Path("/srv/w")


def test_an_image_url_that_leads_to_a_private_address_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="cannot be fetched"):
        asyncio.run(factory._fetch("https://127.0.0.1/image.png"))


def test_an_embedding_model_keeps_the_context_that_it_was_made_for(tmp_path: Path) -> None:
    text = CATALOG + (
        '\n[engines.reader]\nkind = "llama"\nmodel = "r"\nfile = "/r.gguf"\ncontext = 512\nembeds = true\n'
        '[embedding.e]\ninput = "0.02"\ncontext = 512\nengines = ["reader"]\n'
    )
    settings = Settings(data_dir=tmp_path, llama_context=8192)
    made = factory.make_engines(parse_catalog(text), settings, HttpClient(), {})
    assert isinstance(made["reader"], LlamaEmbedder)
    assert made["reader"].context_tokens() == 512
    assert made["embedded"].context_tokens() == 8192
