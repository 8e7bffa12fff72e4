"""The page of the daily export: who may set it up, which destinations are refused, secrets are never shown."""

from __future__ import annotations

import pytest

from minitoolai.core.clock import MS_PER_DAY, SystemClock
from minitoolai.storage.tables import log_exports
from tests.portal.pages.account.test_usage import account_of
from tests.support.browse import Visitor
from tests.support.server import ServerProcess
from tests.support.team import new_member

PAGE = "/usage/export"
S3 = {
    "kind": "s3", "bucket": "my-logs", "region": "eu-central-1", "prefix": "shop/", "access_key_id": "AKIDEXAMPLE",
    "password_secret": "hush/hush+hush",
}  # fmt: skip


def found(server: ServerProcess, email: str) -> log_exports.LogExport | None:
    account_id = account_of(server, email)
    return server.read(lambda c: log_exports.find(c, account_id))  # type: ignore[no-any-return]


def test_a_bucket_is_saved_with_its_secret_encrypted(member: Visitor, email: str, server: ServerProcess) -> None:
    member.open(PAGE)
    member.submit(PAGE, format="jsonl", **S3)
    assert "Saved." in member.page.text
    saved = found(server, email)
    assert saved is not None
    assert saved.next_day == SystemClock().now_ms() // MS_PER_DAY - 1
    assert "hush" not in saved.target
    assert b"hush" not in (saved.secret or b"")
    assert "hush" not in member.page.text
    assert "my-logs" in member.page.text
    # Without the secret, the stored one is kept; a webhook needs none.
    member.submit(PAGE, **{**S3, "bucket": "other-logs", "password_secret": ""})
    changed = found(server, email)
    assert changed is not None
    assert changed.secret == saved.secret
    assert "other-logs" in changed.target
    member.submit(PAGE, kind="webhook", format="csv", url="https://hooks.example.com/logs")
    assert (found(server, email) or saved).secret is None
    member.submit(f"{PAGE}/off")
    assert found(server, email) is None
    assert "Changed the daily export" in member.open("/team/log").text


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "webhook", "url": "http://hooks.example.com"},
        {"kind": "webhook", "url": "https://127.0.0.1/logs"},
        {"kind": "webhook", "url": "https://user:password@hooks.example.com"},
        {"kind": "webhook", "url": ""},
        {**S3, "endpoint": "https://169.254.169.254"},
        {**S3, "endpoint": "http://s3.example.com"},
        {**S3, "bucket": "../other"},
        {**S3, "bucket": "UPPER"},
        {**S3, "region": "eu/../.."},
        {**S3, "prefix": "a?b"},
        {**S3, "access_key_id": ""},
        {**S3, "password_secret": ""},
    ],
)
def test_wrong_destinations_are_refused(
    member: Visitor, email: str, server: ServerProcess, wrong: dict[str, str]
) -> None:
    member.open(PAGE)
    member.submit(PAGE, **wrong)
    assert member.page.status_code == 422
    assert "hush" not in member.page.text
    assert found(server, email) is None


def test_only_owners_and_admins_see_it(member: Visitor, email: str, server: ServerProcess) -> None:
    account = account_of(server, email)
    for role in ("developer", "billing", "viewer"):
        assert new_member(server, account, f"{role}-{email}", role).open(PAGE).status_code == 403
    assert new_member(server, account, f"admin-{email}", "admin").open(PAGE).status_code == 200


def test_a_failure_is_shown_with_its_reason(member: Visitor, email: str, server: ServerProcess) -> None:
    member.open(PAGE)
    member.submit(PAGE, kind="webhook", url="https://hooks.example.com/logs")
    account = account_of(server, email)
    server.write(
        lambda c: c.execute(
            "UPDATE log_exports SET failures = 3, error = 'The server answered with status 503.', next_ms = ?"
            " WHERE account_id = ?",
            (SystemClock().now_ms() + MS_PER_DAY, account),
        )
    )
    page = member.open(PAGE).text
    assert "3 attempts so far" in page
    assert "status 503" in page
