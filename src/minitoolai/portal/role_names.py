"""What roles and what they may do are called."""

from __future__ import annotations

from minitoolai.core.roles import Action, Role
from minitoolai.portal.i18n import N_

ROLE_NAMES: dict[Role, str] = {
    "owner": N_("Owner"),
    "admin": N_("Admin"),
    "developer": N_("Developer"),
    "billing": N_("Billing"),
    "viewer": N_("Viewer"),
}
ACTION_NAMES: dict[Action, str] = {
    "read": N_("See usage, balance, invoices and members"),
    "use": N_("Use the studio, create own keys"),
    "keys": N_("Change and revoke the keys of all members"),
    "pay": N_("Top up, buy plans, set the billing address"),
    "team": N_("Invite and remove members, set roles and budgets"),
    "own": N_("Appoint owners, hand over or delete the account"),
}
