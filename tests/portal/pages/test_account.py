"""The account page: changing the password and deleting the account."""

from __future__ import annotations

from minitoolai.storage import users
from minitoolai.storage.database import Connection
from tests.support.browse import PASSWORD, Visitor, letters
from tests.support.server import ServerProcess
from tests.support.waiting import eventually


def test_changing_the_password_needs_the_old_one_and_ends_other_sessions(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    other = Visitor(server).sign_in(email)
    member.open("/account")
    member.submit("/account/password", password_old="wrong", password="battery staple")
    assert "This is not your password." in member.page.text
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
    assert "This is not your password." in member.page.text
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
