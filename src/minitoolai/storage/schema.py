"""Define every table, index and CHECK.

The database enforces the promises of ledger/rules.py: every charge happens once, and no balance falls below zero.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

# STRICT tables of SQLite have INTEGER only; PostgreSQL needs BIGINT for 64 bits.
Int64 = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(column_0_label)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)


def _index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


def _one_of(column: str, *words: str) -> CheckConstraint:
    """Return a CHECK that a column has one of these values.

    Written with OR, because SQLite builds a tree per row for IN with three or more values (decision 0012).
    """
    return CheckConstraint(" OR ".join(f"{column} = '{word}'" for word in words), name=f"{column}_known")


accounts = Table(
    "accounts",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("posted", Int64, nullable=False, server_default="0"),
    Column("held", Int64, nullable=False, server_default="0"),
    Column("version", Int64, nullable=False, server_default="0"),
    Column("is_system", Integer, nullable=False, server_default="0"),
    Column("created_ms", Int64, nullable=False),
    # The end of its last plan, while it has a purse that is not closed. Read with the balance, so that requests of
    # accounts without a plan need no other look-up.
    Column("purse_until_ms", Int64),
    # Changes with every write to its purses that are not closed, so that a writer knows whether those that it
    # remembers are still true (decision 0033).
    Column("purse_stamp", Int64),
    CheckConstraint("held >= 0", name="held_not_negative"),
    CheckConstraint("is_system = 1 OR posted - held >= 0", name="never_below_zero"),
    CheckConstraint("is_system IN (0, 1)", name="is_system_is_a_flag"),
    # The balance of a system account is derived from its transfers: a stored balance would be a hot row.
    CheckConstraint("is_system = 0 OR (posted = 0 AND held = 0)", name="system_balance_is_derived"),
    sqlite_strict=True,
)

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

#: Members of accounts. `user_id` is the number of the account that the user opened at the sign-up: it never changes,
#: also for users who have left that account.
members = Table(
    "members",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("user_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("role", Text, nullable=False),
    Column("created_ms", Int64, nullable=False),
    Column("budget_id", Text, ForeignKey("team_budgets.id")),
    _one_of("role", "owner", "admin", "developer", "billing", "viewer"),
    Index("ix_members_user_id", "user_id"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

#: Budgets of members, in nano-dollars. Members with the same budget share it. Spending is in `key_spending`.
team_budgets = Table(
    "team_budgets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("daily", Int64),
    Column("monthly", Int64),
    Column("total", Int64),
    Column("created_ms", Int64, nullable=False),
    sqlite_strict=True,
)

#: Invitations that were not accepted yet. Only the hash of the link's secret is stored.
invitations = Table(
    "invitations",
    metadata,
    Column("secret_hash", LargeBinary, primary_key=True),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("email", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("invited_by", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("created_ms", Int64, nullable=False),
    Column("expires_ms", Int64, nullable=False, index=True),
    _one_of("role", "owner", "admin", "developer", "billing", "viewer"),
    Index("ix_invitations_account_id", "account_id", "email"),
    sqlite_strict=True,
)

#: What members did to the team, written in the same commit. Rows are never changed.
member_actions = Table(
    "member_actions",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("user_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("action", Text, nullable=False),
    # The member, key, budget or address that it was done to, and a role or name.
    Column("subject", Text),
    Column("note", Text),
    Column("source", Text),
    Column("created_ms", Int64, nullable=False),
    Index("ix_member_actions_account", "account_id", "id"),
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
    _index("ix_factor_resets_mail", "next_mail_ms", where="next_mail_ms IS NOT NULL"),
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

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("secret_hmac", LargeBinary, nullable=False),
    Column("created_ms", Int64, nullable=False),
    Column("revoked_ms", Int64),
    # `rules`: KeyRules as JSON (core/models.py). `family`: the rotation group, which shares limits and budgets.
    Column("rules", Text),
    Column("family", Text),
    # The member who owns it. NULL: made by the command line, for the account.
    Column("member_id", Int64),
    sqlite_strict=True,
)

# A separate table, so that verifying a key and recording its last use never wait for each other.
key_uses = Table(
    "key_uses",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("last_used_ms", Int64, nullable=False),
    sqlite_strict=True,
)

holds = Table(
    "holds",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("key_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount", Int64, nullable=False),
    Column("progress", Int64, nullable=False, server_default="0"),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("settled", Int64, nullable=False, server_default="0"),
    Column("shortfall", Int64, nullable=False, server_default="0"),
    Column("lease_until_ms", Int64),
    # The budgets that count it (core/models.py::join_budget_ids), and the time that determines their day and month.
    Column("budget_id", Text),
    Column("budget_ms", Int64),
    # The purse that pays instead of the account. No foreign key: the audit compares it with the purse's owner.
    Column("purse_id", Int64),
    # Zero for a free model.
    CheckConstraint("amount >= 0", name="amount_not_negative"),
    _one_of("kind", "chat", "image", "speech", "transcription"),
    _one_of("state", "pending", "posted", "voided"),
    CheckConstraint("progress BETWEEN 0 AND amount", name="progress_within_amount"),
    CheckConstraint("settled BETWEEN 0 AND amount", name="settled_within_amount"),
    CheckConstraint("(state = 'posted') = (settled > 0)", name="posted_means_settled"),
    CheckConstraint("shortfall >= 0", name="shortfall_not_negative"),
    _index("ix_holds_pending", "kind", "lease_until_ms", where="state = 'pending'"),
    sqlite_strict=True,
)

generations = Table(
    "generations",
    metadata,
    # A generation has the ID of its hold: one hold, one generation.
    Column("id", Int64, ForeignKey("holds.id"), primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("key_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("engine", Text, nullable=False),
    Column("served_model", Text),
    Column("state", Text, nullable=False),
    Column("price_input", Int64, nullable=False),
    Column("price_output", Int64, nullable=False),
    Column("input_units", Int64, nullable=False, server_default="0"),
    Column("output_units", Int64, nullable=False, server_default="0"),
    Column("cached_units", Int64, nullable=False, server_default="0"),
    Column("estimated", Integer, nullable=False, server_default="0"),
    Column("cost", Int64, nullable=False, server_default="0"),
    Column("request", Text),
    Column("result", Text),
    Column("seed", Int64),
    # `attempts`: upstreams tried, as JSON. `purchase`: the upstream cost in nano-dollars.
    Column("attempts", Text),
    Column("purchase", Int64),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("lease_until_ms", Int64),
    Column("error_code", Text),
    Column("created_ms", Int64, nullable=False),
    Column("first_token_ms", Int64),
    Column("finished_ms", Int64),
    # Image jobs only: batch compatibility, place in the queue, and progress.
    Column("size", Text),
    Column("turn", Int64),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("worker", Text),
    Column("step", Integer, nullable=False, server_default="0"),
    Column("error", Text),
    Column("webhook_url", Text),
    # Bytes of text, audio or image that were delivered; NULL if that was not recorded.
    Column("delivered_bytes", Int64),
    # Units and prices by bucket as JSON (core/catalog/prices.py), where the columns above do not say all.
    Column("price_split", Text),
    _one_of("state", "queued", "running", "succeeded", "failed", "cancelled"),
    CheckConstraint("cost >= 0", name="cost_not_negative"),
    CheckConstraint("price_input >= 0 AND price_output >= 0", name="prices_not_negative"),
    CheckConstraint("estimated IN (0, 1)", name="estimated_is_a_flag"),
    Index("ix_generations_account", "account_id", "created_ms"),
    # Partial indexes over queued and running image jobs only, so that chat requests never write to them.
    _index("ix_generations_queue", "turn", "created_ms", "id", where="state = 'queued'"),
    _index("ix_generations_queued", "account_id", "turn", where="state = 'queued'"),
    _index("ix_generations_drawn", "lease_until_ms", where="kind = 'image' AND state = 'running'"),
    _index(
        "ix_generations_words",
        "finished_ms",
        where="kind = 'image' AND request IS NOT NULL AND finished_ms IS NOT NULL",
    ),
    # With the state, so that PostgreSQL does not use it for queued jobs.
    _index(
        "ix_generations_gallery",
        "account_id",
        "created_ms",
        "id",
        where="kind = 'image' AND state = 'succeeded'",
    ),
    _index("ix_generations_pictures", "finished_ms", where="kind = 'image' AND result IS NOT NULL"),
    sqlite_strict=True,
)

key_spending = Table(
    "key_spending",
    metadata,
    # Budget and period together, see period_ids in core/models.py.
    Column("id", Text, primary_key=True),
    Column("used", Int64, nullable=False),
    Column("created_ms", Int64, nullable=False),
    CheckConstraint("used >= 0", name="used_not_negative"),
    # Totals are kept for ever, so they are not in the index that deletion reads.
    _index("ix_key_spending_created_ms", "created_ms", where="id NOT LIKE '%/total'"),
    sqlite_strict=True,
)

#: Refunds of charges, one row for each, with the columns needed to report them by the generation's day. No foreign key
#: refers to the generation, because archived ones are in files.
refunds = Table(
    "refunds",
    metadata,
    Column("generation_id", Int64, primary_key=True, autoincrement=False),
    # Counts the refunds of the generation from 1.
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    # The reference of its transfer.
    Column("external_ref", Text, nullable=False, unique=True),
    Column("amount", Int64, nullable=False),
    # The sum of all refunds up to this one, and what the generation was charged.
    Column("total", Int64, nullable=False),
    Column("cost", Int64, nullable=False),
    # Of the generation.
    Column("kind", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("began_ms", Int64, nullable=False),
    CheckConstraint("amount > 0", name="amount_positive"),
    CheckConstraint("total >= amount AND total <= cost", name="within_the_charge"),
    Index("ix_refunds_account", "account_id", "began_ms"),
    Index("ix_refunds_began_ms", "began_ms"),
    sqlite_strict=True,
)

#: Sums of the settled generations, written in the transaction of each settle. `day` counts UTC days since 1970 and is
#: the day on which the generations began. Without a row ID, a settle changes one page.
usage_days = Table(
    "usage_days",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("day", Int64, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("requests", Int64, nullable=False),
    Column("input_units", Int64, nullable=False),
    Column("output_units", Int64, nullable=False),
    Column("cost", Int64, nullable=False),
    # The known upstream costs.
    Column("purchase", Int64, nullable=False),
    Index("ix_usage_days_day", "day"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

#: Of the rows of `usage_days`, the tokens and fees that have a price of their own. Most requests have none.
usage_buckets = Table(
    "usage_buckets",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("day", Int64, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("bucket", Text, primary_key=True),
    Column("units", Int64, nullable=False),
    # Nano-dollars, rounded down for each request.
    Column("cost", Int64, nullable=False),
    Index("ix_usage_buckets_day", "day"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

#: Sums of the generations for dashboards, by engine and with failures and times. Written by a background task after the
#: generations have ended (storage/insight/traffic.py), never by a request.
traffic_days = Table(
    "traffic_days",
    metadata,
    # 0 stands for all accounts. No foreign key: the task that writes it must not wait for locks of accounts.
    Column("account_id", Int64, primary_key=True, autoincrement=False),
    Column("day", Int64, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("engine", Text, primary_key=True),
    Column("requests", Int64, nullable=False),
    Column("failures", Int64, nullable=False),
    # `known` is the part of `cost` with a known upstream cost, which is `purchase`.
    Column("cost", Int64, nullable=False),
    Column("purchase", Int64, nullable=False),
    Column("known", Int64, nullable=False, server_default="0"),
    # Times are in milliseconds: of the `timed` requests that succeeded, and of the `streamed` ones with a first token.
    Column("timed", Int64, nullable=False),
    Column("duration_ms", Int64, nullable=False),
    Column("streamed", Int64, nullable=False),
    Column("first_token_ms", Int64, nullable=False),
    # Output tokens of the streamed chats that succeeded, and the time from their first token to their end.
    Column("streamed_tokens", Int64, nullable=False, server_default="0"),
    Column("streaming_ms", Int64, nullable=False, server_default="0"),
    Index("ix_traffic_days_day", "day", "account_id"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

#: One row for each day that is closed: the sums of its generations, and a hash of its rows and of the hash before it.
audited_days = Table(
    "audited_days",
    metadata,
    Column("day", Int64, primary_key=True, autoincrement=False),
    Column("requests", Int64, nullable=False),
    Column("input_units", Int64, nullable=False),
    Column("output_units", Int64, nullable=False),
    Column("cost", Int64, nullable=False),
    Column("purchase", Int64, nullable=False),
    # Credits and reversals, as they changed the customers' balances.
    Column("external", Int64, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("audited_ms", Int64, nullable=False),
    sqlite_strict=True,
)

#: What budgets counted in closed days, so that the audit need not read them again.
audited_budgets = Table(
    "audited_budgets",
    metadata,
    Column("budget_id", Text, primary_key=True),
    Column("settled", Int64, nullable=False),
    sqlite_strict=True,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    # Account and Idempotency-Key together.
    Column("id", Text, primary_key=True),
    # The first hold placed under the key, and a hash of its request.
    Column("hold_id", Int64, ForeignKey("holds.id"), nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("created_ms", Int64, nullable=False),
    # The complete response: status, headers as JSON, and the body, compressed with deflate.
    Column("status", Integer),
    Column("headers", Text),
    Column("body", LargeBinary),
    Index("ix_idempotency_keys_created_ms", "created_ms"),
    # Each archived hold is looked for here before it is deleted, as the foreign key demands.
    Index("ix_idempotency_keys_hold_id", "hold_id"),
    sqlite_strict=True,
)

#: Stored responses of `/v1/responses`. Each has the ID of its generation. No foreign key refers to that one, because a
#: queued response is written before its hold.
responses = Table(
    "responses",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    # The response that this one continues. Its items are not stored again.
    Column("previous_id", Int64),
    Column("model", Text, nullable=False),
    Column("is_background", Integer, nullable=False),
    # A background response in progress, or one that has just ended: it is not deleted yet.
    Column("is_open", Integer, nullable=False),
    Column("cancelled_ms", Int64),
    Column("created_ms", Int64, nullable=False),
    Column("expires_ms", Int64, nullable=False),
    # Bytes of the two objects below as JSON.
    Column("request_bytes", Int64, nullable=False),
    Column("response_bytes", Int64, nullable=False),
    # Compressed, and encrypted under a key derived from the server's secret.
    Column("request", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    CheckConstraint("is_background IN (0, 1)", name="is_background_is_a_flag"),
    CheckConstraint("is_open IN (0, 1)", name="is_open_is_a_flag"),
    Index("ix_responses_account", "account_id", "id"),
    Index("ix_responses_expires_ms", "expires_ms"),
    _index("ix_responses_open", "id", where="is_open = 1"),
    sqlite_strict=True,
)

#: Bytes of the stored responses of each account, for its limit.
response_totals = Table(
    "response_totals",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("bytes", Int64, nullable=False),
    sqlite_strict=True,
)

#: Results that came after their hold was recovered: whole at the engine, and interrupted in the books. They are no
#: violation, but a sign that leases end too early: a clock that is wrong, or processes that pause. Kept for a week.
late_results = Table(
    "late_results",
    metadata,
    # No foreign key refers to the generation, because archived ones are in files.
    Column("generation_id", Int64, primary_key=True, autoincrement=False),
    # What it would have cost, and what was charged.
    Column("cost", Int64, nullable=False),
    Column("charged", Int64, nullable=False),
    Column("came_ms", Int64, nullable=False),
    Index("ix_late_results_came_ms", "came_ms"),
    sqlite_strict=True,
)

transfers = Table(
    "transfers",
    metadata,
    Column("id", Int64, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("debit", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("credit", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("amount", Int64, nullable=False),
    Column("hold_id", Int64, ForeignKey("holds.id")),
    Column("external_ref", Text),
    Column("account_version", Int64, nullable=False),
    Column("balance_after", Int64, nullable=False),
    Column("reason", Text),
    Column("created_ms", Int64, nullable=False),
    CheckConstraint("amount > 0", name="amount_positive"),
    CheckConstraint("debit <> credit", name="two_accounts"),
    CheckConstraint("balance_after >= 0", name="never_below_zero"),
    CheckConstraint("(hold_id IS NULL) <> (external_ref IS NULL)", name="one_reason_to_exist"),
    # Partial indexes only, because each index adds a page write to every commit. Usage is found by its generation.
    _index("uq_transfers_hold_id", "hold_id", unique=True, where="hold_id IS NOT NULL"),
    _index("uq_transfers_external_ref", "external_ref", unique=True, where="external_ref IS NOT NULL"),
    _index("ix_transfers_debit", "debit", where="kind <> 'usage'"),
    _index("ix_transfers_credit", "credit", where="kind <> 'usage'"),
    _index("ix_transfers_external", "created_ms", where="kind <> 'usage'"),
    sqlite_strict=True,
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Int64, primary_key=True),
    # One message per finished job or notice, however many delivery attempts it takes.
    Column("generation_id", Int64, ForeignKey("generations.id"), unique=True),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("url", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_ms", Int64, nullable=False),
    Column("created_ms", Int64, nullable=False),
    Column("finished_ms", Int64),
    Column("notice_id", Int64, ForeignKey("notices.id"), unique=True),
    CheckConstraint("(generation_id IS NULL) <> (notice_id IS NULL)", name="one_subject"),
    CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="state_known"),
    CheckConstraint("(state = 'pending') = (finished_ms IS NULL)", name="finished_means_over"),
    _index("ix_outbox_due", "next_ms", where="state = 'pending'"),
    _index("ix_outbox_finished", "finished_ms", where="state <> 'pending'"),
    Index("ix_outbox_account", "account_id", "id"),
    sqlite_strict=True,
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("outbox_id", Int64, ForeignKey("outbox.id"), primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("at_ms", Int64, nullable=False),
    Column("duration_ms", Int64, nullable=False),
    Column("status", Integer),
    Column("error", Text),
    CheckConstraint("(status IS NULL) = (error IS NOT NULL)", name="an_answer_or_an_error"),
    sqlite_strict=True,
)

vouchers = Table(
    "vouchers",
    metadata,
    Column("code_hmac", LargeBinary, primary_key=True),
    # The last characters of the code, to tell vouchers apart in a list.
    Column("hint", Text, nullable=False),
    Column("amount", Int64, nullable=False),
    Column("note", Text),
    Column("created_ms", Int64, nullable=False),
    Column("expires_ms", Int64),
    Column("redeemed_ms", Int64),
    Column("account_id", Int64, ForeignKey("accounts.id")),
    # The vouchers that were created together have the same batch.
    Column("batch", Text),
    Column("cancelled_ms", Int64),
    CheckConstraint("amount > 0", name="amount_positive"),
    CheckConstraint("(redeemed_ms IS NULL) = (account_id IS NULL)", name="redeemed_by_somebody"),
    CheckConstraint("redeemed_ms IS NULL OR cancelled_ms IS NULL", name="redeemed_or_cancelled"),
    _index("ix_vouchers_batch", "batch", where="batch IS NOT NULL"),
    _index("ix_vouchers_account", "account_id", where="account_id IS NOT NULL"),
    Index("ix_vouchers_created", "created_ms", "code_hmac"),
    sqlite_strict=True,
)

payments = Table(
    "payments",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("provider", Text, nullable=False),
    # The provider's IDs of the checkout session and of its payment.
    Column("provider_ref", Text, unique=True),
    Column("intent", Text),
    # Requested amount, amount paid, amount reversed, and amount moved to the account.
    Column("asked", Int64, nullable=False),
    Column("paid", Int64, nullable=False, server_default="0"),
    Column("reversed", Int64, nullable=False, server_default="0"),
    Column("moved", Int64, nullable=False, server_default="0"),
    # Counts the transfers of this payment, each of which has its own reference.
    Column("version", Int64, nullable=False, server_default="0"),
    # Counts updates from the provider: a lookup that started before the last update is stale.
    Column("looks", Int64, nullable=False, server_default="0"),
    Column("state", Text, nullable=False, server_default="open"),
    Column("created_ms", Int64, nullable=False),
    Column("changed_ms", Int64, nullable=False),
    # Charged by an automatic top-up.
    Column("is_auto", Integer, nullable=False, server_default="0"),
    # The currency that the customer pays in, if that is not the dollar, and the amount in its cents.
    Column("currency", Text),
    Column("charged", Int64),
    # Why the payment was not credited although the provider reported something: `currency`, `amount` or `failed`.
    Column("problem", Text),
    # The subscription that it pays a period of.
    Column("subscription_id", Int64),
    CheckConstraint("asked > 0", name="asked_positive"),
    CheckConstraint("reversed BETWEEN 0 AND paid", name="reversed_within_paid"),
    CheckConstraint("moved BETWEEN 0 AND paid", name="moved_within_paid"),
    CheckConstraint("state IN ('open', 'paid', 'closed')", name="state_known"),
    CheckConstraint("(state = 'paid') = (paid > 0)", name="paid_means_money"),
    Index("ix_payments_account", "account_id", "id"),
    Index("ix_payments_intent", "intent"),
    _index("ix_payments_open", "created_ms", where="state = 'open'"),
    _index("ix_payments_owing", "id", where="moved > paid - reversed"),
    _index("ix_payments_auto", "account_id", "created_ms", where="is_auto = 1"),
    _index("ix_payments_paid", "provider", "created_ms", where="state = 'paid'"),
    sqlite_strict=True,
)

#: Automatic top-ups: the limits that customers consented to, and the saved payment method at the provider.
auto_topups = Table(
    "auto_topups",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("provider", Text, nullable=False),
    # The provider's IDs of the customer and of the payment method, and how to show it: "visa …4242".
    Column("customer", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("method_name", Text, nullable=False),
    Column("language", Text, nullable=False),
    Column("threshold", Int64, nullable=False),
    Column("amount", Int64, nullable=False),
    Column("daily_cap", Int64, nullable=False),
    Column("consented_ms", Int64, nullable=False),
    Column("changed_ms", Int64, nullable=False),
    # Why it has stopped: `failed` or `cancelled`. NULL: it is running.
    Column("stopped", Text),
    # The payment in progress.
    Column("payment_id", Int64),
    CheckConstraint("amount > 0 AND daily_cap >= amount", name="cap_covers_one"),
    CheckConstraint("threshold > 0", name="threshold_positive"),
    _index("ix_auto_topups_running", "account_id", where="stopped IS NULL"),
    sqlite_strict=True,
)

#: Plans that a payment provider renews: it charges the customer for each period until one of both cancels.
subscriptions = Table(
    "subscriptions",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("provider", Text, nullable=False),
    # The provider's ID of the subscription, once it is known.
    Column("provider_ref", Text, unique=True),
    Column("plan", Text, nullable=False),
    # What the customer agreed to pay for each period.
    Column("price", Int64, nullable=False),
    # `new` until the first payment; `ending`: cancelled, or not paid, and its plan runs until its end.
    Column("state", Text, nullable=False, server_default="new"),
    Column("created_ms", Int64, nullable=False),
    Column("changed_ms", Int64, nullable=False),
    CheckConstraint("price > 0", name="price_positive"),
    _one_of("state", "new", "active", "ending", "ended"),
    Index("ix_subscriptions_account", "account_id", "id"),
    _index("ix_subscriptions_running", "id", where="state <> 'ended'"),
    sqlite_strict=True,
)

#: Names and addresses of customers for their invoices.
buyers = Table(
    "buyers",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("country", Text, nullable=False),
    Column("tax_number", Text, nullable=False),
    Column("changed_ms", Int64, nullable=False),
    sqlite_strict=True,
)

#: The last number of each series of invoices. It is raised in the commit that writes the invoice, so no number is lost.
invoice_series = Table(
    "invoice_series",
    metadata,
    Column("name", Text, primary_key=True),
    Column("last", Int64, nullable=False),
    sqlite_strict=True,
)

#: Invoices and credit notes. Rows are never changed.
invoices = Table(
    "invoices",
    metadata,
    Column("series", Text, primary_key=True),
    Column("number", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("payment_id", Int64, ForeignKey("payments.id"), nullable=False),
    Column("kind", Text, nullable=False),
    # In nano-dollars. The total contains the tax.
    Column("total", Int64, nullable=False),
    Column("tax", Int64, nullable=False),
    Column("issued_ms", Int64, nullable=False),
    # Seller, buyer and tax as they were when it was issued, as JSON (billing/selling/invoices.py).
    Column("document", Text, nullable=False),
    CheckConstraint("kind = 'invoice' OR kind = 'credit_note'", name="kind_known"),
    CheckConstraint("total > 0", name="total_positive"),
    CheckConstraint("tax >= 0 AND tax <= total", name="tax_within_total"),
    Index("ix_invoices_account", "account_id", "issued_ms"),
    Index("ix_invoices_payment", "payment_id"),
    Index("ix_invoices_issued", "issued_ms", "series", "number"),
    sqlite_strict=True,
)

#: Settings for notices.
notice_settings = Table(
    "notice_settings",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("by_mail", Integer, nullable=False, server_default="1"),
    Column("webhook_url", Text),
    # Notify when the balance falls below this. `is_low`: it has; `crossings` counts how often.
    Column("low_balance", Int64),
    Column("is_low", Integer, nullable=False, server_default="0"),
    Column("budgets", Integer, nullable=False, server_default="1"),
    Column("crossings", Int64, nullable=False, server_default="0"),
    CheckConstraint("by_mail IN (0, 1)", name="by_mail_is_a_flag"),
    CheckConstraint("budgets IN (0, 1)", name="budgets_is_a_flag"),
    CheckConstraint("is_low IN (0, 1)", name="is_low_is_a_flag"),
    CheckConstraint("low_balance > 0", name="low_balance_positive"),
    sqlite_strict=True,
)

#: Notices to customers, each once: `subject` names the crossing that it is about.
notices = Table(
    "notices",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("type", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("created_ms", Int64, nullable=False),
    Column("mail_due", Integer, nullable=False, server_default="0"),
    CheckConstraint("mail_due IN (0, 1)", name="mail_due_is_a_flag"),
    Index("uq_notices_once", "account_id", "type", "subject", unique=True),
    _index("ix_notices_mail_due", "id", where="mail_due = 1"),
    sqlite_strict=True,
)

webhook_events = Table(
    "webhook_events",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("seen_ms", Int64, nullable=False, index=True),
    sqlite_strict=True,
)

#: Objects that hold the uploaded images of image jobs. A row is written before its object and its job, and removed
#: after the object, so that no upload outlives its job (storage/tables/job_inputs.py).
job_inputs = Table(
    "job_inputs",
    metadata,
    Column("object_key", Text, primary_key=True),
    Column("job_id", Int64, nullable=False),
    Column("created_ms", Int64, nullable=False),
    Index("ix_job_inputs_job", "job_id"),
    sqlite_strict=True,
)

#: Worker processes on a shared database: the models they can run, and when they last reported.
workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("offers", Text, nullable=False),
    Column("seen_ms", Int64, nullable=False),
    # PostgreSQL's process ID of the session that the worker keeps open. NULL: it is known to be gone.
    Column("presence", Int64),
    sqlite_strict=True,
)

#: Steps of the jobs that a worker runs, as JSON: one row a worker, because a row a job would be rewritten four times a
#: second each. Like the next table it is unlogged on PostgreSQL, so a crash of the server may empty it.
worker_steps = Table(
    "worker_steps",
    metadata,
    Column("worker", Text, primary_key=True),
    Column("steps", Text, nullable=False),
    sqlite_strict=True,
)

#: Token buckets that processes share: when each will be full again, on the database server's clock.
shared_limits = Table(
    "shared_limits",
    metadata,
    Column("name", Text, primary_key=True),
    Column("full_us", Int64, nullable=False),
    Index("ix_shared_limits_full", "full_us"),
    sqlite_strict=True,
)

#: Requests in progress that each process may have of a limit that all share, until its lease ends. Unlogged as well.
shared_slots = Table(
    "shared_slots",
    metadata,
    Column("name", Text, primary_key=True),
    Column("process", Text, primary_key=True),
    Column("held", Int64, nullable=False),
    Column("until_ms", Int64, nullable=False),
    Index("ix_shared_slots_until_ms", "until_ms"),
    sqlite_strict=True,
)

#: Audit log: actions of admins in the portal and of the command line, written in the same commit. Rows are never
#: changed.
admin_actions = Table(
    "admin_actions",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    # NULL: the command line.
    Column("admin_id", Int64, ForeignKey("accounts.id")),
    # NULL: not about one account.
    Column("account_id", Int64, ForeignKey("accounts.id")),
    Column("action", Text, nullable=False),
    Column("amount", Int64),
    Column("note", Text),
    Column("created_ms", Int64, nullable=False),
    # Its subject, if that is not the account: a generation, a voucher or a batch of vouchers.
    Column("subject", Text),
    # Where it was done: the IP address of the browser, or user and machine of the command line.
    Column("source", Text),
    CheckConstraint(
        "action IN ('grant', 'revoke_keys', 'reload_catalog', 'suspend', 'unsuspend', 'reverse', 'refund',"
        " 'cancel_vouchers', 'note', 'view', 'set_group', 'start_plan', 'end_plan', 'create_coupon',"
        " 'cancel_coupon', 'reset_second_factor')",
        name="action_known",
    ),
    Index("ix_admin_actions_account", "account_id", "id"),
    sqlite_strict=True,
)

#: Accounts that have requests and responses stored, with the encrypted key that encrypts them.
body_settings = Table(
    "body_settings",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    # 0: turned off. The row stays until the bodies are deleted.
    Column("days", Integer, nullable=False),
    Column("wrapped_key", LargeBinary),
    Column("changed_ms", Int64, nullable=False),
    CheckConstraint("days >= 0 AND days <= 30", name="days_limited"),
    CheckConstraint("(days > 0) = (wrapped_key IS NOT NULL)", name="key_while_on"),
    _index("ix_body_settings_off", "account_id", where="wrapped_key IS NULL"),
    sqlite_strict=True,
)

#: Requests and responses of generations (same ID), encrypted under the key of the account.
request_bodies = Table(
    "request_bodies",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("request", LargeBinary),
    Column("response", LargeBinary),
    # Before they were cut.
    Column("request_bytes", Int64, nullable=False),
    Column("response_bytes", Int64, nullable=False),
    Column("expires_ms", Int64, nullable=False, index=True),
    Index("ix_request_bodies_account", "account_id", "id"),
    sqlite_strict=True,
)

#: Accounts that have the request log of each day sent to a bucket or a webhook.
log_exports = Table(
    "log_exports",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("format", Text, nullable=False),
    # A URL, or a bucket as JSON.
    Column("target", Text, nullable=False),
    # The secret access key of the bucket, encrypted under a key derived from the server's secret.
    Column("secret", LargeBinary),
    # Number of the day that is sent next, and when.
    Column("next_day", Int64, nullable=False),
    Column("next_ms", Int64, nullable=False, index=True),
    Column("failures", Int64, nullable=False),
    Column("error", Text),
    Column("done_day", Int64),
    Column("done_ms", Int64),
    Column("changed_ms", Int64, nullable=False),
    _one_of("kind", "s3", "webhook"),
    _one_of("format", "csv", "jsonl"),
    sqlite_strict=True,
)

#: Facts about the installation by name, such as the mark of the secret that its keys are hashed under.
installation = Table(
    "installation",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_strict=True,
)

# ── plans ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#: Credit of plans. A purse is an account of its own (same ID), which pays for its owner's requests until its end. Its
#: price and its limits are those at the time of purchase.
purses = Table(
    "purses",
    metadata,
    Column("id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("owner_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("plan", Text, nullable=False),
    Column("price", Int64, nullable=False),
    Column("credit", Int64, nullable=False),
    # The most that may be spent in one window of each kind. NULL: no limit.
    Column("window_5h", Int64),
    Column("window_week", Int64),
    Column("window_month", Int64),
    Column("period", Text, nullable=False),
    Column("begins_ms", Int64, nullable=False),
    Column("ends_ms", Int64, nullable=False),
    # Credit that was taken back at the end.
    Column("expired", Int64, nullable=False, server_default="0"),
    # Closed: it has ended, and nothing is left or held in it.
    Column("state", Text, nullable=False, server_default="open"),
    # What happens at its end: nothing, the next period is paid from the balance, or a payment provider's subscription
    # starts it.
    Column("renewal", Text, nullable=False, server_default="none"),
    # Since when the balance does not suffice for the renewal.
    Column("unpaid_ms", Int64),
    # The reference of its transfers, under which it was bought once.
    Column("reference", Text, nullable=False, unique=True),
    Column("created_ms", Int64, nullable=False),
    CheckConstraint("price >= 0", name="price_not_negative"),
    CheckConstraint("credit > 0", name="credit_positive"),
    CheckConstraint("expired BETWEEN 0 AND credit", name="expired_within_credit"),
    CheckConstraint("ends_ms >= begins_ms", name="ends_after_beginning"),
    CheckConstraint("id <> owner_id", name="not_its_own_owner"),
    _one_of("period", "week", "month", "year"),
    _one_of("state", "open", "closed"),
    _one_of("renewal", "none", "balance", "provider"),
    Index("ix_purses_owner", "owner_id", "id"),
    _index("ix_purses_open", "ends_ms", where="state = 'open'"),
    sqlite_strict=True,
)

#: What the holds of a purse promise and took in each window, of open purses only.
purse_windows = Table(
    "purse_windows",
    metadata,
    # Purse, kind and number of the window together, see core/plans.py.
    Column("id", Text, primary_key=True),
    Column("purse_id", Int64, ForeignKey("purses.id"), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("used", Int64, nullable=False),
    CheckConstraint("used >= 0", name="used_not_negative"),
    sqlite_strict=True,
)

coupons = Table(
    "coupons",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    # As customers type it, in upper case without blanks and hyphens.
    Column("code", Text, nullable=False, unique=True),
    # Percent off the price of a plan, or an amount of credit.
    Column("percent", Integer),
    Column("amount", Int64),
    # At most so many accounts may use it, each once.
    Column("uses", Int64, nullable=False),
    Column("used", Int64, nullable=False, server_default="0"),
    Column("note", Text),
    Column("created_ms", Int64, nullable=False),
    Column("expires_ms", Int64),
    Column("cancelled_ms", Int64),
    CheckConstraint("(percent IS NULL) <> (amount IS NULL)", name="percent_or_amount"),
    CheckConstraint("percent IS NULL OR percent BETWEEN 1 AND 100", name="percent_within_100"),
    CheckConstraint("amount IS NULL OR amount > 0", name="amount_positive"),
    CheckConstraint("used BETWEEN 0 AND uses", name="used_within_uses"),
    Index("ix_coupons_created", "created_ms", "id"),
    sqlite_strict=True,
)

coupon_uses = Table(
    "coupon_uses",
    metadata,
    Column("coupon_id", Int64, ForeignKey("coupons.id"), primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("used_ms", Int64, nullable=False),
    # Its value to the account, and the reference of the transfer.
    Column("amount", Int64, nullable=False),
    Column("reference", Text, nullable=False),
    Index("ix_coupon_uses_account", "account_id", "coupon_id"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

# ── archived days: their generations, holds and usage transfers are in files of the object store ────────────────────

#: Sums of one archived day. All generations that began before the end of the newest one are archived.
archived_days = Table(
    "archived_days",
    metadata,
    # Counted since 1970.
    Column("day", Int64, primary_key=True, autoincrement=False),
    Column("requests", Int64, nullable=False),
    Column("paid", Int64, nullable=False),
    Column("cost", Int64, nullable=False),
    Column("amount", Int64, nullable=False),
    Column("shortfall", Int64, nullable=False),
    # SHA-256 of the manifest, which names that of the day archived before: a chain.
    Column("manifest", Text, nullable=False),
    Column("archived_ms", Int64, nullable=False),
    # When the last of its rows was deleted here.
    Column("removed_ms", Int64),
    sqlite_strict=True,
)

archived_parts = Table(
    "archived_parts",
    metadata,
    Column("day", Int64, primary_key=True, autoincrement=False),
    Column("part", Int64, primary_key=True, autoincrement=False),
    Column("sha256", Text, nullable=False),
    Column("bytes", Int64, nullable=False),
    Column("requests", Int64, nullable=False),
    sqlite_strict=True,
)

#: Which files hold an account's rows: by time, and by the numbers of its transfers.
archived_accounts = Table(
    "archived_accounts",
    metadata,
    Column("day", Int64, primary_key=True, autoincrement=False),
    Column("part", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("first_ms", Int64, nullable=False),
    Column("last_ms", Int64, nullable=False),
    Column("first_version", Int64),
    Column("last_version", Int64),
    Index("ix_archived_accounts_time", "account_id", "day", "part"),
    Index("ix_archived_accounts_version", "account_id", "last_version"),
    sqlite_strict=True,
)

#: The sum of an account's archived and deleted transfers, signed. The audit adds it to those that are left.
opening_balances = Table(
    "opening_balances",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("amount", Int64, nullable=False),
    sqlite_strict=True,
)

#: What archived and deleted holds took of a budget.
archived_budgets = Table(
    "archived_budgets",
    metadata,
    Column("budget_id", Text, primary_key=True),
    Column("used", Int64, nullable=False),
    sqlite_strict=True,
)
