"""The pages of models and their status show what was measured, but neither numbers of requests nor suppliers."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import pytest
import requests

from minitoolai.core.clock import MS_PER_DAY, SystemClock
from minitoolai.portal.i18n import LANGUAGES
from minitoolai.storage.database import Connection
from tests.support.server import ServerProcess

CATALOG = """
[engines.secret_supplier]
kind = "fake"
model = "fake-1"

[chat."vendor/deep-1"]
input = "2.00"
output = "8.00"
context = 32000
max_output = 8000
engines = ["secret_supplier"]

[image.painter]
price = "0.02"
engines = ["secret_supplier"]
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("models"), catalog=CATALOG) as server:
        today = SystemClock().now_ms() // MS_PER_DAY

        def fill(connection: Connection) -> None:
            sums = "requests, failures, cost, purchase, known, timed, duration_ms, streamed, first_token_ms"
            for days_ago, failures in ((0, 0), (1, 3), (2, 77)):
                connection.execute(
                    f"INSERT INTO traffic_days (account_id, day, kind, model, engine, {sums}, streamed_tokens,"
                    " streaming_ms) VALUES (0, ?, 'chat', 'vendor/deep-1', 'secret_supplier', 777, ?, 0, 0, 0, 700,"
                    " 700000, 600, 240000, 90000, 1000000)",
                    (today - days_ago, failures),
                )

        server.write(fill)
        yield server


def get(shop: ServerProcess, path: str) -> requests.Response:
    return requests.get(shop.url + path, timeout=20)


def test_the_list_shows_what_was_measured(shop: ServerProcess) -> None:
    page = get(shop, "/en/models").text
    row = re.search(r"<tr><th[^>]*><a href=\"/en/models/vendor/deep-1\">.*?</tr>", page, re.DOTALL)
    assert row
    cells = [re.sub(r"<[^>]*>|\s+", " ", cell).strip() for cell in re.findall(r"<td.*?</td>", row[0], re.DOTALL)]
    assert cells == ["$2.00", "$8.00", "32,000", "400 ms", "90 tokens/s", "96.6%"]
    painter = re.search(r"<tr><th[^>]*><a href=\"/en/models/painter\">.*?</tr>", page, re.DOTALL)
    assert painter
    assert painter[0].count("–") == 2


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_model_has_a_page_in_every_language(shop: ServerProcess, lang: str) -> None:
    response = get(shop, f"/{lang}/models/vendor/deep-1")
    assert response.status_code == 200
    assert "<h1>vendor/deep-1" in response.text
    assert '"model": "vendor/deep-1"' in html.unescape(re.sub("<[^>]*>", "", response.text))
    assert len(response.content) < 60_000


def test_nothing_tells_how_many_requests_there_were_or_who_supplies(shop: ServerProcess) -> None:
    for path in ("/en/models", "/en/models/vendor/deep-1", "/en/models/painter", "/en/status"):
        page = get(shop, path).text
        assert "secret_supplier" not in page
        assert "777" not in page
        assert "2,331" not in page


def test_the_status_has_a_bar_for_each_day(shop: ServerProcess) -> None:
    page = get(shop, "/en/status").text
    assert "All models are available." in page
    strip = re.search(r"vendor/deep-1</a>.*?</svg>", page, re.DOTALL)
    assert strip
    assert 'aria-label="Uptime of the last 30 days: 96.6%"' in strip[0]
    assert 'class="fine" d="M112 0h3v20h-3zM116 0h3v20h-3z"' in strip[0]
    assert 'class="failed" d="M108 0h3v20h-3z"' in strip[0]


def test_an_unknown_model_is_not_found(shop: ServerProcess) -> None:
    for name in ("nothing", "vendor", "vendor/deep-1/x", "%00"):
        assert get(shop, f"/en/models/{name}").status_code == 404


def test_the_list_is_there_as_markdown(shop: ServerProcess) -> None:
    page = get(shop, "/de/models.md").text
    assert "vendor/deep-1" in page
    assert "90 Tokens/s" in page
