"""What the operator sees: dashboards, the log of requests, engines, the search, accounts, and the customer's view."""

from __future__ import annotations

import csv
import html
import io
import re
from pathlib import Path

import pytest
import requests

from minitoolai.billing import corrections
from minitoolai.billing import payments as billing
from minitoolai.core.clock import SystemClock, generation_name
from minitoolai.paths import load_secret_keys
from minitoolai.portal.routes import MODULES
from minitoolai.portal.routing import PageHandler
from minitoolai.storage.database import Connection
from minitoolai.storage.insight.requests import LogFilter, list_requests
from minitoolai.storage.tables import accounts, payments, reports, users
from tests.portal.test_security import MARK, post
from tests.support.browse import Forms, Visitor, new_user
from tests.support.cli import CATALOG
from tests.support.history import count_traffic, count_usage
from tests.support.house import CLOSED
from tests.support.server import ServerProcess
from tests.support.waiting import eventually


def account_of(server: ServerProcess, email: str) -> int:
    return int(server.read(lambda c: users.find_user(c, email))[0].account_id)


@pytest.fixture
def boss(server: ServerProcess, email: str) -> Visitor:
    """An admin."""
    return new_user(server, f"boss-{email}", is_admin=True)


def ask(server: ServerProcess, email: str, name: str = "program") -> tuple[str, str]:
    """Buy one answer with a new key of this customer. Return the key and the ID of the generation."""
    number = account_of(server, email)
    server.write(lambda c: billing.grant(c, SystemClock(), number, 10**9, reason="test"))
    key = server.command("key", "create", email, "--name", name).stdout.strip()
    answer = requests.post(
        server.url + "/v1/chat/completions",
        json={"model": "fake-chat", "messages": [{"role": "user", "content": "My secret word is mellon"}]},
        headers={"authorization": f"Bearer {key}"},
        timeout=20,
    )
    assert answer.status_code == 200
    eventually(lambda: server.read(lambda c: accounts.balance_of(c, number)).held == 0, within_s=10)
    return key, answer.headers["x-generation-id"]


def words(page: requests.Response) -> str:
    main = re.search("<main.*</main>", page.text, re.DOTALL)
    assert main
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", " ", main[0])))


# ── the search ────────────────────────────────────────────────────────────────────────────────────────────


def search(boss: Visitor, text: str) -> requests.Response:
    boss.open("/admin")
    return boss.submit("/admin/search", q=text)


