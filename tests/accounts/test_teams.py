"""Teams beneath the pages, on both databases: races, budgets in the transaction of the hold, erasure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from minitoolai.accounts.factors.second_factors import SecondFactors
from minitoolai.accounts.mail import Letter
from minitoolai.accounts.teams import INVITATION_MS, Actor, Refusal, Teams
from minitoolai.accounts.users import Purpose, Users, erase_personal_data
from minitoolai.core.models import Budget, User, join_budget_ids, split_budget_ids
from minitoolai.core.roles import Role
from minitoolai.core.signing import SecretKeys
from minitoolai.ledger.types import Held, OverBudget, Settled
from minitoolai.storage.tables import accounts, ledger, members, users
from minitoolai.storage.tables.members import TeamBudget
from tests.accounts.test_users import Mailbox
from tests.support.books import NOON_MS, TemporaryBooks, hold, settle
from tests.support.quick_hashes import quick_passwords

TEAM_ID = "team-AbCdEfGhIjKl"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


def within(books: TemporaryBooks, mailbox: Mailbox, work: Callable[[Teams], Awaitable[None]]) -> None:
    """Run this work, and wait for its e-mails."""

    async def whole(people: Users, teams: Teams) -> None:
        try:
            await work(teams)
        finally:
            await people.close()

    with books.writer() as writer:
        factors = SecondFactors(books.database, books.clock, SecretKeys(b"secret"))
        people = Users(books.database, writer, quick_passwords(), mailbox, books.clock, factors)
        asyncio.run(whole(people, Teams(books.database, writer, books.clock, people)))


def joined(books: TemporaryBooks, account: int, role: Role) -> int:
    """Return the number of a new member of the account."""
    user_id = books.account()
    with books.connection.transaction():
        assert members.insert(books.connection, account, user_id, role, NOON_MS)
    return user_id


def actor(books: TemporaryBooks, account: int, user_id: int) -> Actor:
    found = books.database.read(users.find_user_of, user_id)
    assert found is not None
    user: User = found[0]
    return Actor(User(account, user.email, False, None, 0, 0, 0, person_id=user_id), "192.0.2.1")


def compose(purpose: Purpose, secret: str) -> Letter:
    return Letter("new@example.com", purpose, secret)


def roles(books: TemporaryBooks, account: int) -> dict[int, Role]:
    return {one.user_id: one.role for one in books.database.read(members.members_of, account)}


# ── races ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_owners_who_remove_each_other_or_leave_at_once_never_leave_none(
    books: TemporaryBooks, mailbox: Mailbox
) -> None:
    for how in ("remove", "leave", "demote", "hand over and leave"):
        account = books.account()
        other = joined(books, account, "owner")
        one, two = actor(books, account, account), actor(books, account, other)

        async def work(teams: Teams, how: str = how, one: Actor = one, two: Actor = two) -> None:
            first, second = one.user.user_id, two.user.user_id
            steps: dict[str, tuple[Awaitable[Refusal | None], Awaitable[Refusal | None]]] = {
                "remove": (teams.remove(one, second), teams.remove(two, first)),
                "leave": (teams.leave(one), teams.leave(two)),
                "demote": (
                    teams.change_member(one, second, "viewer", None), teams.change_member(two, first, "viewer", None)
                ),
                "hand over and leave": (teams.hand_over(one, second), teams.leave(two)),
            }  # fmt: skip
            chosen = steps.pop(how)
            for pair in steps.values():
                for unused in pair:
                    unused.close()  # type: ignore[attr-defined]
            outcomes = await asyncio.gather(*chosen)
            assert None in outcomes
            assert how == "hand over and leave" or set(outcomes) & {"forbidden", "last_owner"}

        within(books, mailbox, work)
        assert "owner" in roles(books, account).values(), how


def test_an_invitation_accepted_twice_at_once_makes_one_user(books: TemporaryBooks, mailbox: Mailbox) -> None:
    account = books.account()
    owner = actor(books, account, account)

    async def work(teams: Teams) -> None:
        assert await teams.invite(owner, "new@example.com", "viewer", compose) is None
        await asyncio.sleep(0.05)
        secret = mailbox.letters[-1][1]
        joins = [teams.join_as_new_user(secret, "correct horse", "en", users.UNKNOWN_DEVICE, "x") for _ in range(5)]
        outcomes = await asyncio.gather(*joins)
        assert sum(outcome is not None for outcome in outcomes) == 1

    within(books, mailbox, work)
    assert sorted(roles(books, account).values()) == ["owner", "viewer"]
    assert len(books.rows("SELECT 1 FROM users WHERE email = 'new@example.com'")) == 1


def test_an_invitation_is_stored_as_a_hash_and_expires(books: TemporaryBooks, mailbox: Mailbox) -> None:
    account = books.account()
    owner = actor(books, account, account)

    async def work(teams: Teams) -> None:
        assert await teams.invite(owner, "new@example.com", "viewer", compose) is None
        await asyncio.sleep(0.05)
        secret = mailbox.letters[-1][1]
        assert secret.encode() not in repr(books.rows("SELECT * FROM invitations")).encode()
        found = await teams.invitation(secret)
        assert found is not None
        assert found.expires_ms - found.created_ms == INVITATION_MS == 7 * 24 * 3600 * 1000
        assert await teams.invitation(secret[:-1] + "x") is None

    within(books, mailbox, work)


# ── budgets ───────────────────────────────────────────────────────────────────────────────────────────────


def test_ids_of_budgets_are_joined_and_split() -> None:
    for team, key in ((None, None), (TEAM_ID, None), (None, "key000000001"), (TEAM_ID, "key000000001")):
        assert split_budget_ids(join_budget_ids(team, key)) == tuple(part for part in (team, key) if part)


def test_members_share_a_budget_within_one_batch_and_across(books: TemporaryBooks) -> None:
    account, team = books.account(10**9), Budget(TEAM_ID, total=1000)
    keys = ("key000000001", "key000000002")
    asked = [hold(number, account, 7, team=team, key=keys[number % 2]) for number in range(1, 301)]
    verdicts = books.apply(*asked)
    assert sum(isinstance(verdict, Held) for verdict in verdicts) == 1000 // 7
    assert OverBudget("total", 7, 1000 % 7, is_team=True) in verdicts
    assert books.apply(hold(900, account, 7, team=team)) == [OverBudget("total", 7, 6, is_team=True)]
    # What was not used is free again.
    assert books.apply(settle(1, account, 0)) == [Settled(0)]
    assert books.apply(hold(901, account, 7, team=team)) == [Held(7, 1)]
    assert books.rows("SELECT used FROM key_spending WHERE id = ?", f"{TEAM_ID}/total") == [(994,)]


def test_the_tighter_of_key_and_member_budget_decides(books: TemporaryBooks) -> None:
    account = books.account(10**9)
    key, team = Budget("key000000001", day=500), Budget(TEAM_ID, month=300)
    assert books.apply(hold(1, account, 200, budget=key, team=team)) == [Held(200, 1)]
    assert books.apply(hold(2, account, 101, budget=key, team=team)) == [OverBudget("month", 101, 100, is_team=True)]
    roomy = Budget(TEAM_ID, month=9000)
    assert books.apply(hold(2, account, 301, budget=key, team=roomy)) == [OverBudget("day", 301, 300)]
    assert books.apply(settle(1, account, 50)) == [Settled(50)]
    used = dict(books.rows("SELECT id, used FROM key_spending WHERE id LIKE '%/total'"))
    assert used == {f"{TEAM_ID}/total": 50, "key000000001/total": 50}
    assert books.database.read(ledger.broken_invariants) == {}


def test_the_audit_notices_a_member_budget_that_counted_wrongly(books: TemporaryBooks) -> None:
    account = books.account(10**9)
    books.apply(hold(1, account, 200, budget=Budget("key000000001", day=500), team=Budget(TEAM_ID, total=300)))
    books.apply(hold(2, account, 20, team=Budget(TEAM_ID, total=300)))
    assert books.database.read(ledger.broken_invariants) == {}
    books.rows("UPDATE key_spending SET used = used + 1 WHERE id = ?", f"{TEAM_ID}/total")
    assert set(books.database.read(ledger.broken_invariants)) == {ledger.BUDGETS}
    books.rows("UPDATE key_spending SET used = used - 1 WHERE id = ?", f"{TEAM_ID}/total")


def test_a_key_carries_the_budget_of_its_member(books: TemporaryBooks, mailbox: Mailbox) -> None:
    from minitoolai.accounts.keys import KeyVerifier, make_key

    account = books.account()
    user_id = joined(books, account, "developer")
    owner, made = actor(books, account, account), []
    for member_id in (user_id, None):
        made.append(make_key(account, "k", b"pepper", books.clock, member_id=member_id))
        with books.connection.transaction():
            accounts.insert_key(books.connection, made[-1].row)

    async def work(teams: Teams) -> None:
        keys = KeyVerifier(books.database, b"pepper", books.clock)
        assert await teams.save_budget(owner, TeamBudget("", "R", 1, None, 5)) is None
        (budget,) = books.database.read(members.budgets_of, account)
        assert (await keys.verify(made[0].text)).team_budget is None
        assert await teams.change_member(owner, user_id, "developer", budget.id) is None
        keys.invalidate(f"account:{account}")
        assert (await keys.verify(made[0].text)).team_budget == Budget(budget.id, 1, None, 5)
        assert (await keys.verify(made[1].text)).team_budget is None
        # Nobody is given a budget of another account.
        foreign = books.account()
        refusal = await teams.change_member(actor(books, foreign, foreign), foreign, "owner", budget.id)
        assert refusal == "unknown"

    within(books, mailbox, work)


# ── erasure ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_erased_account_has_no_members_and_an_erased_user_no_memberships(books: TemporaryBooks) -> None:
    account, other_account = books.account(), books.account()
    user_id = joined(books, account, "developer")
    with books.connection.transaction():
        members.insert(books.connection, other_account, account, "viewer", NOON_MS)
        assert erase_personal_data(books.connection, account, NOON_MS)
    assert roles(books, account) == {}
    assert roles(books, other_account) == {other_account: "owner"}
    assert [one.account_id for one in books.database.read(members.memberships_of, user_id)] == [user_id]


def test_a_user_who_gave_their_account_away_is_erased_without_it(books: TemporaryBooks) -> None:
    account = books.account(5_000)
    owner = joined(books, account, "owner")
    with books.connection.transaction():
        members.delete(books.connection, account, account, NOON_MS)
        assert erase_personal_data(books.connection, account, NOON_MS)
    assert roles(books, account) == {owner: "owner"}
    assert books.rows("SELECT email, password_hash, deleted_ms FROM users WHERE account_id = ?", account) == [
        (f"account-{account}", None, None)
    ]
    assert books.money(account).posted == 5_000
