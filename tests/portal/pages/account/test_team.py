"""Teams over HTTP: every cell of the table of roles, invitations, removal, ownership, budgets, and the team's log."""

from __future__ import annotations

import itertools
import re

import pytest
import requests

from minitoolai.core.roles import ACTIONS, ROLES, Role, may
from minitoolai.portal.routes import MODULES
from minitoolai.portal.routing import PageHandler
from minitoolai.storage.tables import accounts, members, users
from tests.support.browse import PASSWORD, Visitor, last_link, letters, new_user
from tests.support.server import ServerProcess
from tests.support.team import new_member, number_of, set_role
from tests.support.waiting import eventually

KEY = re.compile(r"sk-mt-(\w{12})-\w{32}-\w{6}")
FORBIDDEN = "Not part of your role"
_numbers = itertools.count(1)


@pytest.fixture
def other() -> str:
    return f"colleague{next(_numbers)}@example.com"


@pytest.fixture
def account(server: ServerProcess, member: Visitor, email: str) -> int:
    """The account of the signed-in user, who is its owner."""
    return number_of(server, email)


def make_key(visitor: Visitor, name: str = "k") -> str:
    visitor.open("/keys")
    found = KEY.search(visitor.submit("/keys", name=name).text)
    assert found, visitor.page.text
    return found[0]


