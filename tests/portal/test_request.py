"""Form recovery: fields of a form that was sent after the session had ended are restored once, for their owner."""

from __future__ import annotations

import re
import time

import msgspec
import pytest

from minitoolai.core.clock import random_text
from minitoolai.core.signing import SecretKeys
from minitoolai.portal.forms import CookieSigner
from minitoolai.portal.request import DRAFT_COOKIE, MAX_DRAFT_LENGTH, Draft
from minitoolai.storage.tables import accounts, users
from tests.support.browse import PASSWORD, Forms, Visitor, new_user
from tests.support.server import ServerProcess

NOTICE = "Your input from before you signed in has been restored."


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
    assert "You have been signed out." in member.page.text


def sign_in_again(member: Visitor, email: str) -> None:
    member.submit("/signin", email=email, password=PASSWORD)


def test_a_draft_is_restored_after_the_sign_in_and_not_submitted(member: Visitor, email: str) -> None:
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


def test_a_draft_is_restored_once(member: Visitor, email: str) -> None:
    type_a_key(member, email)
    sign_in_again(member, email)
    assert not draft(member)
    assert "my laptop" not in member.open("/keys").text


def test_a_draft_is_in_no_url_and_no_log_and_hidden_from_scripts(
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


def test_a_draft_is_discarded_when_another_user_signs_in(member: Visitor, email: str, server: ServerProcess) -> None:
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


def test_a_draft_copied_to_another_browser_is_not_restored(member: Visitor, email: str, server: ServerProcess) -> None:
    type_a_key(member, email)
    other = new_user(server, "another-" + email)
    other.cookies.set("draft", draft(member), domain="127.0.0.1", path="/")
    page = other.open("/keys").text
    assert "my laptop" not in page
    assert NOTICE not in page


@pytest.mark.parametrize(("seconds", "is_shown"), [(60, True), (-1, False)])
def test_a_draft_expires_on_the_server(
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


def test_no_draft_is_kept_after_a_sign_out(member: Visitor, email: str) -> None:
    member.open("/keys")
    late = member.fields("/keys") | {"name": "too late"}
    member.submit("/signout")
    member.post(member.url("/keys"), data=late, timeout=20)
    assert not draft(member)


@pytest.mark.parametrize("mark", ["", "1.", "1." + "0" * 32, "é.é", "x" * 9000])
def test_a_form_without_a_known_owner_is_not_kept(member: Visitor, email: str, mark: str) -> None:
    member.open("/keys")
    end_session(member, email)
    member.submit("/keys", name="forged", whose=mark)
    assert "You have been signed out." in member.page.text
    assert not draft(member)


def test_a_form_from_another_site_is_not_kept(member: Visitor, email: str) -> None:
    member.open("/keys")
    sent = member.fields("/keys") | {"name": "forged"}
    end_session(member, email)
    answer = member.post(member.url("/keys"), data=sent, headers={"origin": "https://evil.example"}, timeout=20)
    assert answer.status_code == 403
    assert not draft(member)


def test_a_draft_that_is_too_large_is_not_kept(member: Visitor, email: str) -> None:
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


def test_a_draft_is_restored_into_its_own_form_only(member: Visitor, email: str) -> None:
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


def test_a_voucher_code_is_not_kept_in_a_draft(member: Visitor, email: str) -> None:
    member.open("/topup")
    end_session(member, email)
    member.submit("/topup/voucher", code="ABCD-EFGH")
    assert not draft(member)


def test_a_draft_of_an_edited_key_includes_emptied_fields(member: Visitor, email: str) -> None:
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


def test_a_password_is_never_kept_in_a_draft(member: Visitor, email: str) -> None:
    kept = [name for action, values in Forms(member.open("/account").text).found for name in values if name == "whose"]
    assert kept == []
    end_session(member, email)
    member.submit("/account/password", password_old=PASSWORD, password="another password")
    assert not draft(member)
