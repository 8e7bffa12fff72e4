"""Test that `minitoolai doctor` names features that are half set, each with its remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from minitoolai.cli.operations.half_set import NEEDS, half_set
from minitoolai.settings import PREFIX, Secret, Settings, variables
from tests.support import catalogs
from tests.support.server import ServerProcess

WHOLE = {"stripe_secret_key": Secret("sk_live_1"), "stripe_webhook_secret": Secret("whsec_1")}
URL = "https://ai.example.com"


def found(**values: object) -> list[str]:
    return list(half_set(Settings(**values)))  # type: ignore[arg-type]


def test_nothing_set_and_everything_set_are_no_halves() -> None:
    assert found() == []
    assert found(**WHOLE, public_url=URL, smtp_url=Secret("smtp://mail.example.com"), mail_from="a@example.com") == []


@pytest.mark.parametrize("name", NEEDS)
def test_a_setting_without_the_one_it_needs_is_named(name: str) -> None:
    assert f"{PREFIX}{name.upper()}" in variables()
    lines = found(**{name: Secret("x")})
    assert any(f"{PREFIX}{name.upper()}: it has no effect without {PREFIX}{NEEDS[name].upper()}" in s for s in lines)
    assert not any("no effect" in line for line in found(**{name: Secret("x"), NEEDS[name]: "x"}))


@pytest.mark.parametrize("name", ["s3_access_key_id", "s3_secret_access_key", "marks_certificate", "marks_key"])
def test_half_of_a_pair_is_named(name: str) -> None:
    assert any("works only together with" in line for line in found(**{name: Secret("x")}, object_store="s3://b"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"stripe_webhook_secret": Secret("whsec_1")}, "no card payments are offered"),
        ({"epay_key": Secret("k")}, "MINITOOLAI_EPAY_KEY has no effect without"),
        ({"epay_url": "https://pay.example.com"}, "would notify this machine's local address"),
        (WHOLE | {"stripe_webhook_secret": Secret("")}, "credited when the customer returns"),
        (WHOLE | {"stripe_webhook_secret": Secret("we_1")}, "does not begin with whsec_"),
        (WHOLE | {"stripe_secret_key": Secret("pk_live_1")}, "publishable key"),
        (WHOLE | {"stripe_secret_key": Secret("sk_test_1"), "public_url": URL}, "test mode"),
        (WHOLE | {"stripe_secret_key": Secret("rk_test_1"), "public_url": URL}, "test mode"),
        (WHOLE, "this machine's local address"),
        ({"public_url": URL}, "mail: MINITOOLAI_SMTP_URL is not set"),
    ],
)
def test_half_set_payments_and_mail_are_named_with_a_remedy(values: dict[str, object], words: str) -> None:
    (line,) = [line for line in found(**values) if words in line]
    assert "; " in line
    assert not any(str(value) in line for value in values.values() if isinstance(value, Secret) and value)


def test_no_mail_is_expected_where_nobody_can_sign_up() -> None:
    assert found(public_url=URL, signup=False) == []


def test_doctor_prints_the_halves_and_refuses_unusable_mail(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, catalog=catalogs.FAKE, env={"MINITOOLAI_STRIPE_SECRET_KEY": "pk_live_1"})
    checked = server.command("doctor", "--offline")
    assert "WARN   payments: MINITOOLAI_STRIPE_SECRET_KEY is a publishable key" in checked.stdout
    assert "pk_live_1" not in checked.stdout
    assert "ok     mail: written to the server's log" in checked.stdout
    server = ServerProcess(tmp_path, catalog=catalogs.FAKE, env={"MINITOOLAI_SMTP_URL": "smtp://mail.example.com"})
    checked = server.command("doctor", "--offline")
    assert checked.returncode == 1
    assert "FAULT  mail: MINITOOLAI_SMTP_URL also needs MINITOOLAI_PUBLIC_URL" in checked.stdout
