"""What was typed when the session had ended stands in the form again after the sign-in: for its owner, once."""

from __future__ import annotations

import re
import time

import msgspec
import pytest

from minitoolai.core.clock import random_text
from minitoolai.core.signing import SecretKeys
from minitoolai.portal.forms import CookieSigner
from minitoolai.portal.request import DRAFT_COOKIE, MAX_DRAFT_LENGTH, Draft
from minitoolai.storage import accounts, users
from tests.support.browse import PASSWORD, Forms, Visitor, new_user
from tests.support.server import ServerProcess

NOTICE = "What you typed before the sign-in stands here again."


def end_session(member: Visitor, email: str) -> None:
    """As if the time were over: the browser keeps its page and its cookies."""
    person = member.server.read(lambda c: users.find_user(c, email))[0]
    member.server.write(lambda c: users.end_sessions(c, person.account_id))


def keys_of(member: Visitor, email: str) -> list[str]:
    person = member.server.read(lambda c: users.find_user(c, email))[0]
    return [key.name for key in member.server.read(lambda c: accounts.keys_of(c, person.account_id))]


def draft(member: Visitor) -> str:
    return member.cookies.get("draft", path="/") or ""


def type_a_key(member: Visitor, email: str, name: str = "my laptop") -> None:
    member.open("/keys")
    end_session(member, email)
    member.submit("/keys", name=name, budget_daily="2.50", model="fake-chat")
    assert "You were signed out in the meantime." in member.page.text


def sign_in_again(member: Visitor, email: str) -> None:
    member.submit("/signin", email=email, password=PASSWORD)


def test_what_was_typed_stands_in_the_form_after_the_sign_in_and_nothing_is_sent(member: Visitor, email: str) -> None:
    type_a_key(member, email)
    sign_in_again(member, email)
    assert member.page.url == member.url("/keys")
    assert NOTICE in member.page.text
    shown = member.fields("/keys")
    assert (shown["name"], shown["budget_daily"]) == ("my laptop", "2.50")
    assert re.search(r'value="fake-chat" checked', member.page.text)
    assert '<details class="more" open>' in member.page.text
    assert keys_of(member, email) == []
    member.submit("/keys")
    assert keys_of(member, email) == ["my laptop"]


def test_it_is_filled_in_once(member: Visitor, email: str) -> None:
    type_a_key(member, email)
    sign_in_again(member, email)
    assert not draft(member)
    assert "my laptop" not in member.open("/keys").text


