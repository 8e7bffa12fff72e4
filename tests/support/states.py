"""Bring a browser to pages in states that need actions: forms with errors, a new key, empty lists, refusals.

`at` is the URL of the server with a language.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from datetime import UTC, datetime

from playwright.sync_api import Page

from minitoolai.accounts.users import digest
from minitoolai.core.clock import SystemClock
from minitoolai.portal.pages.access.passkeys import passkey_mark
from minitoolai.storage.tables import passkeys, users
from minitoolai.storage.tables.passkeys import Passkey
from tests.support.browse import PASSWORD, Visitor, add_second_factor, code_now, last_link, letters, new_user
from tests.support.house import EMAIL, address
from tests.support.server import ServerProcess

#: Card payments are offered, but Stripe is unreachable.
AWAY = {
    "MINITOOLAI_STRIPE_SECRET_KEY": "sk_test_none",
    "MINITOOLAI_STRIPE_WEBHOOK_SECRET": "whsec_none",
    "MINITOOLAI_STRIPE_API_URL": "http://127.0.0.1:9",
    "MINITOOLAI_TRIES_FACTOR": "1000",
}
WRONG = {
    "name": " ", "budget_daily": "five", "requests_per_minute": "0", "addresses": "here", "email": "ann",
    "password": "x", "code": "ABCD", "amount": "-1", "password_leave": "x", "password_old": "x", "code_on": "1",
    "password_on": PASSWORD, "low_balance": "five", "webhook_url": "https://x y", "tax_number": "\u202e",
    "country": "XX", "prompt_name": " ",
}  # fmt: skip


def send(page: Page, at: str, path: str, action: str, **values: str) -> None:
    """Fill in a form and submit it without the browser's validation."""
    page.goto(at + path)
    form = page.locator(f'main form[action$="{action}"]').first
    for name, value in values.items():
        form.locator(f'[name="{name}"]').evaluate("(field, value) => { field.value = value; }", value)
    form.evaluate("form => { form.noValidate = true; }")
    with page.expect_navigation():
        form.evaluate("form => form.submit()")


def wrong(path: str, action: str, *names: str) -> Callable[[Page, str, ServerProcess], None]:
    """Submit a form with invalid values in these fields."""

    def go(page: Page, at: str, server: ServerProcess) -> None:
        here, there = address(server, path), address(server, action)
        send(page, at, here, there, **{name: WRONG[name] for name in names})

    return go


def plain(path: str) -> Callable[[Page, str, ServerProcess], None]:
    """Open a page."""
    return lambda page, at, server: void(page.goto(at + address(server, path)))


def void(_: object) -> None:
    """Discard a value."""


def _made(page: Page, at: str, server: ServerProcess) -> None:
    send(page, at, "/keys", "/keys", name="for the pictures")
    page.locator("#new-key").wait_for()


def _replaced(page: Page, at: str, server: ServerProcess) -> None:
    send(page, at, "/keys", "/keys", name="with a long name that tells what it is for", budget_total="12.50")
    found = re.search(r"sk-mt-(\w{12})-", page.locator("#new-key").inner_text())
    assert found
    send(page, at, f"/keys/{found[1]}", f"/{found[1]}/rotate")
    page.locator("#new-key").wait_for()


def _old(page: Page, at: str, server: ServerProcess) -> None:
    page.goto(at + "/topup")
    page.locator('main input[name="csrf"]').first.evaluate("field => { field.value = 'x'; }")
    send_as_it_stands(page)


def _large(page: Page, at: str, server: ServerProcess) -> None:
    send(page, at, "/topup", "/topup/voucher", code="x" * 70_000)


def _again(page: Page, at: str, server: ServerProcess) -> None:
    """Submit a form after the session has ended, then sign in; the form has its values again."""
    page.goto(at + "/keys")
    page.context.clear_cookies(name="session")
    page.locator("#name").fill("typed before the sign-in")
    send_as_it_stands(page)
    page.locator("#email").fill(EMAIL)
    page.locator("#password").fill(PASSWORD)
    send_as_it_stands(page)
    assert page.locator("#name").input_value() == "typed before the sign-in"


def send_as_it_stands(page: Page) -> None:
    """Submit the first form of the page unchanged."""
    form = page.locator("main form").first
    with page.expect_navigation():
        form.evaluate("form => form.submit()")


