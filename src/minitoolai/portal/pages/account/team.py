"""The team of an account: members with roles and budgets, invitations, the team's log, and switching accounts."""

from __future__ import annotations

from typing import cast
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from minitoolai.accounts.teams import Refusal, Team, read_team
from minitoolai.core.models import PERIODS
from minitoolai.core.roles import ACTIONS, ALLOWED, ROLES, Role
from minitoolai.portal.amounts import amount_text, read_amount
from minitoolai.portal.i18n import N_
from minitoolai.portal.names import isolate_text
from minitoolai.portal.pages.access.auth import (
    can_mail,
    email_composer,
    read_email,
    read_new_password,
    wait_for_email_s,
)
from minitoolai.portal.pages.account.account import UNDELETED
from minitoolai.portal.proofs import confirm_password
from minitoolai.portal.request import PageRequest, restore_draft
from minitoolai.portal.role_names import ACTION_NAMES
from minitoolai.portal.routing import SWITCH_PATH, Handler, form, not_found, page, too_many_requests
from minitoolai.storage.database import Connection
from minitoolai.storage.tables.ledger import budget_spent
from minitoolai.storage.tables.members import Member, TeamBudget, actions_of, budgets_of

LOG_ROWS = 50
MAX_NAME_LENGTH = 80
LIMITS = ("daily", "monthly", "total")
REFUSALS: dict[Refusal, str] = {
    "forbidden": N_("Your role does not allow this."),
    "unknown": N_("This member, invitation or budget no longer exists."),
    "last_owner": N_("The last owner cannot leave or change roles. Make another member an owner first."),
    "member": N_("This address is already a member."),
    "full": N_("There are too many members or budgets. Remove one first."),
    "address": N_("This invitation is for another address."),
}
#: What the team's log says of each action.
LOG_NAMES = {
    "invite": N_("Invited"),
    "withdraw": N_("Withdrew an invitation"),
    "join": N_("Joined"),
    "role": N_("Changed a role"),
    "budget": N_("Changed a member's budget"),
    "remove": N_("Removed a member"),
    "leave": N_("Left"),
    "hand_over": N_("Handed the account over"),
    "log_export": N_("Changed the daily export"),
    "store_bodies": N_("Turned on stored requests"),
    "delete_bodies": N_("Turned off stored requests"),
    "save_budget": N_("Saved a budget"),
    "delete_budget": N_("Deleted a budget"),
    "create_key": N_("Created a key"),
    "change_key": N_("Changed a key"),
    "rotate_key": N_("Rotated a key"),
    "revoke_key": N_("Revoked a key"),
    "voucher": N_("Redeemed a voucher"),
    "buy_plan": N_("Bought a plan"),
    "cancel_plan": N_("Cancelled a plan"),
    "resume_plan": N_("Resumed a plan"),
    "coupon": N_("Redeemed a coupon"),
    "auto_topup": N_("Turned automatic top-up on"),
    "stop_auto_topup": N_("Turned automatic top-up off"),
    "billing_address": N_("Changed the billing address"),
    "notices": N_("Changed notices"),
    "checkout": N_("Started a payment"),
    "delete_account": N_("Deleted the account"),
}


class TeamView(msgspec.Struct, frozen=True):
    """The team, and the spending of each budget by day, month and in total."""

    team: Team
    spent: dict[str, dict[str, int]]

    def holders(self, budget: TeamBudget) -> list[Member]:
        """Return the members with this budget."""
        return [member for member in self.team.members if member.budget_id == budget.id]


def _read(connection: Connection, account_id: int, now_ms: int) -> TeamView:
    team = read_team(connection, account_id, now_ms)
    return TeamView(team, {one.id: budget_spent(connection, one.id, now_ms) for one in team.budgets})


@page("/team", access="user", action="read")
async def team(page: PageRequest) -> Response:
    """Show members, invitations and budgets."""
    restore_draft(page, "/team/invite", "/team/budgets")
    return await _render(page)


async def _render(page: PageRequest, status: int = 200) -> Response:
    view = await page.site.database.read_async(_read, page.member.account_id, page.site.clock.now_ms())
    names = {one.id: one.name for one in view.team.budgets}
    return page.render(
        "team/team.html", status, view=view, team=view.team, budget_names=names, roles=_roles_to_give(page),
        allowed=ALLOWED, all_roles=ROLES, actions=ACTIONS, action_names=ACTION_NAMES, periods=PERIODS,
    )  # fmt: skip


def _roles_to_give(page: PageRequest) -> list[Role]:
    return [role for role in ROLES if role != "owner" or page.may("own")]


def _outcome(page: PageRequest, refusal: Refusal | None, message: str, to: str = "/team") -> Response:
    """Redirect to the team with the message, or with the reason of the refusal."""
    if refusal is None:
        return page.redirect(to, flash=message)
    return page.redirect(to, flash=page.gettext(REFUSALS[refusal]), kind="bad")


