"""No query of storage/ scans a table that grows.

Every function of storage/ that takes a connection is called once on a connection that records its statements; then each
database explains how it would run them. A function that is missing here fails the first test, so the list stays
complete; a statement that a function only runs in some cases must get a call that makes it run.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from minitoolai.billing.selling import plans
from minitoolai.core.catalog.selling import Plan
from minitoolai.core.clock import MS_PER_DAY, first_id_at
from minitoolai.core.models import (
    AdminAction,
    EmailChange,
    KeyRow,
    KeyRules,
    MailLink,
    NewGeneration,
    Outcome,
    Payment,
    SecondFactor,
    StoredResponse,
    Voucher,
)
from minitoolai.core.plans import Windows
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import ClaimAnswer, ExpireCredit
from minitoolai.storage import database
from minitoolai.storage.archive import rows as archive
from minitoolai.storage.archive.files import PartEntry, Sums, encode_line, line_digest
from minitoolai.storage.database import Connection, PriceParts, Row, SelectByIds
from minitoolai.storage.insight import requests as request_log
from minitoolai.storage.insight import traffic
from minitoolai.storage.selling import auto_topups, coupons, invoices, notices, purses, subscriptions
from minitoolai.storage.selling.purses import Purse
from minitoolai.storage.tables import (
    accounts,
    audit,
    factor_resets,
    gallery,
    idempotency,
    identities,
    job_inputs,
    jobs,
    late_results,
    ledger,
    log_exports,
    marks,
    members,
    outbox,
    passkeys,
    payments,
    personal_data,
    placed_servers,
    refunds,
    reports,
    request_bodies,
    responses,
    retention,
    saved_prompts,
    second_factors,
    shared_limits,
    usage_days,
    users,
)
from minitoolai.storage.tables.factor_resets import FactorReset
from minitoolai.storage.tables.identities import IdentityRow
from minitoolai.storage.tables.log_exports import LogExport
from minitoolai.storage.tables.members import MemberAction, TeamBudget
from minitoolai.storage.tables.passkeys import Passkey, PasskeyChallenge
from minitoolai.storage.tables.placed_servers import PlacedServerRow
from minitoolai.storage.tables.request_bodies import BodyRow, BodySettings
from tests.support.books import DONE, NOON_MS, TemporaryBooks, credit, hold, refund, settle
from tests.support.history import seed_history
from tests.support.old_days import no_file

MODULES = (
    archive,
    accounts,
    audit,
    coupons,
    factor_resets,
    gallery,
    idempotency,
    identities,
    job_inputs,
    jobs,
    late_results,
    ledger,
    log_exports,
    marks,
    members,
    outbox,
    passkeys,
    payments,
    personal_data,
    placed_servers,
    purses,
    refunds,
    reports,
    request_bodies,
    request_log,
    responses,
    retention,
    saved_prompts,
    second_factors,
    shared_limits,
    traffic,
    usage_days,
    users,
    auto_topups,
    invoices,
    notices,
    subscriptions,
)
#: Tables with few rows: one for each worker that is alive, each day, and each series of invoices. `turns` is one
#: conversation, `listed` one page of customers.
SMALL = {
    "workers", "worker_steps", "placed_servers", "p", "free", "archived_days", "turns", "invoice_series", "s", "listed"
}  # fmt: skip
#: Indexes of small tables and partial ones over what is in progress, which may be read from one end to the other.
IN_PROGRESS = {
    "ix_holds_pending", "ix_generations_queue", "ix_generations_queued", "ix_generations_drawn", "ix_outbox_due",
    "ix_auto_topups_running", "ix_notices_mail_due", "ix_payments_open", "ix_payments_owing",
    "pk_archived_days", "ix_responses_open", "pk_workers", "ix_subscriptions_running",
    "ix_factor_resets_mail", "ix_body_settings_off", "pk_placed_servers",
}  # fmt: skip
#: Function → why it may scan.
MAY_SCAN = {
    "archive.rows.openings": "archive --verify compares all of them",
    "archive.rows.rows_left": "part of `audit --full`",
    "usage_days.wrong_buckets": "part of broken_invariants",
    "ledger.broken_invariants": "the check of a restored backup, and of tests, reads everything",
    "ledger.excess_shortfalls": "part of the audit",
    "audit.balances": "every account, a row for each customer",
    "audit.budget_totals": "one row for each budget",
    "audit.closed_budgets": "one row for each budget",
    "audit.changed_sums": "sums of days, once an hour",
    "audit.usage_until": "sums of days, once an hour and when a day is closed",
    "audit.external_flows": "credits and reversals; those of open days each minute, the others once an hour",
    "audit.first_day": "until the first day is closed",
    "audit.closed_days": "one row for each day",
    "audit.counts": "part of `audit --full`",
    "audit.reopen": "one row for each budget, by a command",
    "insight.requests.search_keys": "the beginning of a key has no index in every collation; admins only, as above",
    "reports.search_users": "a text inside an address has no index; admins only, interrupted after ten seconds",
    "reports.list_accounts": "a text inside an address has no index; a command",
    "refunds.wrong_refunds": "part of the audit; a row for each refund, each made by a person",
    "selling.auto_topups.due": "accounts with an automatic top-up, a row for each customer who wants one",
    "selling.auto_topups.unsent_payments": "the same",
    "selling.invoices.wrong_invoices": "part of the audit; a row for each payment and each invoice",
    "selling.notices.crossings": "accounts that want notices, a row for each customer who does",
    "selling.notices.keys_with_budgets": "keys of those accounts, twice a minute, page by page",
    "selling.purses.wrong_purses": "part of the audit; a row for each open plan, and one look at each purse",
    "selling.purses.wrong_open_purses": "part of the audit; every account, as its balances are",
    "selling.purses.purse_owners": "every purse, for the audit of closed days",
    "selling.purses.insert": "the highest number of an account",
    "accounts.accounts_by_group": "a command",
    "payments.total_credited": "before a credit of $10,000 or more, and only the rows of credits",
    "marks.generations_at": "the check of a file for marks, limited by address; one look into an index per account",
    "job_inputs.unneeded": "rows exist only while an edit waits or runs",
    "second_factors.all_secrets": "the command `secret forget`",
    "request_bodies.all_keys": "the command `secret forget`",
    "log_exports.all_secrets": "the command `secret forget`",
    "users._erase_contents": "stored responses live for a day; read once in the life of an account",
    "users.erase_account": "the same",
    "users.erase_personal_data": "the same",
}
#: Functions that only run statements given to them, or that only write rows by key.
NO_QUERIES = {
    "personal_data._execute", "personal_data._page",
    "ledger._update_accounts", "ledger._write_generations", "ledger._write_holds",
    "ledger.save", "ledger.save_budgets", "ledger.load", "ledger.load_budgets", "jobs.save", "jobs.save_requeued",
    "jobs.load_queues", "idempotency.save", "idempotency.save_answers", "shared_limits._lock",
    "usage_days.save", "responses._add_bytes", "responses._delete_rows",
    "responses._set_response", "refunds.load", "refunds.save",
    "selling.purses.load", "selling.purses.save", "selling.purses.remember", "selling.purses._load_windows",
}  # fmt: skip


class RecordingConnection:
    """A connection that records the statements it runs, with the values of one row."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.statements: dict[str, Sequence[object]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        self.statements.setdefault(sql, parameters)
        return self._connection.execute(sql, parameters)

    @property
    def price_parts(self) -> PriceParts:
        return self._connection.price_parts

    def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        if rows:
            self.statements.setdefault(sql, rows[0])
        return self._connection.execute_many(sql, rows)

    def queue_write(self, sql: str, rows: Sequence[Sequence[object]], *, conflict_error: str = "") -> None:
        if rows:
            self.statements.setdefault(sql, rows[0])
        self._connection.queue_write(sql, rows, conflict_error=conflict_error)

    def select_by_ids(self, sql: str, ids: Iterable[int | str], *, lock: bool = False) -> list[Row]:
        return self.select_many(SelectByIds(sql, list(ids), lock))[0]

    def select_many(self, *selects: SelectByIds) -> list[list[Row]]:
        for one in selects:
            if one.ids:
                self.statements.setdefault(one.sql.replace("IN (…)", f"IN ({','.join('?' * len(one.ids))})"), one.ids)
        return self._connection.select_many(*selects)


