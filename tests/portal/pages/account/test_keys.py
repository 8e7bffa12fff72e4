"""The pages of keys: every rule that the command line can set, editing, rotation and revocation."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
import requests
from msgspec.structs import replace

from minitoolai.core.models import KeyRow
from minitoolai.storage.tables import accounts, users
from tests.portal.test_security import MARK
from tests.support.browse import PASSWORD, Visitor, new_user
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

KEY = re.compile(r"sk-mt-(\w{12})-\w{32}-\w{6}")
#: Each rule as the command line is told it, and as the form is.
RULES = {
    "--budget-daily": ("2.00", {"budget_daily": "2"}),
    "--budget-monthly": ("7.50", {"budget_monthly": "7,50"}),
    "--budget-total": ("50.00", {"budget_total": "$50.00"}),
    "--expires": ("2090-12-31T18:30", {"expires": "2090-12-31", "expires_time": "18:30"}),
    "--models": ("fake-chat", {"model": "fake-chat"}),
    "--allow-ip": ("192.0.2.7,10.0.0.0/8,2001:db8::/32", {"addresses": "192.0.2.7; 10.0.0.0/8 2001:DB8::/32"}),
    "--requests-per-minute": ("60", {"requests_per_minute": "60"}),
    "--tokens-per-minute": ("100000", {"tokens_per_minute": "100000"}),
    "--dollars-per-minute": ("0.5", {"dollars_per_minute": "0.5"}),
    "--streams": ("4", {"streams": "4"}),
}
#: What is wrong, and a word of what is said of it.
RUBBISH = {
    "name": ("x" * 81, "It has at most 80 characters."),
    "budget_daily": ("five", "Enter an amount in dollars"),
    "budget_monthly": ("-1", "Enter an amount in dollars"),
    "budget_total": ("0", "Enter an amount in dollars"),
    "expires": ("2001-01-01", "Choose a day to come"),
    "expires_time": ("25:00", "Write a time like 18:30."),
    "addresses": ("192.0.2.7, my house", "“my” is no address and no network."),
    "requests_per_minute": ("0", "Write a whole number of at least 1."),
    "tokens_per_minute": ("1.5", "Write a whole number of at least 1."),
    "dollars_per_minute": ("1e3", "Enter an amount in dollars"),
    "streams": ("\u0663", "Write a whole number of at least 1."),
}


def keys_of(server: ServerProcess, email: str) -> dict[str, KeyRow]:
    """Name → key."""
    rows = server.read(lambda c: accounts.keys_of(c, users.find_user(c, email)[0].account_id))
    return {row.name: row for row in rows}


def status(server: ServerProcess, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return requests.get(server.url + "/api/balance", headers=headers, timeout=20).status_code


def test_the_page_sets_every_rule_that_the_command_line_sets(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    from minitoolai.cli.keys import RULES as KNOWN

    assert set(RULES) == {option for option, *_ in KNOWN}
    options = [word for option, (value, _) in RULES.items() for word in (option, value)]
    assert server.command("key", "create", email, "--name", "typed", *options).returncode == 0
    sent = {field: text for _, fields in RULES.values() for field, text in fields.items()}
    member.open("/keys")
    member.submit("/keys", name="clicked", **sent)
    found = keys_of(server, email)
    assert found["clicked"].rules == found["typed"].rules
    for words in ("until Dec 31, 2090", "only fake-chat", "60 requests a minute", "$0.50 a minute", "192.0.2.7/32"):
        assert member.page.text.count(words) == 2


def test_a_form_sent_unchanged_changes_nothing(member: Visitor, email: str, server: ServerProcess) -> None:
    options = [word for option, (value, _) in RULES.items() for word in (option, value)]
    assert server.command("key", "create", email, "--name", "k", *options, "--expires", "90m").returncode == 0
    made = keys_of(server, email)["k"]
    # A model that was on offer when the key was made, and an end to the second.
    rules = replace(made.rules, models=("gone", "fake-chat"))
    server.write(lambda c: accounts.update_key(c, made.id, "k", rules))
    before = keys_of(server, email)["k"]
    member.open(f"/keys/{before.id}")
    assert 'value="gone" checked' in member.page.text
    member.submit(f"/keys/{before.id}", model=["gone", "fake-chat"])
    assert "“k” was changed." in member.page.text
    assert keys_of(server, email)["k"] == before


@pytest.mark.parametrize("path", ["new", "edit"])
def test_invalid_input_is_refused_next_to_each_field_and_kept(
    member: Visitor, email: str, server: ServerProcess, path: str
) -> None:
    server.command("key", "create", email, "--name", "k", "--budget-daily", "3")
    before = keys_of(server, email)
    action = "/keys" if path == "new" else f"/keys/{before['k'].id}"
    member.open(action)
    member.submit(action, **{name: text for name, (text, _) in RUBBISH.items()}, model=["fake-chat"])
    assert member.page.status_code == 422
    for name, (text, why) in RUBBISH.items():
        assert f'id="{name}" name="{name}"' in member.page.text
        assert f'value="{text}"' in member.page.text
        assert why in member.page.text
    assert 'value="fake-chat" checked' in member.page.text
    assert keys_of(server, email) == before
    clean = dict.fromkeys(RUBBISH, "") | {"name": "k2"}
    member.submit(action, **clean | {"expires_time": "12:00"})
    assert "Choose the day, too." in member.page.text
    member.submit(action, **clean | {"addresses": "10.0.0.1/8"})
    assert "Did you mean 10.0.0.0/8?" in member.page.text
    member.submit(action, **clean, model=["nothing"])
    assert "One of these models is not on offer any more." in member.page.text
    member.submit(action, **clean | {"addresses": " ".join(f"10.0.0.{n}" for n in range(51))})
    assert "At most 50 addresses." in member.page.text
    assert keys_of(server, email) == before


def test_new_rules_apply_within_a_second(member: Visitor, email: str, server: ServerProcess) -> None:
    member.open("/keys")
    key = KEY.search(member.submit("/keys", name=MARK).text)
    assert key
    assert status(server, key[0]) == 200
    member.open(f"/keys/{key[1]}")
    assert MARK not in member.page.text
    member.submit(f"/keys/{key[1]}", name="at work", addresses="192.0.2.7")
    eventually(lambda: status(server, key[0]) == 403, within_s=3)
    member.open(f"/keys/{key[1]}")
    member.submit(f"/keys/{key[1]}", addresses="")
    eventually(lambda: status(server, key[0]) == 200, within_s=3)
    assert "at work" in member.page.text


def test_a_rotated_key_works_for_its_grace_period_and_shares_its_budget(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    server.command("credit", "grant", email, "5.00")
    member.open("/keys")
    old = KEY.search(member.submit("/keys", name="shop", budget_total="1").text)
    assert old
    member.open(f"/keys/{old[1]}")
    new = KEY.search(member.submit(f"/keys/{old[1]}/rotate", grace="24").text)
    assert new
    assert new[1] != old[1]
    assert f"It replaces sk-mt-{old[1]}-…" in member.page.text
    assert status(server, old[0]) == status(server, new[0]) == 200
    rows = server.read(lambda c: (accounts.find_key(c, old[1]), accounts.find_key(c, new[1])))
    assert rows[1].rotation_group == old[1]
    assert rows[1].rules.budget_total == rows[0].rules.budget_total == 10**9
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert abs(rows[0].rules.expires_ms / 1000 - tomorrow.timestamp()) < 60
    # Sent twice, the form makes no third key.
    member.open(f"/keys/{old[1]}")
    assert "/rotate" not in member.page.text
    assert f"The key sk-mt-{new[1]}-… has taken its place." in member.page.text
    member.open(f"/keys/{new[1]}")
    sent = member.fields(f"/keys/{new[1]}/rotate") | {"grace": "0"}
    assert KEY.search(member.submit(f"/keys/{new[1]}/rotate", grace="0").text)
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    answer = member.post(member.url(f"/keys/{new[1]}/rotate"), data=sent, headers=own, timeout=20)
    assert answer.status_code == 422
    assert "This key has been rotated" in answer.text
    eventually(lambda: status(server, new[0]) == 401, within_s=3)


def test_an_expired_key_can_be_extended(member: Visitor, email: str, server: ServerProcess) -> None:
    text = server.command("key", "create", email, "--name", "k", "--expires", "1d").stdout.strip()
    row = keys_of(server, email)["k"]
    past = '{"expires_ms":1000}'
    server.write(lambda c: c.execute("UPDATE api_keys SET rules = ? WHERE id = ?", (past, row.id)))
    assert "expired" in member.open("/keys").text
    eventually(lambda: status(server, text) == 401, within_s=3)
    member.open(f"/keys/{row.id}")
    assert "/rotate" not in member.page.text
    member.submit(f"/keys/{row.id}", expires="2090-01-01", expires_time="")
    eventually(lambda: status(server, text) == 200, within_s=3)


def test_a_key_of_another_account_or_a_revoked_one_is_a_404(member: Visitor, email: str, server: ServerProcess) -> None:
    other = new_user(server, f"other-{email}")
    server.command("key", "create", email, "--name", "k")
    key_id = keys_of(server, email)["k"].id
    member.open(f"/keys/{key_id}")
    sent = member.fields(f"/keys/{key_id}")
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    other.open("/keys")
    theirs = other.fields("/keys") | {"name": "mine", "grace": "0", "key": key_id}
    for path in (f"/keys/{key_id}", f"/keys/{key_id}/rotate", "/keys/revoke"):
        assert other.post(other.url(path), data=theirs, headers=own, timeout=20).status_code == 404
        assert member.post(member.url(path), data=sent | {"csrf": "x"}, headers=own, timeout=20).status_code == 403
    assert other.open(f"/keys/{key_id}").status_code == 404
    assert keys_of(server, email)["k"].name == "k"
    for _ in range(2):
        # Revoked twice is revoked.
        member.open("/keys")
        answer = member.post(member.url("/keys/revoke"), data=sent | {"key": key_id}, headers=own, timeout=20)
        assert "The key is revoked." in answer.text
    for path in ("", "/rotate"):
        answer = member.post(member.url(f"/keys/{key_id}{path}"), data=sent, headers=own, timeout=20)
        assert answer.status_code == 404
    assert Visitor(server).sign_in(email, PASSWORD).open(f"/keys/{key_id}").status_code == 404
