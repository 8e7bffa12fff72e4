"""Attacks on the pages: CSRF, session fixation, open redirects, XSS, other accounts, enumeration, brute force."""

from __future__ import annotations

import re
import time

import pytest
import requests

from minitoolai.core.signing import SecretKeys
from minitoolai.portal.forms import CookieSigner
from minitoolai.storage.tables import accounts, users
from tests.support.browse import PASSWORD, Forms, Visitor, new_user
from tests.support.cli import CATALOG
from tests.support.server import ServerProcess

MARK = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"
KEY = re.compile(r"sk-mt-\w{12}-\w{32}-\w{6}")


def post(member: Visitor, path: str, values: dict[str, str], **headers: str) -> int:
    return member.post(member.url(path), data=values, headers=headers, allow_redirects=False, timeout=20).status_code


def keys_of(member: Visitor, email: str) -> int:
    return len(member.server.read(lambda c: accounts.keys_of(c, users.find_user(c, email)[0].account_id)))


# ── forged forms ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_form_of_another_site_is_refused(member: Visitor, email: str, server: ServerProcess) -> None:
    member.open("/keys")
    good = member.fields("/keys")
    stranger = Visitor(server)
    stranger.open("/signin")
    theirs = stranger.fields("/signin")["csrf"]
    forged = ("", "x", "AAAA", good["csrf"][:-4] + "AAA=", theirs, "é", "=" * 44)
    for token in forged:
        assert post(member, "/keys", {"csrf": token, "name": "forged"}) == 403, token
    assert post(member, "/keys", {"name": "forged"}) == 403
    right = {"csrf": good["csrf"], "name": "forged"}
    assert post(member, "/keys", right, origin="https://evil.example") == 403
    assert post(member, "/keys", right, origin="null") == 403
    assert post(member, "/keys", right, **{"sec-fetch-site": "cross-site"}) == 403
    assert post(member, "/keys", right, **{"sec-fetch-site": "same-site"}) == 403
    assert keys_of(member, email) == 0
    assert post(member, "/keys", right, origin=server.url, **{"sec-fetch-site": "same-origin"}) == 200
    assert keys_of(member, email) == 1


