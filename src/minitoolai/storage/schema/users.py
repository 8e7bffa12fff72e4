"""Tables of users: passwords, sessions, second factors, passkeys and links in e-mails."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, LargeBinary, Table, Text

from minitoolai.storage.schema.base import Int64, metadata, partial_index

users = Table(
    "users",
    metadata,
    Column("email", Text, primary_key=True),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False, unique=True),
    Column("password_hash", Text),
    Column("created_ms", Int64, nullable=False),
    Column("is_admin", Integer, nullable=False, server_default="0"),
    Column("language", Text),
    # A deleted user stays as a row without e-mail address and password, because the ledger refers to its account.
    Column("deleted_ms", Int64),
    # The keys of a suspended account are refused. The reason is shown to the customer.
    Column("suspended_ms", Int64),
    Column("suspended_reason", Text),
    # The prices of this group in the catalog apply. NULL: the list prices.
    Column("price_group", Text),
    # When the password was last replaced with a link in an e-mail.
    Column("password_reset_ms", Int64),
    CheckConstraint("is_admin IN (0, 1)", name="is_admin_is_a_flag"),
    sqlite_strict=True,
)

sessions = Table(
    "sessions",
    metadata,
    Column("secret_hash", LargeBinary, primary_key=True),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("created_ms", Int64, nullable=False),
    Column("seen_ms", Int64, nullable=False),
    Column("expires_ms", Int64, nullable=False, index=True),
    # The browser at its last request, for the list of sessions.
    Column("address", Text),
    Column("browser", Text),
    Column("system", Text),
    # `account_id` is the user's number. This is the account in which the user works; NULL: the one with that number.
    Column("working_id", Int64),
    sqlite_strict=True,
)

#: Prompts that members save in the playground. They belong to the member, not to the account as a whole.
saved_prompts = Table(
    "saved_prompts",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("user_id", Int64, nullable=False),
    Column("name", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("instructions", Text, nullable=False),
    Column("message", Text, nullable=False),
    # The other fields of the form as JSON.
    Column("settings", Text, nullable=False),
    Column("changed_ms", Int64, nullable=False),
    Index("ix_saved_prompts_member", "user_id", "account_id"),
    sqlite_strict=True,
)

#: Identities at other providers that sign users in. `user_id` is the number of the user.
identities = Table(
    "identities",
    metadata,
    Column("issuer", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("user_id", Int64, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("email", Text, nullable=False),
    Column("created_ms", Int64, nullable=False),
    sqlite_strict=True,
)

#: TOTP second factors. The secret is encrypted under a key derived from the server's secret.
second_factors = Table(
    "second_factors",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("secret", LargeBinary, nullable=False),
    # Time step of the last accepted code (RFC 6238): a code is accepted once.
    Column("last_step", Int64, nullable=False),
    Column("created_ms", Int64, nullable=False),
    sqlite_strict=True,
)

#: Unused recovery codes of second factors. A row is deleted when its code is used.
recovery_codes = Table(
    "recovery_codes",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("code_hash", LargeBinary, primary_key=True),
    sqlite_strict=True,
)

#: Passkeys (WebAuthn) of users. `user_id` is the number of the user.
passkeys = Table(
    "passkeys",
    metadata,
    Column("credential_id", LargeBinary, primary_key=True),
    Column("user_id", Int64, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("sign_count", Int64, nullable=False),
    Column("name", Text, nullable=False),
    # How the browser reaches the authenticator, separated by spaces, such as `internal hybrid`.
    Column("transports", Text, nullable=False),
    Column("is_synced", Integer, nullable=False),
    Column("created_ms", Int64, nullable=False),
    Column("used_ms", Int64),
    # Since when it is refused, because its counter went backwards: there may be a copy of it.
    Column("blocked_ms", Int64),
    CheckConstraint("is_synced IN (0, 1)", name="is_synced_is_a_flag"),
    sqlite_strict=True,
)

#: Challenges that a browser has to sign with a passkey. A row is deleted when it is answered.
passkey_challenges = Table(
    "passkey_challenges",
    metadata,
    Column("challenge", LargeBinary, primary_key=True),
    Column("purpose", Text, nullable=False),
    Column("browser_hash", LargeBinary, nullable=False),
    # NULL: any user may answer.
    Column("user_id", Int64, ForeignKey("accounts.id"), index=True),
    Column("expires_ms", Int64, nullable=False, index=True),
    CheckConstraint("purpose IN ('create', 'sign_in', 'confirm')", name="purpose_known"),
    sqlite_strict=True,
)

#: Removals of all second factors that users without device and recovery codes have asked for; at most one per user.
factor_resets = Table(
    "factor_resets",
    metadata,
    Column("user_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("id", Int64, nullable=False, unique=True),
    Column("created_ms", Int64, nullable=False),
    # When the mailbox confirmed it, and when it may be finished.
    Column("confirmed_ms", Int64),
    Column("ready_ms", Int64),
    # When the next e-mail about it is due.
    Column("next_mail_ms", Int64),
    Column("expires_ms", Int64, nullable=False, index=True),
    partial_index("ix_factor_resets_mail", "next_mail_ms", where="next_mail_ms IS NOT NULL"),
    sqlite_strict=True,
)

#: Changes of e-mail addresses that are not yet confirmed by both mailboxes; at most one per account.
email_changes = Table(
    "email_changes",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("email", Text, nullable=False),
    Column("new_hash", LargeBinary, nullable=False, unique=True),
    Column("old_hash", LargeBinary, nullable=False, unique=True),
    Column("is_new_confirmed", Integer, nullable=False, server_default="0"),
    Column("is_old_confirmed", Integer, nullable=False, server_default="0"),
    Column("expires_ms", Int64, nullable=False, index=True),
    CheckConstraint("is_new_confirmed IN (0, 1)", name="is_new_confirmed_is_a_flag"),
    CheckConstraint("is_old_confirmed IN (0, 1)", name="is_old_confirmed_is_a_flag"),
    sqlite_strict=True,
)

mail_links = Table(
    "mail_links",
    metadata,
    Column("secret_hash", LargeBinary, primary_key=True),
    Column("purpose", Text, nullable=False),
    Column("email", Text, nullable=False, index=True),
    # For a sign-up: hash of the future password, and of the browser that requested the link.
    Column("password_hash", Text),
    Column("browser_hash", LargeBinary),
    Column("created_ms", Int64, nullable=False),
    Column("expires_ms", Int64, nullable=False, index=True),
    CheckConstraint("purpose IN ('signup', 'reset')", name="purpose_known"),
    sqlite_strict=True,
)