def status(server: ServerProcess, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return requests.get(server.url + "/api/balance", headers=headers, timeout=20).status_code


def chat(server: ServerProcess, key: str) -> requests.Response:
    body = {"model": "fake-chat", "messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 16}
    headers = {"authorization": f"Bearer {key}"}
    return requests.post(server.url + "/v1/chat/completions", json=body, headers=headers, timeout=20)


def roles_in(server: ServerProcess, account_id: int) -> dict[str, str]:
    return {one.name: one.role for one in server.read(lambda c: members.members_of(c, account_id))}


def invite(owner: Visitor, email: str, role: Role = "developer") -> str:
    """Invite an address over the page and return the path of the link."""
    before = len(letters(owner.server, email))
    owner.open("/team")
    owner.submit("/team/invite", email=email, role=role)
    assert "was sent" in owner.page.text
    return last_link(owner.server, email, after=before)


# ── roles ─────────────────────────────────────────────────────────────────────────────────────────────────


def guarded() -> list[PageHandler]:
    """All handlers that require an action. The form that leaves the account comes last."""
    found = [h for module in MODULES for h in module.HANDLERS if isinstance(h, PageHandler) and h.action != "self"]
    return sorted(found, key=lambda handler: handler.path == "/team/leave")


def test_every_page_for_users_names_an_action_or_concerns_the_user_alone() -> None:
    handlers = [h for module in MODULES for h in module.HANDLERS if isinstance(h, PageHandler) and h.access == "user"]
    personal = {handler.path for handler in handlers if handler.action == "self"}
    assert personal == {
        "/account", "/account/password", "/account/leave", "/account/sessions/end", "/account/sessions/end-others",
        "/account/second-factor", "/account/second-factor/on", "/account/second-factor/off",
        "/account/second-factor/codes", "/account/email", "/account/connect", "/account/disconnect",
        "/team/accounts", "/team/switch",
        "/account/passkeys", "/account/passkeys/begin", "/account/passkeys/add", "/account/passkeys/challenge",
        "/account/passkeys/{passkey}", "/account/passkeys/{passkey}/rename", "/account/passkeys/{passkey}/remove",
        "/account/second-factor/keep",
    }  # fmt: skip
    assert {handler.action for handler in guarded()} | {"keys"} == set(ACTIONS)


@pytest.mark.parametrize("role", ROLES)
def test_every_cell_of_the_table_over_http(
    server: ServerProcess, member: Visitor, account: int, other: str, role: Role
) -> None:
    make_key(member, "theirs")
    key_id = server.read(lambda c: accounts.keys_of(c, account))[0].id
    person = new_member(server, account, other, role)
    set_role(server, account, other, "developer")
    own_key = KEY.search(make_key(person, "mine"))
    assert own_key
    set_role(server, account, other, role)
    budget = {
        "budget": "team-000000000000",
        "invoice": "1",
        "month": "2026-01",
        "key": own_key[1],
        "name": "gen-0",
        "number": "1",
        "prompt": "1",
    }
    person.open("/account")
    token = person.fields("/account/password")["csrf"]
    tried = set()
    for handler in guarded():
        path = re.sub(r"\{(\w+)\}", lambda m: budget[m[1]], handler.path)
        for method in handler.methods:
            sent = {"csrf": token} if method == "POST" else None
            reply = person.request(method, person.url(path), data=sent, allow_redirects=False, timeout=20)
            assert handler.action != "self"
            is_refused = reply.status_code == 403
            assert is_refused is not may(role, handler.action), (role, handler.action, method, path, reply.status_code)
            if is_refused and method == "GET":
                assert FORBIDDEN in reply.text
            assert reply.status_code < 500
            tried.add((role, handler.action))
    assert other not in roles_in(server, account)
    assert tried == {(role, action) for action in ACTIONS if action != "keys"}
    # The action `keys` opens the keys of other members.
    user_id = number_of(server, other)
    server.write(lambda c: members.insert(c, account, user_id, role, 1))
    person.open("/team/accounts")
    person.submit("/team/switch", account=str(account))
    expected = 200 if may(role, "keys") else 404 if may(role, "use") else 403
    assert person.open(f"/keys/{key_id}").status_code == expected
    assert ("/keys/revoke" in person.open("/keys").text) is may(role, "keys")


def test_the_bar_shows_what_the_role_allows(server: ServerProcess, account: int, other: str) -> None:
    person = new_member(server, account, other, "viewer")
    for role in ROLES:
        set_role(server, account, other, role)
        text = person.open("/usage").text
        bar = text[text.index('class="wrap tabs"') : text.index("</nav>")]
        assert ("/en/studio" in bar) is may(role, "use")
        assert ("/en/topup" in bar) is may(role, "pay")
        assert ("/en/topup" in person.open("/balance").text) is may(role, "pay")
        assert ("/team/invite" in person.open("/team").text) is may(role, "team")
        assert ("/team/hand-over" in person.page.text) is may(role, "own")


def test_an_admin_neither_makes_nor_changes_owners(server: ServerProcess, account: int, email: str, other: str) -> None:
    person = new_member(server, account, other, "admin")
    person.open("/team")
    assert '<option value="owner"' not in person.page.text
    token = person.fields("/team/invite")["csrf"]
    number = str(account)
    for path, values in (
        ("/team/member", {"user": str(number_of(server, other)), "role": "owner"}),
        ("/team/member", {"user": number, "role": "viewer"}),
        ("/team/remove", {"user": number}),
        ("/team/invite", {"email": "x" + other, "role": "owner"}),
    ):
        person.post(person.url(path), data={"csrf": token} | values, timeout=20)
    assert roles_in(server, account) == {email: "owner", other: "admin"}
    assert server.read(lambda c: members.invitations_of(c, account, 0)) == []


# ── invitations ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_address_joins_with_a_password_and_the_link_works_once(
    server: ServerProcess, member: Visitor, account: int, email: str, other: str
) -> None:
    link = invite(member, other)
    assert f"{email} invites you to join their account" in letters(server, other)[-1]
    newcomer = Visitor(server)
    # Opening the link changes nothing: mail programs do.
    assert newcomer.open(link).status_code == newcomer.open(link).status_code == 200
    assert roles_in(server, account) == {email: "owner"}
    newcomer.submit("/invitation", password="short")
    assert newcomer.page.status_code == 422
    newcomer.submit("/invitation", password=PASSWORD)
    assert newcomer.page.url.endswith("/en/team")
    assert roles_in(server, account) == {email: "owner", other: "developer"}
    assert newcomer.open(link).status_code == 410
    second = Visitor(server)
    assert second.open(link).status_code == 410
    # The key that they make is paid by the account, and belongs to them.
    make_key(newcomer, "mine")
    key = server.read(lambda c: accounts.keys_of(c, account))[-1]
    assert (key.account_id, key.member_id) == (account, number_of(server, other))
    assert Visitor(server).sign_in(other).page.url.endswith("/en/keys")


def test_a_known_address_signs_in_to_join_and_switches_between_accounts(
    server: ServerProcess, member: Visitor, account: int, email: str, other: str
) -> None:
    person, own = new_user(server, other), number_of(server, other)
    link = invite(member, other, "billing")
    stranger = Visitor(server)
    page = stranger.open(link)
    assert "/en/signin?next=" in page.text
    assert 'name="password"' not in page.text
    person.open(link)
    person.submit("/invitation")
    assert "Billing" in person.page.text
    assert email in person.page.text
    assert "$" in person.open("/balance").text
    person.open("/team/accounts")
    person.submit("/team/switch", account=str(own))
    assert person.open("/topup").status_code == 200
    assert f"account of {other}" in re.sub("<.*?>", "", person.open("/team").text)
    person.open("/team/accounts")
    fields = person.fields("/team/switch") | {"account": str(account + 500_000)}
    assert person.post(person.url("/team/switch"), data=fields, timeout=20).status_code == 404
    # An account of strangers, too.
    outsider = number_of(server, new_outsider(server))
    assert person.post(person.url("/team/switch"), data=fields | {"account": str(outsider)}).status_code == 404


def new_outsider(server: ServerProcess) -> str:
    email = f"outsider{next(_numbers)}@example.com"
    new_user(server, email)
    return email


def test_an_invitation_is_for_its_address_only(
    server: ServerProcess, member: Visitor, account: int, email: str, other: str
) -> None:
    link = invite(member, other)
    thief = new_user(server, "thief-" + other)
    page = thief.open(link)
    assert page.status_code == 403
    assert "This invitation is for" in page.text
    thief.open("/account")
    token = thief.fields("/account/password")["csrf"]
    secret = link.partition("link=")[2]
    sent = {"csrf": token, "link": secret}
    assert thief.post(thief.url("/invitation"), data=sent, timeout=20).status_code == 403
    assert roles_in(server, account) == {email: "owner"}
    # It is still there for the one who was invited, however they spell the address.
    assert Visitor(server).open(link).status_code == 200


def test_an_expired_a_withdrawn_and_a_replaced_invitation_are_refused(
    server: ServerProcess, member: Visitor, account: int, email: str, other: str
) -> None:
    first = invite(member, other)
    second = invite(member, other, "viewer")
    assert Visitor(server).open(first).status_code == 410
    late = Visitor(server)
    assert late.open(second).status_code == 200
    server.write(lambda c: c.execute("UPDATE invitations SET expires_ms = 1 WHERE account_id = ?", (account,)))
    late.submit("/invitation", password=PASSWORD)
    assert late.page.status_code == 410
    assert server.read(lambda c: users.find_user(c, other)) is None
    third = invite(member, other)
    member.open("/team")
    member.submit("/team/withdraw", email=other)
    assert Visitor(server).open(third).status_code == 410
    assert roles_in(server, account) == {email: "owner"}


def test_an_invitation_dies_with_the_membership_of_its_sender(
    server: ServerProcess, member: Visitor, account: int, other: str
) -> None:
    admin = new_member(server, account, other, "admin")
    link = invite(admin, "friend-" + other, "admin")
    member.open("/team")
    member.submit("/team/remove", user=str(number_of(server, other)))
    assert Visitor(server).open(link).status_code == 410


def test_a_member_is_not_invited_again(server: ServerProcess, member: Visitor, account: int, other: str) -> None:
    new_member(server, account, other, "viewer")
    member.open("/team")
    member.submit("/team/invite", email=other.upper().replace("EXAMPLE.COM", "example.com"), role="admin")
    assert "This address is already a member." in member.page.text


# ── removal, leaving, ownership ───────────────────────────────────────────────────────────────────────────


def test_a_removed_member_loses_keys_and_sessions_in_this_account_only(
    server: ServerProcess, member: Visitor, account: int, other: str
) -> None:
    person = new_member(server, account, other, "developer")
    key, mine = make_key(person), make_key(member, "owner's")
    elsewhere = Visitor(server).sign_in(other)
    own_key = make_key(elsewhere, "private")
    assert [status(server, one) for one in (key, mine, own_key)] == [200, 200, 200]
    member.open("/team")
    member.submit("/team/remove", user=str(number_of(server, other)))
    assert "The member was removed." in member.page.text
    eventually(lambda: status(server, key) == 401, within_s=1.5)
    assert [status(server, one) for one in (mine, own_key)] == [200, 200]
    assert "/signin" in person.open("/usage").url
    assert elsewhere.open("/usage").status_code == 200
    assert "sk-mt" in elsewhere.open("/keys").text


def test_a_role_without_keys_revokes_them(server: ServerProcess, member: Visitor, account: int, other: str) -> None:
    person = new_member(server, account, other, "developer")
    key = make_key(person)
    member.open("/team")
    member.submit("/team/member", user=str(number_of(server, other)), role="viewer", budget="")
    eventually(lambda: status(server, key) == 401, within_s=1.5)
    assert person.open("/studio").status_code == 403


def test_the_last_owner_cannot_leave_be_removed_or_change_roles(
    server: ServerProcess, member: Visitor, account: int, email: str, other: str
) -> None:
    second = new_member(server, account, other, "admin")
    member.open("/team")
    member.submit("/team/leave")
    assert "The last owner cannot leave" in member.page.text
    member.open("/team")
    member.submit("/team/member", user=str(account), role="viewer", budget="")
    assert "The last owner cannot leave" in member.page.text
    assert roles_in(server, account) == {email: "owner", other: "admin"}
    # With a second owner it works, and then that one is the last.
    member.open("/team")
    member.submit("/team/member", user=str(number_of(server, other)), role="owner", budget="")
    member.open("/team")
    member.submit("/team/leave")
    assert "You left the account." in member.page.text
    assert roles_in(server, account) == {other: "owner"}
    second.open("/team")
    second.submit("/team/leave")
    assert "The last owner cannot leave" in second.page.text
    # Whoever has no account left is told so, and keeps what concerns them alone.
    page = member.open("/keys")
    assert page.status_code == 403
    assert "You do not belong to any account" in page.text
    assert member.open("/account").status_code == 200


def test_an_account_is_handed_over_with_the_password(
    server: ServerProcess, member: Visitor, account: int, email: str, other: str
) -> None:
    new_member(server, account, other, "developer")
    number = str(number_of(server, other))
    member.open("/team")
    member.submit("/team/hand-over", user=number, password="wrong")
    assert "Wrong password." in member.page.text
    assert roles_in(server, account)[email] == "owner"
    member.submit("/team/hand-over", user=number, password=PASSWORD)
    assert roles_in(server, account) == {email: "admin", other: "owner"}


def test_a_user_with_members_or_another_account_to_own_cannot_be_deleted(
    server: ServerProcess, member: Visitor, account: int, email: str, other: str
) -> None:
    person = new_member(server, account, other, "owner")
    member.open("/account")
    member.submit("/account/leave", password_leave=PASSWORD)
    assert "Your account has other members." in member.page.text
    set_role(server, account, email, "admin")
    person.open("/account")
    person.submit("/account/leave", password_leave=PASSWORD)
    assert "You are the last owner of another account." in person.page.text
    done = server.command("account", "delete", other, "--yes")
    assert done.returncode != 0
    assert "last owner" in done.stderr
    # The first user does not own the account any more: their sign-in goes, the account stays.
    key = make_key(person)
    member.open("/account")
    member.submit("/account/leave", password_leave=PASSWORD)
    assert "Goodbye" in member.page.text
    assert roles_in(server, account) == {other: "owner"}
    assert status(server, key) == 200
    assert f"account-{account}" in person.open("/team").text
    assert server.command("account", "list").stdout.count(f"account-{account}") == 1


# ── budgets ───────────────────────────────────────────────────────────────────────────────────────────────


def test_two_members_on_one_budget_never_exceed_it(
    server: ServerProcess, member: Visitor, account: int, email: str, other: str
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    server.command("credit", "grant", email, "5")
    person = new_member(server, account, other, "developer")
    member.open("/team")
    member.submit("/team/budgets", name="Research", daily="", monthly="", total="0.001")
    (budget,) = server.read(lambda c: members.budgets_of(c, account))
    for number in (account, number_of(server, other)):
        member.open("/team")
        role = "owner" if number == account else "developer"
        member.submit("/team/member", user=str(number), role=role, budget=budget.id)
    keys = [make_key(member), make_key(person)] * 40
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda key: chat(server, key), keys))
    codes = {reply.status_code for reply in replies}
    assert codes == {200, 402}
    refused = next(reply for reply in replies if reply.status_code == 402).json()["error"]
    assert refused["code"] == "budget_exceeded"
    assert "Member budget exceeded" in refused["message"]
    spent = server.read(lambda c: c.execute("SELECT used FROM key_spending WHERE id = ?", (f"{budget.id}/total",)))
    assert 0 < spent[0][0] <= 1_000_000
    member.open("/team")
    assert "of $0.001" in member.page.text
    # A higher limit applies within a second.
    member.open(f"/team/budgets/{budget.id}")
    member.submit(f"/team/budgets/{budget.id}", name="Research", total="1")
    eventually(lambda: chat(server, keys[0]).status_code == 200, within_s=2)
    member.open("/team")
    member.submit(f"/team/budgets/{budget.id}/delete")
    assert server.read(lambda c: members.budgets_of(c, account)) == []


