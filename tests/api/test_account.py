"""The endpoints for usage, models and generations, and the health checks."""

from __future__ import annotations

import csv
import io
from decimal import Decimal

import pytest
import requests

from minitoolai.billing.usage import LAST_COLUMNS
from minitoolai.core.money import NANO_PER_DOLLAR, short_dollars
from tests.support.ask import check_refusal, get, post
from tests.support.server import Account, ServerProcess

COST_QUICK, COST_PACED = 6 * 150 + 16 * 600, 6 * 2007 + 3 * 8003


@pytest.fixture
def used(account: Account) -> Account:
    """Two quick answers and a paced one of three tokens."""
    for fields in ({}, {"stream": False}, {"model": "paced", "max_completion_tokens": 3}):
        assert post(account, **fields).status_code == 200
    account.settled()
    return account


@pytest.mark.parametrize("path", ["/api/usage/", "/api/usage"])
def test_usage_by_model_adds_up_to_what_was_charged(used: Account, path: str) -> None:
    page = get(used, path, group_by="model").json()
    rows = {row["model"]: row for row in page["data"]}
    assert rows["quick"] | {"cost": ""} == {
        "model": "quick", "kind": "chat", "requests": 2, "input_units": 12, "output_units": 32, "cost": "",
        "refunded": "0.000000000", "buckets": [],
    }  # fmt: skip
    assert rows["quick"]["cost"] == f"{2 * COST_QUICK / 1e9:.9f}"
    assert rows["paced"]["cost"] == f"{COST_PACED / 1e9:.9f}"
    assert page["total_cost"] == f"{(2 * COST_QUICK + COST_PACED) / 1e9:.9f}"
    assert used.money().posted == 5_000_000_000 - 2 * COST_QUICK - COST_PACED


def test_usage_by_day_and_by_key_group_the_same_requests(used: Account) -> None:
    by_day = get(used, "/api/usage/").json()
    by_key = get(used, "/api/usage/", group_by="key").json()
    assert by_day["total_cost"] == by_key["total_cost"]
    assert [row["requests"] for row in by_day["data"]] == [3]
    assert [row["key"] for row in by_key["data"]] == [used.key.split("-")[2]]


def test_usage_as_csv_has_the_same_rows(used: Account) -> None:
    answer = get(used, "/api/usage/", group_by="model", format="csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    page = get(used, "/api/usage/", group_by="model").json()
    assert [{name: row[name] for name in row if name not in LAST_COLUMNS} for row in rows] == [
        {name: str(value) for name, value in row.items() if name not in ("buckets", "refunded")} for row in page["data"]
    ]
    assert {row[name] for row in rows for name in LAST_COLUMNS} == {"0", "0.000000000"}


def test_usage_of_another_time_or_another_account_is_empty(used: Account) -> None:
    assert get(used, "/api/usage/", **{"from": "2020-01-01", "to": "2020-12-31"}).json()["data"] == []
    assert get(used.server.account(), "/api/usage/").json()["data"] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"group_by": "moon"}, "group_by"),
        ({"format": "xml"}, "format"),
        ({"from": "yesterday"}, "from"),
        ({"to": "9999-12-31"}, "to"),
        ({"from": "2026-02-01", "to": "2026-01-01"}, "from"),
        ({"group": "day"}, "group"),
        ({"To": "2026-01-01"}, "To"),
    ],
)
def test_a_wrong_usage_query_names_the_parameter(account: Account, query: dict[str, str], param: str) -> None:
    check_refusal(get(account, "/api/usage/", **query), 400, "invalid_request", param)


def test_an_unknown_field_of_a_query_is_refused_by_name(account: Account) -> None:
    check_refusal(get(account, "/api/webhooks", after="x"), 400, "invalid_request", "after")


@pytest.mark.parametrize("day", ["2026-11-29", "20261129", "2026-W48-7"])
def test_a_date_in_any_spelling_includes_its_whole_day(account: Account, day: str) -> None:
    found = get(account, "/api/usage/", **{"from": "2026-11-29", "to": day}).json()
    assert (found["from"], found["to"]) == ("2026-11-29T00:00:00+00:00", "2026-11-30T00:00:00+00:00")


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "0001-01-01", "1969-12-31"])
def test_usage_from_a_very_early_date_is_complete(used: Account, moment: str) -> None:
    assert get(used, "/api/usage/", **{"from": moment}).json()["data"][0]["requests"] == 3


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/"])
def test_the_list_of_models_has_prices_and_no_engines(account: Account, path: str) -> None:
    page = get(account, path).json()
    assert page["object"] == "list"
    models = {model["id"]: model for model in page["data"]}
    assert {"quick", "paced", "standin"} <= set(models)
    paced = models["paced"]
    assert (paced["object"], paced["owned_by"], paced["ready"], paced["demo"]) == ("model", "minitoolai", True, False)
    assert "engine" not in paced
    assert paced["price"] == {
        "input_per_million": "2.007000000", "output_per_million": "8.003000000", "currency": "USD",
    }  # fmt: skip
    assert isinstance(paced["created"], int)


@pytest.mark.parametrize("slash", ["", "/"])
def test_one_model_is_found_by_its_name_and_an_unknown_one_is_not(account: Account, slash: str) -> None:
    assert get(account, "/v1/models/quick" + slash).json()["id"] == "quick"
    assert "quick" in check_refusal(get(account, "/v1/models/quik" + slash), 404, "model_not_found", "model")


@pytest.mark.parametrize("name", ["gen-0", "gen-zzzzzzzzzzz", "nonsense", "gen-%F0%9F%8C%8B"])
def test_an_unknown_generation_is_a_404(account: Account, name: str) -> None:
    check_refusal(get(account, f"/v1/generations/{name}"), 404, "not_found", "id")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/healthz/", "/readyz/"])
def test_health_needs_no_key(server: ServerProcess, path: str) -> None:
    answer = requests.get(server.url + path, timeout=10)
    assert (answer.status_code, answer.history) == (200, [])


def test_the_command_line_and_the_api_agree(used: Account) -> None:
    told = used.server.command("balance", used.email)
    page = get(used, "/api/balance/").json()
    amounts = {name: round(Decimal(page[name]) * NANO_PER_DOLLAR) for name in ("balance", "held", "available")}
    assert told.stdout == "  ".join(f"{name} ${short_dollars(nano)}" for name, nano in amounts.items()) + "\n"
    models = used.server.command("models").stdout
    assert "paced" in models
    assert "8.003" in models
