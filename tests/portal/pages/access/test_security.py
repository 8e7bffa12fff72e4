"""The pages of the second factor: set-up, sign-in, recovery codes, removal, and the setting that requires it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

import pytest

from minitoolai.accounts.factors.totp import secret_text
from tests.support.browse import PASSWORD, Visitor, add_second_factor, code_now, last_link, letters, new_user
from tests.support.cli import CATALOG
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

PAGE = "/account/second-factor"
CODE = re.compile(r"(?:[a-z2-7]{4}-){3}[a-z2-7]{4}")


def shown_secret(visitor: Visitor) -> bytes:
    """Return the secret that the page shows as text."""
    found = re.search(r'<code id="secret">([A-Z2-7 ]+)</code>', visitor.page.text)
    assert found
    return base64.b32decode(found[1].replace(" ", ""))


def set_up(visitor: Visitor) -> tuple[bytes, list[str]]:
    """Turn the second factor on, and return its secret and the recovery codes."""
    visitor.open(PAGE)
    secret = shown_secret(visitor)
    visitor.submit(f"{PAGE}/on", code_on=code_now(secret), password_on=PASSWORD)
    codes = CODE.findall(visitor.page.text)
    assert len(codes) == 10, visitor.page.text
    return secret, codes


def test_setting_up_needs_code_and_password_and_is_reported(member: Visitor, email: str, server: ServerProcess) -> None:
    other = Visitor(server).sign_in(email)
    member.open(PAGE)
    assert "<svg" in member.page.text
    secret, before = shown_secret(member), len(letters(server, email))
    member.submit(f"{PAGE}/on", code_on="000000", password_on=PASSWORD)
    assert member.page.status_code == 422
    assert "This code is wrong" in member.page.text
    assert shown_secret(member) == secret
    member.submit(f"{PAGE}/on", code_on=code_now(secret), password_on="wrong password")
    assert "Wrong password." in member.page.text
    assert shown_secret(member) == secret
    member.submit(f"{PAGE}/on", code_on=code_now(secret), password_on=PASSWORD)
    assert len(CODE.findall(member.page.text)) == 10
    assert "/signin" in other.open("/account").url
    assert member.open("/account").status_code == 200
    eventually(lambda: len(letters(server, email)) > before)
    assert "Your second factor is on" in letters(server, email)[-1]
    # The secret is not shown again, and not in the log either.
    assert secret_text(secret) not in member.open(PAGE).text.replace(" ", "")
    assert secret_text(secret) not in server.log.read_text()


def test_a_set_up_of_another_account_or_an_altered_one_is_refused(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    stranger = new_user(server, f"stranger-{email}")
    stranger.open(PAGE)
    setup, secret = stranger.fields(f"{PAGE}/on")["setup"], shown_secret(stranger)
    for value in (setup, setup[:-2] + "xx", ""):
        member.open(PAGE)
        member.submit(f"{PAGE}/on", setup=value, code_on=code_now(secret), password_on=PASSWORD)
        assert "That took too long." in member.page.text
    assert "password only" not in member.open("/account").text
    assert "Set up a second factor" in member.page.text


def test_a_sign_in_needs_the_code_and_a_replay_is_refused(member: Visitor, email: str, server: ServerProcess) -> None:
    secret = add_second_factor(server, email)
    visitor = Visitor(server)
    visitor.open("/usage")
    visitor.submit("/signin", email=email, password=PASSWORD)
    assert "/signin/code?next=" in visitor.page.url
    assert "session" not in visitor.cookies
    assert visitor.open("/keys").url.endswith("/signin?next=/en/keys")
    visitor.open("/signin/code?next=/en/usage")
    visitor.submit("/signin/code", code="123 456")
    assert visitor.page.status_code == 422
    assert "123 456" not in visitor.page.text
    code = code_now(secret)
    visitor.submit("/signin/code", code=f"{code[:3]} {code[3:]}")
    assert visitor.page.url.endswith("/en/usage")
    # Another browser with the same password and the same code.
    other = Visitor(server).sign_in(email)
    other.submit("/signin/code", code=code)
    assert other.page.status_code == 422
    assert "session" not in other.cookies


def test_a_challenge_of_another_browser_is_worthless(member: Visitor, email: str, server: ServerProcess) -> None:
    secret = add_second_factor(server, email)
    first, second = Visitor(server).sign_in(email), Visitor(server)
    second.open("/signin")
    second.cookies.set("second", first.cookies["second"], domain="127.0.0.1", path="/")
    assert second.open("/signin/code").url.endswith("/signin")
    token = second.fields("/signin")["csrf"]
    second.post(
        second.url("/signin/code"),
        data={"csrf": token, "code": code_now(secret)},
        headers={"origin": server.url},
        timeout=20,
    )
    assert "session" not in second.cookies
    assert Visitor(server).open("/signin/code").url.endswith("/signin")


def test_a_recovery_code_opens_once_and_is_reported(member: Visitor, email: str, server: ServerProcess) -> None:
    _, codes = set_up(member)
    visitor = Visitor(server).sign_in(email)
    before = len(letters(server, email))
    visitor.submit("/signin/code", code=codes[0].upper())
    # Whoever has lost the device goes on where it can be replaced.
    assert visitor.page.url.endswith(PAGE)
    assert "You used a recovery code." in visitor.page.text
    eventually(lambda: any("A recovery code was used" in letter for letter in letters(server, email)[before - 1 :]))
    again = Visitor(server).sign_in(email)
    again.submit("/signin/code", code=codes[0])
    assert again.page.status_code == 422
    visitor.open(PAGE)
    assert re.search(r"Recovery codes left</dt><dd>9</dd>", visitor.page.text)


def test_removing_and_renewing_need_password_and_code(member: Visitor, email: str, server: ServerProcess) -> None:
    _, codes = set_up(member)
    member.open(PAGE)
    member.submit(f"{PAGE}/codes", password_factor="wrong password", code=codes[0])
    assert "Wrong password." in member.page.text
    member.submit(f"{PAGE}/codes", password_factor=PASSWORD, code="zzzz")
    assert "This code is wrong" in member.page.text
    member.submit(f"{PAGE}/codes", password_factor=PASSWORD, code=codes[0])
    fresh = CODE.findall(member.page.text)
    assert len(fresh) == 10
    assert set(fresh).isdisjoint(codes)
    member.open(PAGE)
    fields = member.fields(f"{PAGE}/codes")

    def off(code: str) -> int:
        data = fields | {"password_factor": PASSWORD, "code": code}
        headers = {"origin": server.url}
        return member.post(
            member.url(f"{PAGE}/off"), data=data, headers=headers, allow_redirects=False, timeout=20
        ).status_code

    assert off(codes[1]) == 422
    assert off(fresh[0]) == 303
    eventually(lambda: "Your second factor was removed" in letters(server, email)[-1])
    assert Visitor(server).sign_in(email).page.url.endswith("/keys")


def test_a_password_reset_still_needs_the_code(member: Visitor, email: str, server: ServerProcess) -> None:
    secret = add_second_factor(server, email)
    before, forgetful = len(letters(server, email)), Visitor(server)
    forgetful.open("/reset")
    forgetful.submit("/reset", email=email)
    forgetful.open(last_link(server, email, after=before))
    forgetful.submit("/reset/new", password="battery staple")
    assert "/signin/code" in forgetful.page.url
    assert "session" not in forgetful.cookies
    forgetful.submit("/signin/code", code=code_now(secret))
    assert forgetful.page.url.endswith("/keys")


def test_the_operator_removes_a_second_factor(member: Visitor, email: str, server: ServerProcess) -> None:
    add_second_factor(server, email)
    done = server.command("account", "reset-second-factor", email)
    assert done.returncode == 0, done.stderr
    assert "Your second factors were removed" in done.stderr
    rows = server.read(lambda c: c.execute("SELECT action, source FROM admin_actions ORDER BY id DESC LIMIT 1"))
    assert rows[0][0] == "reset_second_factor"
    assert "@" in rows[0][1]
    assert "/signin" in member.open("/account").url
    assert Visitor(server).sign_in(email).page.url.endswith("/keys")
    again = server.command("account", "reset-second-factor", email)
    assert again.returncode == 1
    assert "has no second factor" in again.stderr


# ── limits and the setting, on servers of their own ───────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the limits as shipped, that requires a second factor of admins."""
    env = {"MINITOOLAI_ADMIN_SECOND_FACTOR": "1"}
    with ServerProcess(tmp_path_factory.mktemp("strict"), catalog=CATALOG, env=env) as server:
        yield server