def calls(account: int) -> dict[str, list[Callable[[Connection], object]]]:
    """Return module.function → calls of it."""
    c = Calls()
    now, day = NOON_MS, NOON_MS - MS_PER_DAY
    key = KeyRow("k2", account, "n", b"\2" * 32, now, None)
    c.add(accounts.balance_of, account).add(accounts.create_account, "new@example.com", None, now)
    c.add(accounts.ensure_system_accounts, now).add(accounts.find_account, "x@example.com")
    c.add(accounts.find_key_and_owner, "k1").add(accounts.unfinished_jobs_of, account)
    c.add(accounts.set_suspended, account, now, "r").add(accounts.set_suspended, account, None, None)
    c.add(accounts.find_key, "k1").add(accounts.insert_key, key).add(accounts.keys_of, account)
    c.add(accounts.last_used_by_key, account).add(accounts.record_last_used, {"k1": now})
    c.add(accounts.revoke_key, "k1", now).add(accounts.update_key, "k1", "n", KeyRules())
    response = StoredResponse(200, "[]", b"")
    c.add(idempotency.delete_expired, now + 9 * MS_PER_DAY).add(idempotency.drop_responses, [("x", 1)])
    c.add(idempotency.find, f"{account}/word").add(idempotency.rows_with_response, 0, now)
    c.add(idempotency.store_response, f"{account}/word", 5, response)
    c.add(idempotency.unfailed_jobs, [6]).add(idempotency.forget_jobs, f"{account}/word", 5)
    c.add(jobs.available_models, now).add(jobs.claim, [6], worker="w", now_ms=now, lease_ms=1)
    c.add(jobs.count_workers, now).add(jobs.expired_leases, now).add(jobs.find, 6).add(jobs.jobs_waiting_since, now)
    c.add(jobs.register_worker, "w", {}, now).add(jobs.renew_leases, [jobs.LeaseRenewal(6, 1, 1)], now)
    c.add(jobs.write_steps, "w", {6: 1}).add(jobs.fleet, "w", now).add(jobs.mark_vanished, ["w"], now)
    c.add(placed_servers.publish, "w", [PlacedServerRow("e", "a", "s")]).add(placed_servers.available, now)
    c.add(jobs.forget_losses, 6, 1).add(jobs._step_of, "w", 6).add(jobs.running_on, ["w", "v"])
    wanted = shared_limits.Draw("name", 1, 1, 60, 60_000_000)
    c.add(shared_limits.draw, wanted, now * 1000).add(shared_limits.refill, "name")
    c.add(shared_limits.full_us_of, ["name", "other"])
    c.add(shared_limits.delete_full, now * 1000).add(shared_limits.delete_old_slots, now)
    slots = shared_limits.Slots("name", "process", 1)
    c.add(shared_limits.take_slots, slots, 1, 2, now_ms=now, lease_ms=1).add(shared_limits.slots_of, ["name"], now)
    c.add(shared_limits.keep_slots, [slots], until_ms=now)
    c.add(jobs.barred, "image").add(jobs.unregister_worker, "w").add(jobs.waiting, "fake", ["m"], 5).add(
        jobs.waiting, "fake", ["m"], 5, (1, now, 5)
    )
    job = NewGeneration("image", "m", "fake", 1, 1, request="{}", seed=1, size="256x256")
    operations = [hold(8, account, 5, claim="again"), hold(9, account, 5, generation=job, queue_limit=5)]
    answered = settle(5, account, 1, answer=ClaimAnswer(f"{account}/word", response))
    c.add(ledger.apply, [*operations, credit(account, 5)], decide).add(ledger.apply, [answered], decide)
    c.add(ledger.excess_shortfalls, day, 5).add(ledger.broken_invariants).add(ledger.budget_spent, "k1", now).add(
        ledger.carries, settle(5, account, 1)
    )
    c.add(ledger.delete_old_periods, now + 200 * MS_PER_DAY).add(ledger.expired_chat_holds, now)
    attempt = outbox.DeliveryAttempt(1, now, 5, 200, None)
    message = outbox.WebhookMessage(1, 7, account, "https://example.com", 0, now)
    c.add(outbox.claim, now_ms=now, lease_ms=1, limit=5, except_accounts=[5]).add(outbox.delete_finished, now, 5)
    c.add(outbox.delivery_log, account, 5).add(outbox.delivery_log, account, 5, 7).add(
        outbox.enqueue_webhooks, [7], now
    ).add(outbox.next_due_ms)
    c.add(outbox.log_attempt, message, attempt, state="delivered", next_ms=now, now_ms=now)
    payment = payment_row(account)
    c.add(payments.event_was_handled, "e").add(payments.find_payment, 1).add(payments.find_voucher, b"v")
    c.add(payments.insert_payment, 2, account, 5, now).add(payments.is_redeemed, b"v").add(payments.list_vouchers, 5)
    c.add(payments.voucher_page, 5).add(payments.voucher_page, 5, None, "b").add(payments.vouchers_of_batch, "b")
    c.add(payments.mark_cancelled, b"v", now).add(ledger.apply, [refund(7, account, 1)], decide)
    c.add(refunds.find_charge, 7).add(refunds.refunded, 4).add(refunds.refunded_each, [4])
    c.add(refunds.refund_cells, account, day, now).add(refunds.refunds_by_day, day // MS_PER_DAY)
    c.add(refunds.refunds_by_engine, day).add(refunds.charges_of_day, day // MS_PER_DAY)
    c.add(late_results.late_results, now).add(late_results.record, settle(4, account, 2))
    c.add(refunds.wrong_refunds, 5).add(refunds.wrong_refunds_since, now)
    purse = Purse(0, account, "max", 5, 9, 5, None, None, "month", now, now + 5, 0, "open", "none", None, "plan:9", now)
    c.add(purses.lock_owner, account).add(purses.insert, purse).add(purses.find, account + 1)
    c.add(purses.by_reference, "plan:1").add(purses.open_purses, account).add(purses.purses_of, account, 5)
    c.add(purses.ending, now + MS_PER_DAY, 5).add(purses.set_renewal, account + 1, "none").add(
        purses.wallets, account, now
    )
    c.add(purses.close, replace(purse, id=account + 1)).add(purses.used_windows, account + 1).add(
        purses.window_room, purse, now
    )
    c.add(purses.spent_of, account).add(reports.paid_by_plans, account, day, now)
    c.add(purses.plan_now, account, now).add(purses.unannounced, now, now + MS_PER_DAY, 5)
    one = subscriptions.Subscription(9, account, "stripe", "sub_2", "pro", 5, "new", now, now)
    c.add(subscriptions.insert, one).add(subscriptions.find, 9).add(subscriptions.by_ref, "sub_1")
    c.add(subscriptions.newest, account).add(subscriptions.set_ref, 9, "sub_3", now)
    c.add(subscriptions.set_state, 9, "active", now).add(subscriptions.running, 0, 5)
    c.add(purses.purse_owners).add(purses.wrong_purses, 5).add(purses.wrong_open_purses, 5)
    c.add(purses.remember_end, account)
    plan_hold = hold(77, account, 5, now_ms=now)
    c.add(
        ledger.apply, [plan_hold, settle(77, account, 2), ExpireCredit(account, account + 1, now + MS_PER_DAY)], decide
    )
    coupon = coupons.Coupon(2, "SPRING", 10, None, 5, 0, None, now)
    c.add(coupons.insert, coupon).add(coupons.find, "WELCOME").add(coupons.has_used, 1, account)
    c.add(coupons.count_use, 1, now).add(coupons.insert_use, 1, account, now, 5, "r").add(coupons.cancel, "NO", now)
    c.add(coupons.list_coupons, 5).add(coupons.list_coupons, 5, (now, 5))
    c.add(accounts.set_price_group, account, "partner").add(accounts.price_group_of, account)
    c.add(accounts.accounts_by_group).add(accounts.lock_numbering)
    c.add(payments.insert_voucher, b"w", Voucher("AB", 5, None, now, None, None, None))
    c.add(payments.mark_event_handled, "e", now).add(payments.mark_redeemed, b"v", account, now)
    c.add(payments.payment_by_intent, "i").add(payments.payment_by_ref, "r").add(payments.payments_of, account, 5)
    c.add(payments.payments_owing, account).add(payments.set_provider_ref, 1, "r", now)
    c.add(payments.unfinished_payments, day).add(payments.update_payment, payment)
    c.add(reports.admin_actions, 5).add(reports.admin_actions, 5, account, 9).add(
        reports.admin_actions, 5, None, 9
    ).add(reports.find_customer, account)
    c.add(reports.find_generation, 5, account)
    c.add(reports.last_usage, account, 5).add(reports.list_jobs, day, 5)
    action = AdminAction(1, account, account, "grant", 5, None, now)
    c.add(reports.insert_admin_action, action).add(reports.margins_by_engine, day).add(reports.oldest_pending_ms)
    c.add(reports.oldest_unfinished_ms, account).add(reports.read_gauges, now, now)
    c.add(reports.recent_requests, account, 5, (now, 9)).add(reports.recent_requests, account, 5)
    c.add(reports.search_users, "x", 5).add(reports.list_accounts, "x", "suspended", 5)
    c.add(reports.newest_version, account).add(reports.statement_page, account, below=None, before_ms=now, rows=5)
    c.add(reports.usage_cells, account, day, now)
    c.add(reports._other_transfers, account, 1, 9).add(reports._usage_transfers, account, account, now, 5)
    for table in ("sessions", "mail_links", "email_changes", "passkey_challenges", "factor_resets", "webhook_events"):
        c.add(retention.delete_expired, table, now, 5)
    c.add(retention.erase_prompts, now, 5).add(retention.expire_images, now, 5).add(retention.find_image, 7)
    c.add(job_inputs.add, 7, [f"{'a' * 64}-7"], now).add(job_inputs.keys_of, 7).add(job_inputs.unneeded, now, 5)
    c.add(job_inputs.remove, [f"{'a' * 64}-7"])
    c.add(retention.orphaned_objects, [f"{'a' * 64}-7"])
    link = MailLink("reset", "x@example.com", None, b"b", now)
    c.add(users.anonymize_user, account, now).add(users.consume_links, "x").add(users.end_session, b"s")
    c.add(users.end_sessions, account).add(users.erase_personal_data, account, [], now).add(users.find_link, b"s", now)
    c.add(users.close_account, account, now).add(users.erase_account, account, [], now)
    c.add(users._erase_contents, account, [])
    saved = saved_prompts.SavedPrompt(1, "n", "m", "i", "t", {}, now)
    c.add(saved_prompts.of_member, account, account).add(saved_prompts.find, account, account, 1)
    c.add(saved_prompts.insert, account, account, saved, 5).add(saved_prompts.update, account, account, saved)
    c.add(saved_prompts.delete, account, account, 1)
    c.add(gallery.images_of, account, account, 5).add(gallery.images_of, account, account, 5, (now, 9))
    c.add(gallery.find_image, account, account, 7)
    c.add(users.find_session, b"s", now, 5).add(users.find_user, "x").add(users.image_requests_of, account)
    change = EmailChange(account, "n", b"n", b"o", True, True, now)
    c.add(users.replace_email_change, change).add(users.find_email_change, b"n", now).add(
        users.email_change_of, account, now
    )
    c.add(users.record_confirmations, change).add(users.delete_email_change, account)
    c.add(users.find_user_of, account).add(users.set_email, account, "x@example.com", "y@example.com")
    c.add(users.sessions_of, account, now, 5).add(users.end_session_of, account, b"s")
    factor = SecondFactor(account, b"s", 1, now)
    c.add(users.find_session, b"s", now - 1, 10).add(users.set_working_account, b"s", account)
    c.add(users.end_sessions_in, account, account).add(users.forget_person, account, "account-1", now)
    c.add(members.memberships_of, account).add(members.members_of, account).add(members.role_of, account, account)
    c.add(members.owners_of, account).add(members.insert, account, account, "viewer", now)
    c.add(members.set_role, account, account, "viewer").add(members.set_budget, account, account, None)
    c.add(members.delete, account, account, now).add(members.revoke_keys_of, account, account, now)
    c.add(members.delete_team, account).add(members.find_invitation, b"i", now)
    c.add(members.replace_invitation, b"j", account, "j@example.com", "viewer", account, now, now)
    c.add(members.invitations_of, account, now).add(members.delete_invitation, account, "i@example.com")
    c.add(members.budgets_of, account).add(members.save_team_budget, account, TeamBudget("team-2", "b", 1, 1, 1), now)
    c.add(members.delete_team_budget, account, "team-1").add(members.actions_of, account, 5)
    identity = IdentityRow("https://login.example.com", "u", account, "a@example.com", now)
    c.add(identities.find, "https://login.example.com", "u").add(identities.insert, identity)
    c.add(identities.of_user, account).add(identities.delete, account, "https://login.example.com", "u")
    c.add(identities.delete_all, account)
    passkey = Passkey(b"c", account, b"k", 1, "Laptop", "internal", False, now)
    c.add(passkeys.insert, passkey).add(passkeys.find, b"c").add(passkeys.of_user, account)
    c.add(passkeys.record_use, passkey, 2, True, now).add(passkeys.block, b"c", now)
    c.add(passkeys.rename, account, b"c", "Phone").add(passkeys.delete, account, b"c").add(passkeys.delete_all, account)
    c.add(passkeys.insert_challenge, PasskeyChallenge(b"x", "sign_in", b"b", account, now))
    c.add(passkeys.take_challenge, b"x", "sign_in", now)
    reset = FactorReset(account, 9, now, now, now, now, now + 5)
    c.add(factor_resets.replace, reset).add(factor_resets.of_user, account, now).add(factor_resets.find, 9, now)
    c.add(factor_resets.set_times, reset).add(factor_resets.has_due, now).add(factor_resets.due, now, 5)
    c.add(factor_resets.delete, account).add(users.delete_factors, account)
    c.add(users.record_password_reset, account, now).add(users.password_reset_ms_of, account)
    c.add(second_factors.delete_useless_codes, account)
    export = LogExport(account, "s3", "csv", "{}", b"s", 1, now, 0, None, None, None, now)
    c.add(log_exports.replace, export).add(log_exports.find, account).add(log_exports.due, now, 5)
    c.add(log_exports.claim, export, now).add(log_exports.record, export, export).add(log_exports.delete, account)
    c.add(log_exports.all_secrets).add(log_exports.replace_secret, account, b"s", b"t")
    bodies = BodySettings(account, 7, b"k", now)
    c.add(request_bodies.save_settings, bodies).add(request_bodies.find_settings, account)
    c.add(request_bodies.wrapped_keys, [account]).add(request_bodies.all_keys)
    c.add(request_bodies.replace_key, account, b"k", b"l").add(request_bodies.find, 5, account, now)
    c.add(request_bodies.insert, [BodyRow(5, account, b"q", b"r", 1, 1, now)])
    c.add(request_bodies.delete_expired, now, 5).add(request_bodies.delete_unreadable, 5)
    c.add(request_bodies.erase, account)
    c.add(members.insert_action, account, MemberAction(1, account, "join", None, None, None, now))
    c.add(second_factors.find, account).add(second_factors.insert, factor).add(second_factors.delete, account)
    c.add(second_factors.accept_step, factor, 2, b"t").add(second_factors.replace_recovery_codes, account, [b"c"])
    c.add(second_factors.use_recovery_code, account, b"c").add(second_factors.count_recovery_codes, account)
    c.add(second_factors.all_secrets).add(second_factors.replace_secret, account, b"s", b"t")
    c.add(users.insert_link, b"l", link, now).add(users.insert_session, b"t", account, now, now)
    c.add(users.password_hash_of, account).add(users.set_admin, account, True).add(users.set_language, account, "de")
    c.add(accounts.find_email, ["x"]).add(accounts.barred_holds, [5]).add(accounts.find_secret_mark)
    c.add(accounts.record_secret_mark, "m", instead_of=None).add(accounts.record_secret_mark, "m", instead_of="n")
    c.add(payments.is_credited, "r").add(payments.total_credited).add(marks.generations_at, NOON_MS // 1000)
    c.add(personal_data._parts, account, (1, 1))
    entry, begin = PartEntry(9, "a" * 64, 5, 1), NOON_MS - 9 * MS_PER_DAY
    c.add(archive.first_times, 0, day, 5).add(archive.activity, 0, day, now, 5).add(
        archive.day_state, account, day, now
    )
    c.add(archive.has_older_claims, now).add(archive.read_lines, account, (begin, -1), now, 5)
    c.add(archive.insert_part, 1, entry, [(account, 1, 2, 3, 4)]).add(archive.delete_part, 1, 1)
    c.add(archive.parts_of, 1).add(archive.insert_day, 1, Sums(), "m", now).add(archive.mark_removed, 1, now)
    c.add(archive.archived_days).found["archive.rows.remove"] = [lambda connection: remove_some(connection, account)]
    c.add(archive.archived_until_ms).add(archive.archived_day, 1).add(archive.rows_left).add(
        archive.parts_with_versions, account, 1, 9, 5
    )
    c.add(archive.paths_of, archive.ArchivedDay(1, Sums(), "m", None))
    c.add(archive.parts_before, account, (1, 1), 5).add(archive.parts_after, account, (1, 1), 5).add(archive.openings)
    c.add(users.set_password, account, "h").add(users.touch_session, b"s", now)
    _add_selling(c, account, payment)
    _add_insight(c, account)
    _add_history(c, account)
    _add_responses(c, account)
    return c.found


def new_response(number: int, account: int, *, is_background: bool = False) -> responses.NewResponse:
    return responses.NewResponse(
        number, account, None, "m", is_background, NOON_MS, NOON_MS + MS_PER_DAY, 5, 5, b"q", b"r"
    )


def _add_responses(c: Calls, account: int) -> None:
    """Add the calls of stored responses: 5 has ended, 10 runs in the background."""
    now = NOON_MS
    c.add(responses.insert, new_response(11, account), 10**9).add(responses.insert, new_response(12, account), 1)
    c.add(responses.total_bytes, account).add(responses._displace, account, 12, 0)
    c.add(responses.find, 10, account, now).add(responses.turns, 5, account, now, 100)
    c.add(responses.contents, [5], account, now).add(responses.sizes, [5]).add(responses.request_of, 10, account, now)
    c.add(responses.delete, 5, account, now).add(responses.delete_expired, now + 9 * MS_PER_DAY)
    c.add(responses.erase, account).add(responses.find_queued, 10).add(responses.save, 10, 1, 5, b"s")
    c.add(responses.mark_cancelled, 10, account, now)
    c.add(responses.unwanted, [5, 10]).add(responses.waiting, 5).add(responses.expired_leases, now + MS_PER_DAY)
    c.add(responses.waiting_since, now + MS_PER_DAY).add(responses.close_ended, now)


def _add_selling(c: Calls, account: int, payment: Payment) -> None:
    """Add the calls of invoices, automatic top-ups and notices: payment 77 is an automatic one in progress."""
    now = NOON_MS
    topup = auto_topups.AutoTopup(account, "stripe", "c", "m", "visa", "en", 5, 5, 9, now, now)
    c.add(auto_topups.find, account).add(auto_topups.replace, topup).add(auto_topups.stop, account, "failed", now)
    c.add(auto_topups.due, 5).add(auto_topups.charged_since, account, now).add(auto_topups.begin_payment, topup, 77)
    c.add(auto_topups.end_payment, account, 77).add(auto_topups.unsent_payments, now, 5)
    row = invoices.InvoiceRow("INV", 9, account, 77, "invoice", 5, 1, now, "{}")
    c.add(invoices.next_number, "INV").add(invoices.insert_invoice, row).add(invoices.find_invoice, "INV", 1)
    c.add(invoices.invoices_of_payment, 77).add(invoices.invoices_of_account, account, 5)
    c.add(invoices.invoices_between, (0, "", 0), now, 5).add(invoices.latest_invoices, 5)
    c.add(invoices.find_buyer, account).add(invoices.save_buyer, account, invoices.Buyer("n"), now)
    c.add(invoices.wrong_invoices, 5).add(invoices.wrong_invoices_since, now)
    c.add(invoices.credits_by_kind, account, now).add(invoices.usage_by_model, account, now // MS_PER_DAY)
    notice = notices.Notice(78, account, "balance.low", "2", "{}", now)
    c.add(notices.find_settings, account).add(notices.save_settings, notices.NoticeSettings(account))
    c.add(notices.crossings, 5).add(notices.record_crossing, account, is_low=True)
    c.add(notices.keys_with_budgets, (0, ""), 5).add(notices.spending, ["k1/total"])
    c.add(notices.insert_notice, notice, by_mail=True).add(notices.find_notice, 77).add(notices.notices_of, account, 5)
    c.add(notices.has_due_mail).add(notices.claim_mail, 5)
    c.add(outbox.enqueue_notice, 77, account, "https://example.com", now)
    c.add(payments.close_unsent, 77, now).add(payments.recently_paid, "stripe", now, 5)


def _add_insight(c: Calls, account: int) -> None:
    """Add the calls of what the operator sees."""
    today, nothing = NOON_MS // MS_PER_DAY, traffic.Filter()
    some = traffic.Filter(account, "m", "fake")
    c.add(traffic.counted_to).add(traffic.next_piece, 2**62, 5)
    c.add(traffic.add_piece, traffic.Piece(traffic.START, 5, [(account, today, "chat", "m", "fake", *[1] * 11)]))
    c.add(traffic.traffic_by_day, today - 5, nothing).add(traffic.traffic_by_day, today - 5, some)
    for by in ("model", "engine", "account_id", "kind"):
        c.add(traffic.traffic_by, by, today - 5, nothing, 5).add(traffic.traffic_by, by, today - 5, some, 5)
        after = 0 if by == "account_id" else ""
        c.add(traffic.traffic_of_days, range(today, today + 1), by, nothing, None, 5)
        c.add(traffic.traffic_of_days, range(today - 5, today + 1), by, some, after, 5)
        c.add(traffic.refunds_since, by, today - 5, nothing).add(traffic.refunds_since, by, today - 5, some)
    c.add(traffic.traffic_by_account, today - 5, nothing, 0, 5).add(traffic.traffic_by_account, today - 5, some, 0, 5)
    c.add(traffic.emails_of, [account]).add(traffic.traffic_by_model_and_day, today - 5)
    for only in (
        request_log.LogFilter(),
        request_log.LogFilter(kind="chat", model="m", state="failed", error_code="x"),
    ):
        c.add(request_log.list_requests, only, 5).add(request_log.list_requests, only, 5, (NOON_MS, 9))
        c.add(request_log.list_requests, replace(only, account_id=account), 5, (NOON_MS, 9))
        days = replace(only, account_id=account, key_id="k1", from_ms=NOON_MS - MS_PER_DAY, until_ms=NOON_MS)
        c.add(request_log.list_requests, days, 5).add(request_log.list_requests, days, 5, (NOON_MS, 9))
    c.add(request_log.find_request, 5).add(request_log.search_keys, "k1", 5).add(request_log.image_work)
    c.add(reports.account_notes, account, 5)


def _add_history(c: Calls, account: int) -> None:
    """Add the calls of what reads and closes days."""
    now, today = NOON_MS, NOON_MS // MS_PER_DAY
    low = first_id_at(now - MS_PER_DAY)
    high = low + 10**6
    c.add(usage_days.day_cells, account, today - 5, today).add(usage_days.revenue_by_day, today - 5)
    c.add(usage_days.first_and_last_day, account).add(usage_days.wrong_days, account, today - 5, today)
    c.add(usage_days.rebuild, account, today - 5).add(usage_days.wrong_buckets, 5)
    c.add(audit.bucket_table, today)
    c.add(audit.violations, low, high).add(audit.end_of_piece, low, high, 5).add(audit.pending_ids)
    c.add(audit.usage_cells, low, high, today).add(audit.usage_flows, low, high, today)
    c.add(audit.budget_sums, low, high, today).add(audit.balances).add(audit.pending_amounts)
    c.add(audit.external_flows, now, now + MS_PER_DAY).add(audit.usage_until, today)
    c.add(audit.usage_table, today, today + 1).add(audit.budget_totals).add(audit.closed_budgets)
    c.add(audit.last_closed).add(audit.closed_day, today).add(audit.closed_before, today).add(audit.closed_days).add(
        audit.changed_sums
    )
    c.add(audit.first_day).add(audit.rows_of_day, today, low, high).add(audit.external_of_day, today)
    closed = audit.ClosedDay(today, audit.DaySums(), b"h")
    c.add(audit.insert_closed, closed, {"b": 1}, now).add(audit.reopen, today, {"b": 1}).add(audit.counts)
    c.add(audit.full_audit_place).add(audit.set_full_audit_place, today)


def remove_some(connection: Connection, account: int) -> int:
    """Delete some generations of the first old day, as they are archived."""
    begin_ms = NOON_MS - 9 * MS_PER_DAY
    lines = archive.read_lines(connection, account, (begin_ms, -1), begin_ms + MS_PER_DAY, 5)
    digests = {archive.place_of(line)[1]: line_digest(encode_line(line)) for line in lines}
    assert archive.remove(connection, digests) == 5
    return 5


class Calls:
    """Collect calls by the name of their function."""

    def __init__(self) -> None:
        self.found: dict[str, list[Callable[[Connection], object]]] = {}

    def add(self, function: Callable[..., object], *arguments: Any, **named: Any) -> Calls:
        self.found.setdefault(name_of(function), []).append(
            lambda connection: function(connection, *arguments, **named)
        )
        return self


def name_of(function: Callable[..., object]) -> str:
    name = function.__module__.removeprefix("minitoolai.storage.").removeprefix("tables.")
    return f"{name}.{function.__name__}"


def payment_row(account: int) -> Payment:
    return Payment(1, account, "stripe", "r", "i", 5, 5, 0, 5, 1, 1, "paid", NOON_MS, NOON_MS)


def test_every_function_of_storage_that_takes_a_connection_is_called_here() -> None:
    members = ((module, member) for module in MODULES for _, member in inspect.getmembers(module, inspect.isfunction))
    functions = {
        name_of(function)
        for module, function in members
        if function.__module__ == module.__name__ and "connection" in list(inspect.signature(function).parameters)[:1]
    }
    assert functions == set(calls(1)) | NO_QUERIES
    modules = {importlib.import_module(f"minitoolai.storage.{name}") for name in storage_modules()}
    with_queries = {module for module in modules if "connection.execute(" in inspect.getsource(module)}
    # The lock of the archive reads no table. Backups and openings read whole tables on purpose; sqlite.py is the
    # connection itself, and text_index.py has one in memory.
    assert {module.__name__.rpartition(".")[2] for module in with_queries - set(MODULES)} <= {
        "backup",
        "lock",
        "opening",
        "sqlite",
        "text_index",
    }


def storage_modules() -> list[str]:
    from pathlib import Path

    folder = Path(database.__file__).parent
    folders = (".", "archive", "insight", "selling", "tables")
    paths = (path for inner in folders for path in folder.glob(f"{inner}/*.py"))
    return [".".join(path.relative_to(folder).with_suffix("").parts) for path in paths if path.stem != "__init__"]


def filled(books: TemporaryBooks) -> int:
    """Return an account that has something in every table."""
    account = books.account(10**6)
    seed_history(books.connection, account, 300, first_ms=NOON_MS - 9 * MS_PER_DAY, until_ms=NOON_MS - MS_PER_DAY)
    books.apply(hold(5, account, 100, claim="word"))
    _buy_plan(books, account)
    job = NewGeneration("image", "m", "fake", 1, 1, request="{}", seed=1, size="256x256")
    books.apply(hold(6, account, 1, lease_ms=None, generation=job, queue_limit=9))
    books.apply(hold(7, account, 1, lease_ms=None, generation=job, queue_limit=9))
    with books.connection.transaction():
        c = books.connection
        jobs.claim(c, [7], worker="w", now_ms=NOON_MS, lease_ms=10_000)
        accounts.insert_key(c, KeyRow("k1", account, "n", b"\1" * 32, NOON_MS, None))
        users.insert_session(c, b"s", account, NOON_MS, NOON_MS)
        members.replace_invitation(c, b"i", account, "i@example.com", "viewer", account, NOON_MS, NOON_MS + 9)
        payments.insert_voucher(c, b"v", Voucher("AB", 5, None, NOON_MS, None, None, None))
        payments.insert_payment(c, 77, account, 5, NOON_MS, is_auto=True)
        notices.insert_notice(c, notices.Notice(77, account, "balance.low", "1", "{}", NOON_MS), by_mail=True)
    books.apply(settle(7, account, 1, Outcome("succeeded", 0, 1, result=f"{'a' * 64}-7"), attempt=1))
    chat = NewGeneration("chat", "m", "fake", 1, 1, "queued")
    books.apply(hold(10, account, 1, lease_ms=None, generation=chat, queue_limit=9))
    with books.connection.transaction():
        jobs.claim(books.connection, [10], worker="w", now_ms=NOON_MS, lease_ms=10_000)
        responses.insert(books.connection, new_response(5, account), 10**9)
        responses.insert(books.connection, new_response(10, account, is_background=True), 10**9)
    return account


def _buy_plan(books: TemporaryBooks, account: int) -> None:
    """A plan with windows, whose purse is the next account."""
    plan = Plan("pro", "Pro", 5, 900, "month", Windows(500, 800, 900))
    with books.connection.transaction():
        made = plans.buy(
            books.connection, books.clock, account, plan, expected_price=5, reference="plan:1", renewal="none"
        )
        assert isinstance(made, Purse)
        assert made.id == account + 1
        coupons.insert(books.connection, coupons.Coupon(1, "WELCOME", None, 5, 5, 0, None, NOON_MS))


@pytest.fixture
def statements(books: TemporaryBooks) -> dict[str, dict[str, Sequence[object]]]:
    """Function → its statements with one row of values."""
    account = filled(books)
    found: dict[str, dict[str, Sequence[object]]] = {}
    for name, those in calls(account).items():
        recorder = RecordingConnection(books.connection)
        for call in those:
            with contextlib.suppress(_Undo):
                if "connection.snapshot()" in inspect.getsource(function_of(name)):
                    call(recorder)  # type: ignore[arg-type]
                    continue
                with books.connection.transaction():
                    call(recorder)  # type: ignore[arg-type]
                    raise _Undo
        found[name] = recorder.statements
    reader = RecordingConnection(books.connection)
    exported = personal_data.read_personal_data(lambda function: function(reader), no_file, account, lambda *_: None)  # type: ignore[arg-type]
    for _, rows in exported:
        assert len(list(rows)) >= 0
    found["personal_data"] = reader.statements
    books.apply(settle(5, account, 1, DONE), settle(6, account, 0, Outcome("cancelled")))
    books.apply(settle(10, account, 0, Outcome("cancelled")))
    return found


class _Undo(Exception):
    pass


def function_of(name: str) -> Callable[..., object]:
    found = (getattr(module, name.rpartition(".")[2], None) for module in MODULES)
    return next(function for function in found if function is not None and name_of(function) == name)


def test_no_statement_scans_a_table_that_grows(
    books: TemporaryBooks, statements: dict[str, dict[str, Sequence[object]]]
) -> None:
    scans = sqlite_scans if books.database.name == "sqlite" else postgres_scans
    assert sum(map(len, statements.values())) > 100
    guilty = {}
    for name, those in statements.items():
        for sql, values in those.items():
            if sql.lstrip().startswith("INSERT"):
                continue
            if found := scans(books.connection, sql, values):
                guilty.setdefault(name, []).append(f"{found}: {sql[:200]}")
    assert {name: found for name, found in guilty.items() if name not in MAY_SCAN} == {}


def sqlite_scans(connection: Connection, sql: str, values: Sequence[object]) -> list[str]:
    tables = re.findall(r"(?:FROM|JOIN|UPDATE)\s+(\w+)(?:\s+(?:AS\s+)?(\w\b))?", sql)
    names = {alias or table: table for table, alias in tables}
    lines = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    ends_early = "LIMIT" in sql and " WHERE " not in sql and not any("ORDER BY" in line for line in lines)
    found = []
    for line in lines:
        scan = re.match(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", line)
        if scan and names.get(scan[1]) not in (None, *SMALL) and scan[2] not in IN_PROGRESS and not ends_early:
            found.append(line)
    return found


def postgres_scans(connection: Connection, sql: str, values: Sequence[object]) -> list[str]:
    """Return full scans if sequential scans are avoided wherever an index could be used."""
    with contextlib.suppress(_Undo), connection.transaction():
        # Forget what is known of these small tables: the planner then takes them for larger ones.
        connection.execute("DELETE FROM pg_statistic")
        connection.execute(
            "UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE relnamespace = 'public'::regnamespace"
        )
        connection.execute("SET LOCAL enable_seqscan = off")
        plan = connection.execute(f"EXPLAIN (FORMAT JSON) {sql}", values)[0][0]
        raise _Undo
    tree = plan if isinstance(plan, list) else json.loads(plan)
    return list(_full_scans(tree[0]["Plan"], is_limited=False))


def _full_scans(node: dict[str, Any], *, is_limited: bool) -> Iterable[str]:
    kind, index = node["Node Type"], node.get("Index Name", "")
    is_limited = (is_limited or kind == "Limit") and kind not in ("Sort", "Aggregate", "Hash")
    if kind == "Seq Scan" and node["Relation Name"] not in SMALL:
        yield f"{kind} on {node['Relation Name']}"
    is_whole = "Index Cond" not in node and index not in IN_PROGRESS and ("Filter" in node or not is_limited)
    if kind in ("Index Scan", "Index Only Scan", "Bitmap Index Scan") and is_whole:
        yield f"{kind} on {index}"
    for child in node.get("Plans", []):
        yield from _full_scans(child, is_limited=is_limited)