def test_a_budget_needs_a_name_and_a_limit(member: Visitor) -> None:
    member.open("/team")
    for values, words in (
        ({"name": "", "daily": "1"}, "Give it a name."),
        ({"name": "x"}, "Set at least one limit."),
        ({"name": "x", "daily": "five"}, "Enter an amount in dollars"),
        ({"name": "x" * 81, "daily": "1"}, "It has at most 80 characters."),
    ):
        member.submit("/team/budgets", **values)
        assert member.page.status_code == 422
        assert words in member.page.text
        member.open("/team")


# ── the team's log, and what belongs to the user alone ────────────────────────────────────────────────────


def test_the_log_says_who_did_what(
    server: ServerProcess, member: Visitor, account: int, email: str, other: str
) -> None:
    link = invite(member, other, "developer")
    person = Visitor(server)
    person.open(link)
    person.submit("/invitation", password=PASSWORD)
    make_key(person, "theirs")
    member.open("/team")
    member.submit("/team/remove", user=str(number_of(server, other)))
    rows = server.read(lambda c: members.actions_of(c, account, 10))
    assert [(row.member, row.action, row.note) for row in rows] == [
        (email, "remove", "developer"),
        (other, "create_key", "theirs"),
        (other, "join", "developer"),
        (email, "invite", "developer"),
    ]
    page = member.open("/team/log").text
    for words in ("Removed a member", "Created a key", "Joined", "Invited", other, "127.0.0.1"):
        assert words in page


