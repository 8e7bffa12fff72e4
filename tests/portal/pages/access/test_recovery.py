"""The journey of a user without device and recovery codes: ask, confirm by e-mail, wait, remove; and who stops it."""

from __future__ import annotations

import pytest

from minitoolai.core.clock import SystemClock
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import users
from tests.support.browse import PASSWORD, Visitor, add_second_factor, code_now, last_link, letters, new_user
from tests.support.server import ServerProcess
from tests.support.waiting import eventually


def ask(server: ServerProcess, email: str) -> tuple[Visitor, str]:
    """Prove the password and ask for the removal. Return the browser, and the path of the link in the e-mail."""
    before = len(letters(server, email))
    visitor = Visitor(server).sign_in(email)
    assert "Lost your device and your recovery codes?" in visitor.page.text
    visitor.open("/signin/recover")
    visitor.submit("/signin/recover")
    assert "Check your inbox" in visitor.page.text
    return visitor, last_link(server, email, after=before)


def end_the_wait(server: ServerProcess, email: str) -> None:
    """Let the waiting period of this user end now."""
    user, now_ms = server.read(lambda c: users.find_user(c, email))[0], SystemClock().now_ms()

    def change(connection: Connection) -> None:
        connection.execute(
            "UPDATE factor_resets SET ready_ms = ?, next_mail_ms = ? WHERE user_id = ?", (now_ms, now_ms, user.user_id)
        )

    server.write(change)


def test_the_whole_journey_ends_with_a_sign_in_by_password(member: Visitor, email: str, server: ServerProcess) -> None:
    add_second_factor(server, email)
    visitor, link = ask(server, email)
    assert "Remove your second factor?" in letters(server, email)[-1]
    # Opening the link changes nothing, as mail scanners open links.
    reader = Visitor(server)
    assert "Was it you?" in reader.open(link).text
    assert "Someone asked to remove" not in member.open("/keys").text
    reader.submit("/signin/recover/confirm")
    assert "can be removed from" in reader.page.text
    eventually(lambda: "Your second factor will be removed" in letters(server, email)[-1], within_s=20)
    # Every session sees it, and a second request does not start again.
    assert "Someone asked to remove your second factor." in member.open("/keys").text
    visitor.open("/signin/recover")
    visitor.submit("/signin/recover")
    assert "The waiting period is running" in visitor.page.text
    reader.open(link)
    assert "/signin/recover/finish" not in reader.page.text
    end_the_wait(server, email)
    eventually(lambda: "You can remove your second factor now" in letters(server, email)[-1], within_s=20)
    reader.open(last_link(server, email))
    reader.submit("/signin/recover/finish")
    assert "All second factors were removed." in reader.page.text
    assert "session" not in reader.cookies
    assert "/signin" in member.open("/account").url
    eventually(lambda: "Your second factors were removed" in letters(server, email)[-1])
    assert reader.open(link).status_code == 410
    assert Visitor(server).sign_in(email).page.url.endswith("/keys")


@pytest.mark.parametrize("way", ["link", "session", "code"])
def test_mail_session_and_second_factor_each_stop_it(
    member: Visitor, email: str, server: ServerProcess, way: str
) -> None:
    secret = add_second_factor(server, email)
    _, link = ask(server, email)
    reader = Visitor(server)
    reader.open(link)
    reader.submit("/signin/recover/confirm")
    before = len(letters(server, email))
    if way == "link":
        reader.submit("/signin/recover/stop")
        assert "The removal was stopped." in reader.page.text
    elif way == "session":
        member.open("/account/second-factor")
        member.submit("/account/second-factor/keep")
        assert "The removal was stopped." in member.page.text
    else:
        found = Visitor(server).sign_in(email)
        found.submit("/signin/code", code=code_now(secret))
        assert found.page.url.endswith("/keys")
    if way != "code":
        eventually(lambda: any("Your second factor stays" in one for one in letters(server, email)[before - 1 :]))
    assert reader.open(link).status_code == 410
    assert "Someone asked to remove" not in member.open("/keys").text
    assert "/signin/code" in Visitor(server).sign_in(email).page.url


def test_nothing_starts_without_the_password_or_with_a_forged_link(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    add_second_factor(server, email)
    stranger = Visitor(server)
    assert stranger.open("/signin/recover").url.endswith("/signin")
    _, link = ask(server, email)
    for forged in (link[:-3] + "xyz", "/en/signin/recover?link=1", "/en/signin/recover?link=W10.abc"):
        assert stranger.open(forged).status_code == 410
    other = new_user(server, f"other-{email}")
    add_second_factor(server, f"other-{email}")
    _, theirs = ask(server, f"other-{email}")
    stranger.open(theirs)
    stranger.submit("/signin/recover/confirm")
    # It concerns the user of the link alone.
    assert "Someone asked to remove" not in member.open("/keys").text
    assert "Someone asked to remove" in other.open("/keys").text


def test_an_admin_of_the_site_asks_the_operator(email: str, server: ServerProcess) -> None:
    new_user(server, email, is_admin=True)
    add_second_factor(server, email)
    visitor = Visitor(server).sign_in(email, PASSWORD)
    visitor.open("/signin/recover")
    visitor.submit("/signin/recover")
    assert visitor.page.status_code == 403
    assert "Only the operator of this site" in visitor.page.text