def test_it_is_in_no_address_and_no_log_and_out_of_the_reach_of_scripts(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    type_a_key(member, email, "a name to find")
    assert "name" not in member.page.url
    assert all("find" not in step.url for step in member.page.history)
    assert 0 < len(draft(member)) <= MAX_DRAFT_LENGTH
    assert "a name to find" not in server.log.read_text()
    cookie = next(c for c in member.page.history[0].raw.headers.getlist("set-cookie") if c.startswith("draft="))
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Max-Age=900" in cookie


def test_whoever_else_signs_in_sees_nothing_of_it_and_it_is_gone(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    new_user(server, "other-" + email)
    type_a_key(member, email)
    sign_in_again(member, "other-" + email)
    assert "my laptop" not in member.page.text
    assert NOTICE not in member.page.text
    assert not draft(member)
    assert "my laptop" not in member.open("/keys").text
    member.submit("/signout")
    member.sign_in(email)
    assert "my laptop" not in member.open("/keys").text


def test_a_cookie_put_into_another_ones_browser_shows_nothing(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    type_a_key(member, email)
    other = new_user(server, "another-" + email)
    other.cookies.set("draft", draft(member), domain="127.0.0.1", path="/")
    page = other.open("/keys").text
    assert "my laptop" not in page
    assert NOTICE not in page


@pytest.mark.parametrize(("seconds", "is_shown"), [(60, True), (-1, False)])
def test_it_is_good_for_minutes_whatever_the_browser_thinks(
    member: Visitor, email: str, server: ServerProcess, seconds: int, is_shown: bool
) -> None:
    account_id = server.read(lambda c: users.find_user(c, email))[0].account_id
    until_ms = int(time.time() + seconds) * 1000
    old = msgspec.to_builtins(Draft(account_id, "/keys", {"name": ["my laptop"]}, until_ms))
    signer = CookieSigner(SecretKeys((server.data_dir / "secret.key").read_bytes()))
    member.cookies.set("draft", signer.pack(DRAFT_COOKIE, old), domain="127.0.0.1", path="/")
    page = member.open("/keys").text
    assert ("my laptop" in page) is is_shown
    assert (NOTICE in page) is is_shown


def test_after_a_sign_out_nothing_is_kept(member: Visitor, email: str) -> None:
    member.open("/keys")
    late = member.fields("/keys") | {"name": "too late"}
    member.submit("/signout")
    member.post(member.url("/keys"), data=late, timeout=20)
    assert not draft(member)


@pytest.mark.parametrize("mark", ["", "1.", "1." + "0" * 32, "é.é", "x" * 9000])
def test_a_form_that_is_not_known_to_be_somebodys_is_not_kept(member: Visitor, email: str, mark: str) -> None:
    member.open("/keys")
    end_session(member, email)
    member.submit("/keys", name="forged", whose=mark)
    assert "You were signed out in the meantime." in member.page.text
    assert not draft(member)


def test_the_form_of_another_site_is_not_kept(member: Visitor, email: str) -> None:
    member.open("/keys")
    sent = member.fields("/keys") | {"name": "forged"}
    end_session(member, email)
    answer = member.post(member.url("/keys"), data=sent, headers={"origin": "https://evil.example"}, timeout=20)
    assert answer.status_code == 403
    assert not draft(member)


def test_what_is_too_large_is_not_kept(member: Visitor, email: str) -> None:
    # Signed values are compressed, so repeated letters would fit.
    type_a_key(member, email, random_text(8000))
    assert not draft(member)
    sign_in_again(member, email)
    assert member.page.url == member.url("/keys")


def make_a_key(member: Visitor) -> str:
    """The path of the page where it is edited."""
    member.open("/keys")
    member.submit("/keys", name="laptop", budget_daily="1.00", model="fake-chat")
    found = re.search(r'href="/en(/keys/\w{12})"', member.page.text)
    assert found
    return found[1]


def test_it_waits_for_its_own_form(member: Visitor, email: str) -> None:
    path = make_a_key(member)
    member.open(path)
    end_session(member, email)
    member.submit(path, name="desk")
    member.sign_in(email)
    assert NOTICE not in member.open("/topup").text
    assert NOTICE not in member.open("/keys").text
    assert member.fields("/keys")["name"] == ""
    assert NOTICE in member.open(path).text
    assert member.fields(path)["name"] == "desk"


def test_a_voucher_is_money_and_not_kept(member: Visitor, email: str) -> None:
    member.open("/topup")
    end_session(member, email)
    member.submit("/topup/voucher", code="ABCD-EFGH")
    assert not draft(member)


def test_an_edited_key_comes_back_as_it_was_edited_emptied_fields_and_all(member: Visitor, email: str) -> None:
    path = make_a_key(member)
    member.open(path)
    end_session(member, email)
    member.submit(path, name="desk", budget_daily="")
    sign_in_again(member, email)
    assert member.page.url == member.url(path)
    shown = member.fields(path)
    assert (shown["name"], shown["budget_daily"]) == ("desk", "")
    assert 'value="fake-chat" checked' not in member.page.text
    assert keys_of(member, email) == ["laptop"]


def test_no_password_is_ever_kept(member: Visitor, email: str) -> None:
    kept = [name for action, values in Forms(member.open("/account").text).found for name in values if name == "whose"]
    assert kept == []
    end_session(member, email)
    member.submit("/account/password", password_old=PASSWORD, password="another password")
    assert not draft(member)
