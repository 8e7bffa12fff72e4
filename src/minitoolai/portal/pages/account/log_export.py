"""Set up the daily export of the request log, for owners and admins of an account."""

from __future__ import annotations

import re

import msgspec
from starlette.responses import Response

from minitoolai.core.clock import MS_PER_DAY, date_of
from minitoolai.core.errors import UrlForbidden
from minitoolai.core.threads import CIPHERS
from minitoolai.httpclient.guarded import check_url
from minitoolai.httpclient.s3 import Bucket
from minitoolai.portal.log_export import ready_ms, secret_cipher
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, page
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import log_exports
from minitoolai.storage.tables.log_exports import LogExport

PATH = "/usage/export"
_is_bucket = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]").fullmatch
_is_region = re.compile(r"[a-z0-9-]{1,40}").fullmatch
_is_prefix = re.compile(r"[A-Za-z0-9!_.*'()/=-]{0,200}").fullmatch
_is_access_key = re.compile(r"[\x21-\x7e]{1,128}").fullmatch
_is_secret = re.compile(r"[\x21-\x7e]{1,256}").fullmatch


@page(PATH, access="user", action="team")
async def show(page: PageRequest) -> Response:
    """Show the destination, the last day that was sent, and why the present one failed."""
    found = await page.site.database.read_async(log_exports.find, page.member.account_id)
    if found is not None:
        page.form.values |= {"kind": found.kind, "format": found.format, **_shown(found)}
    return _render(page, found)


def _shown(export: LogExport) -> dict[str, str]:
    """Return the fields of a destination. The secret is never shown."""
    if export.kind == "webhook":
        return {"url": export.target}
    bucket = msgspec.json.decode(export.target, type=Bucket)
    return {name: str(value) for name, value in msgspec.structs.asdict(bucket).items()}


def _render(page: PageRequest, found: LogExport | None, status: int = 200) -> Response:
    return page.render("usage/export.html", status, export=found, day_text=date_of)


@form(PATH, access="user", action="team")
async def save(page: PageRequest) -> Response:
    """Save the destination, and send yesterday's log to it soon."""
    account_id, secret = page.member.account_id, page.form.pop_password("password_secret")
    found = await page.site.database.read_async(log_exports.find, account_id)
    kind = "s3" if page.form["kind"] == "s3" else "webhook"
    sealed = None
    if kind == "s3":
        target = _read_bucket(page)
        if secret and _is_secret(secret):
            cipher = secret_cipher(page.site.secret_keys)
            sealed = await CIPHERS.run(cipher.encrypt, account_id, secret.encode())
        elif not secret and found is not None and found.secret is not None:
            sealed = found.secret
        else:
            page.form.add_error("password_secret", page.gettext("Enter the secret access key."))
    else:
        target = page.form["url"]
        _check_address(page, "url", target)
    if not page.form.is_valid:
        return _render(page, found, 422)
    now_ms = page.site.clock.now_ms()
    day = now_ms // MS_PER_DAY - 1
    export = LogExport(
        account_id, "s3" if kind == "s3" else "webhook", "jsonl" if page.form["format"] == "jsonl" else "csv", target,
        sealed, day, ready_ms(day), 0, None, None, None, now_ms,
    )  # fmt: skip

    def change(connection: Connection) -> None:
        log_exports.replace(connection, export)
        page.log_action(connection, "log_export", note=kind)

    await page.site.writer.run(change)
    return page.redirect(PATH, flash=page.gettext("Saved. Yesterday’s log will be sent soon."))


def _check_address(page: PageRequest, field: str, url: str) -> None:
    try:
        check_url(url, field=field, insecure=page.site.allows_insecure_webhooks)
    except UrlForbidden:
        page.form.add_error(field, page.gettext("Enter a public address that begins with https://."))


def _read_bucket(page: PageRequest) -> str:
    """Return the bucket of the form as JSON, or record the errors of its fields."""
    bucket = Bucket(
        page.form["bucket"], page.form["region"] or "us-east-1", page.form["endpoint"], page.form["prefix"],
        page.form["access_key_id"],
    )  # fmt: skip
    checks = {
        "bucket": _is_bucket(bucket.bucket), "region": _is_region(bucket.region), "prefix": _is_prefix(bucket.prefix),
        "access_key_id": _is_access_key(bucket.access_key_id),
    }  # fmt: skip
    for name, is_right in checks.items():
        if not is_right:
            page.form.add_error(name, page.gettext("This is not valid here."))
    _check_address(page, "endpoint", bucket.url("x") if not bucket.endpoint else bucket.endpoint)
    return msgspec.json.encode(bucket).decode()


@form(f"{PATH}/off", access="user", action="team")
async def turn_off(page: PageRequest) -> Response:
    """Send no more logs, and forget the destination with its secret."""
    account_id = page.member.account_id

    def change(connection: Connection) -> None:
        if log_exports.delete(connection, account_id):
            page.log_action(connection, "log_export", note="off")

    await page.site.writer.run(change)
    return page.redirect(PATH, flash=page.gettext("The daily export is off."))


HANDLERS: list[Handler] = [show, save, turn_off]