def _read_role(page: PageRequest) -> Role | None:
    return next((role for role in ROLES if role == page.form["role"]), None)


def _user_number(page: PageRequest) -> int:
    text = page.form["user"]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1


# ── invitations ───────────────────────────────────────────────────────────────────────────────────────────


@form("/team/invite", access="user", action="team", draft_fields=("email", "role"))
async def invite(page: PageRequest) -> Response:
    """Send an invitation."""
    email, role = read_email(page), _read_role(page)
    if not page.form.is_valid or role is None:
        return await _render(page, 422)
    if wait_s := await wait_for_email_s(page, email):
        return too_many_requests(page, wait_s)
    if not await can_mail(page, email):
        return await _render(page, 503)
    compose = email_composer(page, email, about=page.member.email)
    refusal = await page.site.teams.invite(page.actor, email, role, compose)
    return _outcome(page, refusal, page.gettext("The invitation to %(email)s was sent.") % {"email": email})


@form("/team/withdraw", access="user", action="team")
async def withdraw(page: PageRequest) -> Response:
    """Withdraw an invitation."""
    refusal = await page.site.teams.withdraw(page.actor, page.form["email"])
    return _outcome(page, refusal, page.gettext("The invitation is no longer valid."))


@page("/invitation")
async def invitation_page(page: PageRequest) -> Response:
    """Show an invitation with a button: opening a link must change nothing, mail scanners open links."""
    return await _render_invitation(page, page.query.get("link", ""))


async def _render_invitation(page: PageRequest, secret: str, status: int = 200) -> Response:
    found = await page.site.teams.invitation(secret)
    if found is None:
        return page.render("team/spent.html", 410)
    is_for_user = page.user is not None and await page.site.teams.is_for(found, page.user)
    if page.user is not None and not is_for_user:
        status = 403
    return page.render(
        "team/invitation.html", status, link=secret, invitation=found, is_for_user=is_for_user,
        has_account=await page.site.teams.has_account(found), back=quote(page.url(f"/invitation?link={quote(secret)}")),
    )  # fmt: skip


@form("/invitation")
async def accept(page: PageRequest) -> Response:
    """Join the account: as the signed-in user, or as a new user with a password."""
    secret, password = page.form["link"], page.form.pop_password("password")
    if page.user is not None:
        refusal = await page.site.teams.join(page.actor, secret, page.session_secret)
        if refusal is not None:
            return await _render_invitation(page, secret)
        return page.redirect("/team", flash=page.gettext("Welcome to the team!"))
    found = await page.site.teams.invitation(secret)
    if found is None or not page.site.is_password_open or await page.site.teams.has_account(found):
        return await _render_invitation(page, secret)
    read_new_password(page, password)
    if not page.form.is_valid:
        return await _render_invitation(page, secret, 422)
    visitor = await page.site.teams.join_as_new_user(secret, password, page.lang, page.device, page.client_ip)
    if visitor is None:
        return await _render_invitation(page, secret)
    page.sign_in(visitor)
    return page.redirect("/team", flash=page.gettext("Welcome to the team!"))


# ── members ───────────────────────────────────────────────────────────────────────────────────────────────


@form("/team/member", access="user", action="team")
async def change_member(page: PageRequest) -> Response:
    """Set role and budget of a member."""
    role = _read_role(page)
    if role is None:
        return _outcome(page, "unknown", "")
    refusal = await page.site.teams.change_member(page.actor, _user_number(page), role, page.form["budget"] or None)
    return _outcome(page, refusal, page.gettext("The member was changed."))


@form("/team/remove", access="user", action="team")
async def remove(page: PageRequest) -> Response:
    """Remove a member."""
    refusal = await page.site.teams.remove(page.actor, _user_number(page))
    message = page.gettext("The member was removed. Their keys and requests end within a second.")
    return _outcome(page, refusal, message)


@form("/team/hand-over", access="user", action="own")
async def hand_over(page: PageRequest) -> Response:
    """Make another member the owner, if the password is right."""
    if (wait := await confirm_password(page, "password")) is not None:
        return wait
    if not page.form.is_valid:
        return await _render(page, 422)
    refusal = await page.site.teams.hand_over(page.actor, _user_number(page))
    return _outcome(page, refusal, page.gettext("The account has a new owner. You are an admin now."))


@form("/team/delete", access="user", action="own")
async def delete_account(page: PageRequest) -> Response:
    """Delete the account, if the password is right. The page Account does it for the user who opened it."""
    if page.member.account_id == page.member.user_id:
        return page.redirect("/account")
    if (wait := await confirm_password(page, "password_delete")) is not None:
        return wait
    if not page.form.is_valid:
        return await _render(page, 422)
    result = await page.site.teams.delete_account(page.actor)
    if result == "done":
        return page.redirect("/team/accounts", flash=page.gettext("The account was deleted."))
    message = UNDELETED[result] if result in UNDELETED else REFUSALS[cast(Refusal, result)]
    return page.redirect("/team", flash=page.gettext(message), kind="bad")


