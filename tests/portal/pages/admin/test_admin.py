"""The admin pages: what they show and change, the log of actions, and that they do not exist for other users."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
import requests

from minitoolai.storage.tables import accounts, reports, users
from tests.portal.test_security import MARK, post
from tests.support.ask import get
from tests.support.books import emptied
from tests.support.browse import Visitor, new_user
from tests.support.server import Account, ServerProcess
from tests.support.waiting import eventually

PAGES = (
    "/admin", "/admin/jobs", "/admin/accounts", "/admin/catalog", "/admin/actions", "/admin/dashboard",
    "/admin/dashboard/report.csv", "/admin/requests", "/admin/engines",
)  # fmt: skip
SECTIONS = ("", "/statement", "/payments", "/keys")


def account_of(server: ServerProcess, email: str) -> int:
    return int(server.read(lambda c: users.find_user(c, email))[0].account_id)


@pytest.fixture
def boss(server: ServerProcess, email: str) -> Visitor:
    """An admin."""
    return new_user(server, f"boss-{email}", is_admin=True)


def test_admin_pages_do_not_exist_for_other_users(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    member.open("/no-such-page")
    nothing = re.search("<main.*</main>", member.page.text, re.DOTALL)[0]
    for path in (*PAGES, *(f"/admin/accounts/{number}{section}" for section in SECTIONS)):
        assert boss.open(path).status_code == 200
        assert member.open(path).status_code == 404
        assert re.search("<main.*</main>", member.page.text, re.DOTALL)[0] == nothing
        assert "/signin" in Visitor(server).open(path).url
    assert "/admin" not in member.open("/keys").text
    csrf = member.fields("/keys")["csrf"]
    fields = {"csrf": csrf, "amount": "5", "note": "mine", "once": "x"}
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    assert post(member, f"/admin/accounts/{number}/grant", fields, **own) == 404
    for form in (f"accounts/{number}/revoke", f"accounts/{number}/note", f"accounts/{number}/view", "search"):
        assert post(member, f"/admin/{form}", fields, **own) == 404
    assert server.read(lambda c: accounts.balance_of(c, number)).posted == 0
    assert server.read(lambda c: reports.admin_actions(c, 10, number)) == []


def test_credit_is_given_once_and_logged(boss: Visitor, member: Visitor, email: str, server: ServerProcess) -> None:
    number = account_of(server, email)
    boss.open(f"/admin/accounts?q={email}")
    assert f"/admin/accounts/{number}" in boss.page.text
    boss.open(f"/admin/accounts/{number}")
    sent = boss.fields("/grant") | {"amount": "2.50", "note": MARK}
    boss.submit("/grant", amount="2.50", note=MARK)
    assert "$2.50 were given" in boss.page.text
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    assert post(boss, f"/admin/accounts/{number}/grant", sent, **own) == 404
    assert server.read(lambda c: accounts.balance_of(c, number)).posted == 2_500_000_000
    done = server.read(lambda c: reports.admin_actions(c, 10, number))
    assert [(a.action, a.amount, a.note, a.admin) for a in done] == [("grant", 2_500_000_000, MARK, f"boss-{email}")]
    for visitor, path in ((boss, "/admin/actions"), (boss, f"/admin/accounts/{number}"), (member, "/balance")):
        page = visitor.open(path).text
        assert MARK not in page
        assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("amount", "note"), [("", "why"), ("-1", "why"), ("1e3", "why"), ("5.00", ""), ("5.00", "x" * 201)]
)
def test_an_incomplete_form_changes_nothing(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess, amount: str, note: str
) -> None:
    number = account_of(server, email)
    boss.open(f"/admin/accounts/{number}")
    assert boss.submit("/grant", amount=amount, note=note).status_code == 422
    assert server.read(lambda c: accounts.balance_of(c, number)).posted == 0
    assert server.read(lambda c: reports.admin_actions(c, 10, number)) == []


def test_a_forged_admin_form_changes_nothing(boss: Visitor, member: Visitor, email: str, server: ServerProcess) -> None:
    number = account_of(server, email)
    boss.open(f"/admin/accounts/{number}")
    good = boss.fields("/grant") | {"amount": "5", "note": "forged"}
    for path in ("grant", "revoke"):
        there = f"/admin/accounts/{number}/{path}"
        assert post(boss, there, good | {"csrf": "x"}) == 403
        assert post(boss, there, good, origin="https://evil.example") == 403
        assert boss.open(there).url == boss.url(f"/admin/accounts/{number}")
        assert member.open(there).status_code == 404
    assert server.read(lambda c: reports.admin_actions(c, 10, number)) == []


def test_keys_revoked_by_an_admin_stop_working(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    key = server.command("key", "create", email, "--name", "k").stdout.strip()

    def status() -> int:
        return requests.get(
            server.url + "/api/balance", headers={"authorization": f"Bearer {key}"}, timeout=20
        ).status_code

    assert status() == 200
    boss.open(f"/admin/accounts/{account_of(server, email)}")
    boss.submit("/revoke", note="abuse")
    eventually(lambda: status() == 401, within_s=5)
    assert "All keys revoked" in boss.open("/admin/actions").text


def test_an_unknown_account_is_a_404(boss: Visitor) -> None:
    for number in ("1", "2", "999999", "99999999999999999999999"):
        assert boss.open(f"/admin/accounts/{number}").status_code in (400, 404)
    boss.open("/admin/accounts?q=%25%00%5C_'")
    assert "No results for" in boss.page.text


def test_the_overview_shows_the_audit_and_the_engines(boss: Visitor) -> None:
    eventually(lambda: "The ledger is consistent" in boss.open("/admin").text, within_s=20)
    assert "fake-chat" in boss.open("/admin/engines").text


# ── the catalog ───────────────────────────────────────────────────────────────────────────────────────────

CATALOG = """
[engines.fake]
kind = "fake"
model = "fake-1"

