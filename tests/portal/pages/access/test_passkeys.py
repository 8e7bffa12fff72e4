"""The pages of passkeys: add, list, rename, remove, confirm with one, and sign in; attacks on each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest

from minitoolai.storage.tables import users
from tests.support.authenticator import Authenticator
from tests.support.browse import PASSWORD, Visitor, add_second_factor, code_now, letters, new_user
from tests.support.passkeys import (
    PAGE,
    add_passkey,
    confirm,
    origin_of,
    send,
    server_with_domain,
    sign_in,
    user_with_passkey,
)
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

_numbers = itertools.count(1)
CODE = re.compile(r"(?:[a-z2-7]{4}-){3}[a-z2-7]{4}")


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server_with_domain(tmp_path_factory.mktemp("domain")) as server:
        yield server


@pytest.fixture
def address() -> str:
    return f"key{next(_numbers)}@example.com"


def test_adding_needs_the_password_and_is_reported(domain: ServerProcess, address: str) -> None:
    visitor, device = new_user(domain, address), Authenticator(origin_of(domain))
    other = Visitor(domain).sign_in(address)
    assert "Wrong password." in add_passkey(visitor, device, password_passkey="wrong").text
    page = add_passkey(visitor, device, "Work <b>laptop</b>")
    assert len(CODE.findall(page.text)) == 10
    assert "/signin" in other.open("/account").url
    assert "Work &lt;b&gt;laptop&lt;/b&gt;" in visitor.open(PAGE).text
    eventually(lambda: "A passkey was added" in letters(domain, address)[-1])
    # The second one needs the first one, or a recovery code: a stolen session with the password is not enough.
    second = Authenticator(origin_of(domain))
    assert add_passkey(visitor, second, password_passkey=PASSWORD, code_passkey="123456").status_code == 422
    visitor.open(PAGE)
    added = add_passkey(visitor, second, "Phone", passkey=confirm(visitor, device))
    assert "The passkey was added." in added.text


def test_a_passkey_signs_in_and_counts_as_second_factor(domain: ServerProcess, address: str) -> None:
    _, device = user_with_passkey(domain, address)
    visitor = Visitor(domain)
    assert sign_in(visitor, device).url.endswith("/keys")
    assert "device" in visitor.cookies
    assert not re.search(r"never", visitor.open(PAGE).text)
    # The password leads to the second step, where only this user's passkey answers.
    stranger = user_with_passkey(domain, f"other-{address}")[1]
    by_password = Visitor(domain).sign_in(address)
    assert "/signin/code" in by_password.page.url
    assert "Use a passkey" in by_password.page.text
    assert sign_in(by_password, stranger, step="code").status_code == 422
    assert "session" not in by_password.cookies
    by_password.open("/signin/code")
    assert sign_in(by_password, device, step="code").url.endswith("/keys")


def test_answers_of_a_wrong_site_or_from_before_are_refused(domain: ServerProcess, address: str) -> None:
    _, device = user_with_passkey(domain, address)
    visitor = Visitor(domain)
    for wrong in ("http://localhost.evil.test", domain.url, "http://localhost:1"):
        device.origin = wrong
        assert sign_in(visitor, device).status_code == 422, wrong
    device.origin = origin_of(domain)
    visitor.open("/signin")
    began = send(visitor, "/signin/passkey/begin").json()
    answer = device.sign(began)
    # Another browser has seen the answer, and then it is used.
    thief = Visitor(domain)
    thief.open("/signin")
    assert send(thief, "/signin/passkey", credential=answer).status_code == 422
    assert "session" not in thief.cookies
    began = send(visitor, "/signin/passkey/begin").json()
    answer = device.sign(began)
    assert send(visitor, "/signin/passkey", credential=answer).url.endswith("/keys")
    again = Visitor(domain)
    again.cookies.update(visitor.cookies)
    again.open("/keys")
    again.cookies.set("session", "", domain="127.0.0.1", path="/")
    again.open("/signin")
    assert send(again, "/signin/passkey", credential=answer).status_code == 422
    for nonsense in ("", "{}", "[1]", "x" * 9000):
        assert send(again, "/signin/passkey", credential=nonsense).status_code == 422


def test_the_host_header_chooses_neither_origin_nor_domain(domain: ServerProcess) -> None:
    visitor = Visitor(domain)
    visitor.headers["host"] = "evil.test"
    visitor.open("/signin")
    found = re.search(r'name="csrf" value="([^"]+)"', visitor.page.text)
    assert found
    began = visitor.post(
        visitor.url("/signin/passkey/begin"), data={"csrf": found[1]}, headers={"origin": "http://evil.test"}, timeout=9
    )
    assert began.json()["rpId"] == "localhost"


def test_a_removed_passkey_is_refused_and_removal_is_proved_and_reported(domain: ServerProcess, address: str) -> None:
    visitor, device = user_with_passkey(domain, address)
    visitor.open(PAGE)
    found = re.search(rf'href="/en({PAGE}/[0-9a-f]+)"', visitor.page.text)
    assert found
    path = found[1]
    visitor.open(path)
    visitor.submit(f"{path}/rename", name="Old phone")
    assert "Old phone" in visitor.page.text
    visitor.open(path)
    visitor.submit(f"{path}/remove", password_remove=PASSWORD, code_remove="000000")
    assert visitor.page.status_code == 422
    # Nobody else sees it, renames it or removes it.
    stranger, _ = user_with_passkey(domain, f"other-{address}")
    assert stranger.open(path).status_code == 404
    stranger.open(PAGE)
    assert send(stranger, f"{path}/rename", name="Mine").status_code == 404
    assert send(stranger, f"{path}/remove", password_remove=PASSWORD).status_code == 404
    visitor.open(path)
    proof = confirm(visitor, device)
    visitor.open(path)
    visitor.submit(f"{path}/remove", passkey=proof)
    assert "The passkey was removed." in visitor.page.text
    eventually(lambda: "A passkey was removed" in letters(domain, address)[-1])
    assert sign_in(Visitor(domain), device).status_code == 422
    assert Visitor(domain).sign_in(address).page.url.endswith("/keys")


def test_a_copy_of_a_passkey_is_refused_blocked_and_reported(domain: ServerProcess, address: str) -> None:
    visitor, device = user_with_passkey(domain, address)
    stolen = device.copy()
    sign_in(Visitor(domain), device)
    sign_in(Visitor(domain), device)
    assert sign_in(Visitor(domain), stolen).status_code == 422
    eventually(lambda: "A passkey was blocked" in letters(domain, address)[-1])
    assert "blocked" in visitor.open(PAGE).text
    assert sign_in(Visitor(domain), device).status_code == 422
    assert "Use a passkey" not in Visitor(domain).sign_in(address).page.text


def test_a_suspended_account_shows_why_after_a_passkey(domain: ServerProcess, address: str) -> None:
    _, device = user_with_passkey(domain, address)
    assert domain.command("account", "suspend", address, "--reason", "unpaid invoice").returncode == 0
    visitor = Visitor(domain)
    assert sign_in(visitor, device).status_code == 403
    assert "unpaid invoice" in visitor.page.text


def test_a_passkey_confirms_what_password_and_code_would(domain: ServerProcess, address: str) -> None:
    visitor, device = user_with_passkey(domain, address)
    visitor.open("/account")
    visitor.submit("/account/email", email=f"new-{address}", passkey=confirm(visitor, device))
    assert "We sent a link to both inboxes." in visitor.page.text
    visitor.open("/account/second-factor")
    visitor.submit("/account/second-factor/codes", passkey=confirm(visitor, device))
    assert len(CODE.findall(visitor.page.text)) == 10
    # A signature of a sign-in confirms nothing.
    visitor.open("/account/second-factor")
    began = send(visitor, "/signin/passkey/begin").json()
    visitor.submit("/account/second-factor/codes", passkey=device.sign(began))
    assert visitor.page.status_code == 422


def test_a_lost_passkey_leaves_the_app_and_the_codes(domain: ServerProcess, address: str) -> None:
    visitor, _ = user_with_passkey(domain, address)
    visitor.open("/account/second-factor")
    # Beside a passkey, an app is an equal second factor.
    secret = add_second_factor(domain, address)
    by_code = Visitor(domain).sign_in(address)
    by_code.submit("/signin/code", code=code_now(secret))
    assert by_code.page.url.endswith("/keys")
    by_code.open(PAGE)
    found = re.search(rf'href="/en({PAGE}/[0-9a-f]+)"', by_code.page.text)
    assert found
    by_code.open(found[1])
    by_code.submit(f"{found[1]}/remove", password_remove=PASSWORD, code_remove=code_now(secret, 1))
    assert "The passkey was removed." in by_code.page.text
    user = domain.read(lambda c: users.find_user(c, address))
    assert user[0].has_second_factor


def test_the_operator_removes_passkeys_too(domain: ServerProcess, address: str) -> None:
    _, device = user_with_passkey(domain, address)
    done = domain.command("account", "reset-second-factor", address)
    assert done.returncode == 0, done.stderr
    assert sign_in(Visitor(domain), device).status_code == 422
    assert Visitor(domain).sign_in(address).page.url.endswith("/keys")


def test_a_site_without_domain_offers_no_passkeys(member: Visitor, server: ServerProcess) -> None:
    assert "no domain name with HTTPS" in member.open(PAGE).text
    assert "passkey" not in Visitor(server).open("/signin").text
    assert send(member.open("/account") and member, f"{PAGE}/challenge").status_code == 404
    visitor = Visitor(server)
    visitor.open("/signin")
    for path in ("/signin/passkey/begin", "/signin/passkey"):
        assert send(visitor, path).status_code == 404


def test_challenges_are_limited_by_network(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("limited")
    env = {"MINITOOLAI_TRIES_FACTOR": "1", "MINITOOLAI_USER_SECOND_FACTOR": "1"}
    with server_with_domain(folder, **env) as server:
        # Everybody must have a second factor here: a passkey is one, and the last one stays.
        visitor = new_user(server, "strict@example.com", lands_on="/account/second-factor")
        assert visitor.open("/keys").url.endswith("/account/second-factor")
        assert "This site requires a second factor." in visitor.page.text
        device = Authenticator(origin_of(server))
        assert len(CODE.findall(add_passkey(visitor, device).text)) == 10
        assert visitor.open("/keys").url.endswith("/keys")
        visitor.open(PAGE)
        found = re.search(rf'href="/en({PAGE}/[0-9a-f]+)"', visitor.page.text)
        assert found
        visitor.open(found[1])
        visitor.submit(f"{found[1]}/remove", passkey=confirm(visitor, device))
        assert "the last one cannot be removed" in visitor.page.text
        stranger = Visitor(server)
        stranger.open("/signin")
        statuses = [send(stranger, "/signin/passkey/begin").status_code for _ in range(62)]
        assert statuses[-1] == 429
        assert statuses.count(200) <= 60