# ── budgets ───────────────────────────────────────────────────────────────────────────────────────────────


def _read_budget(page: PageRequest, budget_id: str) -> TeamBudget:
    name = page.form["name"].strip()
    if not name:
        page.form.add_error("name", page.gettext("Give it a name."))
    elif len(name) > MAX_NAME_LENGTH:
        message = page.ngettext(
            "It has at most %(num)d character.", "It has at most %(num)d characters.", MAX_NAME_LENGTH
        )
        page.form.add_error("name", message % {"num": MAX_NAME_LENGTH})
    daily, monthly, total = (read_amount(page, limit) for limit in LIMITS)
    if page.form.is_valid and daily is monthly is total is None:
        page.form.add_error("daily", page.gettext("Set at least one limit."))
    return TeamBudget(budget_id, name, daily, monthly, total)


@form("/team/budgets", access="user", action="team", draft_fields=("name", *LIMITS))
async def create_budget(page: PageRequest) -> Response:
    """Create a budget."""
    budget = _read_budget(page, "")
    if not page.form.is_valid:
        return await _render(page, 422)
    refusal = await page.site.teams.save_budget(page.actor, budget)
    return _outcome(page, refusal, page.gettext("The budget was saved. It applies within a second."))


@page("/team/budgets/{budget}", access="user", action="team")
async def budget_page(page: PageRequest) -> Response:
    """Show the form of a budget."""
    found = await _find_budget(page)
    if found is None:
        return not_found(page)
    limits = zip(LIMITS, (found.daily, found.monthly, found.total), strict=True)
    page.form.values |= {"name": found.name} | {name: amount_text(nano) for name, nano in limits if nano is not None}
    return page.render("team/budget.html", budget=found)


async def _find_budget(page: PageRequest) -> TeamBudget | None:
    known = await page.site.database.read_async(budgets_of, page.member.account_id)
    return next((one for one in known if one.id == page.path_params["budget"]), None)


@form("/team/budgets/{budget}", access="user", action="team")
async def save_budget(page: PageRequest) -> Response:
    """Change name and limits of a budget."""
    found = await _find_budget(page)
    if found is None:
        return not_found(page)
    budget = _read_budget(page, found.id)
    if not page.form.is_valid:
        return page.render("team/budget.html", 422, budget=found)
    refusal = await page.site.teams.save_budget(page.actor, budget)
    return _outcome(page, refusal, page.gettext("The budget was saved. It applies within a second."))


@form("/team/budgets/{budget}/delete", access="user", action="team")
async def delete_budget(page: PageRequest) -> Response:
    """Delete a budget."""
    refusal = await page.site.teams.delete_budget(page.actor, page.path_params["budget"])
    return _outcome(page, refusal, page.gettext("The budget was deleted. Its members have no limit now."))


# ── the team's log ────────────────────────────────────────────────────────────────────────────────────────


@page("/team/log", access="user", action="team")
async def team_log(page: PageRequest) -> Response:
    """Show who did what, newest first."""
    below = page.query_number("below", longest=19)
    rows = await page.site.database.read_async(actions_of, page.member.account_id, LOG_ROWS + 1, below)
    older = rows[LOG_ROWS - 1].id if len(rows) > LOG_ROWS else None
    return page.render("team/log.html", rows=rows[:LOG_ROWS], older=older, newer=below is not None, names=LOG_NAMES)


# ── several accounts of one user ──────────────────────────────────────────────────────────────────────────


@page("/team/accounts", access="user", action="self")
async def accounts_page(page: PageRequest) -> Response:
    """Show the accounts that the user belongs to."""
    return page.render("team/accounts.html", joined=await page.site.teams.memberships(page.member))


@form(SWITCH_PATH, access="user", action="self")
async def switch(page: PageRequest) -> Response:
    """Work in another account in this browser."""
    text = page.form["account"]
    account_id = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
    joined = {one.account_id: one for one in await page.site.teams.memberships(page.member)}
    if account_id not in joined or not await page.site.teams.switch(page.member, page.session_secret, account_id):
        return not_found(page)
    message = page.gettext("You now work in the account of %(name)s.")
    return page.redirect("/usage", flash=message % {"name": isolate_text(joined[account_id].account_name)})


@form("/team/leave", access="user", action="read")
async def leave(page: PageRequest) -> Response:
    """Leave the account."""
    refusal = await page.site.teams.leave(page.actor)
    return _outcome(page, refusal, page.gettext("You left the account. Your keys there are revoked."), "/team/accounts")


HANDLERS: list[Handler] = [
    team, invite, withdraw, invitation_page, accept, change_member, remove, hand_over, delete_account, create_budget,
    budget_page, save_budget, delete_budget, team_log, accounts_page, switch, leave,
]  # fmt: skip