def test_password_sessions_and_second_factor_stay_those_of_the_user(
    server: ServerProcess, member: Visitor, account: int, email: str, other: str
) -> None:
    person = new_member(server, account, other, "owner")
    page = person.open("/account").text
    assert other in page
    assert f"<dd>{number_of(server, other)}</dd>" in page
    person.submit("/account/password", password_old=PASSWORD, password="another horse")
    assert "Your new password is set" in person.page.text
    assert Visitor(server).sign_in(email).page.url.endswith("/en/keys")
    assert Visitor(server).sign_in(other, "another horse").page.url.endswith("/en/keys")
    # The owner of the account is still signed in: only the user's own sessions ended.
    assert member.open("/account").url.endswith("/account")


def test_a_suspended_account_can_be_left_for_another_one(
    server: ServerProcess, member: Visitor, account: int, email: str, other: str
) -> None:
    person = new_member(server, account, other, "developer")
    own = number_of(server, other)
    assert server.command("account", "suspend", email, "--reason", "unpaid").returncode == 0
    assert "unpaid" in person.open("/keys").text
    person.open("/team/accounts")
    person.submit("/team/switch", account=str(own))
    assert person.open("/keys").status_code == 200


# ── deleting the account ──────────────────────────────────────────────────────────────────────────────────


