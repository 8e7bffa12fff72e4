"""`minitoolai catalog`: imports are exact and reviewable, losses are named, nothing is written unasked."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

import minitoolai
from minitoolai.cli.catalog import MAX_OUTPUT, with_models
from minitoolai.cli.main import main
from minitoolai.cli.provider_prices import ProviderModel, chat_models
from minitoolai.core.catalog.loader import parse_catalog, read_catalog
from minitoolai.core.catalog.prices import Prices, Tier

BUNDLED = Path(minitoolai.__file__).parent / "catalog.toml"
MINE = """\
# my shop
[engines.openai]
kind = "upstream"
base_url = "https://api.openai.com/v1"  # or a proxy

[engines.spare]
kind = "upstream"
base_url = "https://host/v1"

[chat.gpt-4o]
input = "9.99"  # too much
output = "99.99"
context = 1000
max_output = 500
engines = ["openai", "spare"]

[chat.other]
input = "1"
output = "2"
context = 1000
max_output = 500
engines = ["spare", "openai"]
"""
LIST = [
    ProviderModel("gpt-4o", 128_000, {"input": "2.50", "cached_input": "1.25", "output": "10.00"}),
    ProviderModel("other", 128_000, {"input": "0.0375", "output": "3.00"}),
    ProviderModel("new", 1_000_000, {"input": "1", "output": "2"}, {200_000: {"input": "2", "output": "4"}}),
    ProviderModel("secret", None, {"input": "1", "output": "2"}),
]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        said = capsys.readouterr()
        return int(str(left.value.code)), said.out + said.err

    return run


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    monkeypatch.setenv("MINITOOLAI_CATALOG", str(path))
    return path


def test_models_are_added_with_costs_and_a_markup_and_everything_else_stays() -> None:
    text = with_models(MINE, "openai", LIST, Decimal("1.2"))
    catalog = parse_catalog(text)
    assert catalog.chat["gpt-4o"].prices == Prices.of(3_000_000, 12_000_000, cached_input=1_500_000)
    assert (catalog.chat["gpt-4o"].context, catalog.chat["gpt-4o"].engines) == (1000, ("openai", "spare"))
    assert catalog.chat["other"].prices == Prices.of(1_000_000, 2_000_000)
    assert catalog.upstream_costs["openai", "other"] == Prices.of(37_500, 3_000_000)
    tier = Tier(200_000, Prices.of(2_400_000, 4_800_000))
    assert catalog.chat["new"].prices == Prices.of(1_200_000, 2_400_000, tiers=(tier,))
    assert (catalog.chat["new"].context, catalog.chat["new"].max_output) == (1_000_000, MAX_OUTPUT)
    assert catalog.chat["secret"].context == 128_000
    assert "# not in the list of prices" in text
    lines = iter(text.splitlines())
    assert all(line in lines for line in MINE.splitlines() if line and "9.99" not in line)


def test_importing_twice_changes_nothing() -> None:
    once = with_models(MINE, "openai", LIST, Decimal("1.2"))
    assert with_models(once, "openai", LIST, Decimal("1.2")) == once


def test_a_bucket_and_a_tier_that_the_provider_dropped_are_dropped() -> None:
    once = with_models(MINE, "openai", LIST, Decimal(1))
    plain = [ProviderModel(model.name, model.context, {"input": "1", "output": "2"}) for model in LIST]
    again = parse_catalog(with_models(once, "openai", plain, Decimal(1)))
    assert again.chat["gpt-4o"].prices == again.chat["new"].prices == Prices.of(1_000_000, 2_000_000)
    assert again.upstream_costs["openai", "new"] == Prices.of(1_000_000, 2_000_000)


def test_two_providers_are_imported_with_their_cache_prices(run: Run, tmp_path: Path) -> None:
    status, said = run("catalog", "import", "openai", "anthropic", "--markup", "1.2")
    assert status == 0
    assert said.startswith("--- catalog.toml\n+++ catalog.toml\n@@")
    assert "# nothing was written; add --write" in said
    assert list(tmp_path.iterdir()) == []
    status, said = run("catalog", "import", "openai", "anthropic", "--markup", "1.2", "--write", "--output", "new.toml")
    assert status == 0, said
    catalog = read_catalog(tmp_path / "new.toml")
    cached = [name for name, model in catalog.chat.items() if model.prices.cached_input < model.prices.input]
    assert len(cached) >= 60
    for (engine, name), cost in catalog.upstream_costs.items():
        if catalog.chat[name].engines[0] == engine:
            assert catalog.chat[name].prices.input == cost.input * 6 // 5
            assert catalog.chat[name].prices.cached_input == cost.cached_input * 6 // 5
    assert catalog.upstream_costs["anthropic", "claude-haiku-4-5"].cache_write > 0


def test_the_bundled_catalog_is_never_written(run: Run) -> None:
    before = BUNDLED.read_bytes()
    status, said = run("catalog", "import", "openai", "--write")
    assert (status, BUNDLED.read_bytes()) == (1, before)
    assert "add --output catalog.toml" in said


def test_a_diff_names_what_the_provider_changed(run: Run, mine: Path) -> None:
    assert run("catalog", "import", "openai", "--only", "gpt-4o*", "--write")[0] == 0
    assert run("catalog", "diff", "openai", "--only", "gpt-4o*") == (0, "no changed prices\n")
    [model] = [model for model in chat_models("openai") if model.name == "gpt-4o"]
    mine.write_text(mine.read_text().replace(f'input = "{model.prices["input"]}"', 'input = "77"'))
    status, said = run("catalog", "diff", "openai", "--only", "gpt-4o")
    assert status == 1
    assert f"openai gpt-4o: input 77 → {model.prices['input']}" in said


def test_check_names_prices_below_cost(run: Run, mine: Path) -> None:
    assert run("catalog", "check") == (0, "mine.toml: 2 models, 2 engines, no purchase prices\n")
    mine.write_text(MINE + '\n[engines.spare.costs.other]\ninput = "1"\noutput = "2"\n')
    assert run("catalog", "check") == (0, "mine.toml: 2 models, 2 engines, no prices below cost\n")
    mine.write_text(MINE + '\n[engines.spare.costs.other]\ninput = "1"\noutput = "2.5"\n')
    status, said = run("catalog", "check")
    assert status == 1
    assert "other: output is sold for $2 per million, spare charges $2.5\n" in said
    mine.write_text(MINE.replace('output = "2"', 'output = "-2"'))
    status, said = run("catalog", "check")
    assert status == 1
    place = 'mine.toml, line 19: [chat."other"] output'
    assert f'{place}: "-2" is not a price; output = "0.15" means dollars per million tokens' in said


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["import", "opeani"], "choose from anthropic"),
        (["import", "openai", "--only", "nothing*"], "no chat model with a known price that matches 'nothing*'"),
        (["import", "openai", "--markup", "0"], "write it like 1.2"),
        (["import", "openai", "--markup", "NaN"], "write it like 1.2"),
        (["diff", "opeani"], "choose from anthropic"),
    ],
)
def test_a_mistake_is_refused_with_a_remedy(run: Run, arguments: list[str], remedy: str) -> None:
    status, said = run("catalog", *arguments)
    assert status in (1, 2)
    assert remedy in said
