"""Teams of the portal's tests: members with a role, whose browsers work in the account."""

from __future__ import annotations

from minitoolai.core.clock import SystemClock
from minitoolai.core.roles import Role
from minitoolai.storage.tables import members, users
from tests.support.browse import Visitor, new_user
from tests.support.server import ServerProcess


def number_of(server: ServerProcess, email: str) -> int:
    """Return the number of a user."""
    found = server.read(lambda c: users.find_user(c, email))
    assert found is not None
    return int(found[0].account_id)


def new_member(server: ServerProcess, account_id: int, email: str, role: Role) -> Visitor:
    """A browser of a new user who is a member of this account and works in it."""
    visitor = new_user(server, email)
    user_id = number_of(server, email)
    server.write(lambda c: members.insert(c, account_id, user_id, role, SystemClock().now_ms()))
    visitor.open("/team/accounts")
    visitor.submit("/team/switch", account=str(account_id))
    assert visitor.page.url.endswith("/en/usage"), visitor.page.url
    return visitor


def set_role(server: ServerProcess, account_id: int, email: str, role: Role) -> None:
    """Change a role without a page."""
    user_id = number_of(server, email)
    server.write(lambda c: members.set_role(c, account_id, user_id, role))
