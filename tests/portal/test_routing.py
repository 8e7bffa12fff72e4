"""Rules for every page: language, headers, size, errors; and the routes behind them."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
import requests

from minitoolai.core.errors import ReportTooLarge
from minitoolai.portal.i18n import LANGUAGES
from minitoolai.portal.request import is_local
from minitoolai.portal.routes import MODULES
from minitoolai.portal.routing import PageHandler, error_response
from tests.support import house
from tests.support.browse import PASSWORD, Visitor
from tests.support.cli import CATALOG
from tests.support.server import ServerProcess

OPEN = house.OPEN
NOWHERE = (
    "/nothing", "/keys/1/2/3", "/keys/0aB1cD2eF3gH/x", "/keys/revoke/x", "/admin/nothing", "/admin/accounts/x",
    "/admin/accounts/1/grant/x", "/admin/accounts/1/nothing/at/all", "/usage/x", "/studio/image/x", "/docs/x/y",
    "/%00", "/%f0%28", "/..%2f..%2fetc/passwd", "/ä/ö",
)  # fmt: skip


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("path", OPEN)
def test_a_page_names_its_language_and_its_translations(server: ServerProcess, lang: str, path: str) -> None:
    answer = requests.get(f"{server.url}/{lang}{path}", timeout=20)
    assert answer.status_code == 200
    assert f'<html lang="{lang}"' in answer.text
    assert answer.headers["content-language"] == lang
    for other in LANGUAGES:
        assert f'hreflang="{other}" href="{server.url}/{other}{path}"' in answer.text
    assert len(answer.text.encode()) <= 60_000
    assert "<script>" not in answer.text
    assert not re.search(r"\sstyle=|\son\w+=", answer.text)


@pytest.mark.parametrize("path", [*OPEN, "/nothing", "/keys"])
def test_every_page_has_the_security_headers(server: ServerProcess, path: str) -> None:
    answer = requests.get(f"{server.url}/en{path}", timeout=20, allow_redirects=False)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "no-" in answer.headers["cache-control"]


def test_pages_link_to_no_other_host(server: ServerProcess, visitor: Visitor) -> None:
    for path in OPEN:
        for address in re.findall(r'(?:src|href|action)="([^"]*)"', visitor.open(path).text):
            assert address.startswith(("/", "#", server.url)), address


def test_a_page_is_compressed_on_request(server: ServerProcess) -> None:
    answer = requests.get(server.url + "/en/", headers={"accept-encoding": "gzip"}, stream=True, timeout=20)
    assert answer.headers["content-encoding"] == "gzip"
    assert b"</html>" in gzip.decompress(answer.raw.read(decode_content=False))


def test_a_missing_page_is_a_404_in_the_language_of_the_path(member: Visitor) -> None:
    for path in NOWHERE:
        for method in ("GET", "POST", "DELETE"):
            answer = member.request(method, f"{member.server.url}/de{path}", timeout=20)
            assert answer.status_code == 404, (method, path)
            assert "Seite nicht gefunden" in answer.text, (method, path)
            assert '<html lang="de"' in answer.text
            assert "content-security-policy" in answer.headers


def test_an_unsupported_method_is_a_405_with_a_page(member: Visitor) -> None:
    for path in ("/", "/keys", "/usage/requests", "/docs", "/studio/key", "/signout"):
        for method in ("PUT", "PATCH", "DELETE"):
            answer = member.request(method, f"{member.server.url}/fr{path}", timeout=20)
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD"), (method, path)
            assert "Méthode non autorisée" in answer.text
            assert f'href="/fr{path}"' in answer.text


def test_a_form_that_is_too_large_or_malformed_is_refused_with_a_page(member: Visitor) -> None:
    there = f"{member.server.url}/es/keys"
    for size in (70_000, 19_000_000):
        for data in (b"name=" + b"x" * size, (b"x" * 100_000 for _ in range(size // 70_000))):
            headers = {"content-type": "application/x-www-form-urlencoded"}
            answer = member.post(there, data=data, headers=headers, timeout=20)
            assert answer.status_code == 413
            assert "64 kB" in answer.text
            assert "</html>" in answer.text
    for odd in ({"json": {"name": "x"}}, {"data": {f"f{n}": "x" for n in range(400)}}, {"data": b"name=%ff%fe"}):
        answer = member.post(there, timeout=20, headers={}, **odd)
        assert (answer.status_code, "</html>" in answer.text) in ((400, True), (403, True))
        assert "</html>" in answer.text


def test_an_internal_error_is_a_500_with_a_page_and_a_log_line(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=CATALOG) as server:
        visitor = Visitor(server).sign_up("ann@example.com")
        server.write(lambda c: c.execute("ALTER TABLE key_uses RENAME TO elsewhere", ()))
        assert visitor.open("/de/keys").status_code == 500
        assert "Bei uns ist etwas schiefgegangen" in visitor.page.text
        assert "elsewhere" not in visitor.page.text
        assert "key_uses" in server.log.read_text()
        server.write(lambda c: c.execute("ALTER TABLE elsewhere RENAME TO key_uses", ()))
        server.log.write_text("")


def test_a_report_that_takes_too_long_is_a_503_that_names_the_remedy() -> None:
    class Page:
        gettext = staticmethod(str)

        @staticmethod
        def error_page(status: int, title: str, message: str, *, can_reload: bool) -> tuple[int, str, str, bool]:
            return status, title, message, can_reload

    shown = error_response(Page(), ReportTooLarge("x"))  # type: ignore[arg-type]
    assert shown == (
        503,
        "The form is too large",
        "This report takes too long. Choose a shorter period, or download it as a file.",
        True,
    )


def test_the_sign_in_leads_back_with_the_query_and_in_the_chosen_language(server: ServerProcess) -> None:
    visitor = Visitor(server)
    address = visitor.open("/usage?days=7").url
    assert address.endswith("/en/signin?next=/en/usage%3Fdays%3D7")
    page = visitor.open(address.removeprefix(server.url).replace("/en/signin", "/tr/signin")).text
    assert 'name="next" value="/tr/usage?days=7"' in page


def test_a_form_sent_after_the_session_ended_leads_to_the_sign_in_and_back(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    other = Visitor(server).sign_in(email)
    other.open("/account")
    member.open("/topup")
    other.submit("/account/password", password_old=PASSWORD, password="another password")
    member.submit("/topup/voucher", code="x")
    assert "You have been signed out." in member.page.text
    member.submit("/signin", email=email, password="another password")
    assert member.page.url == member.url("/topup")


def test_errors_of_the_api_are_json(server: ServerProcess) -> None:
    assert requests.get(server.url + "/xx/keys", timeout=20).json()["error"]["code"] == "not_found"
    assert requests.get(server.url + "/v1/models", timeout=20).json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", ["/en/signin", "/de/keys", "/api-documentation", "/en/nothing"])
def test_an_invalid_host_is_refused_because_links_are_built_from_it(server: ServerProcess, path: str) -> None:
    refused = requests.get(server.url + path, headers={"host": "evil.example/<x>"}, timeout=20)
    assert (refused.status_code, refused.text) == (400, f"400 GET {path}: Invalid host header\n")


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/en/keys", "GET, HEAD, POST, OPTIONS"),
        ("/en/usage", "GET, HEAD, OPTIONS"),
        ("/en/signout", "POST, OPTIONS"),
        ("/en/keys/abc/rotate", "POST, OPTIONS"),
    ],
)
def test_options_lists_the_methods_of_a_page(server: ServerProcess, path: str, allow: str) -> None:
    response = requests.options(server.url + path, timeout=20)
    assert (response.status_code, response.headers["allow"], response.content) == (204, allow, b"")


def test_head_has_no_body(server: ServerProcess) -> None:
    answer = requests.head(server.url + "/en/", timeout=20)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    "address",
    ["//evil.example", "https://evil.example", "/\\evil.example", "/en\n/x", "", "javascript:alert(1)", "/v1/models",
     "/enx", "///en/", "/%2fevil", "en/keys", "/\tevil", "/en/\x7f"],
)  # fmt: skip
def test_an_address_of_another_site_is_not_local(address: str) -> None:
    assert not is_local(address)


@pytest.mark.parametrize("address", ["/en", "/de/keys", "/fr/usage?by=day", "/tr/"])
def test_an_address_of_a_page_is_local(address: str) -> None:
    assert is_local(address)


def test_every_page_is_covered_by_the_accessibility_and_timing_tests() -> None:
    """A page that is new is named in tests/support/house.py, or the reason why not stands here."""
    files = {
        "/usage/usage.csv", "/usage/requests.csv", "/balance/statement.csv",
        "/admin/dashboard/report.csv", "/admin/invoices/invoices.csv",
    }  # fmt: skip
    # They need a link, a voucher, a saved prompt or a view that was begun; their own tests show them.
    shown_as_states = {
        "/confirm", "/reset/new", "/signin/code", "/account/email/confirm", "/topup/done", "/{rest:path}",
        "/admin/accounts/#/view/end", "/admin/vouchers/cancel", "/account/passkeys/{passkey}", "/signin/recover",
        "/studio/prompts/{prompt}",
    }  # fmt: skip
    # They need a payment or Stripe: tests/portal/browser/test_money_browser.py
    with_payments = {
        "/topup/auto", "/topup/auto/done", "/invoices/{invoice}", "/invoices/statements/{month}",
        "/admin/invoices/{invoice}", "/plans/subscribed", "/plans/#/statement", "/plans/#/statement.csv",
    }  # fmt: skip
    # They need a budget or an invitation: tests/portal/browser/test_team_browser.py
    of_teams = {"/team/budgets/{budget}", "/invitation"}
    # They need a provider: tests/portal/test_external_sign_in.py
    of_providers = {"/signin/with/{provider}", "/signin/done/{provider}", "/account/connect"}
    the_guide_again = {"/api-documentation"}
    like_another = {"/reference/{operation}"}  # one of them is named
    only_with_some_models = {"/models/{name:path}"}  # tests/portal/browser/test_axe.py
    only_in_shops_with_texts = {"/terms", "/privacy", "/imprint"}  # tests/portal/pages/public/test_shop.py
    known = only_in_shops_with_texts | {*OPEN, *house.CLOSED} | files | shown_as_states | the_guide_again | like_another
    known |= with_payments | of_teams | of_providers | only_with_some_models
    known.remove("/reference/post-v1-messages")
    handlers = [handler for module in MODULES for handler in module.HANDLERS]
    pages = {handler.path for handler in handlers if isinstance(handler, PageHandler) and "GET" in handler.methods}
    placeholders = {"key": "+", "number": "#", "name": "~"}
    named = {re.sub(r"\{(key|number|name)\}", lambda m: placeholders[m[1]], path) for path in pages}
    corrections = {path for path in known if path.startswith("/admin/accounts/#/correct/")}
    assert named - {"/admin/accounts/#/correct/{kind}"} | corrections == known