def test_one_box_finds_a_customer_by_everything_that_names_him(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    here = boss.url(f"/admin/accounts/{number}")
    key, generation = ask(server, email)
    assert search(boss, generation).url == boss.url(f"/admin/requests/{generation}")
    assert email in boss.page.text
    new_user(server, f"only-{number}-here@example.com")
    assert search(boss, f"ly-{number}-he").url.endswith(str(account_of(server, f"only-{number}-here@example.com")))
    for text in (key[6:18], key[:18], key[6:14], str(number), f"sk-mt-{key[6:16]}…"):
        assert search(boss, text).url == here, text
    # A whole key leaves no trace in an address.
    assert search(boss, key).url == here
    payment = SystemClock().new_id()
    server.write(lambda c: payments.insert_payment(c, payment, number, 5 * 10**9, 1))
    server.write(lambda c: payments.set_provider_ref(c, payment, f"cs_test_{payment}", 1))
    for text in (f"cs_test_{payment}", str(payment)):
        assert search(boss, text).url == here
    code = server.command("voucher", "create", "2.50", "--note", "fair").stdout.strip()
    found = search(boss, code.lower().replace("-", " "))
    assert found.url == boss.url("/admin/search")
    assert "not redeemed" in words(found)
    assert "$2.50" in words(found)
    secret = load_secret_keys(server.settings)
    server.write(lambda c: billing.redeem(c, SystemClock(), secret, number, code))
    assert search(boss, code).url == here


def test_many_results_are_listed_and_none_is_said(boss: Visitor, member: Visitor, server: ServerProcess) -> None:
    new_user(server, "somebody-else@example.com")
    assert search(boss, "@example.com").url.startswith(boss.url("/admin/accounts?q="))
    assert boss.page.text.count("/admin/accounts/") >= 3
    for text in ("nobody-is-called-this", "gen-00000000000", "cs_test_none", "sk-mt-zzzzzzzzzzzz", MARK, "%_\\'", "Ａ"):
        assert "No results for" in words(search(boss, text)), text
        assert MARK not in boss.page.text
    key = "sk-mt-zzzzzzzzzzzz-" + "s" * 32 + "-cccccc"
    assert "ssss" not in search(boss, key).url + boss.page.text
    assert search(boss, "").url == boss.url("/admin/accounts?q=")


# ── one account ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_of_an_account_shows_all_of_it_and_no_secret(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    key, generation = ask(server, email, name=MARK)
    page = boss.open(f"/admin/accounts/{number}")
    text = words(page)
    for expected in (email, generation, key[:18], "fake-chat", "Requests per minute", "Unknown browser", "Statement"):
        assert expected in text, expected
    for secret in (key, key[19:51], member.cookies["session"], "mellon", MARK):
        assert secret not in page.text
    for section in ("statement", "payments", "keys"):
        assert email in boss.open(f"/admin/accounts/{number}/{section}").text
        for nobody in ("2", "999999999", "x", "9" * 40):
            assert boss.open(f"/admin/accounts/{nobody}/{section}").status_code in (400, 404)


def test_a_note_is_kept_in_the_audit_log(boss: Visitor, member: Visitor, email: str, server: ServerProcess) -> None:
    number = account_of(server, email)
    boss.open(f"/admin/accounts/{number}")
    boss.submit("/note", text=f"First line\r\n{MARK}")
    assert "Note added" in boss.page.text
    assert MARK not in boss.page.text
    boss.submit("/note", text="")
    assert "Write a note first" in boss.page.text
    boss.submit("/note", text="x" * 2_001)
    assert "2,000 characters" in boss.page.text
    done = server.read(lambda c: reports.admin_actions(c, 10, number))
    assert [(one.action, one.note, one.admin) for one in done] == [("note", f"First line\r\n{MARK}", f"boss-{email}")]
    assert "First line" in boss.open("/admin/actions").text
    for path in ("/account", "/balance"):
        assert "First line" not in member.open(path).text


# ── the view as the customer ──────────────────────────────────────────────────────────────────────────────


def begin_view(boss: Visitor, number: int) -> requests.Response:
    boss.open(f"/admin/accounts/{number}")
    return boss.submit("/view")


def test_an_admin_sees_every_page_as_the_customer_does_and_can_send_nothing(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    key, generation = ask(server, email)
    assert begin_view(boss, number).url == boss.url("/usage")
    done = server.read(lambda c: reports.admin_actions(c, 10, number))
    assert [(one.action, one.admin) for one in done] == [("view", f"boss-{email}")]
    own = [path.replace("+", key[6:18]).replace("~", generation) for path in CLOSED if not path.startswith("/admin")]
    for path in (*own, "/", "/docs", "/prices"):
        page = boss.open(path)
        assert page.status_code == 200, path
        assert re.search(r'<aside class="viewing".*?</aside>', page.text, re.DOTALL)[0].count(email) == 1
        assert email in re.search('<li class="menu-note">.*?</li>', page.text)[0]
        assert f"boss-{email}" not in page.text
        assert 'name="csrf"' not in page.text
        forms = re.findall(r"<form[^>]*method=\"post\"[^>]*>", page.text)
        assert forms
        assert all(" inert " in form for form in forms), path
        for secret in (key, key[19:51], member.cookies["session"]):
            assert secret not in page.text
    assert generation in boss.open("/usage/requests").text
    assert email in words(boss.open(f"/admin/accounts/{number}"))
    # It ends by its link.
    boss.open("/keys")
    link = re.search(r'<aside class="viewing".*?href="([^"]+)"', boss.page.text, re.DOTALL)[1]
    assert boss.open(link).url == boss.url(f"/admin/accounts/{number}")
    assert 'class="viewing"' not in boss.page.text
    assert key[6:18] not in boss.open("/keys").text


def test_the_server_refuses_every_form_in_the_view(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    key, _ = ask(server, email)
    boss.open("/keys")
    token = boss.fields("/keys")["csrf"]
    member.open("/keys")
    theirs = member.fields("/keys")["csrf"]
    begin_view(boss, number)

    def state() -> object:
        return server.read(
            lambda c: (
                c.execute("SELECT * FROM users WHERE account_id = ?", (number,)),
                [(k.id, k.name, k.revoked_ms) for k in accounts.keys_of(c, number)],
                c.execute("SELECT count(*) FROM sessions WHERE account_id = ?", (number,)),
                accounts.balance_of(c, number),
                [k.id for k in accounts.keys_of(c, number, for_pages=True)],
            )
        )

    before = state()
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    handlers = [one for module in MODULES for one in module.HANDLERS if isinstance(one, PageHandler)]
    forms = {one.path for one in handlers if one.is_form and one.access != "admin"}
    assert len(forms) > 20
    for path in forms:
        for csrf in (token, theirs):
            fields = {
                "csrf": csrf,
                "name": "stolen",
                "key": key[6:18],
                "email": "evil@example.com",
                "password": "x" * 9,
            }
            there = re.sub(r"\{[^}]*\}", key[6:18], path) or "/"
            assert post(boss, there, fields, **own) == 403, path
            assert boss.put(boss.url(there), timeout=20).status_code == 403
    assert state() == before
    assert "read-only" in boss.post(boss.url("/keys"), timeout=20).text
    # A page that may change something when it is opened is not part of the view.
    assert boss.open("/topup/done?session=cs_x").status_code == 403
    # Admin forms still work, as the admin.
    boss.open(f"/admin/accounts/{number}")
    assert "Note added" in boss.submit("/note", text="seen").text


def test_a_view_belongs_to_one_session_of_one_admin(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    begin_view(boss, number)
    cookie = boss.cookies["viewing"]
    other = new_user(server, f"other-{email}", is_admin=True)
    stranger = new_user(server, f"stranger-{email}")
    for visitor, own in ((other, f"other-{email}"), (stranger, f"stranger-{email}")):
        visitor.cookies.set("viewing", cookie, domain="127.0.0.1", path="/")
        page = visitor.open("/account").text
        assert own in page
        assert email not in page.replace(own, "")
    payload, _, signature = cookie.rpartition(".")
    # The last character of Base64 has bits that are not used, so the first one is changed.
    other_signature = ("A" if signature[0] != "A" else "B") + signature[1:]
    for forged in (f"{payload}.{other_signature}", "x", "e30", ""):
        boss.cookies.set("viewing", forged, domain="127.0.0.1", path="/")
        assert 'class="viewing"' not in boss.open("/account").text
    boss.cookies.set("viewing", cookie, domain="127.0.0.1", path="/")
    assert 'class="viewing"' in boss.open("/account").text
    # Who is no admin any more sees nothing any more.
    server.command("account", "admin", f"boss-{email}", "--off")
    assert 'class="viewing"' not in boss.open("/account").text
    assert begin_view_status(stranger, number) == 404


def begin_view_status(visitor: Visitor, number: int) -> int:
    visitor.open("/keys")
    own = {"origin": visitor.server.url, "sec-fetch-site": "same-origin"}
    return post(visitor, f"/admin/accounts/{number}/view", {"csrf": visitor.fields("/keys")["csrf"]}, **own)


# ── the log of requests ───────────────────────────────────────────────────────────────────────────────────


def test_the_log_shows_requests_without_prompts_and_filters_them(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    _, generation = ask(server, email)
    for query in ("", f"?account={number}", f"?account={email}", "?model=fake-chat", "?state=succeeded&kind=chat"):
        page = boss.open(f"/admin/requests{query}")
        assert generation in page.text, query
        assert "mellon" not in page.text
    for query in ("?state=failed", "?model=other", "?kind=image", "?error=upstream_error"):
        assert generation not in boss.open(f"/admin/requests{query}&account={number}").text
    assert "No account with" in boss.open("/admin/requests?account=nobody@example.com").text
    assert boss.open("/admin/requests?until=x&below=-1&model=%00&account=%27").status_code == 200
    text = words(boss.open(f"/admin/requests/{generation}"))
    for expected in (email, "fake-chat", "Charged", "Duration"):
        assert expected in text
    link = f'href="/en/admin/accounts/{number}/correct/refund?generation={generation}"'
    assert link in boss.page.text
    for nothing in ("gen-00000000001", "x", "gen-", generation + "x"):
        assert boss.open(f"/admin/requests/{nothing}").status_code == 404


def test_pages_of_the_log_leave_nothing_out(boss: Visitor, member: Visitor, email: str, server: ServerProcess) -> None:
    number, clock = account_of(server, email), SystemClock()

    def work(connection: Connection) -> list[int]:
        made = []
        for place in range(120):
            made.append(clock.new_id())
            state = "failed" if place % 3 else "succeeded"
            connection.execute(
                "INSERT INTO holds (id, account_id, key_id, kind, amount, state)"
                " VALUES (?, ?, 'k', 'chat', 5, 'voided')",
                (made[-1], number),
            )
            connection.execute(
                "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input,"
                " price_output, created_ms, finished_ms, error_code)"
                " VALUES (?, ?, 'k', 'chat', 'm', 'e', ?, 0, 0, ?, ?, 'odd')",
                # Many in one millisecond.
                (made[-1], number, state, clock.now_ms() // 100 * 100, clock.now_ms()),
            )
        return made

    made = server.write(work)
    server.write(lambda c: count_usage(c, number))
    for query, expected in (("", made), ("&state=failed", [one for n, one in enumerate(made) if n % 3])):
        seen: list[str] = []
        path = f"/admin/requests?account={number}{query}"
        while path:
            page = boss.open(path).text
            seen += re.findall(r'href="[^"]*/admin/requests/(gen-\w+)"', page)
            older = re.search(r'rel="next" href="/en([^"]+)"', page)
            path = html.unescape(older[1]) if older else ""
        assert sorted(seen) == sorted(map(generation_name, expected)), query


# ── dashboards ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_dashboard_and_its_file_say_what_was_sold(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    ask(server, email)
    ask(server, email)
    server.write(count_traffic)
    sold = server.read(lambda c: c.execute("SELECT sum(cost) FROM generations WHERE account_id = ?", (number,)))[0][0]
    for by, name in (("model", "fake-chat"), ("engine", "fake"), ("customer", email)):
        page = boss.open(f"/admin/dashboard?by={by}&days=7&customer={number}")
        row = re.search(r'<table class="stacks" id="breakdown">.*?</table>', page.text, re.DOTALL)
        assert row
        assert name in row[0]
        link = re.search(r'href="/en(/admin/dashboard/report.csv[^"]*)"', page.text)
        assert link
        lines = list(csv.DictReader(io.StringIO(boss.open(html.unescape(link[1])).text)))
        assert [(line["name"], line["requests"], line["failed"]) for line in lines] == [(name, "2", "0")]
        assert lines[0]["revenue"] == f"{sold / 10**9:.9f}"
        assert lines[0]["mean_duration_ms"].isdigit()
        # The catalog of this test has no upstream cost, so the margin is unknown.
        assert (lines[0]["margin"], lines[0]["revenue_with_known_cost"]) == ("", "0.000000000")
    assert "No upstream cost is known. Set cost_input and cost_output" in page.text
    assert f'<td class="num" data-label="Margin">{"–"}</td>' in page.text
    assert "No upstream cost is known." in boss.open("/admin").text
    newest = server.read(lambda c: list_requests(c, LogFilter(number), 1)).rows[0]
    back = sold // 4
    server.write(
        lambda c: corrections.refund_charge(c, SystemClock(), None, newest.id, back, reason="slow", once="dashboard")
    )
    for by in ("model", "engine", "customer"):
        page = boss.open(f"/admin/dashboard?by={by}&days=7&customer={number}")
        assert "after refunds of" in page.text
        lines = list(
            csv.DictReader(io.StringIO(boss.open(f"/admin/dashboard/report.csv?by={by}&customer={number}").text))
        )
        money = [(line["revenue"], line["refunded"]) for line in lines]
        assert money == [(f"{(sold - back) / 10**9:.9f}", f"{back / 10**9:.9f}")]
    assert "No usage in this period" in boss.open("/admin/dashboard?model=none").text
    for odd in ("?days=x&by=y&customer=-1", "?engine=%00%27&model=%3Cscript%3E", "?customer=99999999999999999999"):
        assert boss.open("/admin/dashboard" + odd).status_code == 200
        assert "<script>" not in boss.page.text


# ── engines ───────────────────────────────────────────────────────────────────────────────────────────────


STAND_IN = """
[engines.sketch]
kind = "sketch"

[image."picture-1"]
price = "0.02"
engines = ["sketch"]
"""


def test_engines_show_stand_ins_circuit_breakers_and_last_errors(tmp_path: Path) -> None:
    catalog = CATALOG.replace("https://127.0.0.1:9/v1", "http://127.0.0.1:9/v1").replace("needs_key = true\n", "")
    with ServerProcess(tmp_path, catalog=catalog.replace('["up", "fake"]', '["up"]') + STAND_IN) as server:
        boss = new_user(server, "boss@example.com", is_admin=True)
        customer = server.account()
        text = words(boss.open("/admin/engines"))
        assert "up upstream available closed" in text
        assert "sketch sketch stand-in Answers in place of picture-1" in text
        body = {"model": "fake-chat", "messages": [{"role": "user", "content": "Hello"}]}
        for _ in range(2):
            url = server.url + "/v1/chat/completions"
            assert requests.post(url, json=body, headers=customer.headers, timeout=20).status_code >= 500
        # A result is counted once its hold is settled.
        shown = re.compile(r"up upstream available (open next try in \d+ s|half-open) – – 0% 1 upstream_error")
        eventually(lambda: shown.search(words(boss.open("/admin/engines"))) is not None)


def test_no_form_of_the_view_is_left_with_a_field_that_signs(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    begin_view(boss, account_of(server, email))
    boss.open("/account/second-factor")
    assert all("setup" not in fields for _, fields in Forms(boss.page.text).found)
