"""The account page: changing the password and deleting the account."""

from __future__ import annotations

import re

from minitoolai.storage.database import Connection
from minitoolai.storage.tables import users
from tests.support.browse import PASSWORD, Visitor, letters, new_user
from tests.support.server import ServerProcess
from tests.support.waiting import eventually


def test_changing_the_password_needs_the_old_one_and_ends_other_sessions(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    other = Visitor(server).sign_in(email)
    member.open("/account")
    member.submit("/account/password", password_old="wrong", password="battery staple")
    assert "Wrong password." in member.page.text
    before = len(letters(server, email))
    member.submit("/account/password", password_old=PASSWORD, password="battery staple")
    assert "Your new password is set" in member.page.text
    eventually(lambda: len(letters(server, email)) > before)
    assert "Your password was changed" in letters(server, email)[-1]
    assert "/signin" in other.open("/account").url


def test_deleting_an_account_removes_personal_data_and_keeps_the_ledger(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    account_id = server.read(lambda c: users.find_user(c, email))[0].account_id
    assert server.command("credit", "grant", email, "5.00").returncode == 0
    key = server.command("key", "create", email).stdout.strip()
    member.open("/account")
    assert "$5.00" in member.page.text
    member.submit("/account/leave", password_leave="wrong")
    assert "Wrong password." in member.page.text
    member.submit("/account/leave", password_leave=PASSWORD)
    assert "Your account is deleted." in member.page.text
    assert Visitor(server).sign_in(email).page.status_code == 422

    def remains(connection: Connection) -> object:
        return connection.execute("SELECT email, password_hash FROM users WHERE account_id = ?", (account_id,))

    assert server.read(remains) == [(f"deleted-{account_id}", None)]
    eventually(
        lambda: member.get(server.url + "/api/balance", headers={"authorization": f"Bearer {key}"}).status_code == 401
    )
    Visitor(server).sign_up(email)


FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def test_sessions_are_listed_and_ended_one_by_one(member: Visitor, email: str, server: ServerProcess) -> None:
    phone, laptop = Visitor(server), Visitor(server)
    phone.headers["user-agent"] = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19 Safari/604"
    laptop.headers["user-agent"] = FIREFOX
    phone.sign_in(email)
    laptop.sign_in(email)
    laptop.open("/account")
    table = laptop.page.text.partition('id="sessions"')[2]
    assert "Safari on iPhone" in table
    assert "Firefox on Linux" in table
    assert "127.0.0.1" in table
    assert table.count("this browser") == 1
    hashes = re.findall(r'name="session" value="([0-9a-f]{64})"', table)
    # The phone and the session of `member`; the present one has no button.
    assert len(hashes) == 2
    rows = server.read(lambda c: c.execute("SELECT secret_hash FROM sessions WHERE system = 'iPhone'"))
    laptop.submit("/account/sessions/end", session=bytes(rows[-1][0]).hex())
    assert "That browser is signed out." in laptop.page.text
    assert "/signin" in phone.open("/account").url
    assert member.open("/account").url.endswith("/account")
    laptop.open("/account")
    laptop.submit("/account/sessions/end-others")
    assert "/signin" in member.open("/account").url
    assert laptop.open("/account").url.endswith("/account")


def test_a_session_of_another_account_cannot_be_ended(member: Visitor, email: str, server: ServerProcess) -> None:
    stranger = new_user(server, f"stranger-{email}")
    own = Visitor(server).sign_in(email)
    own.open("/account")
    account_id = server.read(lambda c: users.find_user(c, f"stranger-{email}"))[0].account_id
    theirs = server.read(lambda c: c.execute("SELECT secret_hash FROM sessions WHERE account_id = ?", (account_id,)))
    for session, status in ((bytes(theirs[0][0]).hex(), 200), ("zz", 404), ("", 200)):
        own.open("/account")
        assert own.submit("/account/sessions/end", session=session).status_code == status
    assert stranger.open("/account").url.endswith("/account")


def test_a_session_records_where_it_is_used(member: Visitor, email: str, server: ServerProcess) -> None:
    account_id = server.read(lambda c: users.find_user(c, email))[0].account_id
    server.write(
        lambda c: c.execute("UPDATE sessions SET seen_ms = seen_ms - 700000 WHERE account_id = ?", (account_id,))
    )
    member.headers["user-agent"] = FIREFOX
    member.open("/account")

    def recorded() -> object:
        select = "SELECT address, browser, system FROM sessions WHERE account_id = ?"
        return server.read(lambda c: c.execute(select, (account_id,)))

    eventually(lambda: recorded() == [("127.0.0.1", "Firefox", "Linux")])
