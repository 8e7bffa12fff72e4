"""Cached tokens from an upstream to the books: held, charged, shown and bought at their own price."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import requests

from tests.support import manners
from tests.support.ask import OPENAI, get
from tests.support.server import Account, ServerProcess
from tests.support.upstream import Upstream

CREDIT = 5_000_000_000
TEXT = "A prompt that is long enough for the upstream's count of ten thousand tokens to be believed. " * 450
SONNET = 'input = "3"\ncached_input = "0.30"\ncache_write = "3.75"\ncache_write_1h = "6"\noutput = "15"\n'
BOUGHT = SONNET.replace('"3"', '"2"').replace('"0.30"', '"0.0375"')
CATALOG = """
[engines.up]
kind = "upstream"
base_url = "{url}"

[engines.up.costs.sonnet]
{bought}
[engines.fake]
kind = "fake"
model = "fake-1"

[chat.sonnet]
{sold}context = 200_000
max_output = 4096
engines = ["up"]

[[chat.sonnet.tiers]]
above = 150_000
{sold}
"""
#: The same usage in the terms of two providers, and the units of each bucket.
REPORTS: list[dict[str, Any]] = [
    {
        "input_tokens": 16, "output_tokens": 4,
        "cache_read_input_tokens": 8984, "cache_creation_input_tokens": 1000,
    },
    {
        "prompt_tokens": 10_000, "completion_tokens": 4, "total_tokens": 10_004,
        "prompt_tokens_details": {"cached_tokens": 8984, "cache_write_tokens": 1000},
    },
]  # fmt: skip
SOLD = {"input": (16, 3000), "cached_input": (8984, 300), "cache_write": (1000, 3750), "output": (4, 15_000)}
COST = sum(units * price for units, price in SOLD.values())


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(manners.answer()) as standin:
        yield standin


@pytest.fixture(scope="module")
def server(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    catalog = CATALOG.format(url=upstream.base_url, sold=SONNET, bought=BOUGHT)
    with ServerProcess(tmp_path_factory.mktemp("cached"), catalog=catalog) as process:
        yield process


@pytest.fixture
def account(server: ServerProcess) -> Account:
    return server.account()


def ask(account: Account, *, stream: bool) -> requests.Response:
    body = {"model": "sonnet", "stream": stream, "messages": [{"role": "user", "content": TEXT}]}
    answer = requests.post(account.server.url + OPENAI, json=body, headers=account.headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("report", REPORTS, ids=["Anthropic", "OpenRouter"])
def test_each_bucket_is_charged_and_shown_at_its_price(
    account: Account, upstream: Upstream, report: dict[str, Any], stream: bool
) -> None:
    upstream.behave = manners.counting(report, {"content": "Yes, indeed."})
    answer = ask(account, stream=stream)
    assert CREDIT - account.settled() == COST
    generation = get(account, f"/v1/generations/{answer.headers['x-generation-id']}").json()
    assert Decimal(generation["cost"]) * 10**9 == COST
    assert (generation["input_units"], generation["cached_input_units"]) == (10_000, 8984)
    details = {part["bucket"]: part for part in generation["cost_details"]}
    assert {bucket: part["units"] for bucket, part in details.items()} == {name: u for name, (u, _) in SOLD.items()}
    assert sum(Decimal(part["cost"]) for part in details.values()) * 10**9 == COST
    assert all(Decimal(part["price_per_unit"]) * 10**9 == SOLD[bucket][1] for bucket, part in details.items())


def test_the_margin_is_exact_and_the_statement_counts_the_cached_tokens(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.counting(REPORTS[1], {"content": "Yes, indeed."})
    before = _bought(account.server)
    ask(account, stream=False)
    account.settled()
    # 16 × 2000 + 8984 × 37.5 + 1000 × 3750 + 4 × 15,000 nano-dollars.
    assert _bought(account.server) - before == 32_000 + 336_900 + 3_750_000 + 60_000
    export = account.server.command("account", "export", account.email).stdout
    assert '"cached_units": 8984' in export or '"cached_units":8984' in export


def _bought(server: ServerProcess) -> int:
    return int(server.read(lambda c: c.execute("SELECT coalesce(sum(purchase), 0) FROM generations"))[0][0])


PER_MILLION = {
    "input_per_million": "3.000000000",
    "output_per_million": "15.000000000",
    "cached_input_per_million": "0.300000000",
    "cache_write_per_million": "3.750000000",
    "cache_write_1h_per_million": "6.000000000",
}


def test_the_model_list_names_every_price(account: Account) -> None:
    model = get(account, "/v1/models/sonnet").json()
    assert model["price"] == {
        **PER_MILLION,
        "tiers": [{"above_prompt_tokens": 150_000} | PER_MILLION],
        "currency": "USD",
    }


def test_usage_and_its_files_show_the_buckets(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.counting(REPORTS[1], {"content": "Saturn has the most."})
    ask(account, stream=True)
    account.settled()
    expected = {
        name: (units, units * price) for name, (units, price) in SOLD.items() if name not in ("input", "output")
    }
    (row,) = get(account, "/api/usage/", group_by="model").json()["data"]
    shown = {part["bucket"]: (part["units"], int(Decimal(part["cost"]) * 10**9)) for part in row["buckets"]}
    assert shown == expected
    assert int(Decimal(row["cost"]) * 10**9) == COST
    (line,) = csv.DictReader(io.StringIO(get(account, "/api/usage/", format="csv").text))
    for name, (units, cost) in expected.items():
        assert (line[f"{name}_units"], int(Decimal(line[f"{name}_cost"]) * 10**9)) == (str(units), cost)
    assert line["reasoning_units"] == "0"
    printed = account.server.command("margin").stdout
    assert "cached_input" in printed
    assert account.server.command("usage", "rebuild").stdout.strip() == "usage by day agrees with the generations"
