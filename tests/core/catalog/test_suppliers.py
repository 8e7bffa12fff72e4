"""What of an upstream's answer customers may see: its names of models with a date, its usual IDs, and no supplier."""

from __future__ import annotations

import pytest

from minitoolai.core.catalog.catalog import Catalog, EngineEntry
from minitoolai.core.catalog.loader import read_catalog
from minitoolai.core.catalog.stand_ins import StandIns, shown_name
from minitoolai.core.catalog.suppliers import EngineLabel
from tests.core.catalog.test_catalog import BUNDLED

ENTRY = EngineEntry("upstream", base_url="https://eu.api.glorpnet.com/v1", names={"gpt-4o": "glorp/gpt-4o-zork"})


@pytest.mark.parametrize(
    ("served", "shown"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-07-18", "gpt-4o-2024-07-18"),
        ("gpt-4o-20240718", "gpt-4o-20240718"),
        ("gpt-4o-0613", "gpt-4o-0613"),
        ("gpt-4o-acme", "gpt-4o"),
        ("gpt-4o-mini", "gpt-4o"),
        ("gpt-4o-2024-acme", "gpt-4o"),
        ("gpt-4o-2024-07-18-acme", "gpt-4o"),
        ("gpt-4o2024-07-18", "gpt-4o"),
        ("gpt-4o-²⁰²⁴", "gpt-4o"),
        ("gpt-4o-12345", "gpt-4o"),
        ("acme/gpt-4o-2024-07-18", "gpt-4o"),
        ("", "gpt-4o"),
        (None, "gpt-4o"),
    ],
)
def test_the_upstreams_name_is_shown_if_it_is_the_requested_one_and_a_date(served: str | None, shown: str) -> None:
    assert shown_name("gpt-4o", served) == shown


@pytest.mark.parametrize(
    ("text", "is_telling"),
    [
        ("Ask GlorpNet for more", True),
        ("the model zork is not here", True),
        ("see api.glorpnet.com", True),
        ("my_supplier says no", True),
        ("the api of this model is down", False),
        ("gpt-4o cannot do this", False),
        ("", False),
    ],
)
def test_a_text_that_names_the_supplier_is_recognized(text: str, is_telling: bool) -> None:
    assert EngineLabel.of("my_supplier", ENTRY).betrays(text) is is_telling


@pytest.mark.parametrize(
    ("received", "is_kept"),
    [
        ("chatcmpl-AbC123", True),
        ("msg_01AbC", True),
        ("chatcmpl-glorpnet-1", False),
        ("gen-1717", False),
        ("msg_bdrk_01", False),
        ("msg_vrtx_01", False),
        ("", False),
    ],
)
def test_an_id_is_kept_if_it_is_usual_and_tells_nothing(received: str, is_kept: bool) -> None:
    label = EngineLabel.of("glorpnet", ENTRY)
    assert label.shown_id(received, "own") == (received if is_kept else "own")
    embedded = EngineLabel.of("smollm2", EngineEntry("llama", model="smollm2-135m-instruct", context=4096))
    assert (embedded.shown_id("any", "own"), embedded.shown_model("gpt-4o", "smollm2")) == ("any", "smollm2")


def test_a_setting_for_the_address_counts() -> None:
    assert EngineLabel.of("far", ENTRY, "https://zorptech.example/v1").betrays("Zorptech is busy")


def test_embedded_models_are_stand_ins_for_all_names_but_their_own() -> None:
    stand_ins = StandIns(read_catalog(BUNDLED))
    catalog = stand_ins.catalog
    pairs = {(engine, name) for name, model in catalog.models().items() for engine in model.engines}
    own = {(engine, name) for engine, name in pairs if catalog.engines[engine].is_embedded}
    own = {pair for pair in own if not stand_ins.is_stand_in(*pair)}
    assert own == {
        ("smollm2", "smollm2-135m-instruct"), ("qwen", "qwen2.5-coder-1.5b-instruct"), ("e5", "multilingual-e5-small"),
        ("hibari", "hibari"), ("sketch", "minitoolai-sketch-1"), ("whisper", "whisper-base"),
    }  # fmt: skip
    assert not any(stand_ins.is_stand_in(engine, "gpt-4o") for engine in ("openai", "webui", "diffusers", "nobody"))
    # With the operator's own file, the small model's name would be a pretence.
    stand_ins.names["smollm2"] = "mine"
    assert stand_ins.is_stand_in("smollm2", "smollm2-135m-instruct")
    assert not stand_ins.is_stand_in("smollm2", "mine")


@pytest.mark.parametrize(
    ("policy", "refused", "free"), [("sell", False, False), ("free", False, True), ("refuse", True, False)]
)
def test_the_policy_decides(policy: str, refused: bool, free: bool) -> None:
    entry = EngineEntry("llama", model="small", context=4096)
    stand_ins = StandIns(Catalog({"small": entry}, {}), policy)  # type: ignore[arg-type]
    assert (stand_ins.refuses("small", "gpt-4o"), stand_ins.is_free("small", "gpt-4o")) == (refused, free)
    assert (stand_ins.refuses("small", "small"), stand_ins.is_free("small", "small")) == (False, False)
    assert stand_ins.shown_model("gpt-4o", "small", None) == "small"
