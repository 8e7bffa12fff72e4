"""Payments by several providers, automatic top-ups, invoices without gaps, and notices by mail and webhook."""

import re
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_SUBJECT = "(generation_id IS NULL) <> (notice_id IS NULL)"


def _account(*, is_key: bool = False) -> sa.Column[Any]:
    return sa.Column("account_id", Int64, primary_key=is_key, autoincrement=False, nullable=False)


def _text(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _number(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, Int64, nullable=nullable)


def _flag(name: str, default: int) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer(), nullable=False, server_default=str(default))


def _owner(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f(f"fk_{table}_account_id"))


def upgrade() -> None:
    """Add columns, create five empty tables, and change the outbox, of which a month is kept."""
    op.add_column("payments", _flag("is_auto", 0))
    op.add_column("payments", _text("currency", nullable=True))
    op.add_column("payments", _number("charged", nullable=True))
    op.add_column("payments", _text("problem", nullable=True))
    op.create_table(
        "auto_topups",
        _account(is_key=True),
        *(_text(name) for name in ("provider", "customer", "method", "method_name", "language")),
        *(_number(name) for name in ("threshold", "amount", "daily_cap", "consented_ms", "changed_ms")),
        _text("stopped", nullable=True),
        _number("payment_id", nullable=True),
        sa.CheckConstraint("amount > 0 AND daily_cap >= amount", name=op.f("ck_auto_topups_cap_covers_one")),
        sa.CheckConstraint("threshold > 0", name=op.f("ck_auto_topups_threshold_positive")),
        _owner("auto_topups"),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_auto_topups")),
        sqlite_strict=True,
    )
    running = sa.text("stopped IS NULL")
    op.create_index(
        "ix_auto_topups_running", "auto_topups", ["account_id"], sqlite_where=running, postgresql_where=running
    )
    automatic = sa.text("is_auto = 1")
    op.create_index(
        "ix_payments_auto", "payments", ["account_id", "created_ms"], sqlite_where=automatic, postgresql_where=automatic
    )
    recent = sa.text("state = 'paid'")
    op.create_index(
        "ix_payments_paid", "payments", ["provider", "created_ms"], sqlite_where=recent, postgresql_where=recent
    )
    _create_invoices()
    _create_notices()
    _change_outbox()


def _create_invoices() -> None:
    op.create_table(
        "buyers",
        _account(is_key=True),
        *(_text(name) for name in ("name", "address", "country", "tax_number")),
        _number("changed_ms"),
        _owner("buyers"),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_buyers")),
        sqlite_strict=True,
    )
    op.create_table(
        "invoice_series",
        sa.Column("name", sa.Text(), nullable=False),
        _number("last"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_invoice_series")),
        sqlite_strict=True,
    )
    op.create_table(
        "invoices",
        _text("series"),
        sa.Column("number", Int64, autoincrement=False, nullable=False),
        _account(),
        _number("payment_id"),
        _text("kind"),
        *(_number(name) for name in ("total", "tax", "issued_ms")),
        _text("document"),
        sa.CheckConstraint("kind = 'invoice' OR kind = 'credit_note'", name=op.f("ck_invoices_kind_known")),
        sa.CheckConstraint("total > 0", name=op.f("ck_invoices_total_positive")),
        sa.CheckConstraint("tax >= 0 AND tax <= total", name=op.f("ck_invoices_tax_within_total")),
        _owner("invoices"),
        sa.ForeignKeyConstraint(["payment_id"], ["payments.id"], name=op.f("fk_invoices_payment_id")),
        sa.PrimaryKeyConstraint("series", "number", name=op.f("pk_invoices")),
        sqlite_strict=True,
    )
    op.create_index("ix_invoices_account", "invoices", ["account_id", "issued_ms"])
    op.create_index("ix_invoices_payment", "invoices", ["payment_id"])
    op.create_index("ix_invoices_issued", "invoices", ["issued_ms", "series", "number"])


def _create_notices() -> None:
    op.create_table(
        "notice_settings",
        _account(is_key=True),
        _flag("by_mail", 1),
        _text("webhook_url", nullable=True),
        _number("low_balance", nullable=True),
        _flag("is_low", 0),
        _flag("budgets", 1),
        sa.Column("crossings", Int64, nullable=False, server_default="0"),
        sa.CheckConstraint("by_mail IN (0, 1)", name=op.f("ck_notice_settings_by_mail_is_a_flag")),
        sa.CheckConstraint("budgets IN (0, 1)", name=op.f("ck_notice_settings_budgets_is_a_flag")),
        sa.CheckConstraint("is_low IN (0, 1)", name=op.f("ck_notice_settings_is_low_is_a_flag")),
        sa.CheckConstraint("low_balance > 0", name=op.f("ck_notice_settings_low_balance_positive")),
        _owner("notice_settings"),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_notice_settings")),
        sqlite_strict=True,
    )
    op.create_table(
        "notices",
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        _account(),
        *(_text(name) for name in ("type", "subject", "data")),
        _number("created_ms"),
        _flag("mail_due", 0),
        sa.CheckConstraint("mail_due IN (0, 1)", name=op.f("ck_notices_mail_due_is_a_flag")),
        _owner("notices"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
        sqlite_strict=True,
    )
    op.create_index("uq_notices_once", "notices", ["account_id", "type", "subject"], unique=True)
    due = sa.text("mail_due = 1")
    op.create_index("ix_notices_mail_due", "notices", ["id"], sqlite_where=due, postgresql_where=due)


def _change_outbox() -> None:
    """Let a message be about a notice instead of a generation."""
    name, key = op.f("ck_outbox_one_subject"), op.f("fk_outbox_notice_id")
    if op.get_bind().dialect.name != "sqlite":
        op.alter_column("outbox", "generation_id", nullable=True)
        op.add_column("outbox", _number("notice_id", nullable=True))
        op.create_foreign_key(key, "outbox", "notices", ["notice_id"], ["id"])
        op.create_check_constraint(name, "outbox", _SUBJECT)
        op.create_unique_constraint(op.f("uq_outbox_notice_id"), "outbox", ["notice_id"])
        return
    # SQLite cannot drop a NOT NULL, so the table is copied. Migrations run without foreign keys.
    connection = op.get_bind()
    op.add_column("outbox", _number("notice_id", nullable=True))
    made = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = 'outbox'")).scalar_one()
    of_outbox = "FROM sqlite_master WHERE type = 'index' AND tbl_name = 'outbox' AND sql IS NOT NULL"
    indexes = connection.execute(sa.text(f"SELECT sql {of_outbox}")).scalars().all()
    changed = re.sub(r'^CREATE TABLE "?outbox"?', "CREATE TABLE outbox_new", made)
    changed = re.sub(r"\bgeneration_id INTEGER NOT NULL", "generation_id INTEGER", changed)
    checks = (
        f", CONSTRAINT {name} CHECK ({_SUBJECT}), CONSTRAINT {key} FOREIGN KEY(notice_id) REFERENCES notices (id),"
        f" CONSTRAINT {op.f('uq_outbox_notice_id')} UNIQUE (notice_id)"
    )
    end = changed.rindex(")")
    connection.execute(sa.text(changed[:end] + checks + changed[end:]))
    connection.execute(sa.text("INSERT INTO outbox_new SELECT * FROM outbox"))
    connection.execute(sa.text("DROP TABLE outbox"))
    connection.execute(sa.text("ALTER TABLE outbox_new RENAME TO outbox"))
    for sql in indexes:
        connection.execute(sa.text(sql))
