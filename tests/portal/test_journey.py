"""Use the portal in a real browser from the sign-up to a revoked key, with and without JavaScript."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.browse import PASSWORD, last_link
from tests.support.programs import program
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance
#: The guide's programs ask for the model of the shipped catalog; here a fake answers under that name.
CATALOG = """
[engines.quick]
kind = "fake"
model = "fake-1"
tokens = 16

[chat."gpt-4o-mini"]
input = "0.15"
output = "0.60"
context = 8192
max_output = 4096
engines = ["quick"]
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("journey"), catalog=CATALOG) as server:
        yield server


@pytest.mark.parametrize("scripts", [True, False])
def test_the_whole_journey(browser: Browser, house: ServerProcess, scripts: bool, tmp_path: Path) -> None:
    email = f"traveller-{scripts}@example.com".lower()
    context = browser.new_context(java_script_enabled=scripts)
    page = context.new_page()
    elsewhere: list[str] = []
    page.on("request", lambda sent: None if sent.url.startswith((house.url, "data:")) else elsewhere.append(sent.url))
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(house.url + "/en/signup")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.locator("main button").click()
    page.goto(house.url + last_link(house, email))
    page.locator("main button").click()
    page.get_by_label("Name of a new key").fill("travel")
    page.get_by_role("button", name="Create a key").click()
    key = page.locator("#new-key").inner_text()
    page.goto(house.url + "/en/topup")
    page.get_by_label("Code").fill(house.command("voucher", "create", "1.00").stdout.strip())
    page.get_by_role("button", name="Redeem").click()
    page.goto(house.url + "/en/docs")
    for name, command in {"chat-python": [sys.executable, "-c"], "chat-curl": [program("bash"), "-c"]}.items():
        code = (page.locator(f"#{name}").text_content() or "").replace("sk-…", key)
        done = subprocess.run([*command, code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    eventually(lambda: house.read(lambda c: c.execute("SELECT id FROM holds WHERE state = 'pending'")) == [])
    page.goto(house.url + "/en/usage")
    row = page.locator("#by-model tbody tr").inner_text()
    assert "gpt-4o-mini" in row
    assert re.search(r"\b2\b", row)
    page.goto(house.url + "/en/usage/requests")
    assert page.locator("#requests tbody tr").count() == 2
    csv_text = context.request.get(house.url + "/en/balance/statement.csv").text().removeprefix("\ufeff")
    lines = list(csv.DictReader(io.StringIO(csv_text)))
    assert sum(Decimal(line["amount"]) for line in lines) == Decimal(lines[0]["balance"])
    assert [line["kind"] for line in lines] == ["usage", "usage", "voucher"]
    page.goto(house.url + "/en/keys")
    page.get_by_role("button", name="Revoke").click()
    asked = {"authorization": f"Bearer {key}"}
    eventually(lambda: context.request.get(house.url + "/api/balance", headers=asked).status == 401, within_s=5)
    assert elsewhere == []
    context.close()