def _no_method(page: Page, at: str, server: ServerProcess) -> None:
    page.route("**/balance", lambda route: route.continue_(method="PUT"))
    page.goto(at + "/balance")
    page.unroute("**/balance")


def _letter(path: str, action: str) -> Callable[[Page, str, ServerProcess], None]:
    """Open the page that says that an e-mail was sent."""
    return lambda page, at, server: send(
        page, at, path, action, email="new@example.com", **({"password": PASSWORD} if action == "/signup" else {})
    )


def _link(page: Page, at: str, server: ServerProcess) -> None:
    _letter("/signup", "/signup")(page, at, server)
    page.context.clear_cookies()
    page.goto(server.url + last_link(server, "new@example.com"))


def _reset_link(page: Page, at: str, server: ServerProcess) -> None:
    before = len(letters(server, EMAIL))
    send(page, at, "/reset", "/reset", email=EMAIL)
    page.goto(server.url + last_link(server, EMAIL, after=before))


_numbers = itertools.count(1)


def _asked_for_code(page: Page, at: str, server: ServerProcess) -> bytes:
    """Sign a new user with a second factor in, up to the question for the code, and return its secret."""
    email = f"guarded{next(_numbers)}@example.com"
    new_user(server, email)
    secret = add_second_factor(server, email)
    send(page, at, "/signin", "/signin", email=email, password=PASSWORD)
    page.locator("#code").wait_for()
    return secret


def _with_second_factor(page: Page, at: str, server: ServerProcess) -> None:
    secret = _asked_for_code(page, at, server)
    page.locator("#code").fill(code_now(secret))
    send_as_it_stands(page)
    page.goto(at + "/account/second-factor")


def _recovery_codes(page: Page, at: str, server: ServerProcess) -> None:
    secret = _asked_for_code(page, at, server)
    page.locator("#code").fill(code_now(secret))
    send_as_it_stands(page)
    values = {"password_factor": PASSWORD, "code": code_now(secret, 1)}
    send(page, at, "/account/second-factor", "/account/second-factor/codes", **values)
    page.locator("#recovery-codes").wait_for()


def _lost_factor(page: Page, at: str, server: ServerProcess) -> None:
    _asked_for_code(page, at, server)
    page.goto(at + "/signin/recover")


def _lost_factor_link(page: Page, at: str, server: ServerProcess) -> None:
    _lost_factor(page, at, server)
    email = f"guarded{next(_numbers) - 1}@example.com"
    page.locator("main form button").click()
    page.wait_for_load_state()
    page.goto(server.url + last_link(server, email))


def _passkey(page: Page, at: str, server: ServerProcess) -> None:
    """The page of one passkey, of a new user."""
    visitor = new_user(server, f"guarded{next(_numbers)}@example.com")
    session = visitor.cookies["session"]
    user_id = server.read(lambda c: users.find_session(c, digest(session), 0, 9**15))[0].user_id
    row = Passkey(user_id.to_bytes(8, "big"), user_id, b"k", 0, "Work laptop", "", False, SystemClock().now_ms())
    server.write(lambda c: passkeys.insert(c, row))
    page.context.add_cookies([{"name": "session", "value": session, "url": server.url}])
    page.goto(f"{at}/account/passkeys/{passkey_mark(row)}")


def _email_link(page: Page, at: str, server: ServerProcess) -> None:
    before = len(letters(server, EMAIL))
    send(page, at, "/account", "/account/email", email="ada@example.org", password_email=PASSWORD)
    page.goto(server.url + last_link(server, EMAIL, after=before))


def _voucher_found(page: Page, at: str, server: ServerProcess) -> None:
    send(page, at, "/admin", "/admin/search", q=server.command("voucher", "create", "2.50").stdout.strip())


def _viewed(page: Page, at: str, server: ServerProcess) -> None:
    here = address(server, "/admin/accounts/#")
    send(page, at, here, f"{here}/view")
    page.goto(at + "/keys")


def _refused_in_view(page: Page, at: str, server: ServerProcess) -> None:
    _viewed(page, at, server)
    page.goto(at + "/topup/done?session=cs_none")


def _saved(page: Page, at: str, server: ServerProcess) -> None:
    send(page, at, "/studio/prompts", "/studio/prompts", prompt_name="Greeting", message="Say hello to")
    page.goto(at + "/studio/prompts")
    page.locator('main a[href*="/studio/prompts/"]').first.click()


