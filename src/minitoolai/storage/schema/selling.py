"""Tables of payments: vouchers, automatic top-ups, subscriptions, invoices and notices."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, LargeBinary, Table, Text

from minitoolai.storage.schema.base import Int64, metadata, one_of, partial_index

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
    partial_index("ix_vouchers_batch", "batch", where="batch IS NOT NULL"),
    partial_index("ix_vouchers_account", "account_id", where="account_id IS NOT NULL"),
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
    partial_index("ix_payments_open", "created_ms", where="state = 'open'"),
    partial_index("ix_payments_owing", "id", where="moved > paid - reversed"),
    partial_index("ix_payments_auto", "account_id", "created_ms", where="is_auto = 1"),
    partial_index("ix_payments_paid", "provider", "created_ms", where="state = 'paid'"),
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
    partial_index("ix_auto_topups_running", "account_id", where="stopped IS NULL"),
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
    one_of("state", "new", "active", "ending", "ended"),
    Index("ix_subscriptions_account", "account_id", "id"),
    partial_index("ix_subscriptions_running", "id", where="state <> 'ended'"),
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
    partial_index("ix_notices_mail_due", "id", where="mail_due = 1"),
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
