"""Export and erasure of a customer's personal data (GDPR). The ledger stays."""

from __future__ import annotations

import json

import requests

from minitoolai.accounts import users as persons
from minitoolai.storage.tables.personal_data import read_personal_data
from minitoolai.storage.tables.retention import erase_prompts
from tests.support.ask import post
from tests.support.books import NOON_MS, TemporaryBooks, hold, settle
from tests.support.old_days import no_content, no_file
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import job, wait

MARK = "zebra-crossing"


def test_a_customer_is_exported_completely_and_erased_for_good(watched: ServerProcess, account: Account) -> None:
    assert post(account).status_code == 200
    asked = job(account, prompt=MARK)
    wait(account, asked)
    has = account.settled()
    out = watched.command("account", "export", account.email)
    told = json.loads(out.stdout)
    assert told["users"][0]["email"] == account.email
    assert len(told["generations"]) == 2
    assert told["accounts"][0]["posted"] == has
    assert MARK in out.stdout
    assert "secret_hmac" not in out.stdout
    assert watched.command("account", "delete", account.email).returncode == 1
    assert post(account).status_code == 200
    has = account.settled()
    done = watched.command("account", "delete", account.email, "--yes")
    assert done.returncode == 0, done.stderr
    rows = watched.read(
        lambda c: [
            c.execute(f"SELECT * FROM {table} WHERE account_id = ?", (account.id,))
            for table in ("users", "api_keys", "generations", "sessions", "outbox")
        ]
    )
    assert MARK not in repr(rows)
    assert account.email not in repr(rows)
    assert account.money().posted == has
    assert watched.command("account", "export", account.email).returncode == 1
    assert watched.command("audit").returncode == 0


def test_erasure_is_the_same_on_both_databases_and_waits_for_work(books: TemporaryBooks) -> None:
    account, other = books.account(5_000_000_000), books.account(5_000_000_000)
    books.apply(hold(77, account))
    before = books.everything()
    with books.connection.transaction():
        assert not persons.erase_personal_data(books.connection, account, NOON_MS)
    assert books.everything() == before
    books.apply(settle(77, account, 19))
    left = books.money(account)
    exported = read_personal_data(books.database.read, no_file, account, no_content)
    counts = {name: len(list(rows)) for name, rows in exported}
    assert {name: count for name, count in counts.items() if count} == {
        "accounts": 1,
        "users": 1,
        "members": 1,
        "generations": 1,
        "holds": 1,
        "transfers": 2,
    }
    with books.connection.transaction():
        assert persons.erase_personal_data(books.connection, account, NOON_MS)
    assert books.money(account) == left
    assert [row[0] for row in books.rows("SELECT account_id FROM users WHERE deleted_ms IS NULL")] == [other]


def test_a_job_with_an_erased_prompt_can_still_be_polled(watched: ServerProcess, account: Account) -> None:
    asked = job(account, prompt=MARK)
    before = wait(account, asked)
    watched.write(
        lambda c: [
            c.execute("UPDATE generations SET finished_ms = 1 WHERE request IS NOT NULL"),
            erase_prompts(c, 2, 1000),
        ]
    )
    rows = watched.read(lambda c: c.execute("SELECT * FROM generations WHERE account_id = ?", (account.id,)))
    assert MARK not in repr(rows)
    after = wait(account, asked)
    # Only the link is a fresh one.
    assert {**before, "image_url": ""} == {**after, "image_url": ""}
    assert requests.get(after["image_url"], timeout=10).status_code == 200
    assert watched.command("audit").returncode == 0
