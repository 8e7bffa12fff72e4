"""Every mistake in catalog.toml is refused before it costs money: with its line, and with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from minitoolai.core.catalog.loader import parse_catalog, read_catalog
from minitoolai.core.catalog.prices import Prices, Tier
from minitoolai.core.errors import CatalogError

GOOD = """\
[engines.fake]
kind = "fake"
model = "fake-1"
tokens = 4

[engines.up]
kind = "upstream"
base_url = "https://host/v1"
concurrency = 8

[chat."gpt-4o"]
input = "2.50"
output = "10.00"
context = 128_000
max_output = 16_384
image_tokens = { low = 85, high = 1_445 }
engines = ["up", "fake"]

[image.real]
price = "0.0015"
weights = "real.safetensors"
engines = ["fake"]
"""

TIER = '[[chat."gpt-4o".tiers]]\n'
#: (what is replaced, by what, the line that must be named, a part of the remedy)
MISTAKES = [
    ('kind = "fake"', 'kind = "fkae"', "line 2", "the kinds are upstream, anthropic, llama"),
    ('kind = "fake"\n', "", "line 1", "needs a line kind ="),
    ('model = "fake-1"\n', "", "line 1", 'needs model = "the name that responses carry"'),
    ('model = "fake-1"', "model = 1", "line 3", "write it in quotes"),
    ("tokens = 4", "tokens = -4", "line 4", ">= 0"),
    ("tokens = 4", "tokens = 4.5", "line 4", "Expected `int`"),
    ("tokens = 4", "delay_ms = -0.5", "line 4", ">= 0"),
    ("tokens = 4", "token = 4", "line 4", "the nearest are tokens, tokenizer"),
    ("[engines.fake]", "[engines.Fake]", "line 1", "lower-case letters, digits and _"),
    ('"https://host/v1"', '"host/v1"', "line 8", 'base_url = "https://host/v1"'),
    ('base_url = "https://host/v1"\n', "", "line 6", 'base_url = "https://host/v1"'),
    ("concurrency = 8", "concurrency = -1", "line 9", ">= 0"),
    ("concurrency = 8", "first_token_timeout_s = 0", "line 9", "> 0"),
    ("concurrency = 8", "total_timeout_s = 1e9", "line 9", "<= 86400"),
    ("concurrency = 8", 'limit_field = "max"', "line 9", "max_completion_tokens and max_tokens"),
    ("concurrency = 8", "needs_key = 1", "line 9", "Expected `bool`"),
    ("concurrency = 8", "headers = { a = 1 }", "line 9", "write it in quotes"),
    ("tokens = 4", "gpus = 1", "line 4", 'gpus needs placement = "ray"'),
    ("tokens = 4", "min = 1", "line 4", 'min needs placement = "ray"'),
    ("tokens = 4", "max = 3", "line 4", 'max needs placement = "ray"'),
    ("tokens = 4", "idle_s = 5", "line 4", 'idle_s needs placement = "ray"'),
    ("tokens = 4", 'placement = "moon"', "line 4", "placement"),
    ("tokens = 4", 'placement = "ray"\ngpus = 1.5', "line 5", "gpus = 1.5 must be a whole number, or less than 1"),
    ("tokens = 4", 'placement = "ray"\ngpus = -1', "line 5", ">= 0"),
    ("tokens = 4", 'placement = "ray"\nmin = 4\nmax = 3', "line 6", "max = 3 must be at least 1, and at least min = 4"),
    ("tokens = 4", 'placement = "ray"\nmax = 0', "line 5", "max = 0 must be at least 1"),
    ("concurrency = 8", 'placement = "ray"', "line 9", "hibari, piper, fake; this one is upstream"),
    ('kind = "upstream"\nbase_url = "https://host/v1"', 'kind = "llama"\nmodel = "m"', "line 6", "context = 4096"),
    (
        'kind = "upstream"\nbase_url = "https://host/v1"',
        'kind = "llama"\nmodel = "m"\ncontext = 512\nplacement = "ray"',
        "line 10",
        "a llama engine on Ray needs file",
    ),
    ('kind = "upstream"\nbase_url = "https://host/v1"', 'kind = "llama"\nmodel = "m"\ncontext = 511', "line 9", "4096"),
    ('input = "2.50"', "input = 2.50", "line 12", "write it in quotes"),
    ('input = "2.50"', 'input = "2,50"', "line 12", 'input = "0.15" means dollars per million tokens'),
    ('input = "2.50"', 'input = "0.0000001"', "line 12", "at most six decimals"),
    ('input = "2.50"', 'input = "2.50"\ncached_input = "-1"', "line 13", "dollars per million tokens"),
    ('input = "2.50"', 'input = "2.50"\ncached_input = 1.25', "line 13", "write it in quotes"),
    ('input = "2.50"', 'input = "2.50"\ncached = "1.25"', "line 13", "the nearest are cached_input, cache_write"),
    ('input = "2.50"', 'input = "2.50"\nrequest = "1.5"', "line 13", "at most $1"),
    ("[image.real]", TIER + 'above = 1000\ninput = "5"\n[image.real]', "line 19", "needs a line output ="),
    ("[image.real]", TIER + 'above = 0\ninput = "5"\noutput = "6"\n[image.real]', "line 19", ">= 1"),
    ("[image.real]", TIER + 'above = 128_000\ninput = "5"\noutput = "6"\n[image.real]', "line 19", "below context"),
    (
        "[image.real]",
        TIER + 'above = 1\ninput = "-5"\noutput = "6"\n[image.real]',
        "line 19",
        'input above 1: "-5" is not a price; input =',
    ),
    (
        "[image.real]",
        TIER + 'above = 1\ninput = "5"\noutput = "6"\ncached_input = "1"\n[image.real]',
        "line 19",
        "the tier above 1 has a price for cached_input, the model has none",
    ),
    (
        "[image.real]",
        2 * (TIER + 'above = 9\ninput = "5"\noutput = "6"\n') + "[image.real]",
        "line 23",
        "above = 9 must be",
    ),
    (
        "[engines.up]",
        '[engines.up.costs."gpt-4o"]\ninput = "1"\ncahced_input = "2"\n[engines.up]',
        "line 6",
        "nearest are cached_input",
    ),
    ('input = "2.50"', 'input = "-1"', "line 12", "dollars per million tokens"),
    ('input = "2.50"', 'input = "1e30"', "line 12", "dollars per million tokens"),
    ('output = "10.00"', 'output = "NaN"', "line 13", "dollars per million tokens"),
    ('output = "10.00"\n', "", "line 11", "needs a line output ="),
    ('output = "10.00"', 'outptu = "10.00"', "line 13", "there is no key outptu; the nearest are output"),
    ("context = 128_000", "context = 16_383", "line 15", "at most context"),
    ("max_output = 16_384", "max_output = 15", "line 15", "at least 16"),
    ("max_output = 16_384", 'max_output = "16384"', "line 15", "Expected `int`"),
    ("low = 85, high = 1_445", "low = 85", "line 16", "needs a line high ="),
    ("low = 85", "low = -85", "line 16", ">= 0"),
    ("low = 85", "lwo = 85", "line 16", "the nearest is low"),
    ('["up", "fake"]', '["up", "fkae"]', "line 17", "there is no [engines.fkae]; the nearest is fake"),
    ('["up", "fake"]', '["zzz"]', "line 17", "on offer are fake, up"),
    ('["up", "fake"]', "[]", "line 17", "at least one name"),
    ('["up", "fake"]', '"fake"', "line 17", "Expected `array`"),
    ('[chat."gpt-4o"]', '[chta."gpt-4o"]', "line 11", "there is no such table; the nearest are chat, tax"),
    ("[engines.fake]", "colour = 1\n[engines.fake]", "line 1", "no such table; on offer are chat, embedding, engines"),
    ("[engines.fake]", '[chat]\n"gpt-5" = 3\n[engines.fake]', "line 2", "Expected `object`"),
    ('price = "0.0015"', "price = 0.0015", "line 20", "write it in quotes"),
    ('price = "0.0015"', 'price = "0.0000000001"', "line 20", "at most nine decimals"),
    ('price = "0.0015"', 'price = "1.01"', "line 20", "at most $1"),
    ('price = "0.0015"', 'price = "-1"', "line 20", 'price = "0.0015" means dollars per image'),
    ('price = "0.0015"\n', "", "line 19", "needs a line price ="),
    ('weights = "real.safetensors"', 'schedule = "karras"', "line 21", "the schedules discrete and trailing"),
    ('weights = "real.safetensors"', 'wieghts = "x"', "line 21", "the nearest is weights"),
    ('weights = "real.safetensors"', 'loras = { a = "a.safetensors" }', "line 21", "an engine of kind diffusers"),
    ('weights = "real.safetensors"', "loras = { a = 1 }", "line 21", "Expected `str`"),
    ('kind = "fake"', 'kind = "hibari"', "line 17", "the engine fake cannot chat"),
    ('kind = "fake"', 'kind = "webui"\nbase_url = "host:7860"', "line 3", 'base_url = "http://host:7860"'),
    ('kind = "fake"', 'kind = "fake', "line 2", "not TOML"),
    ('model = "fake-1"', 'kind = "fake"', "line 3", "not TOML"),
]


def test_tiers_and_upstream_costs_have_the_same_buckets_as_models() -> None:
    tier = TIER + 'above = 1000\ninput = "5"\noutput = "20"\ncached_input = "0.5"\n[image.real]'
    costs = 'concurrency = 8\n[engines.up.costs."gpt-4o"]\ninput = "2"\ncached_input = "0.0375"\noutput = "8"'
    text = GOOD.replace('input = "2.50"', 'input = "2.50"\ncached_input = "0.25"').replace("[image.real]", tier)
    catalog = parse_catalog(text.replace("concurrency = 8", costs))
    above = Prices.of(5_000_000, 20_000_000, cached_input=500_000)
    assert catalog.chat_model("gpt-4o").prices == Prices.of(
        2_500_000, 10_000_000, cached_input=250_000, tiers=(Tier(1000, above),)
    )
    assert catalog.upstream_costs["up", "gpt-4o"] == Prices.of(2_000_000, 8_000_000, cached_input=37_500)


def test_the_good_catalog_is_read_whole() -> None:
    catalog = parse_catalog(GOOD)
    model = catalog.chat_model("gpt-4o")
    assert (model.prices, model.engines) == (Prices.of_nano(2500, 10_000), ("up", "fake"))
    assert model.image_tokens is not None
    assert model.image_tokens.high == 1445
    assert catalog.engines["up"].concurrency == 8


@pytest.mark.parametrize(("right", "wrong", "line", "remedy"), MISTAKES, ids=lambda value: str(value)[:30])
def test_a_mistake_is_refused_with_its_line_and_a_remedy(right: str, wrong: str, line: str, remedy: str) -> None:
    assert GOOD.count(right) == 1
    with pytest.raises(CatalogError) as refusal:
        parse_catalog(GOOD.replace(right, wrong))
    message = str(refusal.value)
    assert f"{line}:" in message or f"{line}," in message, message
    assert remedy in message, message


def test_a_value_where_tables_belong_is_refused_with_its_line() -> None:
    with pytest.raises(CatalogError, match=r"line 2: .*Expected `object`, got `int`"):
        parse_catalog("# a catalog\nchat = 5\n")


def test_a_table_written_in_parts_is_found_too() -> None:
    text = (
        GOOD.replace("image_tokens = { low = 85, high = 1_445 }\n", "")
        + '[chat."gpt-4o".image_tokens]\nlow = "85"\nhigh = 9\n'
    )
    with pytest.raises(CatalogError, match=r"line 22: .*image_tokens: Expected `int`"):
        parse_catalog(text)


def test_a_file_that_is_not_there_is_named_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"absent\.toml: cannot be read: .*set MINITOOLAI_CATALOG"):
        read_catalog(tmp_path / "absent.toml")


def test_a_file_in_another_encoding_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes("[engines.fake]\n# café\n".encode("latin-1"))
    with pytest.raises(CatalogError, match=r"latin\.toml, line 2: not UTF-8; save the file as UTF-8"):
        read_catalog(path)


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace('"2.50"', '"2,50"'))
    with pytest.raises(CatalogError, match=r"^mine\.toml, line 12: "):
        read_catalog(path)


def test_lists_nested_too_deeply_are_a_mistake_in_the_file() -> None:
    with pytest.raises(CatalogError, match="nested too deeply"):
        parse_catalog("a = " + "[" * 5000 + "]" * 5000)


LORAS = """[engines.gpu]
kind = "diffusers"

[image.real]
price = "0.0015"
engines = ["gpu"]
loras = { "Oil paint" = "styles/oil.safetensors" }
"""


def test_loras_of_a_model_are_named_as_a_prompt_names_them() -> None:
    assert parse_catalog(LORAS).image_model("real").loras == {"Oil paint": "styles/oil.safetensors"}


@pytest.mark.parametrize(
    ("loras", "remedy"),
    [
        ('"a:b" = "a.safetensors"', "'a:b' is no name for a prompt"),
        ('" a" = "a.safetensors"', "' a' is no name for a prompt"),
        ('"" = "a.safetensors"', "'' is no name for a prompt"),
        ('a = "a.safetensors", A = "b.safetensors"', "the same name but for its case"),
        ('a = "a.ckpt"', "'a.ckpt' is not a .safetensors file"),
    ],
)
def test_a_lora_that_no_prompt_could_name_is_refused(loras: str, remedy: str) -> None:
    with pytest.raises(CatalogError) as refusal:
        parse_catalog(LORAS.replace('"Oil paint" = "styles/oil.safetensors"', loras))
    assert remedy in str(refusal.value)
    assert "line 7" in str(refusal.value)
