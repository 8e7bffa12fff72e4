"""Test `minitoolai secret`: a rotation, what stays valid under the previous secret, and forgetting it."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pytest
import requests

from minitoolai.accounts.keys import make_key
from minitoolai.billing.payments import make_voucher, redeem
from minitoolai.cli.operations.secrets import rotate
from minitoolai.core.errors import SettingsError
from minitoolai.core.signing import SecretKeys, UrlSigner, all_keys, secret_id
from minitoolai.images.webhooks import WebhookSecrets
from minitoolai.paths import load_secret_keys
from minitoolai.settings import Secret, Settings
from minitoolai.storage.tables import payments
from tests.support import catalogs
from tests.support.ask import post
from tests.support.books import TemporaryBooks
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import CATALOG, generate, job, wait

OLD, NEW = SecretKeys(b"the old secret"), SecretKeys(b"the new secret", [b"the old secret"])


@pytest.mark.acceptance
def test_keys_and_links_stay_valid_after_a_rotation_until_the_secret_is_forgotten(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=catalogs.FAKE + CATALOG) as server:
        account = server.account()
        asked = job(account)
        wait(account, asked)
        link = generate(account, response_format="url").json()["data"][0]["url"]
        done = server.command("secret", "rotate")
        assert done.returncode == 0, done.stderr
        assert post(account).status_code == 200
        account.settled()
    with server.start():
        assert post(account).status_code == 200
        assert wait(account, asked)["status"] == "success"
        assert requests.get(link, timeout=10).status_code == 200
        # New keys are made under the new secret.
        young = server.account()
        assert post(young).status_code == 200
        young.settled()
        account.settled()
        names = [line.split()[0] for line in server.command("secret", "list").stdout.splitlines()]
        assert len(names) == 2
        assert server.command("secret", "forget", "../../x").returncode == 1
        assert server.command("secret", "forget", names[1]).returncode == 0
    with server.start():
        assert post(account).status_code == 401
        assert post(Account(server, young.id, young.email, young.key)).status_code == 200
        young.settled()


def test_previous_secrets_verify_signatures_but_never_sign() -> None:
    old, new = UrlSigner(OLD.derive(b"signatures")), UrlSigner(NEW.derive(b"signatures"))
    assert new.verify("picture", "17", old.sign("picture", "17"))
    assert new.verify("picture", "17", new.sign("picture", "17"))
    assert not new.verify("picture", "18", old.sign("picture", "17"))
    assert not old.verify("picture", "17", new.sign("picture", "17"))
    assert not UrlSigner(SecretKeys(b"another", [])).verify("picture", "17", old.sign("picture", "17"))


def test_a_webhook_is_signed_with_the_old_and_the_new_secret() -> None:
    signed = WebhookSecrets(NEW).sign(7, "msg", "1700000000", b"{}").split(" ")
    for secrets in (WebhookSecrets(OLD), WebhookSecrets(NEW)):
        raw = base64.b64decode(secrets.secret_for(7).removeprefix("whsec_"))
        mine = "v1," + base64.b64encode(hmac.digest(raw, b"msg.1700000000.{}", hashlib.sha256)).decode()
        assert mine in signed
    assert len(signed) == 2


def test_a_voucher_made_before_the_rotation_is_redeemed_once(books: TemporaryBooks) -> None:
    account = books.account()
    made = make_voucher(OLD, books.clock, 10_000_000_000, note=None, days=None)
    connection = books.connection
    with connection.transaction():
        payments.insert_voucher(connection, made.code_hmac, made.row)
        assert redeem(connection, books.clock, NEW, account, made.code) == 10_000_000_000
        assert redeem(connection, books.clock, NEW, account, made.code) == "used"
        assert redeem(connection, books.clock, NEW, account, "AAAA-AAAA-AAAA-AAAA") == "unknown"


def test_new_keys_are_hashed_under_the_new_secret(books: TemporaryBooks) -> None:
    key = make_key(7, "laptop", NEW, books.clock)
    secret = key.text.split("-")[3].encode()
    assert key.row.secret_hmac == hmac.digest(b"the new secret", secret, "sha256")


def test_settings_and_files_both_add_previous_secrets(tmp_path: Path) -> None:
    first = load_secret_keys(Settings(data_dir=tmp_path))
    assert all_keys(first) == (first,)
    rotate(Settings(data_dir=tmp_path), None)  # type: ignore[arg-type]
    second = load_secret_keys(Settings(data_dir=tmp_path))
    assert all_keys(second) == (second, bytes(first))
    assert second != first
    assert (tmp_path / "secret.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / f"secret-{secret_id(first)}.key").stat().st_mode & 0o777 == 0o600
    named = Settings(data_dir=tmp_path, secret_key=Secret("c"), secret_key_previous=Secret("b, a"))
    assert all_keys(load_secret_keys(named)) == (b"c", b"b", b"a", bytes(first), bytes(second))
    with pytest.raises(SettingsError, match="SECRET_KEY_PREVIOUS"):
        rotate(named, None)  # type: ignore[arg-type]