def test_a_token_from_before_the_sign_in_is_refused_after_it(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    other = Visitor(server)
    other.open("/signin")
    before = other.fields("/signin")["csrf"]
    other.submit("/signin", email=email, password=PASSWORD)
    assert post(other, "/keys", {"csrf": before, "name": "late"}) == 403


@pytest.mark.parametrize(
    "path",
    ["/keys", "/keys/revoke", "/topup/voucher", "/account/password", "/account/leave", "/signout", "/signin", "/signup",
     "/reset", "/reset/new", "/confirm", "/theme"],
)  # fmt: skip
def test_every_form_requires_its_token(member: Visitor, path: str) -> None:
    assert post(member, path, {"name": "x", "theme": "dark"}) == 403
    assert "/account" in member.open("/account").url


def test_get_changes_nothing(member: Visitor) -> None:
    for path, page in (
        ("/signout", "/en/"), ("/keys/revoke", "/keys"), ("/topup/voucher", "/topup"), ("/account/leave", "/account"),
        ("/theme", "/en/"), ("/studio/key", "/studio"),
    ):  # fmt: skip
        assert member.open(path).url == member.url(page)
    assert member.open("/account").url.endswith("/account")


def test_a_token_is_masked_anew_on_every_page(member: Visitor) -> None:
    tokens = {member.open("/keys") and member.fields("/keys")["csrf"] for _ in range(3)}
    assert len(tokens) == 3
    signer = CookieSigner(SecretKeys(b"pepper"))
    assert signer.is_form_token(signer.form_token("a"), "a")
    assert not signer.is_form_token(signer.form_token("a"), "b")
    assert not signer.is_form_token(CookieSigner(SecretKeys(b"other")).form_token("a"), "a")


# ── sessions ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_session_cannot_be_fixed_by_an_attacker(member: Visitor, email: str, server: ServerProcess) -> None:
    victim = Visitor(server)
    victim.cookies.set("session", "chosen-by-an-attacker", domain="127.0.0.1", path="/")
    victim.cookies.set("browser", "chosen-too", domain="127.0.0.1", path="/")
    victim.sign_in(email)
    secret = victim.cookies.get("session", path="/")
    assert secret != "chosen-by-an-attacker"
    assert victim.cookies.get("browser", path="/") != "chosen-too"
    attacker = Visitor(server)
    attacker.cookies.set("session", "chosen-by-an-attacker", domain="127.0.0.1", path="/")
    assert "/signin" in attacker.open("/account").url


def test_a_sign_in_ends_the_session_that_was_there_and_a_sign_out_ends_it_on_the_server(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    old = member.cookies["session"]
    member.open("/account")
    member.submit("/signout")
    thief = Visitor(server)
    thief.cookies.set("session", old, domain="127.0.0.1", path="/")
    assert "/signin" in thief.open("/account").url


def test_the_secret_of_a_session_is_not_in_the_database(member: Visitor, server: ServerProcess) -> None:
    secret = member.cookies["session"].encode()
    for file in server.data_dir.glob("minitoolai.db*"):
        assert secret not in file.read_bytes()


def test_cookies_are_http_only_and_same_site(server: ServerProcess) -> None:
    answer = requests.get(server.url + "/en/", timeout=20)
    for cookie in answer.raw.headers.getlist("set-cookie"):
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert "Path=/" in cookie
        assert "Domain" not in cookie


def test_cookies_are_secure_and_bound_to_the_host_unless_on_loopback(server: ServerProcess) -> None:
    answer = requests.get(server.url + "/en/", headers={"host": "ai.example.com"}, timeout=20)
    cookies = answer.raw.headers.getlist("set-cookie")
    assert any(cookie.startswith("__Host-browser=") and "Secure" in cookie for cookie in cookies)
    assert all("Secure" in cookie for cookie in cookies)
    assert "max-age" in answer.headers["strict-transport-security"]


# ── leading astray ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "target", ["//evil.example/", "https://evil.example/", "/\\evil.example", "/en/\n//evil.example"]
)
def test_a_sign_in_redirects_to_pages_of_this_site_only(
    member: Visitor, email: str, server: ServerProcess, target: str
) -> None:
    other = Visitor(server)
    other.get(other.url("/signin"), params={"next": target}, timeout=20)
    other.open("/signin")
    other.submit("/signin", follow=False, email=email, password=PASSWORD, next=target)
    assert other.page.headers["location"] == "/en/keys"
    other.open("/theme", allow_redirects=False)
    other.open("/account")
    other.submit("/theme", follow=False, theme="dark", next=target)
    assert other.page.headers["location"] == "/en/"


def test_no_page_may_be_framed(member: Visitor) -> None:
    for path in ("/", "/signin", "/keys", "/balance", "/topup", "/account"):
        headers = member.open(path).headers
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


# ── words that are no words ───────────────────────────────────────────────────────────────────────────────


def test_markup_in_the_name_of_a_key_is_escaped(member: Visitor) -> None:
    member.open("/keys")
    member.submit("/keys", name=MARK)
    assert KEY.search(member.page.text)
    assert "<script>alert" not in member.page.text
    assert "&lt;script&gt;alert" in member.open("/keys").text
    assert "<img src=x" not in member.page.text
    assert Forms(member.page.text).found


def test_markup_in_fields_is_escaped(visitor: Visitor) -> None:
    visitor.open("/signup")
    visitor.submit("/signup", email=MARK, password="short")
    assert "<script>alert" not in visitor.page.text
    visitor.open("/signin?next=" + requests.utils.quote(MARK))
    assert "<script>alert" not in visitor.page.text
    for path in ("/" + requests.utils.quote(MARK), "/confirm?link=" + requests.utils.quote(MARK)):
        assert "<script>alert" not in visitor.open(path).text


def test_a_flash_message_cannot_be_forged(server: ServerProcess) -> None:
    visitor = Visitor(server)
    visitor.cookies.set("flash", "WyJnb29kIiwgImZvcmdlZCJd.00000000000000000000000000000000", domain="127.0.0.1")
    assert "forged" not in visitor.open("/").text


# ── what belongs to others ────────────────────────────────────────────────────────────────────────────────


def test_a_key_of_another_account_cannot_be_seen_or_revoked(member: Visitor, email: str, server: ServerProcess) -> None:
    member.open("/keys")
    member.submit("/keys", name="mine alone")
    found = KEY.search(member.page.text)
    assert found
    other = new_user(server, f"other-{email}")
    assert "mine alone" not in other.open("/keys").text
    other.submit("/keys", name="a form to fill in")
    fields = other.fields("/keys/revoke") | {"key": found[0].split("-")[2]}
    assert post(other, "/keys/revoke", fields) == 404
    answer = requests.get(server.url + "/api/balance", headers={"authorization": f"Bearer {found[0]}"}, timeout=20)
    assert answer.status_code == 200


def test_the_statement_shows_only_the_own_account(member: Visitor, email: str, server: ServerProcess) -> None:
    server.command("credit", "grant", email, "5.00", "--reason", "for me alone")
    other = new_user(server, f"other-{email}")
    for path in ("/balance", "/balance?below=999&until=99999999999999", "/balance/statement.csv"):
        assert "for me alone" in member.open(path).text
        assert "for me alone" not in other.open(path).text


# ── who is known here ─────────────────────────────────────────────────────────────────────────────────────


def test_a_sign_in_takes_as_long_for_an_unknown_address(member: Visitor, email: str, server: ServerProcess) -> None:
    visitor = Visitor(server)
    visitor.open("/signin")
    times: dict[str, list[float]] = {email: [], "nobody-here@example.com": []}
    for _ in range(9):
        for address, taken in times.items():
            began_s = time.monotonic()
            visitor.submit("/signin", email=address, password="a wrong password")
            taken.append(time.monotonic() - began_s)
    # The quickest of nine: what else the machine does only ever adds to one.
    known, unknown = (min(taken) for taken in times.values())
    # Without the hash, an unknown address would be answered ten times as fast.
    assert 0.5 < known / unknown < 2.0


# ── too often ─────────────────────────────────────────────────────────────────────────────────────────────


def test_sign_ins_and_resets_are_rate_limited(tmp_path_factory: pytest.TempPathFactory) -> None:
    with ServerProcess(tmp_path_factory.mktemp("limits"), catalog=CATALOG) as server:
        visitor = Visitor(server)
        visitor.open("/signin")
        fields = visitor.fields("/signin")
        sent = [fields | {"email": "ann@example.com", "password": f"guess {n}"} for n in range(13)]
        statuses = [post(visitor, "/signin", values) for values in sent]
        assert statuses == [422] * 10 + [429] * 3
        assert post(visitor, "/signin", fields | {"email": "bob@example.com", "password": "x"}) == 422
        letters = [post(visitor, "/reset", fields | {"email": "ann@example.com"}) for _ in range(5)]
        assert letters == [200] * 3 + [429] * 2
        answer = visitor.post(visitor.url("/reset"), data=fields | {"email": "ann@example.com"}, timeout=20)
        assert int(answer.headers["retry-after"]) > 0
        lie = {"x-forwarded-for": "203.0.113.9"}
        assert post(visitor, "/signin", fields | {"email": "ann@example.com", "password": "x"}, **lie) == 429
        assert "Please try again in" in answer.text
