"""Passkeys in a real browser with Chromium's virtual authenticator, in light and dark, on a phone's screen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, CDPSession, Page

from tests.support.browse import PASSWORD, Visitor, new_user
from tests.support.passkeys import origin_of, server_with_domain
from tests.support.server import ServerProcess

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server_with_domain(tmp_path_factory.mktemp("domain")) as server:
        yield server


@pytest.fixture(params=["light", "dark"])
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    context = browser.new_context(color_scheme=request.param, viewport={"width": 375, "height": 800})
    yield context
    context.close()


def authenticator(page: Page, *, verified: bool = True) -> tuple[CDPSession, str]:
    """Give this page a device with passkeys, and return how to talk to it."""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
        "isUserVerified": verified, "automaticPresenceSimulation": True,
    }  # fmt: skip
    return session, session.send("WebAuthn.addVirtualAuthenticator", {"options": options})["authenticatorId"]


def enter(context: BrowserContext, member: Visitor, domain: ServerProcess) -> None:
    """Give a browser the session of this visitor, under the site's domain name."""
    context.add_cookies(
        [{"name": name, "value": value or "", "url": origin_of(domain)} for name, value in member.cookies.items()]
    )


def sign_out(page: Page, origin: str, *, autofill: bool = False) -> None:
    """Sign out by the menu. Without autofill, the page of the sign-in waits for its button."""
    page.goto(origin + "/en/account")
    page.locator("header details.menu summary").last.click()
    page.locator("header").get_by_role("button", name="Sign out").click()
    page.get_by_text("You are signed out.").wait_for()
    if not autofill:
        page.evaluate("localStorage.clear()")


def add_passkey(page: Page, origin: str, name: str) -> None:
    page.goto(origin + "/en/account/passkeys")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Create the passkey").click()
    page.locator("#recovery-codes").wait_for()


def test_from_the_first_passkey_to_a_removed_one(
    domain: ServerProcess, context: BrowserContext, request: pytest.FixtureRequest
) -> None:
    origin, email = origin_of(domain), f"chrome-{request.node.callspec.id}@example.com"
    member = new_user(domain, email)
    enter(context, member, domain)
    page, wrong = context.new_page(), list[str]()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    session, device = authenticator(page)
    add_passkey(page, origin, "Virtual")
    (credential,) = session.send("WebAuthn.getCredentials", {"authenticatorId": device})["credentials"]
    assert credential["rpId"] == "localhost"
    assert credential["isResidentCredential"]
    sign_out(page, origin)
    # One press signs in, without address, password and code.
    page.goto(origin + "/en/signin")
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.get_by_role("heading", name="Keys", exact=True).wait_for()
    # The second step after a password.
    sign_out(page, origin)
    page.goto(origin + "/en/signin")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("button", name="Use a passkey").click()
    page.get_by_role("heading", name="Keys", exact=True).wait_for()
    # Confirm the removal with the passkey itself.
    page.goto(origin + "/en/account/passkeys")
    page.get_by_role("link", name="Manage Virtual").click()
    page.get_by_role("button", name="Use a passkey instead").click()
    page.get_by_role("button", name="Confirmed with a passkey").wait_for()
    page.get_by_role("button", name="Remove the passkey").click()
    page.get_by_text("The passkey was removed.").wait_for()
    sign_out(page, origin)
    page.goto(origin + "/en/signin")
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.get_by_text("This passkey was not accepted.").wait_for()
    assert wrong == []


def test_an_unverified_user_and_another_site_get_no_further(
    domain: ServerProcess, context: BrowserContext, request: pytest.FixtureRequest
) -> None:
    origin, email = origin_of(domain), f"unverified-{request.node.callspec.id}@example.com"
    enter(context, new_user(domain, email), domain)
    page = context.new_page()
    session, device = authenticator(page)
    add_passkey(page, origin, "Virtual")
    sign_out(page, origin)
    session.send("WebAuthn.setUserVerified", {"authenticatorId": device, "isUserVerified": False})
    page.goto(origin + "/en/signin")
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.get_by_text("No passkey was used.").wait_for()
    session.send("WebAuthn.setUserVerified", {"authenticatorId": device, "isUserVerified": True})
    # The same server under another name: the browser refuses to sign for the site.
    page.goto(domain.url + "/en/signin")
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.get_by_text(f"Passkeys work only at {origin}.").wait_for()


def test_the_autofill_of_the_address_signs_in(domain: ServerProcess, context: BrowserContext) -> None:
    origin = origin_of(domain)
    email = f"autofill-{id(context)}@example.com"
    enter(context, new_user(domain, email), domain)
    page = context.new_page()
    authenticator(page)
    add_passkey(page, origin, "Virtual")
    sign_out(page, origin, autofill=True)
    # A browser in which a passkey was used offers it by itself; the virtual device takes the offer at once.
    page.goto(origin + "/en/signin")
    page.get_by_role("heading", name="Keys", exact=True).wait_for()
