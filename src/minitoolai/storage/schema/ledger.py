"""Tables of the ledger: holds, generations, transfers, refunds and what budgets have spent."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, Table, Text

from minitoolai.storage.schema.base import Int64, metadata, one_of, partial_index

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
    one_of("kind", "chat", "image", "speech", "transcription"),
    one_of("state", "pending", "posted", "voided"),
    CheckConstraint("progress BETWEEN 0 AND amount", name="progress_within_amount"),
    CheckConstraint("settled BETWEEN 0 AND amount", name="settled_within_amount"),
    CheckConstraint("(state = 'posted') = (settled > 0)", name="posted_means_settled"),
    CheckConstraint("shortfall >= 0", name="shortfall_not_negative"),
    partial_index("ix_holds_pending", "kind", "lease_until_ms", where="state = 'pending'"),
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
    # Image jobs and background responses: attempts in a row that were lost with their worker.
    Column("losses", Integer, nullable=False, server_default="0"),
    one_of("state", "queued", "running", "succeeded", "failed", "cancelled"),
    CheckConstraint("cost >= 0", name="cost_not_negative"),
    CheckConstraint("price_input >= 0 AND price_output >= 0", name="prices_not_negative"),
    CheckConstraint("estimated IN (0, 1)", name="estimated_is_a_flag"),
    Index("ix_generations_account", "account_id", "created_ms"),
    # Partial indexes over queued and running image jobs only, so that chat requests never write to them.
    partial_index("ix_generations_queue", "turn", "created_ms", "id", where="state = 'queued'"),
    partial_index("ix_generations_queued", "account_id", "turn", where="state = 'queued'"),
    partial_index("ix_generations_drawn", "lease_until_ms", where="kind = 'image' AND state = 'running'"),
    partial_index(
        "ix_generations_words",
        "finished_ms",
        where="kind = 'image' AND request IS NOT NULL AND finished_ms IS NOT NULL",
    ),
    # With the state, so that PostgreSQL does not use it for queued jobs.
    partial_index(
        "ix_generations_gallery",
        "account_id",
        "created_ms",
        "id",
        where="kind = 'image' AND state = 'succeeded'",
    ),
    partial_index("ix_generations_pictures", "finished_ms", where="kind = 'image' AND result IS NOT NULL"),
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
    partial_index("ix_key_spending_created_ms", "created_ms", where="id NOT LIKE '%/total'"),
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
    partial_index("uq_transfers_hold_id", "hold_id", unique=True, where="hold_id IS NOT NULL"),
    partial_index("uq_transfers_external_ref", "external_ref", unique=True, where="external_ref IS NOT NULL"),
    partial_index("ix_transfers_debit", "debit", where="kind <> 'usage'"),
    partial_index("ix_transfers_credit", "credit", where="kind <> 'usage'"),
    partial_index("ix_transfers_external", "created_ms", where="kind <> 'usage'"),
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