[engines.far]
kind = "upstream"
base_url = "http://127.0.0.1:9/v1"
headers = { x-secret = "hush" }

[chat.slow]
input = "1"
output = "2"
context = 8192
max_output = 4096
engines = ["fake"]
"""


def catalog_text(page: requests.Response) -> str:
    return re.sub(
        r"\s+", " ", html.unescape(re.sub("<[^>]*>", " ", re.search("<main.*</main>", page.text, re.DOTALL)[0]))
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_the_catalog_is_reloaded_from_its_page(workers: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    # Several processes share a PostgreSQL database.
    url = emptied(request.getfixturevalue("postgres_url")) if workers > 1 else ""
    env = {"MINITOOLAI_DATABASE_URL": url, "MINITOOLAI_WORKERS": str(workers)}
    with ServerProcess(tmp_path, catalog=CATALOG, env=env) as server:
        boss = new_user(server, "boss@example.com", is_admin=True)
        account = server.account()
        file = tmp_path / "catalog.toml"
        assert "The file matches" in catalog_text(boss.open("/admin/catalog"))
        # A mistake is shown with its line, and reloads nothing.
        file.write_text(CATALOG.replace('"2"', '"-2"'))
        assert 'catalog.toml, line 13: [chat."slow"] output' in catalog_text(boss.open("/admin/catalog"))
        boss.submit("/reload")
        assert boss.page.status_code == 422
        assert price_of(account, "slow") == "2.000000000"
        # Changes are shown first. Values of headers are not.
        more = CATALOG.replace('"2"', '"2.5"').replace("hush", "shh") + CATALOG[CATALOG.index("[chat") :].replace(
            "slow", "new"
        )
        file.write_text(more)
        text = catalog_text(boss.open("/admin/catalog"))
        assert "slow: output 2.00 2.50" in text
        assert "new – input 1.00, output 2.00" in text
        assert "[engines.far]: headers x-secret" in text
        assert "shh" not in text
        assert price_of(account, "slow") == "2.000000000"
        # What was not seen is not applied.
        file.write_text(more.replace('"2.5"', '"2.75"'))
        boss.submit("/reload")
        assert (boss.page.status_code, "slow: output 2.00 2.75" in catalog_text(boss.page)) == (409, True)
        boss.submit("/reload")
        assert boss.page.status_code == 200
        expected = "one by one" if workers > 1 else "The catalog is reloaded."
        assert expected in catalog_text(boss.page)
        eventually(lambda: price_in_all_processes(account, "slow") == {"2.750000000"}, within_s=60)
        eventually(lambda: price_in_all_processes(account, "new") == {"2.000000000"}, within_s=60)
        trail = catalog_text(boss.open("/admin/actions"))
        assert "Catalog reloaded" in trail
        assert "1 models added, 0 removed, 1 changed; 1 engines changed" in trail


def price_in_all_processes(account: Account, model: str) -> set[str]:
    """Return the prices in several responses: each connection goes to any of the processes, one of which may stop."""
    try:
        return {price_of(account, model) for _ in range(20)}
    except (requests.ConnectionError, KeyError):
        # One process has not read the catalog yet, and does not know the model.
        return set()


def price_of(account: Account, model: str) -> str:
    found: str = get(account, f"/v1/models/{model}").json()["price"]["output_per_million"]
    return found


def test_a_change_that_needs_a_restart_is_refused_in_words(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=CATALOG) as server:
        boss = new_user(server, "boss@example.com", is_admin=True)
        (tmp_path / "catalog.toml").write_text(CATALOG.replace('"fake-1"', '"fake-2"'))
        assert "[engines.fake] has changed: restart the server" in catalog_text(boss.open("/admin/catalog"))
        csrf = boss.fields("/reload")["csrf"]
        own = {"origin": server.url, "sec-fetch-site": "same-origin"}
        assert post(boss, "/admin/catalog/reload", {"csrf": "wrong", "seen": ""}, **own) == 403
        assert post(boss, "/admin/catalog/reload", {"csrf": csrf, "seen": ""}, **own) == 422
        member = new_user(server, "member@example.com")
        csrf = member.open("/keys") and member.fields("/keys")["csrf"]
        assert post(member, "/admin/catalog/reload", {"csrf": csrf, "seen": ""}, **own) == 404
        assert server.read(lambda c: reports.admin_actions(c, 10)) == []