#: Pages for visitors without an account.
OPEN_STATES: dict[str, Callable[[Page, str, ServerProcess], None]] = {
    "not found": plain("/nothing"),
    "sign-in with faults": wrong("/signin", "/signin", "email", "password"),
    "code asked for": lambda page, at, server: void(_asked_for_code(page, at, server)),
    "second factor on": _with_second_factor,
    "recovery codes": _recovery_codes,
    "lost second factor": _lost_factor,
    "lost second factor, link": _lost_factor_link,
    "one passkey": _passkey,
    "sign-up with faults": wrong("/signup", "/signup", "email", "password"),
    "sign-up sent": _letter("/signup", "/signup"),
    "confirm elsewhere": _link,
    "confirm, spent": plain("/confirm?link=x"),
    "reset with faults": wrong("/reset", "/reset", "email"),
    "reset sent": _letter("/reset", "/reset"),
    "reset, new": _reset_link,
    "reset, spent": plain("/reset/new?link=x"),
}
#: Pages of a customer without any data.
EMPTY_STATES = {
    f"empty {path}": plain(path)
    for path in (
        "/keys", "/balance", "/usage", "/usage/requests", "/topup", "/invoices", "/studio/images", "/studio/prompts",
        "/limits",
    )
}  # fmt: skip
#: Pages of an admin with data.
CLOSED_STATES: dict[str, Callable[[Page, str, ServerProcess], None]] = {
    "not found within admin": plain("/admin/nothing"),
    "usage of a week": plain("/usage?days=7"),
    "usage of a quarter": plain("/usage?days=90"),
    "older statement": plain("/balance?below=60"),
    "guide signed in": plain("/docs"),
    "front page signed in": plain("/"),
    "key just made": _made,
    "key replaced": _replaced,
    "keys with faults": wrong("/keys", "/keys", "name", "budget_daily", "requests_per_minute", "addresses"),
    "key with faults": wrong("/keys/+", "/keys/+", "name", "budget_daily", "requests_per_minute", "addresses"),
    "voucher with faults": wrong("/topup", "/topup/voucher", "code"),
    "card with faults": wrong("/topup", "/topup/card", "amount"),
    "automatic top-up": plain("/topup/auto"),
    "automatic top-up with faults": wrong("/topup/auto", "/topup/auto/save", "amount"),
    "billing address with faults": wrong("/invoices", "/invoices/address", "name", "country", "tax_number"),
    "notices with faults": wrong("/account/notices", "/account/notices/save", "low_balance", "webhook_url"),
    "statement of a month": lambda page, at, server: void(
        page.goto(f"{at}/invoices/statements/{datetime.now(UTC):%Y-%m}")
    ),
    "card on its way": plain("/topup/done?session=cs_none"),
    "chat without a script": lambda page, at, server: send(page, at, "/studio", "/studio/chat", message="Hello"),
    "chat with faults": lambda page, at, server: send(page, at, "/studio", "/studio/chat", message=" "),
    "limits signed in": plain("/limits"),
    "saved prompt": _saved,
    "saved prompt with faults": wrong("/studio/prompts", "/studio/prompts", "prompt_name"),
    "all customers by number": plain("/admin/dashboard?by=customer&after=0"),
    "password with faults": wrong("/account", "/account/password", "password_old", "password"),
    "address with faults": wrong("/account", "/account/email", "email"),
    "address to confirm": _email_link,
    "second factor with faults": wrong("/account/second-factor", "/account/second-factor/on", "code_on", "password_on"),
    "leaving with faults": wrong("/account", "/account/leave", "password_leave"),
    "nobody found": plain("/admin/accounts?q=nobody"),
    "customers in the dashboard": plain("/admin/dashboard?by=customer&days=90&customer=#"),
    "dashboard without usage": plain("/admin/dashboard?model=none&engine=none"),
    "failed requests": plain("/admin/requests?state=failed&kind=image"),
    "requests of nobody": plain("/admin/requests?account=nobody@example.com"),
    "voucher found": _voucher_found,
    "viewed as the customer": _viewed,
    "refused in the view": _refused_in_view,
    "credit with faults": wrong("/admin/accounts/#", "/admin/accounts/#/grant", "amount"),
    "old form": _old,
    "typed before the sign-in": _again,
    "too large": _large,
    "wrong method": _no_method,
}


def newcomer(server: ServerProcess) -> Visitor:
    """Sign up a customer without any data."""
    return Visitor(server).sign_up("empty@example.com")