def test_an_owner_deletes_an_account_that_another_user_opened(
    server: ServerProcess, member: Visitor, account: int, email: str, other: str
) -> None:
    key = make_key(member)
    heir = new_member(server, account, other, "owner")
    heirs_key = make_key(heir)
    heir.open("/team")
    heir.submit("/team/delete", password_delete=PASSWORD)
    assert "other members" in heir.page.text
    member.open("/team")
    assert "/team/delete" not in member.page.text
    member.submit("/team/leave")
    heir.open("/team")
    heir.submit("/team/delete", password_delete="wrong")
    assert heir.page.status_code == 422
    assert roles_in(server, account) == {other: "owner"}
    assert "/team#delete" in heir.open("/account").text
    heir.open("/team")
    heir.submit("/team/delete", password_delete=PASSWORD)
    assert heir.page.url.endswith("/en/team/accounts")
    assert "The account was deleted." in heir.page.text
    assert roles_in(server, account) == {}
    eventually(lambda: status(server, key) == status(server, heirs_key) == 401, within_s=5)
    # The user who deleted it works in their own account, and the one who opened it still has a sign-in.
    assert f"account of {other}" in re.sub("<.*?>", "", heir.open("/team").text)
    assert Visitor(server).sign_in(email).page.status_code in (200, 403)
    assert server.read(lambda c: users.find_user(c, email)) is not None
    log = server.read(lambda c: members.actions_of(c, account, 10, None))
    assert (log[0].action, {one.source or None for one in log}) == ("delete_account", {None})


def test_an_account_with_work_in_progress_is_not_deleted(
    server: ServerProcess, member: Visitor, account: int, other: str
) -> None:
    heir = new_member(server, account, other, "owner")
    member.open("/team")
    member.submit("/team/leave")
    server.write(lambda c: c.execute("UPDATE accounts SET held = 1, posted = 1 WHERE id = ?", (account,)))
    heir.open("/team")
    heir.submit("/team/delete", password_delete=PASSWORD)
    assert "still running" in heir.page.text
    assert roles_in(server, account) == {other: "owner"}
    server.write(lambda c: c.execute("UPDATE accounts SET held = 0, posted = 0 WHERE id = ?", (account,)))


def test_the_user_who_opened_the_account_deletes_it_with_their_sign_in(member: Visitor) -> None:
    member.open("/account")
    token = member.fields("/account/leave")["csrf"]
    reply = member.post(member.url("/team/delete"), data={"csrf": token}, allow_redirects=False, timeout=20)
    assert reply.headers["location"] == "/en/account"
