"""The pages that change an e-mail address, confirmed by both mailboxes."""

from __future__ import annotations

from tests.support.browse import PASSWORD, Visitor, add_second_factor, code_now, last_link, letters, new_user
from tests.support.server import ServerProcess
from tests.support.waiting import eventually


def ask(member: Visitor, to: str, **fields: str) -> None:
    member.open("/account")
    member.submit("/account/email", email=to, **{"password_email": PASSWORD} | fields)


def test_an_address_changes_once_both_mailboxes_have_confirmed(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    new = f"new-{email}"
    ask(member, f"  New-{email.upper()} ")
    assert "We sent a link to both inboxes." in member.page.text
    assert "is waiting for confirmation" in member.page.text
    reader = Visitor(server)
    for _ in range(3):
        assert reader.open(last_link(server, new)).status_code == 200
    assert email in reader.page.text
    reader.submit("/account/email/confirm")
    assert "Confirmed. Now open the link in your other inbox." in reader.page.text
    assert Visitor(server).sign_in(new).page.status_code == 422
    assert new in letters(server, email)[-1]
    member.open(last_link(server, email))
    member.submit("/account/email/confirm")
    assert f"Your address is now {new}." in member.page.text
    assert Visitor(server).sign_in(email).page.status_code == 422
    assert Visitor(server).sign_in(new).page.url.endswith("/keys")
    for mailbox in (email, new):
        eventually(lambda mailbox=mailbox: "was changed" in letters(server, mailbox)[-1])  # type: ignore[misc]
    Visitor(server).sign_up(email)


def test_wrong_requests_are_refused_next_to_their_fields(member: Visitor, email: str, server: ServerProcess) -> None:
    before = len(letters(server, email))
    for values, words in (
        ({"to": email.upper()}, "This is already your address."),
        ({"to": "no address"}, "Write an e-mail address like ann@example.com."),
        ({"to": f"new-{email}", "password_email": "wrong password"}, "Wrong password."),
    ):
        ask(member, **values)
        assert member.page.status_code == 422
        assert words in member.page.text
    secret = add_second_factor(server, email)
    ask(member, f"new-{email}", code_email="000000")
    assert "This code is wrong" in member.page.text
    assert len(letters(server, email)) == before
    ask(member, f"new-{email}", code_email=code_now(secret))
    assert "We sent a link to both inboxes." in member.page.text


def test_the_page_does_not_reveal_who_has_an_account(member: Visitor, email: str, server: ServerProcess) -> None:
    new_user(server, f"other-{email}")
    ask(member, f"other-{email}")
    assert "We sent a link to both inboxes." in member.page.text
    eventually(lambda: letters(server, f"other-{email}"))
    assert "already has an account" in letters(server, f"other-{email}")[-1]


def test_the_old_mailbox_stops_it_and_signs_out_everywhere(member: Visitor, email: str, server: ServerProcess) -> None:
    ask(member, f"thief-{email}")
    owner = Visitor(server)
    owner.open(last_link(server, email))
    owner.submit("/account/email/confirm/stop")
    assert owner.page.url.endswith("/reset")
    assert "The change was cancelled" in owner.page.text
    assert "/signin" in member.open("/account").url
    assert owner.open(last_link(server, f"thief-{email}")).status_code == 410


def test_the_operator_changes_an_address(member: Visitor, email: str, server: ServerProcess) -> None:
    new_user(server, f"taken-{email}")
    refused = server.command("account", "email", email, f"Taken-{email}")
    assert refused.returncode == 1
    assert "already has an account" in refused.stderr
    done = server.command("account", "email", email, f"moved-{email}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"is now moved-{email}.") == 2
    assert f"moved-{email}" in member.open("/account").text
