"""Users, sessions, e-mail links, and export and erasure of personal data."""

from __future__ import annotations

import pytest

from minitoolai.core.errors import NotFound
from minitoolai.core.models import KeyRow, MailLink, StoredResponse
from minitoolai.storage.schema import metadata
from minitoolai.storage.tables import accounts, idempotency, users
from minitoolai.storage.tables.personal_data import OWNED, Record, read_personal_data
from tests.support.books import NOON_MS, TemporaryBooks, hold, settle
from tests.support.old_days import no_content, no_file

DAY_MS = 86_400_000


def ann(books: TemporaryBooks) -> int:
    with books.connection.transaction():
        return accounts.create_account(books.connection, "ann@example.com", "hash", NOON_MS)


def test_a_user_is_found_with_the_hash_and_may_be_changed(books: TemporaryBooks) -> None:
    account = ann(books)
    with books.connection.transaction():
        users.set_password(books.connection, account, "hash 2")
        users.set_language(books.connection, account, "de")
        users.set_admin(books.connection, account, True)
    found = users.find_user(books.connection, "ann@example.com")
    assert found is not None
    user, password_hash = found
    assert (user.account_id, user.language, user.is_admin, password_hash) == (account, "de", True, "hash 2")
    assert users.password_hash_of(books.connection, account) == "hash 2"
    assert users.password_hash_of(books.connection, 5) is None
    assert users.find_user(books.connection, "bob@example.com") is None
    with pytest.raises(NotFound), books.connection.transaction():
        users.set_admin(books.connection, 5, True)


def test_a_session_lives_until_it_expires_idles_or_is_ended(books: TemporaryBooks) -> None:
    account, now_ms = ann(books), NOON_MS
    with books.connection.transaction():
        for secret in (b"one", b"two", b"three"):
            users.insert_session(books.connection, secret, account, now_ms, now_ms + DAY_MS)
        users.touch_session(books.connection, b"two", now_ms + 500)

    def is_live(secret: bytes, at_ms: int) -> bool:
        return users.find_session(books.connection, secret, at_ms, 1_000) is not None

    assert is_live(b"one", now_ms + 999)
    assert not is_live(b"one", now_ms + 1_000)
    assert is_live(b"two", now_ms + 1_000)
    assert users.find_session(books.connection, b"two", now_ms + DAY_MS, 2 * DAY_MS) is None
    with books.connection.transaction():
        users.end_session(books.connection, b"one")
        users.end_sessions(books.connection, account, but=b"two")
    assert books.rows("SELECT secret_hash FROM sessions") == [(b"two",)]


def test_a_link_is_valid_until_it_expires_or_another_is_used(books: TemporaryBooks) -> None:
    link = MailLink("signup", "ann@example.com", "hash", b"browser", NOON_MS + 10)
    with books.connection.transaction():
        users.insert_link(books.connection, b"one", link, NOON_MS)
        assert users.find_link(books.connection, b"one", NOON_MS + 9) == link
        assert users.find_link(books.connection, b"one", NOON_MS + 10) is None
        users.insert_link(
            books.connection, b"two", MailLink("reset", "bob@example.com", None, None, 2**50), NOON_MS + 11
        )
        assert books.rows("SELECT secret_hash FROM mail_links") == [(b"two",)]
        users.consume_links(books.connection, "bob@example.com")
        assert users.find_link(books.connection, b"two", NOON_MS) is None


def used(books: TemporaryBooks, account: int) -> None:
    """Leave a session, a key and a charged request with a stored response."""
    books.apply(hold(7, account, 100, claim="word"))
    books.apply(settle(7, account, 40))
    with books.connection.transaction():
        connection = books.connection
        users.insert_session(connection, b"one", account, NOON_MS, NOON_MS + DAY_MS)
        accounts.insert_key(connection, KeyRow("k1", account, "laptop", b"\1" * 32, NOON_MS, None))
        idempotency.store_response(connection, f"{account}/word", 7, StoredResponse(200, "[]", b""))


def exported_of(books: TemporaryBooks, account: int) -> dict[str, list[Record]]:
    return {table: list(rows) for table, rows in read_personal_data(books.database.read, no_file, account, no_content)}


def test_an_export_holds_everything_of_the_account_but_secrets(books: TemporaryBooks) -> None:
    account, other = books.account(1_000), books.account(1_000)
    used(books, account)
    exported = exported_of(books, account)
    assert tuple(exported) == OWNED
    assert [row["id"] for row in exported["generations"]] == [7]
    assert [row["kind"] for row in exported["transfers"]] == ["grant", "usage"]
    names = {column for rows in exported.values() for row in rows for column in row}
    assert names.isdisjoint(("password_hash", "secret_hmac", "code_hmac", "secret_hash"))
    assert [row["id"] for row in exported_of(books, other)["accounts"]] == [other]


def test_every_table_with_rows_of_customers_is_exported() -> None:
    # Sums and places of rows that are exported themselves, hashes of codes, and the operator's own log.
    derived = {
        "usage_days",
        "usage_buckets",
        "traffic_days",
        "response_totals",
        "archived_accounts",
        "opening_balances",
    }
    private = {"recovery_codes", "admin_actions"}
    owned = {
        table.name for table in metadata.tables.values() if {"account_id", "owner_id"} & {c.name for c in table.columns}
    }
    assert owned - derived - private <= set(OWNED)


def test_an_erasure_removes_the_person_and_keeps_the_amounts(books: TemporaryBooks) -> None:
    account = books.account(1_000)
    used(books, account)
    before = books.rows("SELECT * FROM transfers ORDER BY id")
    with books.connection.transaction():
        users.erase_personal_data(books.connection, account, [("{}", 7)], NOON_MS + 5)
    row = books.rows("SELECT email, password_hash, deleted_ms FROM users WHERE account_id = ?", account)
    assert row == [(f"deleted-{account}", None, NOON_MS + 5)]
    assert users.find_user(books.connection, f"deleted-{account}") is None
    assert books.rows("SELECT name, revoked_ms FROM api_keys") == [("", NOON_MS + 5)]
    for table in ("sessions", "idempotency_keys"):
        assert books.rows(f"SELECT count(*) FROM {table}") == [(0,)]
    assert users.image_requests_of(books.connection, account) == [(7, "{}")]
    assert books.rows("SELECT * FROM transfers ORDER BY id") == before
