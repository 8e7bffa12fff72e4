"""The bundled catalog, looking up models and voices, and upstream costs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import minitoolai
from minitoolai.core.catalog.catalog import (
    EngineEntry,
    UpstreamCost,
    VoiceEntry,
    find_invalid_cost,
    find_voice,
    language_of,
    suggest_names,
    upstream_costs,
    voices_by_name,
)
from minitoolai.core.catalog.loader import read_catalog
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.errors import ModelNotFound

BUNDLED = Path(minitoolai.__file__).parent / "catalog.toml"


def test_an_unknown_model_is_answered_with_the_nearest_names() -> None:
    catalog = read_catalog(BUNDLED)
    with pytest.raises(ModelNotFound, match=r"'gpt4o-mini'; the nearest are gpt-4o-mini") as refusal:
        catalog.chat_model("gpt4o-mini")
    assert refusal.value.param == "model"
    with pytest.raises(
        ModelNotFound, match=r"on offer are gpt-4\.1, gpt-4\.1-mini, gpt-4\.1-nano, gpt-4o, gpt-4o-mini"
    ):
        catalog.chat_model("☃" * 500)


def test_a_customer_of_a_shop_without_such_models_is_told_what_to_do() -> None:
    with pytest.raises(ModelNotFound) as refusal:
        msgspec.structs.replace(read_catalog(BUNDLED), transcription={}).transcription_model("whisper-1")
    assert "GET /v1/models" in refusal.value.message
    assert "operator" not in refusal.value.message


def test_a_model_name_as_long_as_a_book_is_not_repeated_to_its_writer() -> None:
    with pytest.raises(ModelNotFound) as refusal:
        read_catalog(BUNDLED).chat_model("x" * 100_000)
    assert len(refusal.value.message) < 300
    assert suggest_names("x" * 10**6, {"a": 1}) == "on offer are a"


@pytest.mark.parametrize(
    ("name", "prices"),
    [
        ("gpt-4o-mini", (150, 75, 600)),
        ("gpt-4o", (2500, 1250, 10_000)),
        ("gpt-4.1", (2000, 500, 8000)),
        ("gpt-4.1-mini", (400, 100, 1600)),
        ("gpt-4.1-nano", (100, 25, 400)),
    ],
)
def test_the_shipped_prices_are_the_promised_ones(name: str, prices: tuple[int, int, int]) -> None:
    model = read_catalog(BUNDLED).chat_model(name)
    assert model.prices == Prices.of(prices[0] * 1000, prices[2] * 1000, cached_input=prices[1] * 1000)


PICTURE_MODELS = (
    *("realvision", "juggernaut", "autismmix", "dreamshaper", "valhalla", "mixrealistic", "campursari", "reality"),
    *("extrarealistic", "realism", "realgirls", "realityreborn", "amigo", "simplemix", "beautifulrealistic"),
)


def test_the_fifteen_image_models_cost_what_was_promised_and_end_at_the_stand_in() -> None:
    catalog = read_catalog(BUNDLED)
    *listed, own = catalog.images.values()
    assert (own.name, own.price) == ("minitoolai-sketch-1", 500_000)
    assert tuple(model.name for model in listed) == PICTURE_MODELS
    for model in listed:
        assert (model.price, model.engines[-1]) == (1_500_000, "sketch")
        assert model.weights == f"{model.name}.safetensors"


def test_an_unknown_image_model_is_answered_with_the_nearest_names() -> None:
    catalog = read_catalog(BUNDLED)
    assert catalog.image_model("Real Vision").name == "realvision"
    with pytest.raises(ModelNotFound, match=r"'real-visio'; the nearest are realvision") as refusal:
        catalog.image_model("real-visio")
    assert refusal.value.param == "model"


VOICES = [
    VoiceEntry("Ann", "hibari", "en-US", "CC0", aliases=["alloy", "bob"]),
    VoiceEntry("Bob", "hibari", "en-GB", "CC0", aliases=["echo"]),
]


@pytest.mark.parametrize(("name", "found"), [("ann", "Ann"), ("ALLOY", "Ann"), ("bob", "Bob"), ("Echo", "Bob")])
def test_a_voice_is_found_by_id_before_alias_ignoring_case(name: str, found: str) -> None:
    voice = find_voice(name, VOICES)
    assert voice is not None
    assert voice.id == found


def test_every_name_of_a_voice_is_known() -> None:
    assert find_voice("nova", VOICES) is None
    assert {name: voice.id for name, voice in voices_by_name(VOICES).items()} == {
        "alloy": "Ann", "bob": "Ann", "echo": "Bob", "Ann": "Ann", "Bob": "Bob",
    }  # fmt: skip
    assert [language_of(tag) for tag in ("en-US", "pt_BR", "DE", "*")] == ["en", "pt", "de", "*"]


def test_an_upstream_cost_of_a_model_comes_before_that_of_its_engine() -> None:
    model = read_catalog(BUNDLED).chat_model("gpt-4o")
    general = EngineEntry("upstream", cost_input="0.10", cost_output="")
    own = EngineEntry(
        "upstream", cost_input="0.10", costs={"gpt-4o": UpstreamCost(input="1.25", output="5", cached_input="0.125")}
    )
    engines = dict.fromkeys(model.engines, EngineEntry("upstream"))
    first = model.engines[0]
    assert upstream_costs(engines, [model]) == {}
    assert upstream_costs(engines | {first: general}, [model]) == {(first, "gpt-4o"): Prices.of_nano(100)}
    assert upstream_costs(engines | {first: own}, [model]) == {
        (first, "gpt-4o"): Prices.of(1_250_000, 5_000_000, cached_input=125_000)
    }


@pytest.mark.parametrize(
    ("engine", "key"),
    [
        (EngineEntry("upstream", cost_input="a lot"), "cost_input"),
        (EngineEntry("upstream", cost_output="0.0000001"), "cost_output"),
        (EngineEntry("upstream", costs={"m": UpstreamCost(input="1", output="-1")}), "costs"),
    ],
)
def test_an_invalid_upstream_cost_is_named_with_its_key(engine: EngineEntry, key: str) -> None:
    invalid = find_invalid_cost(engine)
    assert invalid is not None
    assert invalid[0] == key
    assert find_invalid_cost(EngineEntry("upstream", cost_input="0.15")) is None
