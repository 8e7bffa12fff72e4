"""Sign up, sign in, sign out and reset a password in a browser without JavaScript."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
import requests

from minitoolai.storage.tables import users
from tests.support.browse import PASSWORD, Forms, Visitor, last_link, letters, new_user
from tests.support.cli import CATALOG
from tests.support.server import ServerProcess
from tests.support.waiting import eventually


def test_from_signing_up_to_signing_out(visitor: Visitor, email: str) -> None:
    visitor.sign_up(email)
    assert "session" in visitor.cookies
    assert email in visitor.page.text
    visitor.submit("/signout")
    assert "You are signed out." in visitor.page.text
    assert "session" not in visitor.cookies
    assert visitor.open("/account").url.endswith("/en/signin?next=/en/account")


def test_signing_in_leads_to_the_page_that_required_it(member: Visitor, email: str, server: ServerProcess) -> None:
    other = Visitor(server, "de")
    other.open("/account")
    other.submit("/signin", email=email.upper(), password=PASSWORD)
    assert other.page.url.endswith("/de/account")
    assert "Kontonummer" in other.page.text


def test_a_wrong_password_and_an_unknown_address_look_the_same(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    known, unknown = Visitor(server), Visitor(server)
    known.sign_in(email, "wrong password")
    unknown.sign_in("nobody@example.com", "wrong password")
    assert known.page.status_code == unknown.page.status_code == 422
    assert f'value="{email}"' in known.page.text
    assert "wrong password" not in known.page.text
    csrf = known.fields("/signin")["csrf"], unknown.fields("/signin")["csrf"]
    assert known.page.text.replace(email, "X").replace(csrf[0], "") == unknown.page.text.replace(
        "nobody@example.com", "X"
    ).replace(csrf[1], "").replace(unknown.fields("/theme")["csrf"], known.fields("/theme")["csrf"])


def test_errors_are_next_to_their_fields_and_the_input_is_kept(visitor: Visitor) -> None:
    visitor.open("/signup")
    visitor.submit("/signup", email="ann at example", password="short")
    assert visitor.page.status_code == 422
    assert 'value="ann at example"' in visitor.page.text
    assert "Write an e-mail address like ann@example.com." in visitor.page.text
    assert "It needs at least 8 characters." in visitor.page.text
    assert "short" not in visitor.page.text


def test_a_second_sign_up_sends_another_email_and_shows_the_same_page(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    before, other = len(letters(server, email)), Visitor(server)
    other.open("/signup")
    other.submit("/signup", email=email, password="another password")
    assert "No mail server is set up" in other.page.text
    assert last_link(server, email, after=before) == "/en/signin"
    assert Visitor(server).sign_in(email).page.url.endswith("/keys")


def test_a_page_says_so_if_the_mail_server_refuses(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        "MINITOOLAI_SMTP_URL": "smtp+plain://127.0.0.1:9",
        "MINITOOLAI_MAIL_FROM": "hello@example.com",
        "MINITOOLAI_PUBLIC_URL": f"http://127.0.0.1:{port}",
    }
    shop = ServerProcess(tmp_path, catalog=CATALOG, env=env)
    shop.port = port
    with shop as server:
        known = new_user(server, "known@example.com")
        for path, fields in (("/signup", {"password": PASSWORD}), ("/reset", {})):
            pages = []
            for email in ("known@example.com", "unknown@example.com"):
                visitor = Visitor(server)
                visitor.open(path)
                visitor.submit(path, email=email, **fields)
                assert visitor.page.status_code == 503
                assert "We cannot send email to this address right now." in visitor.page.text
                assert "inbox" not in visitor.page.text
                pages.append(re.sub(r'name="csrf" value="[^"]*"', "", visitor.page.text).replace(email, "X"))
            # Nothing tells which of them has an account.
            assert pages[0] == pages[1]
        known.open("/account")
        known.submit("/account/email", email="new@example.com", password_email=PASSWORD)
        assert known.page.status_code == 503
        assert server.read(lambda c: c.execute("SELECT count(*) FROM email_changes"))[0][0] == 0


def test_opening_a_link_changes_nothing_and_using_it_works_once(
    visitor: Visitor, email: str, server: ServerProcess
) -> None:
    visitor.open("/signup")
    visitor.submit("/signup", email=email, password=PASSWORD)
    link = last_link(server, email)
    for _ in range(3):
        assert visitor.open(link).status_code == 200
    assert server.read(lambda c: users.find_user(c, email)) is None
    visitor.submit("/confirm")
    assert visitor.open(link).status_code == 410


def test_confirming_in_another_browser_requires_the_password(
    visitor: Visitor, email: str, server: ServerProcess
) -> None:
    visitor.open("/signup")
    visitor.submit("/signup", email=email, password=PASSWORD)
    victim = Visitor(server)
    victim.open(last_link(server, email))
    victim.submit("/confirm", password="a guess at it")
    assert victim.page.status_code == 422
    assert server.read(lambda c: users.find_user(c, email)) is None
    victim.submit("/confirm", password=PASSWORD)
    assert victim.page.url.endswith("/keys")


def test_a_password_reset_ends_all_other_sessions(member: Visitor, email: str, server: ServerProcess) -> None:
    before, forgetful = len(letters(server, email)), Visitor(server)
    forgetful.open("/reset")
    forgetful.submit("/reset", email=email)
    link = last_link(server, email, after=before)
    forgetful.open(link)
    forgetful.submit("/reset/new", password="short")
    assert forgetful.page.status_code == 422
    forgetful.submit("/reset/new", password="battery staple")
    assert forgetful.page.url.endswith("/keys")
    assert "/signin" in member.open("/account").url
    assert forgetful.open(link).status_code == 410
    assert Visitor(server).sign_in(email).page.status_code == 422
    assert Visitor(server).sign_in(email, "battery staple").page.status_code == 200


def test_a_reset_does_not_reveal_whether_an_address_is_known(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    answers = []
    for address in (email, "nobody-at-all@example.com"):
        stranger = Visitor(server)
        stranger.open("/reset")
        stranger.submit("/reset", email=address)
        answers.append((stranger.page.status_code, _without_tokens(stranger).replace(address, "X")))
    assert answers[0] == answers[1]
    assert letters(server, "nobody-at-all@example.com") == []


def _without_tokens(visitor: Visitor) -> str:
    text = visitor.page.text
    for action in ("/theme",):
        text = text.replace(visitor.fields(action)["csrf"], "")
    return text


def test_a_user_created_on_the_command_line_can_set_a_password(
    visitor: Visitor, email: str, server: ServerProcess
) -> None:
    commands = ["account", "create", email]
    assert server.command(*commands).returncode == 0
    visitor.open("/reset")
    visitor.submit("/reset", email=email)
    visitor.open(last_link(server, email))
    visitor.submit("/reset/new", password=PASSWORD)
    assert visitor.page.url.endswith("/keys")


@pytest.mark.parametrize("form", ["signup", "reset"])
def test_a_forged_host_changes_no_link_in_a_letter(
    member: Visitor, server: ServerProcess, email: str, form: str
) -> None:
    """Whoever asks for a letter to somebody else would otherwise get that person's link, with the first click."""
    address = email if form == "reset" else f"new-{email}"
    forged = {"host": "evil.example", "x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}
    page = requests.get(f"{server.url}/en/{form}", headers=forged, timeout=20)
    fields = next(values for action, values in Forms(page.text).found if action.endswith(f"/{form}"))
    cookies = "; ".join(header.split(";")[0] for header in page.raw.headers.getlist("set-cookie"))
    sent = requests.post(
        f"{server.url}/en/{form}",
        data=fields | {"email": address, "password": PASSWORD},
        headers=forged | {"cookie": cookies, "origin": "https://evil.example"},
        timeout=20,
    )
    assert sent.status_code == 200, sent.text
    eventually(lambda: letters(server, address))
    letter = letters(server, address)[-1]
    assert "evil" not in letter
    assert f"{server.url}/en/" in letter
