"""Prices of images by size and quality: held, charged and shown exactly, and passed on to the upstream."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from minitoolai.core.catalog.loader import parse_catalog
from minitoolai.core.errors import CatalogError
from minitoolai.core.money import format_dollars
from tests.support.ask import check_refusal, get
from tests.support.server import Account, ServerProcess
from tests.support.upstream import Exchange, Upstream
from tests.support.waiting import eventually
from tests.support.webui import png

CREDIT = 5_000_000_000
OPENAI, JOBS = "/v1/images/generations", "/api/texttoimage/"
PRICES = """
[[image.real.prices]]
size = "1024x1024"
price = "0.04"

[[image.real.prices]]
size = "1024x1024"
quality = "high"
price = "0.167"

[[image.real.prices]]
quality = "high"
price = "0.19"

[[image.real.prices]]
quality = "low"
price = "0.011"
"""
CATALOG = """
[engines.up]
kind = "{kind}"
base_url = "{url}"
model = "fake-1"

[image.real]
price = "0.05"
engines = ["up"]

[image.plain]
price = "0.0015"
engines = ["up"]
"""


async def draw(exchange: Exchange) -> None:
    picture = base64.b64encode(png((1, 2, 3), *map(int, exchange.body["size"].split("x")))).decode()
    exchange.answer(200, {"created": 1, "data": [{"b64_json": picture}]})


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(draw) as standin:
        yield standin


@pytest.fixture(scope="module")
def server(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    catalog = CATALOG.format(kind="upstream", url=upstream.base_url) + PRICES
    with ServerProcess(tmp_path_factory.mktemp("pictures"), catalog=catalog) as process:
        yield process
        process.check_books()


def post(account: Account, path: str, **fields: Any) -> requests.Response:
    body = {"model": "real", "prompt": "an apple", **fields}
    return requests.post(account.server.url + path, json=body, headers=account.headers, timeout=60)


#: Width, height and quality → dollars, and the quality that the upstream receives.
CASES: list[tuple[int, int, str | None, str, str | None]] = [
    (1024, 1024, None, "0.04", None),
    (1024, 1024, "high", "0.167", "high"),
    (1024, 1024, "low", "0.04", "low"),
    (512, 512, "high", "0.19", "high"),
    (512, 512, "low", "0.011", "low"),
    (512, 512, None, "0.05", None),
    (512, 512, "auto", "0.05", None),
    (1024, 1024, "standard", "0.04", None),
]


@pytest.mark.parametrize("path", [OPENAI, JOBS])
@pytest.mark.parametrize(("width", "height", "quality", "dollars", "sent"), CASES)
def test_the_price_of_size_and_quality_is_held_and_charged(
    server: ServerProcess, upstream: Upstream, path: str, width: int, height: int, quality: str | None,
    dollars: str, sent: str | None,
) -> None:  # fmt: skip
    account, nano = server.account(), round(float(dollars) * 10**9)
    size = {"size": f"{width}x{height}"} if path == OPENAI else {"width": width, "height": height}
    answer = post(account, path, quality=quality, **size)
    assert answer.status_code == 200, answer.text
    held = server.read(lambda c: c.execute("SELECT amount FROM holds WHERE account_id = ?", (account.id,)))
    assert held == [(nano,)]
    assert eventually(lambda: account.money().held == 0, within_s=30)
    assert CREDIT - account.money().posted == nano
    assert upstream.last.body.get("quality") == sent
    usage = get(account, "/api/usage/").json()
    assert usage["total_cost"] == format_dollars(nano)


def test_several_images_are_refused_before_the_first_if_the_balance_is_too_low(server: ServerProcess) -> None:
    account = server.account("0.30")
    assert "2 images cost $0.334" in check_refusal(
        post(account, OPENAI, size="1024x1024", quality="high", n=2), 402, "insufficient_balance"
    )
    assert post(account, OPENAI, size="1024x1024", quality="low", n=2).status_code == 200
    assert account.settled() == 220_000_000


@pytest.mark.parametrize("path", [OPENAI, JOBS])
def test_an_unlisted_quality_is_refused_by_name(server: ServerProcess, path: str) -> None:
    account = server.account()
    for model, remedy in (("real", "high, low"), ("plain", "one quality")):
        answer = post(account, path, model=model, quality="hd")
        assert answer.status_code == 400
        assert "quality is 'hd'" in answer.text
        assert remedy in answer.text
    assert account.money().held == 0


def test_prices_are_shown(server: ServerProcess) -> None:
    account = server.account()
    found = get(account, "/v1/models/real").json()
    assert found["qualities"] == ["high", "low"]
    assert found["price"]["image"] == "0.050000000"
    assert found["price"]["images"][1] == {"size": "1024x1024", "quality": "high", "image": "0.167000000"}
    assert get(account, "/v1/models/plain").json()["price"] == {"image": "0.001500000", "currency": "USD"}
    page = requests.get(f"{server.url}/en/prices", timeout=30).text
    assert "$0.167" in page
    assert "1024x1024 high" in server.command("models").stdout


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ('[[image.real.prices]]\nprice = "1"\n', "a price needs a size, a quality, or both"),
        ('[[image.real.prices]]\nsize = "8x8x8"\nprice = "1"\n', "[image.real] prices"),
        ('[[image.real.prices]]\nsize = "64x64"\nprice = "-1"\n', "dollars per image"),
        ('[[image.real.prices]]\nsize = "64x64"\nprices = "1"\n', "prices"),
        ('[[image.real.prices]]\nquality = "a"\nprice = "1"\n' * 2, "two prices for size any, quality a"),
    ],
)
def test_a_mistake_in_the_prices_is_named_with_its_line(changed: str, says: str) -> None:
    with pytest.raises(CatalogError) as mistake:
        parse_catalog(CATALOG.format(kind="upstream", url="http://127.0.0.1:9/v1") + changed)
    assert "line " in str(mistake.value)
    assert says in str(mistake.value)


def test_a_quality_needs_engines_that_know_it() -> None:
    with pytest.raises(CatalogError, match="the engine up knows no quality"):
        parse_catalog(CATALOG.format(kind="webui", url="http://127.0.0.1:9") + PRICES)