def test_codes_are_limited_but_not_for_a_known_browser(strict: ServerProcess) -> None:
    owner = new_user(strict, "limited@example.com")
    secret = add_second_factor(strict, "limited@example.com")
    known = Visitor(strict).sign_in("limited@example.com")
    known.submit("/signin/code", code=code_now(secret))
    known.submit("/signout")
    attacker = Visitor(strict).sign_in("limited@example.com")
    statuses = []
    for _ in range(12):
        statuses.append(attacker.submit("/signin/code", code="000000").status_code)
        if statuses[-1] == 429:
            break
    assert statuses == [422] * 10 + [429]
    assert "retry-after" in attacker.page.headers
    attacker.open("/signin/code")
    assert attacker.submit("/signin/code", code=code_now(secret, 1)).status_code == 429
    known.sign_in("limited@example.com")
    known.submit("/signin/code", code=code_now(secret, 1))
    assert known.page.url.endswith("/keys")
    assert owner.open("/account").status_code == 200


def test_an_admin_without_a_required_factor_reaches_nothing_else(strict: ServerProcess) -> None:
    admin = new_admin(strict, "admin@example.com")
    for path in (
        "/admin",
        "/admin/accounts",
        "/admin/jobs",
        "/keys",
        "/usage",
        "/balance",
        "/topup",
        "/account",
        "/studio",
    ):
        assert admin.open(path).url.endswith(PAGE), path
        assert "Admins must use a second factor." in admin.page.text
    token = admin.fields(f"{PAGE}/on")["csrf"]
    for path in ("/keys", "/studio/key", "/admin/accounts/1/grant", "/account/leave"):
        sent = admin.post(
            admin.url(path), data={"csrf": token}, headers={"origin": strict.url}, allow_redirects=False, timeout=20
        )
        assert (sent.status_code, sent.headers["location"]) == (303, f"/en{PAGE}"), path
    _, codes = set_up(admin)
    assert admin.open("/admin").url.endswith("/admin")
    admin.open(PAGE)
    fields = admin.fields(f"{PAGE}/codes") | {"password_factor": PASSWORD, "code": codes[0]}
    off = admin.post(admin.url(f"{PAGE}/off"), data=fields, headers={"origin": strict.url}, timeout=20)
    assert off.status_code == 422
    assert "cannot be removed" in off.text
    customer = new_user(strict, "customer@example.com")
    assert customer.open("/balance").url.endswith("/balance")


def new_admin(server: ServerProcess, email: str) -> Visitor:
    """Return the browser of an admin, as of before the setting was made."""
    visitor = new_user(server, email)
    assert server.command("account", "admin", email).returncode == 0
    return visitor
